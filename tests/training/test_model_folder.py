"""Models straight from a Hugging Face folder: decode, evaluate and train read the same weights."""

import dataclasses
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from hugging_face_folders import (
    change_json,
    change_tensors,
    config_of,
    small_tokenizer,
    to_hugging_face,
    to_orbax,
    write_model,
)
from safetensors.numpy import load_file

from instructrec_jax.configuration import load_config
from instructrec_jax.errors import CheckpointError
from instructrec_jax.evaluation.pipeline import evaluate_checkpoint
from instructrec_jax.model.lora import LoraConfig, merge_adapters
from instructrec_jax.model.t5 import init_parameters
from instructrec_jax.train import train
from instructrec_jax.training import sharding
from instructrec_jax.training.freezing import ADAPTERS_ONLY, split
from instructrec_jax.training.host_parameters import parameter_types, read_parameter
from instructrec_jax.training.interruption import StopRequest
from instructrec_jax.training.model_folder import (
    base_record,
    load_model,
    open_model,
    read_parameters,
)
from instructrec_jax.training.run_checkpoints import RunCheckpoints
from instructrec_jax.training.sharding import path_name

PROMPTS = ["line 3: count 9 words", "count 16 words"]
# Runs the binary as a program and then says which modules of the training side it has loaded.
PROGRAM = """
import runpy, sys
try:
    runpy.run_module("instructrec_jax.decode", run_name="__main__", alter_sys=True)
finally:
    loaded = [name for name in ("tensorflow", "optax", "transformers") if name in sys.modules]
    print("loaded:", loaded, file=sys.stderr)
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A Hugging Face folder in float32, `hf`, and a model folder made of it, `orbax`."""
    folder = tmp_path_factory.mktemp("folders")
    config = config_of(num_encoder_layers=1, num_decoder_layers=1)
    write_model(folder / "model", config, small_tokenizer())
    to_hugging_face(folder / "model", folder / "hf")
    to_orbax(folder / "hf", folder / "orbax")
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "lines.jsonl"
    lines = [
        {"id": f"{n}", "task": "count", "instruction": f"line {n}", "input": "", "target": f"{n}"}
        for n in range(24)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def leaves(params):
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def test_what_a_hugging_face_folder_opens_as(folders):
    model = open_model(folders / "hf")
    assert (model.encoder_length, model.decoder_length, model.step) == (512, 128, 0)
    assert model.description == f"Hugging Face folder {folders / 'hf'} (t5)"
    assert model.config == open_model(folders / "orbax").config
    assert model.foreign_config == open_model(folders / "orbax").foreign_config


def test_parameters_of_both_folders_are_the_same_on_any_mesh(folders):
    expected = load_model(folders / "orbax").params
    mesh = sharding.make_mesh({"slice": 1, "data": 1, "fsdp": 8, "tensor": 1})
    shapes = jax.eval_shape(lambda: expected)
    target = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, np.float32, sharding=place),
        shapes,
        sharding.named(mesh, sharding.parameter_specs(shapes)),
    )
    for folder in ("hf", "orbax"):
        found = read_parameters(open_model(folders / folder), target)
        for name, leaf in leaves(found).items():
            np.testing.assert_array_equal(leaf, leaves(expected)[name])
            assert leaf.sharding == leaves(target)[name].sharding


def test_one_parameter_at_a_time(folders):
    for folder in ("hf", "orbax"):
        model = open_model(folders / folder)
        expected = leaves(load_model(folders / "orbax").params)
        assert parameter_types(model) == dict.fromkeys(expected, np.dtype(np.float32))
        for name, leaf in expected.items():
            np.testing.assert_array_equal(read_parameter(model, name), leaf)


def test_a_damaged_parameter_is_found_alone(folders, tmp_path):
    to_orbax(folders / "hf", tmp_path / "model")
    metadata = tmp_path / "model" / "metadata" / "metadata"
    fields = json.loads(metadata.read_text())
    del fields["sha256"]
    fields["fingerprints"]["parameters"]["lm_head/kernel"] += 1
    metadata.write_text(json.dumps(fields))
    model = open_model(tmp_path / "model")
    read_parameter(model, "encoder/final_norm/scale")
    with pytest.raises(CheckpointError, match="checksum of lm_head/kernel is wrong"):
        read_parameter(model, "lm_head/kernel")


def test_a_folder_without_config_is_still_told_apart(folders, tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="config.json is missing"):
        open_model(tmp_path)


def test_tokenizer_with_more_ids_than_rows(folders, tmp_path):
    to_hugging_face(folders / "orbax", tmp_path / "hf")
    change_json(tmp_path / "hf" / "tokenizer_config.json", extra_ids=100)
    with pytest.raises(CheckpointError, match="the tokenizer has 387 ids .*, the embedding 384"):
        open_model(tmp_path / "hf")


