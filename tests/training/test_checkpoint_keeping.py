"""Which checkpoints stay, which is best, and what the folder says of both."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instructrec_jax.errors import CheckpointError, ConfigError
from instructrec_jax.training import disk_room
from instructrec_jax.training.disk_room import check_room
from instructrec_jax.training.keeping import (
    Keeping,
    finish_removals,
    kept,
    ranked,
    read_best,
    read_figures,
    remove_step,
    step_folders,
    write_figures,
)
from instructrec_jax.training.run_checkpoints import RunCheckpoints

NAN = float("nan")


@pytest.mark.parametrize(
    ("metric", "order"), [("loss_per_token", [20, 40, 10]), ("accuracy", [40, 20, 10])]
)
def test_more_or_less_is_better_and_nan_takes_no_part(metric, order):
    figures = {
        10: {"loss_per_token": 3.0, "accuracy": 0.1},
        20: {"loss_per_token": 1.0, "accuracy": 0.2},
        30: {"loss_per_token": NAN, "accuracy": None},
        40: {"loss_per_token": 1.0, "accuracy": 0.3},
        60: {"loss_per_token": -math.inf, "accuracy": math.inf},
    }
    assert ranked([10, 20, 30, 40, 50, 60], figures, metric) == order


def test_the_newest_and_the_best_stay():
    figures = {10: {"accuracy": 0.9}, 20: {"accuracy": 0.5}, 30: {"accuracy": NAN}}
    steps = [10, 20, 30, 40]
    assert kept(steps, figures, Keeping(newest=1)) == {40}
    assert kept(steps, figures, Keeping(newest=1, best=1, metric="accuracy")) == {10, 40}
    assert kept(steps, figures, Keeping(newest=2, best=2, metric="accuracy")) == {10, 20, 30, 40}
    assert kept([], figures, Keeping(newest=3, best=3, metric="accuracy")) == set()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.floats(), st.floats(0, 9)), min_size=1, max_size=30),
    st.integers(1, 4),
    st.integers(1, 3),
)
def test_step_by_step_pruning_keeps_the_best_of_all(losses, newest, best):
    keeping = Keeping(newest=newest, best=best, metric="loss_per_token")
    there, figures = set(), {}
    for step, loss in enumerate(losses):
        there.add(step)
        figures[step] = {"loss_per_token": loss}
        there = kept(there, figures, keeping)
    finite = [loss for loss in losses if loss is not None and math.isfinite(loss)]
    order = ranked(there, figures, "loss_per_token")[:best]
    assert [figures[step]["loss_per_token"] for step in order] == sorted(finite)[:best]
    assert there >= set(range(max(0, len(losses) - newest), len(losses)))


def test_the_file_names_the_best_and_is_not_believed_where_it_is_broken(tmp_path):
    assert (read_best(tmp_path), read_figures(tmp_path)) == (None, {})
    figures = {5: {"accuracy": 0.5}, 10: {"accuracy": NAN}, 15: {"accuracy": 0.6}}
    write_figures(tmp_path, [5, 10], figures, "accuracy")
    assert read_best(tmp_path) == {"metric": "accuracy", "step": 5, "value": 0.5}
    assert read_figures(tmp_path) == {**figures, 10: {"accuracy": None}}
    write_figures(tmp_path, [5, 10], figures, "")
    assert read_best(tmp_path) is None
    whole = (tmp_path / "validation.json").read_text()
    for words in (
        "",
        "[1]",
        '{"best": 3, "figures": 4}',
        '{"figures": {"5',
        whole.replace('"10"', '"1o"'),
        whole.replace("0.5", '"0.5"'),
    ):
        (tmp_path / "validation.json").write_text(words)
        for read in (read_best, read_figures):
            with pytest.raises(CheckpointError, match=r"validation.json is damaged: .*metrics"):
                read(tmp_path)
    (tmp_path / "validation.json").write_bytes(b"\xff\x00")
    with pytest.raises(CheckpointError, match="validation.json is damaged"):
        RunCheckpoints(tmp_path, keep=1)


def test_a_removal_that_was_cut_off_leaves_no_half_step(tmp_path):
    for name in ("5", "10", "7.removed", "notes"):
        (tmp_path / name / "parameters").mkdir(parents=True)
    assert list(step_folders(tmp_path)) == [5, 10]
    assert step_folders(tmp_path / "nowhere") == {}
    remove_step(tmp_path / "5")
    finish_removals(tmp_path)
    assert sorted(child.name for child in tmp_path.iterdir()) == ["10", "notes"]


def test_room_is_looked_at_before_a_run(tmp_path, monkeypatch):
    items = {"parameters": {"a": np.zeros((1000, 1000), np.float32)}}
    words: list[str] = []
    arguments = {"keep": 2, "last_step": 9, "tell": words.append}
    check_room(tmp_path / "new" / "checkpoints", items, **arguments)
    assert words == []
    monkeypatch.setattr(disk_room, "free_bytes", lambda _: 20_000_000)
    check_room(tmp_path, items, **arguments)
    assert "takes up to 8.27 MB, the disk has 20.00 MB free, and up to 3 more" in words[0]
    monkeypatch.setattr(disk_room, "free_bytes", lambda _: 8_000_000)
    with pytest.raises(ConfigError, match="no room: .* make room or give another --workdir"):
        check_room(tmp_path, items, **arguments)
    (tmp_path / "9").mkdir()
    check_room(tmp_path, items, **arguments)
