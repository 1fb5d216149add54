"""Checkpoints on full and read-only disks, in folders with strangers, and with two writers."""

import contextlib
import gc
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from instructrec_jax.data.byte_tokenizer import byte_tokenizer
from instructrec_jax.errors import CheckpointError, ConfigError, Preempted
from instructrec_jax.model.t5 import init_parameters
from instructrec_jax.training import interruption, inventory, run_folder
from instructrec_jax.training.fingerprint import fingerprint
from instructrec_jax.training.interruption import StopRequest
from instructrec_jax.training.model_folder import load_model, open_model
from instructrec_jax.training.run_checkpoints import RunCheckpoints
from instructrec_jax.training.run_folder import claimed_run_folder


@pytest.fixture(scope="module")
def parameters(tiny_config):
    return init_parameters(tiny_config, jax.random.key(0))


def items(parameters, step: int) -> dict:
    """A state of about 2 MB that does not compress, different at each step."""
    random = np.random.default_rng(step)
    return {
        "parameters": jax.tree.map(lambda leaf: leaf * step, parameters),
        "optimizer": {"moments": [jax.numpy.asarray(random.normal(size=(500, 1000)), "float32")]},
        "averaged": jax.tree.map(lambda leaf: leaf + step, parameters),
    }


def save(checkpoints: RunCheckpoints, config, parameters, step: int, **changes) -> bool:
    return checkpoints.save(
        step,
        items=items(parameters, step),
        config=config,
        tokenizer=byte_tokenizer(sentinels=5),
        encoder_length=12,
        decoder_length=8,
        identity={"position": step},
        foreign_config={},
        **changes,
    )


def target(parameters) -> dict:
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        items(parameters, 1),
    )


