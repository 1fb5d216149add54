"""The convert binary against transformers, and what it refuses."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from model.reference import fixed_parameters, padded_batch, transformers_model
from safetensors.numpy import load_file, save_file

from instructrec_jax.convert import check_folders, to_hugging_face, to_orbax
from instructrec_jax.data.tokenizer_training import train_tokenizer
from instructrec_jax.decoding.generate import generate
from instructrec_jax.errors import CheckpointError, ConfigError
from instructrec_jax.model.config import T5Config
from instructrec_jax.model.t5 import T5
from instructrec_jax.training.checkpoint import save_model
from instructrec_jax.training.model_folder import load_model

SENTINELS = 4
TEXTS = ["line 3: count 9 words", "count 16", "line"]


def config_of(**changes):
    return T5Config(
        **{
            "vocabulary_size": 384,
            "d_model": 24,
            "head_size": 8,
            "num_heads": 3,
            "d_ff": 40,
            "num_encoder_layers": 2,
            "num_decoder_layers": 2,
            "activation_dtype": "float32",
            **changes,
        }
    )


@pytest.fixture(scope="module")
def tokenizer():
    texts = [f"line {n}: count {n * n} words\n" for n in range(300)]
    return train_tokenizer(texts, vocabulary_size=360, sentinels=SENTINELS, seed=0)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tokenizer):
    """A model folder and what `--to=hf` makes of it."""
    config = config_of()
    folder = tmp_path_factory.mktemp("exported")
    save_model(
        folder / "model",
        params=fixed_parameters(config),
        config=config,
        tokenizer=tokenizer,
        encoder_length=32,
        decoder_length=8,
    )
    to_hugging_face(folder / "model", folder / "hf", tell=lambda line: None)
    return folder


@pytest.fixture
def hugging_face(exported, tmp_path):
    """A copy that a test may break."""
    return shutil.copytree(exported / "hf", tmp_path / "hf")


def change_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def change_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def convert_in(folder, tmp_path):
    lines = []
    to_orbax(folder, tmp_path / "converted", tell=lines.append)
    return load_model(tmp_path / "converted"), lines


def our_logits(model, batch):
    return np.asarray(T5(model.config).apply({"params": model.params}, batch))


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


def assert_same_logits(ours, theirs, batch):
    real = batch["decoder_segment_ids"] > 0
    np.testing.assert_allclose(ours[real], theirs[real], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "shard_size"),
    [({}, "5GB"), ({"num_decoder_layers": 3, "activation": "silu"}, "20KB")],
    ids=["one file", "shards"],
)
@pytest.mark.parametrize("tied", [False, True])
def test_folder_of_transformers_gives_its_logits(tmp_path, tokenizer, changes, shard_size, tied):
    pytest.importorskip("transformers")
    config = config_of(**changes, tied_embeddings=tied)
    theirs = transformers_model(config, fixed_parameters(config))
    theirs.save_pretrained(tmp_path / "hf", max_shard_size=shard_size)
    (tmp_path / "hf" / "spiece.model").write_bytes(tokenizer.model_bytes)
    (tmp_path / "hf" / "tokenizer_config.json").write_text(json.dumps({"extra_ids": SENTINELS}))
    assert (tmp_path / "hf" / "model.safetensors").exists() == (shard_size == "5GB")
    model, lines = convert_in(tmp_path / "hf", tmp_path)
    assert model.config.tied_embeddings == tied
    assert (model.encoder_length, model.decoder_length) == (512, 128)
    assert model.tokenizer.sha256 == tokenizer.sha256
    assert any("SelfAttention.q.weight [24, 24] -> encoder/layers/" in line for line in lines)
    batch = padded_batch(config)
    assert_same_logits(our_logits(model, batch), their_logits(theirs, batch), batch)


def test_head_that_transformers_ties_without_scaling(tmp_path, tokenizer):
    transformers = pytest.importorskip("transformers")
    # transformers 5 ties the head of every T5 that is made from a config.
    theirs = transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=384, d_model=24, d_kv=8, d_ff=40, num_layers=1, num_heads=3,
            feed_forward_proj="gated-gelu", tie_word_embeddings=False,
        )
    ).eval()  # fmt: skip
    theirs.save_pretrained(tmp_path / "hf")
    (tmp_path / "hf" / "spiece.model").write_bytes(tokenizer.model_bytes)
    (tmp_path / "hf" / "tokenizer_config.json").write_text(json.dumps({"extra_ids": SENTINELS}))
    model, _ = convert_in(tmp_path / "hf", tmp_path)
    batch = padded_batch(model.config)
    assert_same_logits(our_logits(model, batch), their_logits(theirs, batch), batch)


@pytest.mark.parametrize("tied", [False, True])
def test_export_loads_whole_and_generates_the_same(tmp_path, tokenizer, tied):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    config = config_of(tied_embeddings=tied)
    save_model(
        tmp_path / "model",
        params=fixed_parameters(config),
        config=config,
        tokenizer=tokenizer,
        encoder_length=32,
        decoder_length=8,
    )
    to_hugging_face(tmp_path / "model", tmp_path / "hf", tell=lambda line: None)
    theirs, info = transformers.T5ForConditionalGeneration.from_pretrained(
        tmp_path / "hf", output_loading_info=True
    )
    assert not any(info.values()), info
    model = load_model(tmp_path / "model")
    batch = padded_batch(config)
    assert_same_logits(our_logits(model, batch), their_logits(theirs.eval(), batch), batch)
    answers = generate(
        model.params,
        model.config,
        tokenizer,
        TEXTS,
        max_new_tokens=8,
        batch_size=4,
        encoder_length=32,
    )
    # We never generate the ids of padding rows.
    suppressed = list(range(tokenizer.vocabulary_size, config.vocabulary_size))
    for text, answer in zip(TEXTS, answers, strict=True):
        tokens = torch.tensor([[*tokenizer.encode(text), tokenizer.eos_id]])
        found = theirs.generate(tokens, max_new_tokens=8, suppress_tokens=suppressed)
        assert found[0, 1:].tolist() == answer.output_tokens
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert their_tokenizer(TEXTS[0]).input_ids == [*tokenizer.encode(TEXTS[0]), tokenizer.eos_id]
    assert their_tokenizer.convert_tokens_to_ids("<extra_id_0>") == tokenizer.sentinel_ids[0]


def test_round_trip_is_exact(exported, tmp_path):
    model, _ = convert_in(exported / "hf", tmp_path)
    first = load_model(exported / "model")
    assert model.fingerprints == first.fingerprints
    assert model.config == first.config
    assert model.tokenizer.sha256 == first.tokenizer.sha256
    to_hugging_face(tmp_path / "converted", tmp_path / "again", tell=lambda line: None)
    for path in (exported / "hf").iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_files(hugging_face, tmp_path, dtype):
    def halve(tensors):
        for name, tensor in tensors.items():
            tensors[name] = tensor.astype(dtype)

    change_tensors(hugging_face, halve)
    model, _ = convert_in(hugging_face, tmp_path)
    embedding = load_file(hugging_face / "model.safetensors")["shared.weight"]
    np.testing.assert_array_equal(
        np.asarray(model.params["token_embedder"]["embedding"]), embedding.astype(np.float32)
    )
    assert model.config.activation_dtype == "bfloat16"


def test_embedding_under_other_names(hugging_face, exported, tmp_path):
    def rename(tensors):
        tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")
        tensors["decoder.embed_tokens.weight"] = tensors["encoder.embed_tokens.weight"].copy()

    change_tensors(hugging_face, rename)
    model, _ = convert_in(hugging_face, tmp_path)
    assert model.fingerprints == load_model(exported / "model").fingerprints


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def pickle_only(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def lost_shard(folder):
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"shared.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def add_layer(tensors):
    norm = "encoder.block.{}.layer.0.layer_norm.weight"
    tensors[norm.format(2)] = tensors[norm.format(1)]


BREAKS = {
    "truncated": (truncate, "model.safetensors is damaged or cut short"),
    "pickle": (pickle_only, r"pickled weights alone \(pytorch_model.bin\)"),
    "lost shard": (lost_shard, "model-00001-of-00002.safetensors is missing"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "neither model.safetensors"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "no tokenizer": (lambda f: (f / "spiece.model").unlink(), "has no spiece.model"),
    "other tokenizer": (lambda f: (f / "spiece.model").write_bytes(b"x"), "not a SentencePiece"),
    "many sentinels": (
        lambda f: change_json(f / "tokenizer_config.json", extra_ids=100),
        "the embedding 384 rows",
    ),
    "d_model": (
        lambda f: change_json(f / "config.json", d_model=16),
        r"tensor shared.weight has shape \[384, 24\], config.json says \[384, 16\]",
    ),
    "relu": (lambda f: change_json(f / "config.json", feed_forward_proj="relu"), "'relu' is not"),
    "missing": (
        lambda f: change_tensors(f, lambda t: t.pop("decoder.final_layer_norm.weight")),
        "tensor decoder.final_layer_norm.weight is missing",
    ),
    "no head": (
        lambda f: change_tensors(f, lambda t: t.pop("lm_head.weight")),
        "tensor lm_head.weight is missing",
    ),
    "own head, said to be tied": (
        lambda f: change_json(f / "config.json", tie_word_embeddings=True),
        "lm_head.weight differs from shared.weight",
    ),
    "extra": (
        lambda f: change_tensors(f, add_layer),
        "tensor encoder.block.2.layer.0.layer_norm.weight belongs to no",
    ),
    "integers": (
        lambda f: change_tensors(f, lambda t: t.update(x=np.ones(3, np.int64))),
        "tensor x is I64",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_broken_folder_is_refused_in_one_line(hugging_face, tmp_path, name):
    breaks, words = BREAKS[name]
    breaks(hugging_face)
    with pytest.raises(CheckpointError, match=words) as caught:
        convert_in(hugging_face, tmp_path)
    assert "\n" not in str(caught.value) and str(hugging_face) in str(caught.value)
    assert not (tmp_path / "converted").exists()


def test_folders(exported, tmp_path):
    with pytest.raises(CheckpointError, match="is not a folder"):
        check_folders(tmp_path / "none", tmp_path / "target")
    with pytest.raises(ConfigError, match="same folder"):
        check_folders(exported / "hf", exported / "hf" / ".." / "hf")
    with pytest.raises(ConfigError, match="exists already"):
        check_folders(exported / "model", exported / "hf")
    (tmp_path / "empty").mkdir()
    check_folders(exported / "model", tmp_path / "empty")
    to_hugging_face(exported / "model", tmp_path / "empty", tell=lambda line: None)
    assert (tmp_path / "empty" / "config.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_program(exported, tmp_path):
    def convert(source):
        arguments = [f"--source={source}", f"--target={tmp_path / 'out'}", "--to=orbax"]
        return subprocess.run(
            [sys.executable, "-m", "instructrec_jax.convert", *arguments],
            capture_output=True,
            text=True,
        )

    missing = convert(tmp_path / "none")
    assert missing.returncode == 4 and missing.stderr.count("\n") == 1
    done = convert(exported / "hf")
    assert done.returncode == 0, done.stderr
    assert "shared.weight [384, 24] -> token_embedder/embedding" in done.stderr