def decode(checkpoint, tmp_path):
    source = tmp_path / "prompts.txt"
    source.write_text("".join(f"{prompt}\n" for prompt in PROMPTS))
    arguments = [f"--checkpoint={checkpoint}", f"--input={source}", "--max_new_tokens=8"]
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "loaded: []" in result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_decode_answers_as_transformers(folders, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    answers = decode(folders / "hf", tmp_path)
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(folders / "hf").eval()
    tokenizer = open_model(folders / "hf").tokenizer
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        tokens = torch.tensor([[*tokenizer.encode(prompt), tokenizer.eos_id]])
        found = theirs.generate(tokens, max_new_tokens=8)
        assert found[0, 1:].tolist() == answer["output_tokens"]


def test_evaluate(folders, dataset, tmp_path):
    metrics = evaluate_checkpoint(
        checkpoint=folders / "hf",
        dataset=dataset,
        output=tmp_path / "out",
        max_examples_per_task=2,
        max_new_tokens=2,
        batch_size=2,
        say=lambda line: None,
    )
    assert metrics["checkpoint"]["description"].startswith("Hugging Face folder")


def test_train_starts_from_it_and_exports_in_its_name(folders, dataset, tmp_path):
    to_hugging_face(folders / "orbax", tmp_path / "hf")
    change_json(tmp_path / "hf" / "config.json", n_positions=99)
    change_tensors(tmp_path / "hf", lambda t: t.update({n: t[n].astype("bfloat16") for n in t}))
    changes = {
        "init": str(tmp_path / "hf"),
        "train.steps": "1",
        "train.batch_size": "8",
        "train.trackers": "()",
        "optimizer.learning_rate": "0.0",
        "data.encoder_length": "32",
        "data.decoder_length": "8",
        "evaluate.samples": "0",
        "evaluate.every": "0",
        "model.remat": "none",
        "mesh.data": "8",
        "mesh.fsdp": "1",
    }
    workdir = tmp_path / "run"
    flags = {"dataset": str(dataset), "workdir": str(workdir)}
    config, origins = load_config("configs/finetune.py", {**flags, **changes})
    train(config, origins=origins, dry_run=False, stop=StopRequest())
    to_hugging_face(workdir, tmp_path / "exported", dtype="bfloat16")
    found = load_file(tmp_path / "exported" / "model.safetensors")
    for name, tensor in load_file(tmp_path / "hf" / "model.safetensors").items():
        np.testing.assert_array_equal(found[name], tensor)
    assert json.loads((tmp_path / "exported" / "config.json").read_text())["n_positions"] == 99


def test_adapters_are_merged_as_they_are_read(folders, tmp_path):
    base = load_model(folders / "hf")
    lora = LoraConfig(rank=2, alpha=4.0, targets=".*(query|up)")
    config = dataclasses.replace(base.config, lora=lora)
    random = np.random.default_rng(0)
    adapters, _ = split(
        jax.tree.map(
            lambda leaf: random.standard_normal(leaf.shape).astype(np.float32),
            jax.eval_shape(lambda: init_parameters(config, jax.random.key(0))),
        ),
        ADAPTERS_ONLY,
    )
    checkpoints = RunCheckpoints(tmp_path / "run" / "checkpoints", keep=1)
    checkpoints.save(
        3,
        items={"parameters": adapters, "optimizer": {"count": np.zeros((), np.int32)}},
        config=config,
        tokenizer=base.tokenizer,
        encoder_length=12,
        decoder_length=8,
        identity={},
        foreign_config={},
        base=base_record(open_model(folders / "hf"), base.params, dtype="float32"),
    )
    checkpoints.close()
    model = open_model(tmp_path / "run")
    whole = leaves(load_model(tmp_path / "run").params)
    for name, leaf in whole.items():
        np.testing.assert_allclose(read_parameter(model, name), leaf, rtol=1e-5, atol=1e-5)
    query = "decoder/layers/self_attention/query"
    low_rank = leaves(adapters)
    merged = merge_adapters(
        {
            "kernel": np.asarray(leaves(base.params)[f"{query}/kernel"]),
            "lora_a": low_rank[f"{query}/lora_a"],
            "lora_b": low_rank[f"{query}/lora_b"],
        },
        lora,
    )["kernel"]
    np.testing.assert_array_equal(read_parameter(model, f"{query}/kernel"), merged)
    to_hugging_face(tmp_path / "run", tmp_path / "hf")
    name = "decoder.block.0.layer.0.SelfAttention.q.weight"
    np.testing.assert_array_equal(load_file(tmp_path / "hf/model.safetensors")[name], merged[0].T)
