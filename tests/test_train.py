"""The train binary as a user runs it: killed, interrupted, continued, and given bad input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from instructrec_jax.configuration import load_config
from instructrec_jax.errors import CheckpointError, ConfigError, DataError
from instructrec_jax.evaluation.data import open_evaluation_data
from instructrec_jax.evaluation.prediction import Respondent
from instructrec_jax.evaluation.run_log import read_run
from instructrec_jax.train import train
from instructrec_jax.training.checks import check
from instructrec_jax.training.fingerprint import fingerprint
from instructrec_jax.training.interruption import StopRequest
from instructrec_jax.training.model_folder import load_model
from instructrec_jax.training.run_folder import claimed_run_folder

STEPS = 16
SETTINGS = {
    "train.steps": str(STEPS),
    "train.batch_size": "8",
    "train.log_every": "1",
    "train.trackers": "()",
    "data.encoder_length": "32",
    "data.decoder_length": "16",
    "tokenizer.vocabulary_size": "340",
    "tokenizer.sentinels": "10",
    "model.dropout_rate": "0.1",
    "checkpoint.every": "4",
    "evaluate.every": "8",
    "evaluate.samples": "1",
    "evaluate.max_new_tokens": "4",
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("data") / "own.jsonl"
    words = ("red", "blue", "cat", "dog", "tree")
    with file.open("w") as lines:
        for n in range(120):
            text = f"{words[n % 5]} {words[n * n % 5]}"
            record = {"instruction": "In capitals.", "input": text, "output": text.upper()}
            lines.write(json.dumps(record) + "\n")
    return file


def command(dataset: Path, workdir: Path) -> list[str]:
    overrides = [f"--config.{key}={value}" for key, value in SETTINGS.items()]
    binary = [sys.executable, "-m", "instructrec_jax.train", "--config=configs/tiny.py"]
    return [*binary, f"--dataset={dataset}", f"--workdir={workdir}", *overrides]


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """One device, and compiled functions shared between the processes of this module."""
    cache = tmp_path_factory.mktemp("compiled")
    return {
        **os.environ,
        "XLA_FLAGS": os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=1",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


@pytest.fixture(scope="module")
def finished(dataset, environment, tmp_path_factory) -> Path:
    """The run folder of a run that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("finished")
    done = subprocess.run(
        command(dataset, workdir), env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"step {STEPS}/{STEPS}" in done.stderr
    assert done.stdout == ""
    return workdir


def records(workdir: Path, kind: str) -> list[dict]:
    lines = (json.loads(line) for line in (workdir / "metrics.jsonl").open())
    return [record for record in lines if record["kind"] == kind]


def run_until(step: int, dataset, workdir, environment, number: signal.Signals) -> tuple[int, str]:
    """Starts the run, sends a signal when a step is logged; returns exit code and words."""
    with subprocess.Popen(
        command(dataset, workdir), env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None:
            file = workdir / "metrics.jsonl"
            if file.exists() and f'"step": {step},' in file.read_text():
                process.send_signal(number)
                break
            time.sleep(0.02)
        words = process.communicate()[1]
    return process.returncode, words


def test_an_interrupted_run_ends_as_if_nothing_had_happened(
    finished, dataset, environment, tmp_path
):
    # Kills at random moments: training/test_checkpoint_kills.py.
    code, words = run_until(5, dataset, tmp_path, environment, signal.SIGTERM)
    assert code == 75, words
    assert "stopped by SIGTERM after step" in words
    done = subprocess.run(
        command(dataset, tmp_path), env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "going on from step" in done.stderr

    named = ("step", "loss", "loss_per_token", "gradient_norm", "learning_rate")
    ours, theirs = (
        [[record[name] for name in named] for record in records(folder, "train")]
        for folder in (tmp_path, finished)
    )
    assert [line[0] for line in ours] == list(range(1, STEPS + 1))
    assert ours == theirs
    assert records(tmp_path, "validation") == records(finished, "validation")
    assert (tmp_path / "samples.jsonl").read_text() == (finished / "samples.jsonl").read_text()
    assert fingerprint(load_model(tmp_path).params) == fingerprint(load_model(finished).params)


def test_the_run_folder_holds_what_the_contract_names(finished):
    names = {path.name for path in finished.iterdir()}
    assert {"config.json", "environment.json", "checkpoints", "metrics.jsonl"} <= names
    assert {"samples.jsonl", "report.html"} <= names
    resolved = json.loads((finished / "config.json").read_text())
    assert resolved["config"]["train"]["steps"] == STEPS
    assert resolved["origins"]["train.steps"] == "command line"
    assert resolved["origins"]["model.name"] == "configs/tiny.py"
    assert resolved["origins"]["mesh.fsdp"] == "configs/base.py"
    losses = [record["loss_per_token"] for record in records(finished, "train")]
    assert losses[-1] < 0.7 * losses[0]
    packing = records(finished, "packing")[0]
    assert 0 < packing["encoder_fill"] <= 1


def test_the_validation_figures_are_those_of_evaluate(finished, dataset):
    # One model and one set of examples: other batches, packed there, a row each here.
    recorded = records(finished, "validation")[-1]
    model = load_model(finished)
    respondent = Respondent(
        params=model.params,
        config=model.config,
        tokenizer=model.tokenizer,
        encoder_length=model.encoder_length,
        batch_size=16,
        max_new_tokens=int(SETTINGS["evaluate.max_new_tokens"]),
    )
    data = open_evaluation_data(dataset, split=None, run=read_run(finished))
    logprobs, tokens = map(sum, zip(*respondent.target_scores(data.examples), strict=True))
    assert (len(data.examples), tokens) == (recorded["sequences"], recorded["tokens"])
    assert -logprobs / tokens == pytest.approx(recorded["loss_per_token"], rel=1e-5)
    assert -logprobs / len(data.examples) == pytest.approx(recorded["loss_per_sequence"], rel=1e-5)


def load(dataset, workdir, **changes):
    overrides = {**SETTINGS, "workdir": str(workdir), "dataset": str(dataset), **changes}
    return load_config("configs/tiny.py", overrides)


def attempt(dataset, workdir, **changes):
    config, origins = load(dataset, workdir, **changes)
    check(config, device_count=jax.device_count())
    train(config, origins=origins, dry_run=False, stop=StopRequest())


def test_changed_data_is_refused_with_what_changed(finished, dataset):
    with pytest.raises(ConfigError, match="batch_size was 8, is 16.*allow_data_change"):
        attempt(dataset, finished, **{"train.batch_size": "16"})
    # Another seed divides the data otherwise, which is no second change.
    with pytest.raises(ConfigError, match=r"holds: seed was 0, is 9; give another"):
        attempt(dataset, finished, seed="9")


def test_another_optimizer_is_refused_and_nothing_is_set_aside(finished, dataset):
    with pytest.raises(ConfigError, match="optimizer.clip_norm was off, is on"):
        attempt(dataset, finished, **{"optimizer.clip_norm": "1.0"})
    assert not list((finished / "checkpoints").glob("*.damaged*"))


def test_two_runs_do_not_share_a_folder(tmp_path):
    with claimed_run_folder(tmp_path / "run"):
        with pytest.raises(ConfigError, match="another run is at work"):
            with claimed_run_folder(tmp_path / "run"):
                pass
    with claimed_run_folder(tmp_path / "run"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        with claimed_run_folder(tmp_path / "file"):
            pass


def test_a_finished_run_goes_on_with_half_a_character_in_its_samples(finished, dataset, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    with (tmp_path / "run" / "samples.jsonl").open("ab") as file:
        file.write(b'{"step": 999, "output": "\xe4\xbd')
    attempt(dataset, tmp_path / "run")
    ours, theirs = (folder / "samples.jsonl" for folder in (tmp_path / "run", finished))
    assert ours.read_bytes() == theirs.read_bytes()


def test_init_takes_parameters_and_tokenizer_of_another_run(finished, dataset, tmp_path):
    changes = {"init": str(finished), "train.steps": "1", "optimizer.learning_rate": "0.0"}
    attempt(dataset, tmp_path, **changes, **{"mesh.fsdp": "4"})
    ours, theirs = load_model(tmp_path), load_model(finished)
    assert fingerprint(ours.params) == fingerprint(theirs.params)
    assert ours.tokenizer.sha256 == theirs.tokenizer.sha256
    with pytest.raises(ConfigError, match="is not the model of"):
        attempt(dataset, tmp_path / "other", **changes, **{"model.name": "t5_1_1_small"})


def test_another_model_is_refused_with_both_configs(finished, dataset, capsys):
    with pytest.raises(CheckpointError, match="d_model 256 there, 512 here"):
        attempt(dataset, finished, **{"model.name": "t5_1_1_small"})
    lines = [line.split() for line in capsys.readouterr().err.splitlines()]
    assert ["checkpoint", "this", "run"] in lines
    assert ["*", "d_model", "256", "512"] in lines
    assert ["head_size", "64", "64"] in lines


def test_a_full_disk_ends_the_run_and_room_lets_it_go_on(finished, dataset, environment, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    more = ("--config.train.steps=20", "--config.evaluate.every=0")

    def go_on(kibibytes_a_file: str) -> subprocess.CompletedProcess[str]:
        limited = ["bash", "-c", f'ulimit -f {kibibytes_a_file} && exec "$@"', "bash"]
        call = [*limited, *command(dataset, tmp_path / "run"), *more]
        return subprocess.run(call, env=environment, capture_output=True, text=True, check=False)

    full = go_on("1000")
    assert full.returncode == 4, full.stderr
    last = full.stderr.splitlines()[-1]
    assert last.startswith("error: ") and "cannot be written" in last
    assert "the same command goes on from the newest" in last
    assert "Traceback" not in full.stderr
    done = go_on("unlimited")
    assert done.returncode == 0, done.stderr
    assert f"going on from step {STEPS}" in done.stderr
    assert load_model(tmp_path / "run").step == 20


def test_a_dry_run_describes_the_run_and_writes_no_checkpoint(dataset, tmp_path, capsys):
    config, origins = load(dataset, tmp_path, **{"mesh.data": "2", "mesh.fsdp": "4"})
    train(config, origins=origins, dry_run=True, stop=StopRequest())
    words = capsys.readouterr().err
    assert "mesh slice 1, data 2, fsdp 4, tensor 1" in words
    assert "encoder/layers/feed_forward/up/kernel" in words
    assert "asked  realised" in words and "row 1 of step 1: " in words
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (['{"instruction": "a", "output": "b"}', '{"instruction": "a", "outp'], "jsonl:2"),
        (['{"instruction": "a"}'], "jsonl:1"),
        ([""], "no examples"),
        ([json.dumps({"instruction": "word " * 90, "output": "b"})] * 4, "longer|long"),
    ],
)
def test_bad_data_is_named(lines, words, tmp_path):
    file = tmp_path / "bad.jsonl"
    file.write_text("\n".join(lines))
    with pytest.raises(DataError, match=words):
        attempt(file, tmp_path / "run", **{"data.validation_fraction": "0"})


def test_missing_data_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere.jsonl does not exist"):
        attempt(tmp_path / "nowhere.jsonl", tmp_path / "run")


def test_all_config_problems_come_at_once(dataset, tmp_path):
    with pytest.raises(ConfigError) as caught:
        attempt(
            dataset,
            tmp_path,
            **{
                "train.batch_size": "12",
                "train.objective": "sequence",
                "optimizer.schedule": "cosin",
                "optimizer.name": "adamm",
                "model.name": "tinny",
                "mesh.tensor": "3",
                "data.open_bins": "0",
                "data.mixture_rates.default": "abc",
                "seed": "99999999999999999999",
            },
        )
    message = str(caught.value)
    for words in (
        "'sequences'",
        "'cosine'",
        "optimizer.name=adamm",
        "tiny",
        "mesh.tensor=3",
        "data.open_bins=0",
        "data.mixture_rates.default=abc",
        "must fit 64 bits",
    ):
        assert words in message, message


def test_optimizers_that_cannot_work_are_refused_before_anything_is_built(dataset, tmp_path):
    for changes in ({"optimizer.name": "lbfgs"}, {"optimizer.options.b1": "abc"}):
        settings = {"optimizer.name": "adamw", **changes}
        with pytest.raises(ConfigError, match="cannot be used here|refuses them"):
            attempt(dataset, tmp_path, **settings)


def test_help_names_the_config_and_ends_with_code_0():
    binary = [sys.executable, "-m", "instructrec_jax.train", "--help"]
    done = subprocess.run(binary, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "--config:" in done.stdout


def test_a_mistyped_key_ends_with_code_2(tmp_path):
    binary = [sys.executable, "-m", "instructrec_jax.train", "--config=configs/tiny.py"]
    done = subprocess.run(
        [*binary, "--config.train.stpes=3", f"--workdir={tmp_path}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "did you mean 'train.steps'" in done.stderr
    assert "Traceback" not in done.stderr
