import json

from instructrec_jax.instructions.decontamination import Evaluation

RUN = "one two three four five six seven eight nine ten eleven twelve thirteen"
TARGET = "This long answer must not come up anywhere in what is trained on, ever."


def test_runs_of_words_and_long_targets_are_found(tmp_path):
    ours = {"id": "a", "task": "t", "instruction": "Q", "input": f"Zero {RUN} end", "target": "x"}
    alpaca = {"instruction": "Say something long.", "input": "", "output": TARGET}
    for name, record in (("ours", ours), ("alpaca", alpaca)):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(record) + "\n")
    paths = [str(tmp_path / f"{name}.jsonl") for name in ("ours", "alpaca")]
    index = Evaluation.of(paths)
    assert index.holds(RUN.upper().replace(" ", ", "), "y")
    assert index.holds("x", f"before {RUN} after")
    assert not index.holds(RUN.rpartition(" ")[0], "y")
    assert index.holds("x", "So: " + TARGET.replace(" ", "  ") + " Yes.")
    assert not index.holds("x", TARGET[:60])
    assert not index.holds("", "") and not Evaluation.of([]).holds(RUN, TARGET)
    assert index.asks(f"zero {RUN} END", "X") and not index.asks(f"zero {RUN} end", "y")


def test_missing_files_are_told(tmp_path):
    (tmp_path / "there.jsonl").write_text("{}")
    told = Evaluation.problems([str(tmp_path / "gone"), str(tmp_path / "*.jsonl")])
    assert len(told) == 1 and "gone" in told[0]
