"""The convert binary against transformers, and what it refuses."""

import dataclasses
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from model.reference import CONFIGS, fixed_parameters, padded_batch, transformers_model
from safetensors.numpy import load_file, save_file

from instructrec_jax import convert
from instructrec_jax.convert import (
    check_folders,
    open_source,
    parse_size,
    write_hugging_face,
    write_orbax,
)
from instructrec_jax.data.tokenizer_training import train_tokenizer
from instructrec_jax.decoding.generate import generate
from instructrec_jax.errors import CheckpointError, ConfigError
from instructrec_jax.model.t5 import T5
from instructrec_jax.training.checkpoint import save_model
from instructrec_jax.training.model_folder import load_model

SENTINELS = 4
TEXTS = ["line 3: count 9 words", "count 16", "line"]


def config_of(name="v1_1", **changes):
    return dataclasses.replace(CONFIGS[name], vocabulary_size=384, **changes)


@pytest.fixture(scope="module")
def tokenizer():
    texts = [f"line {n}: count {n * n} words\n" for n in range(300)]
    return train_tokenizer(texts, vocabulary_size=360, sentinels=SENTINELS, seed=0)


def write_model(folder, config, tokenizer, **options):
    save_model(
        folder,
        params=fixed_parameters(config),
        config=config,
        tokenizer=tokenizer,
        encoder_length=32,
        decoder_length=8,
        **options,
    )
    return folder


def to_hugging_face(source, target, **options):
    lines = []
    write_hugging_face(open_source(source), target, tell=lines.append, **options)
    return lines


def to_orbax(source, target, **options):
    lines = []
    write_orbax(open_source(source), target, tell=lines.append, **options)
    return lines


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tokenizer):
    """A model folder and what `--to=hf` makes of it."""
    folder = tmp_path_factory.mktemp("exported")
    write_model(folder / "model", config_of(), tokenizer)
    to_hugging_face(folder / "model", folder / "hf")
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


def add_tokenizer(folder, tokenizer):
    for name, content in tokenizer.hugging_face_files().items():
        (folder / name).write_bytes(content)


def all_tensors(folder):
    files = [load_file(path) for path in folder.glob("*.safetensors")]
    return {name: tensor for file in files for name, tensor in file.items()}


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


def assert_same_logits(model, theirs):
    batch = padded_batch(model.config)
    ours, theirs = our_logits(model, batch), their_logits(theirs, batch)
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
    assert_same_logits(model, theirs)


def test_sharded_folder_converted(tmp_path, tokenizer):
    config = config_of("umt5", scale_decoder_output=False)
    pytest.importorskip("transformers")
    theirs = transformers_model(config, fixed_parameters(config))
    theirs.save_pretrained(tmp_path / "hf", max_shard_size="20KB")
    add_tokenizer(tmp_path / "hf", tokenizer)
    assert len(list((tmp_path / "hf").glob("model-*.safetensors"))) > 2
    # transformers 5 writes true, whatever the model computes.
    change_json(tmp_path / "hf" / "config.json", tie_word_embeddings=False)
    lines = to_orbax(tmp_path / "hf", tmp_path / "converted")
    model = load_model(tmp_path / "converted")
    assert (model.encoder_length, model.decoder_length) == (512, 128)
    assert model.tokenizer.sha256 == tokenizer.sha256
    name = "encoder.block.1.layer.0.SelfAttention.q.weight"
    path = "encoder/layers/self_attention/query/kernel[1]"
    assert f"{name} [24, 40] float32 -> {path}, transposed" in lines
    assert_same_logits(model, theirs)


EXPORTS = {
    "t5 1.0": ("v1_0", "t5", {}),
    "t5 1.1": ("v1_1", "t5", {}),
    "tied, not scaled": ("v1_1", "t5", {"tied_embeddings": True, "scale_decoder_output": False}),
    "scaled, not tied": ("v1_1", "t5", {"scale_decoder_output": True, "activation": "gelu_exact"}),
    "mt5": ("v1_1", "mt5", {}),
    "umt5": ("umt5", "umt5", {"scale_decoder_output": True}),
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
    model = load_model(tmp_path / "model")
    assert_same_logits(model, theirs.eval())
    if name != "t5 1.1":
        return
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
        found = theirs.generate(
            tokens, max_new_tokens=8, suppress_tokens=suppressed, use_cache=False
        )
        assert found[0, 1:].tolist() == answer.output_tokens
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert their_tokenizer(TEXTS[0]).input_ids == [*tokenizer.encode(TEXTS[0]), tokenizer.eos_id]
    assert their_tokenizer.convert_tokens_to_ids("<extra_id_0>") == tokenizer.sentinel_ids[0]


def test_round_trip_is_exact(exported, tmp_path):
    to_orbax(exported / "hf", tmp_path / "converted")
    model, first = load_model(tmp_path / "converted"), load_model(exported / "model")
    assert model.fingerprints == first.fingerprints
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
    expected = load_model(exported / "model").fingerprints
    assert load_model(tmp_path / "converted").fingerprints == expected


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

    read_parameter = convert.read_parameter
    monkeypatch.setattr(convert, "read_parameter", read)
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


def run_main(**values):
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(**{name: str(value) for name, value in values.items()}):
        convert.main()


@pytest.mark.parametrize("to", ["hf", "orbax"])
def test_dry_run_shows_the_plan_and_writes_nothing(exported, tmp_path, capsys, to):
    source = exported / {"hf": "model", "orbax": "hf"}[to]
    with flagsaver.flagsaver(dry_run=True):
        run_main(source=source, target=tmp_path / "out", to=to)
    words = capsys.readouterr().err
    assert "shared.weight" in words and "nothing is written" in words
    assert not list(tmp_path.iterdir())


def test_flags_that_mean_nothing(exported, tmp_path):
    common = {"target": tmp_path / "out", "to": "orbax"}
    with pytest.raises(ConfigError, match="--architecture is for T5X"):
        run_main(source=exported / "hf", architecture="t5_small", **common)
    with pytest.raises(ConfigError, match="has its own tokenizer"):
        run_main(source=exported / "model", tokenizer="spiece.model", **common)
    (tmp_path / "t5x" / "target.token_embedder.embedding").mkdir(parents=True)
    with pytest.raises(ConfigError, match="has no tokenizer"):
        run_main(source=tmp_path / "t5x", **common)


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
