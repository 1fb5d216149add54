"""What the convert binary refuses, how it fails, and its flags."""

import json
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hugging_face_folders import (
    change_json,
    change_tensors,
    to_hugging_face,
    to_orbax,
    write_both,
)

from instructrec_jax.errors import CheckpointError, ConfigError
from instructrec_jax.training import conversion
from instructrec_jax.training.conversion import check_folders, open_source, parse_size


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return write_both(tmp_path_factory.mktemp("exported"))


@pytest.fixture
def hugging_face(exported, tmp_path):
    """A copy that a test may break."""
    return shutil.copytree(exported / "hf", tmp_path / "hf")


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def pickle_only(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def lost_shard(folder):
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"shared.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def index_of(folder, weight_map):
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def no_tokenizer(folder):
    for name in ("spiece.model", "tokenizer.json"):
        (folder / name).unlink()


def add_layer(tensors):
    norm = "encoder.block.{}.layer.0.layer_norm.weight"
    tensors[norm.format(2)] = tensors[norm.format(1)]


BREAKS = {
    "truncated": (truncate, "model.safetensors is damaged or cut short"),
    "pickle": (pickle_only, r"pickled weights alone \(pytorch_model.bin\)"),
    "pickle by another name": (
        lambda f: (f / "model.safetensors").write_bytes(pickle.dumps({"shared.weight": 1})),
        "model.safetensors is a pickle, no safetensors file",
    ),
    "cut in the header": (
        lambda f: (f / "model.safetensors").write_bytes(bytes(100)),
        "model.safetensors is damaged or cut short",
    ),
    "more layers than memory": (
        lambda f: change_json(f / "config.json", num_layers=10**12),
        "config.json: [0-9]+ layers are more than the [0-9]+ tensors",
    ),
    "lost shard": (lost_shard, "model-00001-of-00002.safetensors is missing"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "neither model.safetensors"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "no tokenizer": (no_tokenizer, "no tokenizer at"),
    "other tokenizer": (lambda f: (f / "spiece.model").write_bytes(b"x"), "not a SentencePiece"),
    "many sentinels": (
        lambda f: change_json(f / "tokenizer_config.json", extra_ids=100),
        "the embedding 384 rows",
    ),
    "d_model": (
        lambda f: change_json(f / "config.json", d_model=16),
        r"tensor shared.weight has shape \[384, 40\], config.json says \[384, 16\]",
    ),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json cannot be read"),
    "NaN": (
        lambda f: (f / "config.json").write_text('{"d_model": NaN}'),
        "config.json cannot be read: NaN is not JSON",
    ),
    "other family": (
        lambda f: change_json(f / "config.json", model_type="longt5"),
        "model_type 'longt5' is not supported",
    ),
    "vocabulary": (
        lambda f: change_json(f / "config.json", vocab_size=400),
        r"tensor shared.weight has shape \[384, 40\], config.json says \[400, 40\]",
    ),
    "ungated": (
        lambda f: change_json(f / "config.json", feed_forward_proj="relu"),
        r"tensor encoder.block.0.layer.1.DenseReluDense.wi.weight is missing; and \d+ more",
    ),
    "index elsewhere": (
        lambda f: index_of(f, {"shared.weight": "../model.safetensors"}),
        "names '../model.safetensors', not a file beside it",
    ),
    "index of another tensor": (
        lambda f: index_of(f, {"other.weight": "weights.safetensors"}),
        "tensor other.weight of model.safetensors.index.json is missing",
    ),
    "missing": (
        lambda f: change_tensors(f, lambda t: t.pop("decoder.final_layer_norm.weight")),
        "tensor decoder.final_layer_norm.weight is missing",
    ),
    "no head": (
        lambda f: change_tensors(f, lambda t: t.pop("lm_head.weight")),
        "tensor lm_head.weight is missing",
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
        to_orbax(hugging_face, tmp_path / "converted")
    assert "\n" not in str(caught.value) and str(hugging_face) in str(caught.value)
    assert not (tmp_path / "converted").exists()


def test_pickled_weights_beside_others_are_left_alone(hugging_face, tmp_path):
    (hugging_face / "pytorch_model.bin").write_bytes(b"not even a pickle")
    open_source(hugging_face)


def test_too_little_room(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 8, 1))
    with pytest.raises(CheckpointError, match="the disk has 0.00 GB free"):
        to_orbax(exported / "hf", tmp_path / "converted")
    with pytest.raises(CheckpointError, match="make room"):
        to_hugging_face(exported / "model", tmp_path / "hf")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("to", ["hf", "orbax"])
def test_nothing_is_left_of_what_fails_in_the_middle(exported, tmp_path, monkeypatch, to):
    reads = []

    def read(model, path):
        reads.append(path)
        if len(reads) == 5:
            raise CheckpointError(f"{path} is damaged")
        return read_parameter(model, path)

    read_parameter = conversion.read_parameter
    monkeypatch.setattr(conversion, "read_parameter", read)
    source, write = {"hf": ("model", to_hugging_face), "orbax": ("hf", to_orbax)}[to]
    with pytest.raises(CheckpointError, match="is damaged$"):
        write(exported / source, tmp_path / "target")
    assert len(reads) == 5
    assert not list(tmp_path.iterdir())


def test_folders(exported, tmp_path):
    with pytest.raises(CheckpointError, match="is not a folder"):
        check_folders(tmp_path / "none", tmp_path / "target")
    with pytest.raises(ConfigError, match="same folder"):
        check_folders(exported / "hf", exported / "hf" / ".." / "hf")
    with pytest.raises(ConfigError, match="exists already"):
        check_folders(exported / "model", exported / "hf")
    (tmp_path / "empty").mkdir()
    check_folders(exported / "model", tmp_path / "empty")
    to_hugging_face(exported / "model", tmp_path / "empty")
    assert (tmp_path / "empty" / "config.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize(
    ("text", "size"),
    [("5GB", 5 * 10**9), ("1.5 gb", 15 * 10**8), ("300kb", 300_000), ("7", 7), ("2M", 2 * 10**6)],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "5XB", "1e9"])
def test_bad_sizes(text):
    with pytest.raises(ConfigError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize("to", ["hf", "orbax"])
def test_dry_run_shows_the_plan_and_writes_nothing(exported, tmp_path, to):
    source, write = {"hf": ("model", to_hugging_face), "orbax": ("hf", to_orbax)}[to]
    lines = write(exported / source, tmp_path / "out", dry_run=True)
    assert any("shared.weight" in line for line in lines)
    assert not list(tmp_path.iterdir())


def test_what_means_nothing_for_a_source(exported, tmp_path):
    with pytest.raises(ConfigError, match="--architecture is for T5X"):
        open_source(exported / "hf", architecture="t5_small")
    with pytest.raises(ConfigError, match="has its own tokenizer"):
        open_source(exported / "model", tokenizer="spiece.model")
    (tmp_path / "t5x" / "target.token_embedder.embedding").mkdir(parents=True)
    with pytest.raises(ConfigError, match="has no tokenizer"):
        open_source(tmp_path / "t5x")


def test_a_tokenizer_from_elsewhere(hugging_face, exported, tmp_path):
    no_tokenizer(hugging_face)
    model = open_source(hugging_face, tokenizer=str(exported / "hf"))
    assert model.tokenizer.sha256 == open_source(exported / "hf").tokenizer.sha256
    with pytest.raises(ConfigError, match="no tokenizer at"):
        open_source(hugging_face, tokenizer=str(tmp_path / "none"))


def test_program(exported, tmp_path):
    def program(source):
        arguments = [f"--source={source}", f"--target={tmp_path / 'out'}", "--to=orbax"]
        return subprocess.run(
            [sys.executable, "-m", "instructrec_jax.convert", *arguments],
            capture_output=True,
            text=True,
        )

    missing = program(tmp_path / "none")
    assert missing.returncode == 4 and missing.stderr.count("\n") == 1
    done = program(exported / "hf")
    assert done.returncode == 0, done.stderr
    assert "shared.weight [384, 40] float32 -> token_embedder/embedding" in done.stderr
    assert "WARNING" not in done.stderr
