"""Runs that train a part of a model: what is on disk, how it opens, what is refused."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from tiny_model import write_dataset, write_run

from instructrec_jax import train as binary
from instructrec_jax.configuration import load_config
from instructrec_jax.decoding.generate import generate
from instructrec_jax.errors import CheckpointError, ConfigError
from instructrec_jax.instructions.example import encoder_text
from instructrec_jax.model.config import T5Config
from instructrec_jax.model.t5 import T5
from instructrec_jax.training.checkpoint import read_metadata, save_model
from instructrec_jax.training.checks import check
from instructrec_jax.training.fingerprint import fingerprint
from instructrec_jax.training.freezing import joined
from instructrec_jax.training.host_parameters import read_parameter
from instructrec_jax.training.interruption import StopRequest
from instructrec_jax.training.model_folder import load_model, open_model, read_parameters
from instructrec_jax.training.preparation import prepare_data

SETTINGS = {
    "model.name": "",
    "train.steps": "2",
    "train.batch_size": "8",
    "train.log_every": "1",
    "train.trackers": "()",
    "data.encoder_length": "24",
    "data.decoder_length": "12",
    "optimizer.name": "adamw",
    "optimizer.learning_rate": "0.05",
    "optimizer.warmup_steps": "0",
    "optimizer.schedule": "constant",
    "checkpoint.every": "1",
    "evaluate.every": "2",
    "evaluate.samples": "1",
    "evaluate.max_new_tokens": "3",
    "data.validation_fraction": "0.1",
}
LORA = {"lora.rank": "2", "lora.targets": ".*_attention/(query|out)|decoder/.*/up|lm_head"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """Sums and Chinese numbers, without splits of their own: some are for validation."""
    file = write_dataset(tmp_path_factory.mktemp("data") / "sums.jsonl")
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    names = ("id", "task", "instruction", "input", "target")
    lines = [json.dumps({name: record[name] for name in names}) for record in records]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def base(dataset, tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "base", dataset)


@pytest.fixture(scope="module")
def other_base(base, tmp_path_factory) -> Path:
    """The same model with other weights."""
    folder, model = tmp_path_factory.mktemp("models") / "other", load_model(base)
    save_model(
        folder,
        params=jax.tree.map(lambda leaf: leaf * 1.01, model.params),
        config=model.config,
        tokenizer=model.tokenizer,
        encoder_length=24,
        decoder_length=12,
    )
    return folder


def attempt(dataset, workdir, init, *, dry_run=False, **changes):
    """One run of the binary in this process."""
    overrides = {**SETTINGS, "workdir": str(workdir), "dataset": str(dataset), "init": str(init)}
    config, origins = load_config("configs/tiny.py", {**overrides, **changes})
    check(config, device_count=jax.device_count())
    binary.train(config, origins=origins, dry_run=dry_run, stop=StopRequest())


@pytest.fixture(scope="module")
def adapted(dataset, base, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "adapted"
    attempt(dataset, workdir, base, **LORA)
    return workdir


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_checkpoints_hold_adapters_alone(adapted, base):
    step, whole = adapted / "checkpoints" / "2", base / "checkpoints" / "30"
    assert size(step / "parameters") < 0.2 * size(whole / "parameters")
    # With the optimizer's two moments, which take more than twice the whole model otherwise.
    assert size(step) < size(whole)
    metadata = read_metadata(step)
    assert metadata["model"]["lora"]["rank"] == 2
    assert all("lora_" in name for name in metadata["fingerprints"]["parameters"])
    assert Path(metadata["base"]["path"]) == whole
    assert (adapted / "samples.jsonl").read_text()
    assert '"validation"' in (adapted / "metrics.jsonl").read_text()


def test_a_run_of_adapters_opens_as_the_merged_model(adapted, base, packed_batch):
    merged, plain = load_model(adapted), load_model(base)
    assert merged.config == plain.config
    assert "adapters merged into" in merged.description
    assert {leaf.dtype.name for leaf in jax.tree.leaves(merged.params)} == {"float32"}
    changed = {
        name
        for name, value in fingerprint(merged.params).items()
        if value != fingerprint(plain.params)[name]
    }
    parts = ("self_attention/query", "self_attention/out")
    expected = {f"{side}/layers/{part}/kernel" for side in ("encoder", "decoder") for part in parts}
    expected |= {f"decoder/layers/cross_attention/{part}/kernel" for part in ("query", "out")}
    assert changed == expected | {"decoder/layers/feed_forward/up/kernel"}
    # Merged = adapted, from the adapters as they lie on disk.
    metadata = read_metadata(adapted / "checkpoints" / "2")
    config = T5Config.from_dict(metadata["model"])
    with ocp.PyTreeCheckpointer() as checkpointer:
        adapters = checkpointer.restore(adapted / "checkpoints" / "2" / "parameters")
    both = joined(jax.device_get(plain.params), jax.device_get(adapters))
    np.testing.assert_allclose(
        T5(merged.config).apply({"params": merged.params}, packed_batch),
        T5(config).apply({"params": both}, packed_batch),
        atol=1e-4,
    )


def test_samples_are_decoded_with_the_adapters(adapted, base):
    [record] = map(json.loads, (adapted / "samples.jsonl").open(encoding="utf-8"))
    answers = {}
    for folder in (adapted, base):
        model = load_model(folder)
        [answers[folder]] = generate(
            model.params,
            model.config,
            model.tokenizer,
            [encoder_text(record["instruction"], record["input"])],
            max_new_tokens=3,
            batch_size=1,
            encoder_length=24,
        )
    assert answers[adapted].output == record["output"]
    assert answers[adapted].output_tokens != answers[base].output_tokens


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(adapted, base, dataset, tmp_path):
    shutil.copytree(adapted, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "checkpoints" / "2")
    attempt(dataset, tmp_path, base, **LORA)
    for kind in ("train", "validation"):
        ours, theirs = (
            [
                (record["step"], record["loss_per_token"])
                for record in map(json.loads, (folder / "metrics.jsonl").open())
                if record["kind"] == kind
            ]
            for folder in (tmp_path, adapted)
        )
        assert ours == theirs
    assert fingerprint(load_model(tmp_path).params) == fingerprint(load_model(adapted).params)


def test_another_base_or_other_adapters_are_refused(adapted, other_base, base, dataset):
    with pytest.raises(CheckpointError, match="is not the base of these adapters: .* other weig"):
        attempt(dataset, adapted, other_base, **LORA)
    with pytest.raises(ConfigError, match="lora.alpha was 16.0, is 8.0, lora.rank was 2, is 3"):
        attempt(dataset, adapted, base, **{**LORA, "lora.rank": "3", "lora.alpha": "8"})
    with pytest.raises(ConfigError, match="lora.rank was 2, is off"):
        attempt(dataset, adapted, base, **{"data.allow_data_change": "true"})


def test_a_base_that_moved_or_changed_is_named(adapted, base, other_base, tmp_path):
    folder = base / "checkpoints" / "30"
    folder.rename(tmp_path / "away")
    try:
        with pytest.raises(CheckpointError, match=f"not at {folder}; put it back there"):
            open_model(adapted)
        shutil.copytree(other_base, folder)
        with pytest.raises(CheckpointError, match="is not the base of these adapters"):
            load_model(adapted)
        shutil.rmtree(folder)
    finally:
        (tmp_path / "away").rename(folder)
    load_model(adapted)


def test_a_dry_run_reads_no_weights_and_says_what_is_trained(
    base, dataset, tmp_path, capsys, monkeypatch
):
    def read(*_):
        raise AssertionError("a dry run reads no weights")

    monkeypatch.setattr(binary, "read_parameters", read)
    attempt(dataset, tmp_path / "whole", base, dry_run=True)
    whole = capsys.readouterr().err
    attempt(dataset, tmp_path / "lora", base, dry_run=True, **LORA)
    adapted = capsys.readouterr().err
    smaller = {"optimizer.freeze": "encoder/.*", "model.frozen_dtype": "bfloat16"}
    attempt(dataset, tmp_path / "half", base, dry_run=True, **smaller)
    half = capsys.readouterr().err
    assert "frozen" not in whole
    assert "of adapters trained" in adapted
    rows = {line.split()[0]: line for line in adapted.splitlines() if "/layers/" in line}
    assert " frozen " in rows["encoder/layers/self_attention/query/kernel"]
    assert " adapter " in rows["encoder/layers/self_attention/query/lora_a"]
    assert "encoder/layers/self_attention/key/lora_a" not in rows

    def bytes_of(words: str, what: str) -> float:
        number, unit = words.partition(f"{what} ")[2].split(",")[0].split(";")[0].split()[:2]
        return float(number) * {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]

    for what, most in (("gradients", 0.15), ("optimizer", 0.15)):
        assert bytes_of(adapted, what) < most * bytes_of(whole, what)
        assert bytes_of(half, what) < bytes_of(whole, what)
    assert bytes_of(half, "device: parameters") < bytes_of(whole, "device: parameters")


def test_a_further_run_starts_from_the_merged_model_and_leaves_frozen_parameters_alone(
    adapted, dataset, tmp_path
):
    changes = {
        "optimizer.freeze": "encoder/.*,token_embedder/embedding",
        "model.frozen_dtype": "bfloat16",
        "evaluate.every": "0",
        "train.steps": "1",
    }
    attempt(dataset, tmp_path, adapted, **changes)
    before, after = load_model(adapted).params, load_model(tmp_path).params
    for side in ("encoder", "token_embedder"):
        jax.tree.map(
            lambda old, new: np.testing.assert_array_equal(old.astype("bfloat16"), new),
            before[side],
            after[side],
        )
    for name, value in fingerprint(after["decoder"]).items():
        assert value != fingerprint(before["decoder"])[name], name
    # The finished run is read again, and its report made.
    attempt(dataset, tmp_path, adapted, **changes)
    other = {**changes, "optimizer.freeze": "decoder/.*"}
    with pytest.raises(ConfigError, match=r"freeze was \['enc.*'\], is \['decoder/.\*'\]"):
        attempt(dataset, tmp_path, adapted, **other)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"init": "", "model.name": "tiny", **LORA}, "give --init=DIR"),
        ({"init": ""}, "name an architecture, or give --init"),
        ({"optimizer.freeze": "lm_head/.*", **LORA}, "exclude each other"),
        ({"lora.rank": "2", "lora.dropout": "1.5"}, "lora dropout must lie"),
        ({"lora.rank": "2", "lora.targets": "query"}, "match no projection"),
        ({"optimizer.freeze": "encoder/layer/.*"}, "'encoder/layer/.\\*' matches no parameter"),
        ({"model.frozen_dtype": "float16"}, "model.frozen_dtype=float16"),
        ({"tokenizer.kind": "byte"}, "did you mean 'bytes'"),
        ({"tokenizer.kind": "bytes", "tokenizer.path": "x"}, "needs no tokenizer.path"),
        ({"tokenizer.path": "x"}, "tokenizer.path and init exclude each other"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(changes, words, base, dataset, tmp_path):
    with pytest.raises(ConfigError, match=words):
        attempt(dataset, tmp_path, changes.pop("init", base), dry_run=True, **changes)


def test_bytes_and_sentinels_by_config(tmp_path):
    file = tmp_path / "spans.jsonl"
    record = {"instruction": "a <extra_id_1> c", "output": "<extra_id_1> b"}
    file.write_text(f"{json.dumps(record)}\n" * 2)
    overrides = {
        "workdir": str(tmp_path / "run"),
        "dataset": str(file),
        "tokenizer.kind": "bytes",
        "tokenizer.sentinels": "5",
        "data.parse_sentinels": "true",
        "data.validation_fraction": "0",
    }
    config, _ = load_config("configs/tiny.py", overrides)
    data = prepare_data(config, may_build=False, initial=None, say=lambda line: None)
    assert (data.tokenizer.kind, data.tokenizer.vocabulary_size) == ("bytes", 264)
    assert data.training_cache.decoder_tokens[0] == data.tokenizer.sentinel_ids[1]
    assert list((tmp_path / "run" / "tokenizer").iterdir())


def test_read_parameters_of_adapters_takes_the_place_and_type_of_its_target(adapted):
    model = open_model(adapted)
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:2]), ("x",))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    loaded = load_model(adapted)
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, "bfloat16", sharding=place), loaded.params
    )
    found = read_parameters(model, target)
    jax.tree.map(
        lambda ours, whole: np.testing.assert_array_equal(ours, whole.astype("bfloat16")),
        jax.device_get(found),
        jax.device_get(loaded.params),
    )
    assert all(leaf.sharding == place for leaf in jax.tree.leaves(found))
    # One by one on the host, as convert reads them; the head's path matches and has no adapters.
    for path in ("lm_head/kernel", "encoder/layers/self_attention/query/kernel"):
        whole = loaded.params
        for key in path.split("/"):
            whole = whole[key]
        np.testing.assert_allclose(read_parameter(model, path), whole, atol=1e-7)
