"""The convert binary against transformers: what comes in, what goes out, and in which types."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from hugging_face_folders import (
    add_tokenizer,
    all_tensors,
    change_json,
    change_tensors,
    config_of,
    small_tokenizer,
    to_hugging_face,
    to_orbax,
    write_both,
    write_model,
)
from model.reference import fixed_parameters, padded_batch, transformers_model
from model.t5x_layout import published_arrays, write_checkpoint

from instructrec_jax.decoding.generate import generate
from instructrec_jax.errors import CheckpointError
from instructrec_jax.model.t5 import T5
from instructrec_jax.training.conversion import open_source, write_hugging_face, write_orbax
from instructrec_jax.training.model_folder import load_model

TEXTS = ["line 3: count 9 words", "count 16", "line"]


@pytest.fixture(scope="module")
def tokenizer():
    return small_tokenizer()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return write_both(tmp_path_factory.mktemp("exported"))


@pytest.fixture
def hugging_face(exported, tmp_path):
    """A copy that a test may break."""
    return shutil.copytree(exported / "hf", tmp_path / "hf")


def their_logits(model, batch):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(array.astype(np.int64)) for name, array in batch.items()}
    with torch.no_grad():
        return model(
            input_ids=tensors["encoder_input_tokens"],
            attention_mask=(tensors["encoder_segment_ids"] > 0).long(),
            decoder_input_ids=tensors["decoder_input_tokens"],
            use_cache=False,
        ).logits.numpy()


def assert_same_logits(batch, ours, theirs):
    real = batch["decoder_segment_ids"] > 0
    np.testing.assert_allclose(ours[real], theirs[real], atol=2e-4, rtol=1e-4)


# What transformers 5 makes of a config: the class, the config's fields, and whether the model gets
# a head of its own afterwards.
MADE = {
    "t5": ("T5", {"feed_forward_proj": "relu", "num_heads": 5, "num_decoder_layers": 1}, False),
    "t5, exact gelu, head without scaling": (
        "T5", {"feed_forward_proj": "gelu", "tie_word_embeddings": False}, False,
    ),
    "t5, silu, scaled head of its own": (
        "T5", {"feed_forward_proj": "gated-silu", "relative_attention_num_buckets": 7}, True,
    ),
    "mt5": ("MT5", {"num_decoder_layers": 3, "relative_attention_max_distance": 20}, False),
    "mt5, head of its own": ("MT5", {"feed_forward_proj": "gated-relu"}, True),
    "umt5": ("UMT5", {"num_layers": 3, "num_heads": 1}, False),
    "umt5, head without scaling": ("UMT5", {"tie_word_embeddings": False}, True),
    "umt5, head of its own": ("UMT5", {"feed_forward_proj": "gelu_new"}, True),
}  # fmt: skip


@pytest.mark.parametrize("name", MADE)
def test_folder_of_transformers_gives_its_logits(tmp_path, tokenizer, name):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    family, fields, own_head = MADE[name]
    sizes = {"vocab_size": 384, "d_model": 24, "d_kv": 8, "d_ff": 40, "num_layers": 2}
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**{"num_heads": 3, **sizes, **fields})
    theirs = getattr(transformers, f"{family}ForConditionalGeneration")(config).eval()
    if own_head:
        theirs.lm_head = torch.nn.Linear(24, 384, bias=False)
    for parameter in theirs.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path / "hf")
    add_tokenizer(tmp_path / "hf", tokenizer)
    model = load_model(tmp_path / "hf")
    assert model.config.tied_embeddings == (not own_head)
    batch = padded_batch(model.config)
    ours = jax.jit(T5(model.config).apply)({"params": model.params}, batch)
    assert_same_logits(batch, np.asarray(ours), their_logits(theirs, batch))


def test_sharded_folder_converted(tmp_path, tokenizer):
    config = config_of("umt5")
    pytest.importorskip("transformers")
    params = fixed_parameters(config)
    theirs = transformers_model(config, params)
    theirs.save_pretrained(tmp_path / "hf", max_shard_size="20KB")
    add_tokenizer(tmp_path / "hf", tokenizer)
    assert len(list((tmp_path / "hf").glob("model-*.safetensors"))) > 2
    lines = to_orbax(tmp_path / "hf", tmp_path / "converted")
    model = load_model(tmp_path / "converted")
    assert model.config == dataclasses.replace(config, dropout_rate=model.config.dropout_rate)
    assert (model.encoder_length, model.decoder_length) == (512, 128)
    assert model.tokenizer.sha256 == tokenizer.sha256
    name = "encoder.block.1.layer.0.SelfAttention.q.weight"
    path = "encoder/layers/self_attention/query/kernel[1]"
    assert f"{name} [24, 40] float32 -> {path}, transposed" in lines
    jax.tree.map(np.testing.assert_array_equal, model.params, params)


EXPORTS = {
    "t5 1.0": ("v1_0", "t5", {}),
    "t5 1.1": ("v1_1", "t5", {}),
    "tied, not scaled": ("v1_1", "t5", {"tied_embeddings": True, "scale_decoder_output": False}),
    "scaled, not tied": ("v1_1", "t5", {"scale_decoder_output": True, "activation": "silu"}),
    "mt5": ("mt5", "mt5", {}),
    "umt5": ("umt5", "umt5", {}),
    "umt5, scaled": ("umt5", "umt5", {"scale_decoder_output": True}),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_export_loads_whole_and_generates_the_same(tmp_path, tokenizer, name):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    base, model_type, changes = EXPORTS[name]
    config = config_of(base, **changes)
    foreign = {"model_type": model_type, "n_positions": 512}
    write_model(tmp_path / "model", config, tokenizer, foreign_config=foreign)
    to_hugging_face(tmp_path / "model", tmp_path / "hf")
    theirs, info = transformers.AutoModelForSeq2SeqLM.from_pretrained(
        tmp_path / "hf", output_loading_info=True
    )
    assert not any(info.values()), info
    assert type(theirs).__name__ == f"{model_type.upper()}ForConditionalGeneration"
    assert theirs.config.n_positions == 512
    batch = padded_batch(config)
    reference = transformers_model(config, fixed_parameters(config), name=base)
    assert_same_logits(batch, their_logits(reference, batch), their_logits(theirs.eval(), batch))
    if name != "t5 1.1":
        return
    model = load_model(tmp_path / "model")
    answers = generate(
        model.params,
        model.config,
        tokenizer,
        TEXTS,
        max_new_tokens=8,
        batch_size=4,
        encoder_length=32,
    )
    for text, answer in zip(TEXTS, answers, strict=True):
        tokens = torch.tensor([[*tokenizer.encode(text), tokenizer.eos_id]])
        found = theirs.generate(tokens, max_new_tokens=8, use_cache=False)
        assert found[0, 1:].tolist() == answer.output_tokens
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert their_tokenizer(TEXTS[0]).input_ids == [*tokenizer.encode(TEXTS[0]), tokenizer.eos_id]
    assert their_tokenizer.convert_tokens_to_ids("<extra_id_0>") == tokenizer.sentinel_ids[0]


def test_round_trip_is_exact(exported, tmp_path):
    to_orbax(exported / "hf", tmp_path / "converted")
    model, first = load_model(tmp_path / "converted"), load_model(exported / "model")
    assert model.checksums == first.checksums
    assert model.config == first.config
    assert model.tokenizer.sha256 == first.tokenizer.sha256
    to_hugging_face(tmp_path / "converted", tmp_path / "again")
    for path in (exported / "hf").iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def mixed(name):
    # As transformers keeps the models that it loads in half precision.
    return "float32" if name.endswith("wo.weight") else "float16"


@pytest.mark.parametrize(
    ("kind", "type_of"),
    [("v1_1", lambda name: "bfloat16"), ("v1_0", lambda name: "float16"), ("umt5", mixed)],
    ids=["bfloat16, own head", "float16, tied", "mixed, umt5"],
)
def test_types_are_kept_byte_for_byte(tmp_path, tokenizer, kind, type_of):
    foreign = {"model_type": "umt5" if kind == "umt5" else "t5"}
    write_model(tmp_path / "model", config_of(kind), tokenizer, foreign_config=foreign)
    source = tmp_path / "hf"
    to_hugging_face(tmp_path / "model", source)

    def change(tensors):
        for name in tensors:
            tensors[name] = tensors[name].astype(type_of(name))

    change_tensors(source, change)
    change_json(source / "config.json", task_specific_params={"a": {"prefix": "b"}})
    change_json(source / "generation_config.json", max_length=77)
    to_orbax(source, tmp_path / "converted")
    lines = to_hugging_face(tmp_path / "converted", tmp_path / "again", max_shard_size=20_000)
    found, expected = all_tensors(tmp_path / "again"), all_tensors(source)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].tobytes()) == (tensor.dtype, tensor.tobytes()), name
    files = list((tmp_path / "again").glob("model-*.safetensors"))
    largest = max(tensor.nbytes for tensor in expected.values())
    assert len(files) > 1
    assert all(path.stat().st_size < max(20_000, largest) + 5_000 for path in files)
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["dtype"] == type_of("shared.weight")
    assert config["task_specific_params"] == {"a": {"prefix": "b"}}
    generation = json.loads((tmp_path / "again" / "generation_config.json").read_text())
    assert generation["max_length"] == 77
    assert not any("cast" in line for line in lines)
    model = load_model(tmp_path / "converted")
    assert model.config.activation_dtype == "bfloat16"
    assert {leaf.dtype.name for leaf in jax.tree.leaves(model.params)} == {"float32"}


def test_layers_of_several_types_are_widened_and_that_is_said(hugging_face, tmp_path):
    name = "encoder.block.1.layer.0.SelfAttention.q.weight"
    change_tensors(hugging_face, lambda t: t.update({name: t[name].astype(np.float16)}))
    lines = to_orbax(hugging_face, tmp_path / "converted")
    assert (
        "encoder/layers/self_attention/query/kernel has layers of float16 and float32"
        in (lines[-1])
    )


def test_casts_are_asked_for_and_said(hugging_face, exported, tmp_path):
    lines = to_orbax(hugging_face, tmp_path / "narrow", dtype="bfloat16")
    assert "cast from float32 to bfloat16" in lines[-1]
    lines = to_hugging_face(tmp_path / "narrow", tmp_path / "wide", dtype="float32")
    assert "cast from bfloat16 to float32" in lines[-1]
    first, last = all_tensors(hugging_face), all_tensors(tmp_path / "wide")
    for name, tensor in first.items():
        np.testing.assert_array_equal(tensor.astype("bfloat16").astype(np.float32), last[name])
    change_tensors(hugging_face, lambda t: t["encoder.final_layer_norm.weight"].fill(1e6))
    with pytest.raises(CheckpointError, match="encoder/final_norm/scale holds numbers beyond"):
        to_orbax(hugging_face, tmp_path / "overflow", dtype="float16")
    assert not list(tmp_path.glob("overflow*"))


def test_embedding_under_other_names(hugging_face, exported, tmp_path):
    def rename(tensors):
        tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")
        tensors["decoder.embed_tokens.weight"] = tensors["encoder.embed_tokens.weight"].copy()

    change_tensors(hugging_face, rename)
    to_orbax(hugging_face, tmp_path / "converted")
    expected = load_model(exported / "model").checksums
    assert load_model(tmp_path / "converted").checksums == expected


def test_a_head_beside_the_embedding(hugging_face):
    """A copy is no head of its own, where config.json says so; another head is one."""
    change_json(hugging_face / "config.json", tie_word_embeddings=True)
    model = open_source(hugging_face)
    assert not model.config.tied_embeddings
    assert model.source.plan[-1] == (
        "lm_head.weight differs from shared.weight: the head is not tied"
    )
    change_tensors(hugging_face, lambda t: t.update({"lm_head.weight": t["shared.weight"]}))
    assert open_source(hugging_face).config.tied_embeddings
    change_json(hugging_face / "config.json", tie_word_embeddings=False)
    assert not open_source(hugging_face).config.tied_embeddings


def test_t5x_checkpoint_to_both(tmp_path, tokenizer):
    config = config_of()
    params = fixed_parameters(config)
    write_checkpoint(tmp_path / "checkpoint_7", published_arrays(config, params))
    (tmp_path / "spiece.model").write_bytes(tokenizer.model_bytes)
    change = {"extra_ids": 4}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(change))
    model = open_source(tmp_path / "checkpoint_7", tokenizer=str(tmp_path / "spiece.model"))
    lines = []
    write_orbax(model, tmp_path / "orbax", tell=lines.append)
    write_hugging_face(model, tmp_path / "hf", tell=lines.append)
    assert any("encoder/layers/self_attention/query/kernel[1]" in line for line in lines)
    for folder in ("orbax", "hf"):
        found = load_model(tmp_path / folder)
        assert found.tokenizer.sha256 == tokenizer.sha256
        jax.tree.map(np.testing.assert_array_equal, found.params, params)
