import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from instructrec_jax.data.tokenizer_training import train_tokenizer
from instructrec_jax.errors import CheckpointError
from instructrec_jax.training import sharding
from instructrec_jax.training.checkpoint import save_model
from instructrec_jax.training.fingerprint import fingerprint
from instructrec_jax.training.model_folder import load_model
from instructrec_jax.training.run_checkpoints import RunCheckpoints
from instructrec_jax.training.step import initial_state, state_shardings


@pytest.fixture(scope="module")
def tokenizer():
    texts = [f"def f{n}(x): return x + {n}  # add {n} to x" for n in range(200)]
    return train_tokenizer(texts, vocabulary_size=400, sentinels=10, seed=0)


@pytest.fixture(scope="module")
def state(tiny_config):
    fresh = initial_state(tiny_config, optax.adam(1.0), seed=3)
    moments = jax.tree.map(lambda leaf: leaf + 1, fresh.optimizer_state)
    return dataclasses.replace(fresh, optimizer_state=moments)


def item(state):
    return {"parameters": state.parameters, "optimizer": {"moments": state.optimizer_state}}


@pytest.fixture
def saved(tmp_path, tiny_config, tokenizer, state):
    """A run folder with steps 5 and 10; step 10 holds other numbers."""
    checkpoints = RunCheckpoints(tmp_path / "checkpoints", keep=2)
    for step in (5, 10):
        values = jax.tree.map(lambda leaf, factor=step: leaf * factor, item(state))
        checkpoints.save(
            step,
            items=values,
            config=tiny_config,
            tokenizer=tokenizer,
            encoder_length=12,
            decoder_length=8,
            identity={"position": step, "plan": "abc"},
            foreign_config={"model_type": "mt5"},
        )
    checkpoints.close()
    return tmp_path


def restore(folder: Path, state, sizes, warn=print, mesh=None):
    mesh = mesh or sharding.make_mesh(sizes)
    shapes = jax.eval_shape(lambda: state)
    target = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        state_shardings(shapes, mesh),
    )
    checkpoints = RunCheckpoints(folder / "checkpoints", keep=2, warn=warn)
    try:
        return checkpoints.restore_newest(item(target))
    finally:
        checkpoints.close()


def flip_bit_in(folder: Path) -> None:
    """Flips one bit in the middle of each data file; small arrays lie in more than one."""
    files = [file for file in folder.rglob("d/*") if file.is_file()]
    assert files
    for file in files:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 4
        file.write_bytes(data)


def assert_equal(left, right):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "sizes",
    [
        {"slice": 1, "data": 8, "fsdp": 1, "tensor": 1},
        {"slice": 1, "data": 2, "fsdp": 2, "tensor": 2},
    ],
    ids=str,
)
def test_the_newest_step_comes_back_exactly_on_any_mesh(saved, state, sizes):
    step, restored, metadata = restore(saved, state, sizes)
    assert (step, metadata["identity"]["position"]) == (10, 10)
    assert_equal(restored, jax.tree.map(lambda leaf: leaf * 10, item(state)))


@pytest.mark.parametrize("count", [4, 1])
def test_fewer_devices_get_the_same_arrays(saved, state, count):
    devices = np.asarray(jax.devices()[:count]).reshape(1, 1, count, 1)
    types = (jax.sharding.AxisType.Auto,) * 4
    mesh = jax.sharding.Mesh(devices, sharding.AXES, axis_types=types)
    step, restored, _ = restore(saved, state, {}, mesh=mesh)
    assert step == 10
    assert_equal(restored, jax.tree.map(lambda leaf: leaf * 10, item(state)))
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(restored)} == {count}


@pytest.mark.parametrize("part", ["parameters", "optimizer"])
def test_a_flipped_bit_is_found_and_the_step_before_is_used(saved, state, part):
    flip_bit_in(saved / "checkpoints" / "10" / part)
    words: list[str] = []
    step, restored, _ = restore(
        saved, state, {"slice": 1, "data": 8, "fsdp": 1, "tensor": 1}, words.append
    )
    assert step == 5
    assert_equal(restored, jax.tree.map(lambda leaf: leaf * 5, item(state)))
    assert "WARNING: checkpoint 10 cannot be used" in words[0]
    assert (saved / "checkpoints" / "10.damaged").is_dir()


