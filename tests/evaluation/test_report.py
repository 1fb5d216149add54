"""The report says every figure, escapes what it is given, and is the same each time."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from instructrec_jax.evaluation.breakdown import calibration, errors_by_task, length_effects
from instructrec_jax.evaluation.floors import FLOORS, most_frequent_targets
from instructrec_jax.evaluation.metrics import METRICS
from instructrec_jax.evaluation.protocol import Answer, evaluate_answers
from instructrec_jax.evaluation.report import (
    duration,
    interval_text,
    loss_text,
    percent,
    range_text,
    write_report,
)
from instructrec_jax.evaluation.sensitivity import measure_sensitivity, verdict_text
from instructrec_jax.instructions.example import InstructionExample

HOSTILE = "</script><script>alert('x')</script>\"'><img src=x onerror=alert(1)>{{ 7 * 7 }}\u2028"


def example(index: int, task: str, holdout: str, target: str, **fields) -> InstructionExample:
    defaults = {"instruction": "Say the number.", "input": f"number {index}"}
    return InstructionExample(
        id=f"{task}/{holdout}/{index}",
        task=task,
        holdout=holdout,
        target=target,
        **{**defaults, **fields},
    )


def evaluation():
    examples = [
        *(example(i, "good", "document", f"The number is {i}.") for i in range(4)),
        *(example(i, "good", "phrasing", f"The number is {i}.") for i in range(3)),
        *(example(i, "bad", "document", f"number {i}") for i in range(3)),
        example(0, "<b>hostile</b>", "", HOSTILE, instruction=HOSTILE, input=HOSTILE),
    ]
    outputs = [
        each.target if each.task == "good" else HOSTILE * 2 if "hostile" in each.task else "?"
        for each in examples
    ]
    answers = [
        Answer(
            output=output,
            score=-1.0,
            stop_reason="length" if output == "?" else "eos",
            target_logprob=-1.25 * (i + 1),
            target_tokens=3,
            confidence=0.5,
        )
        for i, output in enumerate(outputs)
    ]
    frequent = most_frequent_targets(examples, [example(9, "good", "", "The number is 9.")])
    judged = evaluate_answers(examples=examples, answers=answers, frequent=frequent)
    metrics = {
        "format_version": 2,
        "benchmark": None,
        "sensitivity": measure_sensitivity(
            examples, outputs, lambda changed, stage: ["?" for _ in changed], primary="chrf"
        ).figures,
        "checkpoint": {"path": "runs/x", "description": "run folder runs/x, step 40", "step": 40},
        "dataset": {"path": "data/<i>x</i>", "split": "test", "note": ""},
        "decoding": {
            "search": "greedy",
            "max_new_tokens": 16,
            "encoder_length": 64,
            "inputs_cut": 5,
            "targets_longer_than_limit": 3,
            "outputs_stopped_by_limit": 3,
        },
        **judged.figures,
        "breakdown": {
            "calibration": calibration(judged.predictions),
            "lengths": length_effects(judged.predictions, metric="chrf"),
            "errors": errors_by_task(judged.predictions),
            "choices": {"good": {"sum": 0.5, "mean": 0.25, "calibrated": 0.75}},
            "prompts": {},
        },
    }
    return metrics, judged.predictions


def run_folder(path: Path) -> Path:
    path.mkdir()
    lines = [
        {
            "kind": "packing",
            "step": 0,
            "epoch": 0,
            "examples": 1234,
            "rows": 321,
            "encoder_fill": 0.9634,
            "decoder_fill": 0.4321,
            "examples_per_row": 3.84,
            "dropped": {"target too <long>": 17},
        },
        *(
            {
                "kind": "train",
                "step": step,
                "loss_per_token": 5 - step / 10,
                "tokens_per_second": 2000.0 + step,
                "sequences_per_second": 33.25,
                "learning_rate": 1e-3,
                "gradient_norm": 1.5,
            }
            for step in range(1, 41)
        ),
        {"kind": "train", "step": 41, "loss_per_token": None},
        {"kind": "validation", "step": 20, "loss_per_token": 3.3},
        {"kind": "validation", "step": 40, "loss_per_token": 1.375},
        {"kind": "time", "step": 40, "seconds": {"step": 90.0, "compile": 8.5, "mystery": 1.5}},
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    samples = [
        {
            "step": step,
            "id": "one",
            "task": "good",
            "instruction": HOSTILE,
            "input": "",
            "target": "four words of text",
            "output": f"{step} words of text",
        }
        for step in (20, 40)
    ]
    (path / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in samples))
    (path / "config.json").write_text(
        json.dumps(
            {
                "config": {"model": {"name": "tiny"}, "train": {"steps": 41}, "seed": 0},
                "origins": {"train.steps": "command line", "seed": "configs/base.py"},
            }
        )
    )
    (path / "environment.json").write_text(json.dumps({"devices": {"kind": "cpu <1>"}}))
    return path


class Page(HTMLParser):
    """Visible text, elements, and addresses that a browser would fetch."""

    VOID = ("meta", "input", "br", "img", "link", "wbr")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "action", "srcset", "data"):
                self.addresses.append(value)
            if name.startswith("on"):
                self.handlers.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.text += " "

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text += data


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    metrics, predictions = evaluation()
    output = folder / "report.html"
    write_report(
        run_folder=run_folder(folder / "my-run"),
        metrics=metrics,
        predictions=predictions,
        output=output,
    )
    assert sorted(path.name for path in folder.iterdir()) == ["my-run", "report.html"]
    return metrics, predictions, output.read_text(encoding="utf-8")


def test_every_figure_is_on_the_page(page):
    metrics, _, html = page
    text = Page(html).text
    for groups in [*metrics["tasks"].values(), metrics["macro"]]:
        for group in groups.values():
            assert loss_text(group["model"]["loss_per_token"]) in text
            assert loss_text(group["model"]["loss_per_sequence"]) in text
            for metric in METRICS[:6]:
                assert percent(group["model"][metric.name]) in text
                assert range_text(group["intervals"][metric.name]) in text
                for floor in FLOORS:
                    assert percent(group["floors"][floor.name][metric.name]) in text
    table = text[text.index("All figures") :]
    assert re.search(r"document +good +4 ", table)
    assert table.count("not above") == sum(
        not group["beats_floors"] for each in metrics["tasks"].values() for group in each.values()
    )


def test_a_tables_row_holds_the_figures_of_its_own_group(page):
    metrics, _, html = page
    row = next(
        row
        for row in re.findall(r"<tr><td>document</td>.*?</tr>", html, flags=re.DOTALL)
        if ">bad<" in row
    )
    words = " ".join(Page(row).text.split())
    group = metrics["tasks"]["bad"]["document"]
    chrf = [group["floors"][floor.name]["chrf"] for floor in FLOORS]
    assert words.startswith(f"document bad 3 {group['model']['loss_per_token']:.3f} ")
    assert " / ".join(percent(figure) for figure in chrf) in words
    assert words.endswith("not above")


def test_losing_tasks_are_named_with_the_floor_that_wins(page):
    _, _, html = page
    text = Page(html).text
    losing = text[
        text.index("Where the model does not beat") : text.index("By which log-probability")
    ]
    assert "bad" in losing
    assert "copy the input" in losing
    assert "good" not in losing


def test_sensitivity_errors_calibration_and_lengths(page):
    metrics, _, html = page
    text = " ".join(Page(html).text.split())
    sensitivity = metrics["sensitivity"]
    for row in sensitivity["macro"].values():
        assert interval_text(row["drop"]) in text
        assert row["verdict"] in text
    assert f"Over all tasks: {verdict_text(sensitivity)}" in text
    ece = percent(metrics["breakdown"]["calibration"]["ece"])
    assert f"Expected calibration error: {ece} of 100, over 11 answers" in text
    assert "right 7" in text and "cut at the length limit 3" in text
    for group in metrics["breakdown"]["lengths"]["question_characters"]:
        assert range_text(group["interval"]) in text
    assert html.count('data-score="-1.000000"') == 11


def test_the_training_part(page):
    _, _, html = page
    text = Page(html).text
    for expected in (
        "1,234 examples packed into 321 rows",
        "96.3 %",
        "43.2 %",
        "17 target too <long>",
        "training steps",
        "1 min 30 s",
        "8.5 s",
        "mystery",
        "1.375",
        "2,020",
        "33.25",
        "cpu <1>",
        "command line",
        "which were cut: 5.",
        "can match: 3.",
    ):
        assert expected in text
    assert html.count("<path ") == 5
    assert "configs/base.py" not in text


def test_nothing_from_the_data_becomes_markup(page):
    metrics, _, html = page
    parsed = Page(html)
    assert parsed.open == []
    assert "img" not in parsed.elements
    assert parsed.handlers == []
    # Two programs of ours: the page's own, and the points of each of the four charts.
    assert parsed.elements.count("script") == 5
    # Bars: of the model and each floor, one bin of confidence, one group of each kind of length.
    lengths = metrics["breakdown"]["lengths"].values()
    assert parsed.elements.count("b") == (1 + len(FLOORS)) * 4 + 2 + sum(map(len, lengths))
    assert HOSTILE in parsed.text
    assert "<b>hostile</b>" in parsed.text
    for points in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', html):
        assert json.loads(points)["lines"]


def test_needs_no_network(page):
    _, _, html = page
    assert set(Page(html).addresses) <= {"#losing"}
    assert not re.search(r"url\(|@import|https?://", html)


def test_same_input_same_page(page, tmp_path):
    metrics, predictions, html = page
    again = tmp_path / "again.html"
    write_report(
        run_folder=run_folder(tmp_path / "my-run"),
        metrics=metrics,
        predictions=predictions,
        output=again,
    )
    assert again.read_text(encoding="utf-8") == html


def test_end_of_training_without_an_evaluation(tmp_path):
    output = tmp_path / "report.html"
    write_report(
        run_folder=run_folder(tmp_path / "my-run"), metrics=None, predictions=[], output=output
    )
    text = Page(output.read_text(encoding="utf-8")).text
    assert "Training of my-run" in text
    assert "How answers changed" in text
    assert "Against the floors" not in text
    assert "All 1 answers" in text


def test_evaluation_without_a_run_folder(tmp_path):
    metrics, predictions = evaluation()
    output = tmp_path / "report.html"
    write_report(run_folder=None, metrics=metrics, predictions=predictions, output=output)
    text = Page(output.read_text(encoding="utf-8")).text
    assert "Against the floors" in text
    assert "Where tokens and time went" not in text


def test_empty_run_folder_and_nothing_else(tmp_path):
    output = tmp_path / "report.html"
    write_report(run_folder=tmp_path, metrics=None, predictions=[], output=output)
    assert Page(output.read_text(encoding="utf-8")).open == []


def test_losses_that_were_not_finite_show_as_a_dash(tmp_path):
    metrics, predictions = evaluation()
    metrics["tasks"]["good"]["document"]["model"]["loss_per_token"] = None
    write_report(
        run_folder=None, metrics=metrics, predictions=predictions, output=tmp_path / "report.html"
    )
    assert "–" in Page((tmp_path / "report.html").read_text(encoding="utf-8")).text


def test_durations():
    assert [duration(x) for x in (3.21, 64, 245.9, 3725)] == [
        "3.2 s",
        "1 min 04 s",
        "4 min 05 s",
        "1 h 02 min",
    ]
