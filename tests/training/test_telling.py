"""What a run tells: rates, losses by task, spikes, time lost, former configs, trackers."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest

from instructrec_jax.configuration import load_config
from instructrec_jax.errors import ConfigError, DataError
from instructrec_jax.training import config_history
from instructrec_jax.training.checks import check, notices
from instructrec_jax.training.config_history import keep_config
from instructrec_jax.training.doctor import check_everything
from instructrec_jax.training.figures import SpikeDetector, Window
from instructrec_jax.training.reporting import (
    Clock,
    Reporter,
    lost_seconds,
    short_number,
    time_line,
    write_json,
)
from instructrec_jax.training.trackers import Tracker


def figures(nll, tokens, applied=1.0):
    return {
        "input_tokens": 30.0,
        "target_tokens": sum(tokens),
        "sequences": 2.0,
        "applied": applied,
        "task_nll": np.asarray(nll, np.float32),
        "task_tokens": np.asarray(tokens, np.float32),
    }


def test_rates_and_losses_of_a_window():
    clock = Clock()
    window = Window(clock, tasks=("a", "b", "c"), step_flops=6e9, peak_flops=1e12)
    # The clock reads ten seconds, of which four compiled and two waited for data.
    clock.start -= 10.0
    clock.seconds["compile"] += 4.0
    clock.seconds["data_wait"] += 2.0
    window.add(figures([10.0, 0.0, 3.0], [5.0, 0.0, 2.0]))
    window.add(figures([2.0, 0.0, 1.0], [1.0, 0.0, 2.0]))
    window.add(figures([np.nan, 0.0, 0.0], [1.0, 0.0, 0.0], applied=0.0))
    rates = window.rates()
    assert rates["step_seconds"] == pytest.approx(2.0, rel=0.01)
    assert rates["data_wait_seconds"] == pytest.approx(2 / 3, rel=0.01)
    assert rates["tokens_per_second"] == pytest.approx((90 + 11) / 6, rel=0.01)
    assert rates["flops_per_second"] == pytest.approx(3e9, rel=0.01)
    assert rates["mfu"] == pytest.approx(3e-3, rel=0.05)
    # Sums over the window, not means of means; a task without a token is left out.
    assert window.task_losses() == {"a": 2.0, "c": 1.0}
    window.restart()
    assert window.task_losses() == {}
    unknown = Window(clock, tasks=(), step_flops=1.0, peak_flops=None)
    assert "mfu" not in unknown.rates()


def test_spikes_are_far_above_the_median_and_do_not_hide_each_other():
    losses = np.random.default_rng(0).normal(2.0, 0.1, 60)
    detector = SpikeDetector(6.0)
    assert [detector.deviations(loss) for loss in losses] == [None] * 60
    assert detector.deviations(4.0) == pytest.approx(20, rel=0.4)
    assert detector.deviations(4.0) is not None
    assert detector.deviations(1.0) is None  # a low loss is good news
    off = SpikeDetector(0.0)
    assert all(off.deviations(loss) is None for loss in [*losses, 1e9])
    young = SpikeDetector(6.0)
    assert [young.deviations(loss) for loss in (9.0, 5.0, 90.0)] == [None] * 3


def test_time_of_steps_that_are_done_again():
    first = [
        {"kind": "part", "step": 0, "lost_seconds": 0.0},
        {"kind": "train", "step": 10, "seconds": 5.0},
        {"kind": "time", "step": 10, "seconds": {"step": 4.0, "save": 2.0}},
        {"kind": "train", "step": 20, "seconds": 11.0},
    ]
    assert lost_seconds(first, 10) == 5.0
    assert lost_seconds(first, 0) == 11.0  # no checkpoint was left
    assert lost_seconds([], 0) == 0.0
    # Killed again before its first checkpoint: all its time is lost, the first one's was told.
    second = [*first[:3], {"kind": "part", "step": 10, "lost_seconds": 5.0}]
    second.append({"kind": "train", "step": 18, "seconds": 7.5})
    assert lost_seconds(second, 10) == 7.5
    # The checkpoint at 10 turns out damaged: what was told of it counts as well.
    assert lost_seconds(second, 0) == 6.0 + 5.0 + 7.5


def test_a_reporter_forgets_steps_that_are_done_again(tmp_path, capfd):
    logged = []
    tracker = Tracker(lambda values, step: logged.append((step, values)), lambda: None)
    reporter = Reporter(tmp_path, steps=9, first_step=0, trackers=[tracker], is_main=True)
    for step in (3, 6):
        reporter.record("train", step, loss=1.5, tasks={"a": 2.0}, seconds=float(step))
        reporter.record("validation", step, loss_per_token=1.0)
        reporter.event("nonfinite", step, example_ids=["x", "y"], loss=float("nan"))
        reporter.event("spikes", step, example_ids=["z"], loss=9.0)
    reporter.close()
    assert (3, {"train/loss": 1.5, "train/tasks/a": 2.0, "train/seconds": 3.0}) in logged
    lines = [json.loads(line) for line in (tmp_path / "nonfinite.jsonl").open()]
    assert lines[0] == {"step": 3, "loss": "nan", "example_ids": ["x", "y"]}

    again = Reporter(tmp_path, steps=9, first_step=4, is_main=True)
    again.close()
    assert again.lost_seconds == 6.0
    assert again.has_validation(3) and not again.has_validation(6)
    for name in ("nonfinite", "spikes"):
        assert len((tmp_path / f"{name}.jsonl").read_text().splitlines()) == 1
    # Flipped bits: keys and kinds that nobody knows, what is no JSON, no object, half a line.
    metrics = tmp_path / "metrics.jsonl"
    whole = metrics.read_text()
    damaged = ['{"kind":"train","ste`":1}', '{"kind"', "7", '{"step":"3","kind":"train"}']
    odd = '{"step": 2, "kinl": "part", "seconds": {"x": "y"}}'
    metrics.write_text("\n".join([*damaged, odd, *whole.splitlines(), '{"kind": "tr']))
    capfd.readouterr()
    Reporter(tmp_path, steps=9, first_step=4, is_main=True).close()
    assert f"{metrics}: damaged lines, which are dropped: 4" in capfd.readouterr().err
    assert metrics.read_text().startswith(f"{odd}\n{whole.splitlines()[0]}\n")
    Reporter(tmp_path, steps=9, first_step=0, is_main=True).close()
    assert not (tmp_path / "nonfinite.jsonl").exists()


def _once_then_killed():
    calls: list[Path] = []

    def write(file, value):
        if calls:
            raise KeyboardInterrupt
        calls.append(file)
        write_json(file, value)

    return write


def test_former_configs_are_kept_and_changes_told(tmp_path, monkeypatch):
    def keep(step, steps, said):
        record = {"config": {"train": {"steps": steps}, "workdir": f"runs/{steps}"}, "origins": {}}
        keep_config(tmp_path, record, first_step=step, say=said.append)

    said: list[str] = []
    keep(0, 10, said)
    keep(5, 10, said)
    assert not said
    keep(5, 20, said)
    assert said == ["changed since the part before: train.steps 10 -> 20"]
    # A further attempt from the same step: the config that led to it stays.
    keep(5, 30, said)
    former = json.loads((tmp_path / "config-5.json").read_text())
    assert former["config"]["train"]["steps"] == 10
    assert json.loads((tmp_path / "config.json").read_text())["config"]["train"]["steps"] == 30
    said.clear()
    for garbage in ('{"conf', "[]", '{"config": 5}', "{}"):
        (tmp_path / "config.json").write_text(garbage)
        keep(5, 30, said)
        assert json.loads((tmp_path / "config.json").read_text())["config"]["train"]["steps"] == 30
        assert (tmp_path / "config.json.damaged").read_text() == garbage
    assert len(said) == 4 and all("config.json is damaged: " in line for line in said)
    (tmp_path / "config.json.damaged").unlink()
    # One who is killed between the two files leaves both.
    monkeypatch.setattr(config_history, "write_json", _once_then_killed())
    with pytest.raises(KeyboardInterrupt):
        keep(6, 40, said)
    monkeypatch.undo()
    for name in ("config.json", "config-6.json"):
        assert json.loads((tmp_path / name).read_text())["config"]["train"]["steps"] == 30
    keep(0, 10, said)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_words_and_numbers():
    assert short_number(12.34e9) == "12.3 G"
    assert short_number(5e17) == "500 P"
    assert time_line({"step": 90.0, "lost": 10.0, "save": 0.0}) == (
        "time 1:40: steps 90.0%, steps done again 10.0%"
    )


def test_trackers_that_are_unknown_or_not_installed_are_told_with_what_installs_them(tmp_path):
    missing = [name for name in ("wandb", "trackio") if importlib.util.find_spec(name) is None]
    names = ",".join(["tensorbord", *missing])
    config, _ = load_config("configs/tiny.py", {"train.trackers": names})
    with pytest.raises(ConfigError) as caught:
        check(config, device_count=1)
    message = str(caught.value)
    assert "did you mean 'tensorboard'" in message
    for name in missing:
        assert f"pip install 'instructrec_jax[{name}]'" in message


def test_a_dry_run_lists_problems_of_settings_files_and_folders_together(tmp_path):
    (tmp_path / "file").touch()
    overrides = {
        "train.batch_size": "0",
        "train.objective": "sequence",
        "mesh.data": "-1",
        "mesh.fsdp": "-1",
        "workdir": str(tmp_path / "file"),
        "dataset": str(tmp_path / "nothing"),
        "tokenizer.path": str(tmp_path / "none.model"),
        "model.activation_dtype": "bf16",
    }
    config, _ = load_config("configs/tiny.py", overrides)
    with pytest.raises(ConfigError) as caught:
        check_everything(config, device_count=8, may_build=False, prepare=None)
    with pytest.raises(ConfigError, match=re.escape(str(caught.value))):
        check_everything(config, device_count=8, may_build=False, prepare=print)
    message = str(caught.value)
    for words in (
        "train.batch_size=0",
        "'sequences'",
        "at most one is -1",
        "'bfloat16'",
        "cannot be written",
        "nothing does not exist",
        "none.model",
    ):
        assert words in message, message
    assert message.count("'sequences'") == 1


def _examples(file, *, count, tail=""):
    lines = [
        json.dumps({"task": ("a", "b")[n % 2], "instruction": f"Do {n}.", "target": "x"})
        for n in range(count)
    ]
    file.write_text("\n".join([*lines, tail]))
    return file


def test_a_mixture_that_cannot_be_drawn_is_told_before_anything_is_tokenized(tmp_path):
    overrides = {
        "workdir": str(tmp_path / "run"),
        "dataset": str(_examples(tmp_path / "own.jsonl", count=20)),
        "init": str(tmp_path / "none"),
        "data.mixture": "explicit",
        "data.mixture_rates.aa": "1",
        "data.mixture_schedule": "((2, {'b': 1}), (1, {'c': 1}))",
    }
    config, _ = load_config("configs/tiny.py", overrides)
    with pytest.raises(ConfigError) as caught:
        check_everything(config, device_count=1, may_build=False, prepare=None)
    message = str(caught.value)
    for words in (
        "none does not exist",
        "data.mixture_rates: 'aa' is not in the dataset, which has the tasks a, b",
        "data.mixture_schedule, epoch 1: 'c' is not in",
        "epoch 1 after 2",
    ):
        assert words in message, message


def test_bad_lines_are_told_beside_a_bad_tokenizer_and_an_error_alone_keeps_its_kind(tmp_path):
    overrides = {
        "workdir": str(tmp_path / "run"),
        "dataset": str(_examples(tmp_path / "own.jsonl", count=3, tail='{"instruction": "a", "t')),
        "tokenizer.path": str(tmp_path / "none.model"),
    }
    config, _ = load_config("configs/tiny.py", overrides)
    with pytest.raises(ConfigError, match="none.model") as caught:
        check_everything(config, device_count=1, may_build=False, prepare=print)
    assert "own.jsonl:4" in str(caught.value)
    config, _ = load_config("configs/tiny.py", {**overrides, "tokenizer.path": ""})
    with pytest.raises(DataError, match=r"own.jsonl:4"):
        check_everything(config, device_count=1, may_build=False, prepare=lambda line: None)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"optimizer.warmup_steps": 20}, ["optimizer.warmup_steps=20", "only rises"]),
        ({"train.profile_start": 19, "train.profile_steps": 3}, ["profile_start=19", "window"]),
    ],
)
def test_what_a_run_hardly_means_is_told(overrides, words):
    fitting = {"train.steps": 20, "optimizer.warmup_steps": 19}
    fitting |= {"train.profile_start": 18, "train.profile_steps": 3}
    config, _ = load_config("configs/tiny.py", fitting)
    assert notices(config) == []
    config, _ = load_config("configs/tiny.py", fitting | overrides)
    (line,) = notices(config)
    assert all(word in line for word in words)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adamw", {"b1": 1.9}),
        ("adamw", {"b2": 1.0}),
        ("lion", {"b1": -0.1}),
        ("muon", {"adam_b2": 1.5}),
        ("rmsprop", {"decay": 1.5}),
    ],
)
def test_decays_of_moments_are_below_1(name, options):
    config, _ = load_config("configs/tiny.py", {"optimizer.name": name})
    config.optimizer.options = options
    ((option, value),) = options.items()
    with pytest.raises(ConfigError, match=f"optimizer.options.{option}={value}: must be"):
        check(config, device_count=8)