@pytest.fixture(scope="module")
def steps(tiny_config, parameters, tmp_path_factory):
    """Steps 2 and 5 of five, of which the second was the best and the third not a number."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    checkpoints = RunCheckpoints(folder, keep=1, keep_best=1, best_metric="loss_per_token")
    for step, loss in enumerate((3.0, 1.0, float("nan"), 2.0, 4.0), start=1):
        checkpoints.note_figures(step, {"loss_per_token": loss, "accuracy": 0.5, "tokens": 7})
        assert save(checkpoints, tiny_config, parameters, step)
    with pytest.raises(
        CheckpointError, match="step 4 is not saved, since a later one, 5, is there"
    ):
        save(checkpoints, tiny_config, parameters, 4)
    checkpoints.close()
    return folder


@pytest.fixture
def copied(steps, tmp_path) -> Path:
    return Path(shutil.copytree(steps, tmp_path / "run" / "checkpoints"))


def test_the_best_stays_and_opens(steps):
    assert sorted(child.name for child in steps.iterdir()) == ["2", "5", "validation.json"]
    model = open_model(steps / "best")
    assert (model.step, model.item) == (2, "averaged")
    assert model.description.startswith("best checkpoint by loss_per_token")
    with pytest.raises(CheckpointError, match="which checkpoint is best is not known"):
        open_model(steps / "2" / "best")


def test_strangers_in_the_folder_and_half_steps_are_passed_over(copied, parameters):
    for name in ("notes", "7.orbax-checkpoint-tmp-1", "9", "40"):
        (copied / name).mkdir()
    (copied / "50").write_text("a file with the name of a step")
    (copied / "9" / "metadata").mkdir()
    words: list[str] = []
    checkpoints = RunCheckpoints(copied, keep=1, warn=words.append)
    assert checkpoints.newest_metadata()["step"] == 5
    step, restored, _ = checkpoints.restore_newest(target(parameters))
    assert step == checkpoints.latest_step() == 5
    expected = items(parameters, 5)
    for name, tree in restored.items():
        assert fingerprint(tree) == fingerprint(expected[name])
    assert [line[:27] for line in words] == [
        "WARNING: checkpoint 40 cann",
        "WARNING: checkpoint 9 canno",
    ]
    assert (copied / "40.damaged").is_dir() and (copied / "notes").is_dir()
    checkpoints.close()


def test_a_truncated_newest_gives_way_to_the_one_before(copied, parameters):
    for file in (copied / "5" / "optimizer").rglob("*"):
        if file.is_file() and file.stat().st_size > 10_000:
            os.truncate(file, file.stat().st_size // 2)
    words: list[str] = []
    checkpoints = RunCheckpoints(copied, keep=1, warn=words.append)
    step, _, metadata = checkpoints.restore_newest(target(parameters))
    assert (step, metadata["identity"]) == (2, {"position": 2})
    assert "set aside as 5.damaged" in words[0] and "optimizer" in words[0]
    checkpoints.close()


def test_a_signal_while_a_checkpoint_is_read_sets_nothing_aside(
    copied, parameters, monkeypatch, request
):
    # On a busy machine the way out may take longer, and a thread would end these tests.
    monkeypatch.setattr(interruption, "_GRACE_SECONDS", 600.0)
    checkpoints = RunCheckpoints(copied, keep=1)
    checkpoints.restore_newest(target(parameters))
    begin = time.perf_counter()
    checkpoints.restore_newest(target(parameters))
    took = time.perf_counter() - begin
    # Python swallows what a signal raises inside a callback of its garbage collector; there the
    # thread ends the program.
    gc.disable()
    request.addfinalizer(gc.enable)
    for moment in np.linspace(0.05, 0.95, 10):
        stop = StopRequest()
        with pytest.raises(Preempted), stop.listening():
            threading.Timer(moment * took, os.kill, (os.getpid(), signal.SIGTERM)).start()
            try:
                checkpoints.restore_newest(target(parameters))
                time.sleep(5)
            finally:
                stop.has_state = True  # as above
    assert sorted(child.name for child in copied.iterdir()) == ["2", "5", "validation.json"]
    assert checkpoints.restore_newest(target(parameters))[0] == 5
    checkpoints.close()


def test_nothing_but_an_empty_step_is_no_new_run(tmp_path, parameters):
    (tmp_path / "5").mkdir()
    checkpoints = RunCheckpoints(tmp_path, keep=1, warn=lambda _: None)
    assert checkpoints.newest_metadata() is None
    with pytest.raises(CheckpointError, match="no checkpoint can be used"):
        checkpoints.restore_newest({})
    checkpoints.close()


def test_every_array_is_verified_and_what_is_damaged_is_listed(copied):
    (copied / "6.orbax-checkpoint-tmp-3").mkdir()
    file = max((copied / "2" / "averaged" / "d").iterdir(), key=lambda file: file.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    bad, good, unfinished = map(inventory.verify, inventory.inventory(copied))
    assert (good.name, good.verified, good.step) == ("5", True, 5)
    assert (bad.name, bad.verified, bad.is_best) == ("2", False, True)
    assert "averaged" in bad.state
    lines = inventory.table([bad, good, unfinished]).splitlines()
    assert "loss_per_token 4, accuracy 0.5" in lines[2]
    assert lines[2].endswith(f"verified, {int(good.state.split()[1])} arrays")
    assert lines[1].endswith(", best") and lines[3].endswith("not finished")
    with pytest.raises(CheckpointError, match="holds no checkpoints"):
        inventory.steps_folder(copied / "2" / "parameters")


@pytest.mark.parametrize(
    ("item", "file"),
    [
        ("optimizer", "_METADATA"),
        ("averaged", "manifest.ocdbt"),
        ("parameters", "array_metadatas/process_0"),
        ("tokenizer", "manifest.ocdbt"),
    ],
)
def test_files_of_orbax_that_are_cut_off_are_told(copied, parameters, capfd, item, file):
    os.truncate(copied / "5" / item / file, 40)
    entry = inventory.verify(inventory.inventory(copied)[1])
    assert not entry.verified and entry.state.count("\n") == 0
    words: list[str] = []
    checkpoints = RunCheckpoints(copied, keep=1, warn=words.append)
    assert checkpoints.restore_newest(target(parameters))[0] == 2
    checkpoints.close()
    for line in (entry.state, *words):
        assert f"/5/{item}" in line and (file in line or "Error reading" in line)
    gc.collect()
    assert capfd.readouterr().err == ""


def test_pruning_leaves_the_newest_the_best_and_the_named(copied):
    for name in ("3", "4", "4.damaged"):
        shutil.copytree(copied / "5", copied / name)
    arguments = {"keep": 1, "keep_steps": {3}, "damaged": True}
    gone = inventory.prune(copied, **arguments, dry_run=True)
    assert [entry.name for entry in gone] == ["4", "4.damaged"]
    assert (copied / "4").is_dir()
    assert inventory.prune(copied, **arguments, dry_run=False) == gone
    assert sorted(child.name for child in copied.iterdir()) == ["2", "3", "5", "validation.json"]


@contextlib.contextmanager
def small_disk(folder: Path, size: str):
    folder.mkdir()
    call = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(call, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount program")
    if done.returncode:
        pytest.skip("only root can mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_without_room_and_a_read_only_one(tmp_path, tiny_config, parameters):
    disk = tmp_path / "disk"
    with small_disk(disk, "16m"):
        words: list[str] = []
        checkpoints = RunCheckpoints(disk / "checkpoints", keep=3, warn=words.append)
        assert save(checkpoints, tiny_config, parameters, 1)
        checkpoints.wait()
        (disk / "other").write_bytes(bytes(10 << 20))
        assert not save(checkpoints, tiny_config, parameters, 2, required=False)
        assert "no room for the checkpoint of step 2: it takes up to 6." in words[0]
        assert "the run goes on to the next one" in words[0]
        with pytest.raises(CheckpointError, match="no room .* make room, then the same command"):
            save(checkpoints, tiny_config, parameters, 2)
        (disk / "other").unlink()
        assert save(checkpoints, tiny_config, parameters, 3, required=False)
        checkpoints.close()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(ConfigError, match="cannot be written: Read-only file system"):
            with claimed_run_folder(disk):
                pass
        assert [
            inventory.verify(entry).verified for entry in inventory.inventory(disk / "checkpoints")
        ] == [True, True]
        assert load_model(disk).step == 3


def test_a_disk_that_is_full_in_the_middle_of_a_save(copied, tiny_config, parameters):
    checkpoints = RunCheckpoints(copied, keep=3)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="cannot be written: .*ones before are whole"):
            save(checkpoints, tiny_config, parameters, 6)
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    checkpoints = RunCheckpoints(copied, keep=3)
    assert checkpoints.restore_newest(target(parameters))[0] == 5
    assert save(checkpoints, tiny_config, parameters, 6)
    checkpoints.close()
    assert all(inventory.verify(entry).verified for entry in inventory.inventory(copied))


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "checkpoints").touch()
    with pytest.raises(CheckpointError, match="checkpoints cannot be written"):
        RunCheckpoints(tmp_path / "checkpoints", keep=1)


OTHER_RUN = """
import pathlib, sys, time
from instructrec_jax.training.run_folder import claimed_run_folder
with claimed_run_folder(pathlib.Path(sys.argv[1])):
    print("claimed", flush=True)
    time.sleep(60)