def test_truncated_and_empty_steps_are_passed_over(saved, state):
    shutil.rmtree(saved / "checkpoints" / "10" / "parameters")
    (saved / "checkpoints" / "11").mkdir()
    step, _, _ = restore(saved, state, {"slice": 1, "data": 8, "fsdp": 1, "tensor": 1})
    assert step == 5


def test_nothing_good_left_is_an_error_and_nothing_at_all_is_none(saved, state, tmp_path):
    for step in ("5", "10"):
        flip_bit_in(saved / "checkpoints" / step / "parameters")
    with pytest.raises(CheckpointError, match="no checkpoint can be used"):
        restore(saved, state, {"slice": 1, "data": 8, "fsdp": 1, "tensor": 1})
    assert restore(tmp_path / "new", state, {"slice": 1, "data": 8, "fsdp": 1, "tensor": 1}) is None


@pytest.mark.parametrize("inner", ["", "checkpoints", "checkpoints/10"])
def test_load_model_from_a_run_folder_and_its_parts(saved, inner, state, tiny_config, tokenizer):
    model = load_model(saved / inner)
    assert (model.step, model.encoder_length, model.decoder_length) == (10, 12, 8)
    assert model.config == tiny_config
    assert model.tokenizer.encode("def f7(x)") == tokenizer.encode("def f7(x)")
    assert_equal(model.params, jax.tree.map(lambda leaf: leaf * 10, state.parameters))
    assert "step 10" in model.description


def test_a_params_only_folder_round_trips(tmp_path, state, tiny_config, tokenizer):
    save_model(
        tmp_path / "model",
        params=state.parameters,
        config=tiny_config,
        tokenizer=tokenizer,
        encoder_length=12,
        decoder_length=8,
    )
    assert not (tmp_path / "model" / "optimizer").exists()
    model = load_model(tmp_path / "model")
    assert_equal(model.params, state.parameters)
    assert model.description.startswith("model folder")
    for part in ("parameters", "tokenizer"):
        flip_bit_in(tmp_path / "model" / part)
        with pytest.raises(CheckpointError, match=part):
            load_model(tmp_path / "model")


def test_load_model_says_what_is_wrong(saved, tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        (tmp_path / "empty").mkdir()
        load_model(tmp_path / "empty")
    file = saved / "checkpoints" / "10" / "metadata" / "metadata"
    metadata = json.loads(file.read_text())
    # Without the checksum, which would be another.
    newer = {**metadata, "format_version": 99, "sha256": None}
    file.write_text(json.dumps(newer))
    with pytest.raises(CheckpointError, match="format 99"):
        load_model(saved)
    file.write_text(json.dumps({**metadata, "step": 11}))
    with pytest.raises(CheckpointError, match="metadata is damaged: its checksum is wrong"):
        load_model(saved)
    metadata.pop("sha256")
    file.write_text(json.dumps({**metadata, "model": {**metadata["model"], "d_modle": 1}}))
    with pytest.raises(CheckpointError, match="d_modle"):
        load_model(saved)


def fingerprint_by_hand(array: np.ndarray) -> int:
    words = array.reshape(-1).view({4: np.uint32, 2: np.uint16, 1: np.uint8}[array.itemsize])
    return sum(int(w) * (2 * place + 1) for place, w in enumerate(words)) % 2**32


def test_fingerprint_by_hand_and_the_same_when_sharded():
    random = np.random.default_rng(0)
    tree = {"a": random.normal(size=(8, 6)).astype(np.float32), "b": np.arange(5, dtype=np.int32)}
    expected = {name: fingerprint_by_hand(array) for name, array in tree.items()}
    assert fingerprint(tree) == expected
    mesh = sharding.make_mesh({"slice": 1, "data": 2, "fsdp": 2, "tensor": 2})
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp", "tensor"))
    assert fingerprint({**tree, "a": jax.device_put(tree["a"], place)}) == expected
