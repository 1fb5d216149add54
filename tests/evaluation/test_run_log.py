"""Reading a run folder back, damaged or not."""

import json

from instructrec_jax.evaluation.run_log import (
    find_run_folder,
    flatten,
    read_run,
    series,
    total_seconds,
)


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_run_folder_is_found_from_every_kind_of_checkpoint_path(tmp_path):
    run = tmp_path / "run"
    step = run / "checkpoints" / "100"
    step.mkdir(parents=True)
    assert find_run_folder(step) is None
    write_lines(run / "metrics.jsonl", [])
    for path in (run, run / "checkpoints", step):
        assert find_run_folder(path) == run
    # A model folder that merely lies in a run folder was not made by it.
    assert find_run_folder(run / "model") is None
    assert find_run_folder(tmp_path / "elsewhere") is None


def test_lines_by_kind_with_a_resume_and_a_line_cut_short(tmp_path):
    write_lines(
        tmp_path / "metrics.jsonl",
        [
            {"kind": "packing", "step": 0, "rows": 7},
            {"kind": "train", "step": 20, "loss_per_token": 3.0},
            {"kind": "train", "step": 10, "loss_per_token": 4.0},
            {"kind": "train", "step": 20, "loss_per_token": 2.5},
            {"kind": "validation", "step": 20, "loss_per_token": 2.75},
            {"kind": "train", "step": 30, "loss_per_token": None},
            {"kind": "time", "step": 30, "seconds": {"step": 4.0}},
        ],
    )
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"kind": "train", "st')
    (tmp_path / "config.json").write_text(
        json.dumps({"config": {"seed": 0, "train": {"steps": 30}}, "origins": {"seed": "x"}})
    )
    run = read_run(tmp_path)
    assert run.name == tmp_path.name
    assert series(run.train, "loss_per_token") == [(10, 4.0), (20, 2.5)]
    assert series(run.validation, "loss_per_token") == [(20, 2.75)]
    assert run.packing["rows"] == 7
    assert run.seconds == {"step": 4.0}
    assert run.config == {"seed": 0, "train.steps": 30}
    assert run.origins == {"seed": "x"}
    assert run.unreadable_lines == 1
    assert run.samples == []
    assert run.environment == {}


def test_an_empty_folder_is_a_run_without_anything(tmp_path):
    run = read_run(tmp_path)
    assert (run.train, run.validation, run.packing, run.seconds) == ([], [], {}, {})


def test_seconds_are_summed_over_the_parts_of_a_run():
    first = [{"compile": 3.0, "step": 5.0}, {"compile": 3.0, "step": 9.0}]
    second = [{"compile": 4.0, "step": 2.0, "save": 1.0}]
    assert total_seconds(first) == {"compile": 3.0, "step": 9.0}
    assert total_seconds(first + second) == {"compile": 7.0, "step": 11.0, "save": 1.0}
    assert total_seconds([]) == {}


def test_flatten():
    assert flatten({"a": {"b": {"c": 1}, "d": {}}, "e": [1]}) == {"a.b.c": 1, "a.d": {}, "e": [1]}