"""


def test_a_second_run_is_refused_until_the_first_is_killed(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", OTHER_RUN, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "claimed\n"
        with pytest.raises(ConfigError, match=f"another run is at work .*process {other.pid} on"):
            with claimed_run_folder(tmp_path):
                pass
        other.send_signal(signal.SIGKILL)
    assert json.loads((tmp_path / ".lock").read_text())["process"] == other.pid
    with claimed_run_folder(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["process"] == os.getpid()
    assert (tmp_path / ".lock").read_text() == ""


def test_where_there_are_no_locks_or_another_machine_the_beat_decides(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "HEARTBEAT_SECONDS", 0.1)
    lock = tmp_path / ".lock"
    elsewhere = {"host": "elsewhere", "process": 1, "beat": 1.0}
    lock.write_text(json.dumps(elsewhere))
    with claimed_run_folder(tmp_path):
        # Left behind by a killed run of another machine: its beat stands still.
        first = json.loads(lock.read_text())["beat"]
        time.sleep(0.3)
        assert json.loads(lock.read_text())["beat"] > first

    ended = threading.Event()

    def beat():
        while not ended.wait(0.05):
            lock.write_text(json.dumps({**elsewhere, "beat": time.time()}))

    lock.write_text(json.dumps(elsewhere))
    with contextlib.ExitStack() as stack:
        thread = threading.Thread(target=beat)
        thread.start()
        stack.callback(thread.join)
        stack.callback(ended.set)
        with pytest.raises(ConfigError, match="process 1 on elsewhere"):
            with claimed_run_folder(tmp_path):
                pass


def test_a_disk_without_locks(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no locks here")

    monkeypatch.setattr(run_folder.fcntl, "flock", refuse)
    monkeypatch.setattr(run_folder, "HEARTBEAT_SECONDS", 0.1)
    with claimed_run_folder(tmp_path):
        with pytest.raises(ConfigError, match=f"process {os.getpid()} on"):
            with claimed_run_folder(tmp_path):
                pass
    with claimed_run_folder(tmp_path):
        pass
