"""The evaluate binary and the way from checkpoint and dataset to its three files."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import jax
import pytest
from tiny_model import DECODER_LENGTH, write_dataset, write_run

from instructrec_jax.decoding.loading import decode_mesh
from instructrec_jax.errors import CheckpointError, ConfigError, DataError
from instructrec_jax.evaluation import prediction
from instructrec_jax.evaluation.pipeline import evaluate_checkpoint, is_current
from instructrec_jax.instructions.example import encoder_text
from instructrec_jax.instructions.reading import read_examples
from instructrec_jax.training.model_folder import find_model_folder

FILES = ("metrics.json", "predictions.jsonl", "report.html")
# Runs the binary and tells which heavy modules were loaded by the end.
RUN_BINARY = (
    "import atexit, runpy, sys;"
    "heavy = ('tensorflow', 'optax', 'torch');"
    "atexit.register(lambda: print('loaded:', [m for m in heavy if m in sys.modules]));"
    "runpy.run_module('instructrec_jax.evaluate', run_name='__main__')"
)


@dataclass(frozen=True)
class Evaluated:
    run: object
    dataset: object
    output: object
    process: subprocess.CompletedProcess


def run_binary(*arguments):
    # One device, unlike the eight of this process: the answers must not depend on it.
    one_device = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=1"
    return subprocess.run(
        [sys.executable, "-c", RUN_BINARY, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "XLA_FLAGS": one_device},
    )


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    dataset = write_dataset(folder / "data.jsonl")
    run = write_run(folder / "run", dataset)
    output = folder / "output"
    process = run_binary(
        f"--checkpoint={run}", f"--dataset={dataset}", f"--output={output}", "--batch_size=4"
    )
    assert process.returncode == 0, process.stderr
    return Evaluated(run=run, dataset=dataset, output=output, process=process)


def read_output(folder):
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    with (folder / "predictions.jsonl").open(encoding="utf-8", newline="\n") as lines:
        return metrics, [json.loads(line) for line in lines]


def test_files_and_their_contents(evaluated):
    assert sorted(path.name for path in evaluated.output.iterdir()) == sorted(FILES)
    metrics, predictions = read_output(evaluated.output)
    examples = list(read_examples(evaluated.dataset, split="test"))
    assert [each["id"] for each in predictions] == [example.id for example in examples]
    assert [each["target"] for each in predictions] == [example.target for example in examples]
    assert metrics["format_version"] == 3
    assert metrics["checkpoint"]["step"] == 30
    assert metrics["dataset"]["split"] == "test"
    assert metrics["summary"]["examples"] == len(examples) == 8
    assert set(metrics["tasks"]) == {"add", "chinese"}
    assert set(metrics["macro"]) == {"document", "phrasing"}
    assert metrics["most_frequent_targets"]["chinese"]["counted_on"] == "train split"
    assert metrics["most_frequent_targets"]["chinese"]["counted"] == 20
    assert metrics["decoding"]["max_new_tokens"] == DECODER_LENGTH
    group = metrics["tasks"]["add"]["document"]
    own = [each for each in predictions if (each["task"], each["holdout"]) == ("add", "document")]
    nll, tokens = (sum(each[key] for each in own) for key in ("target_logprob", "target_tokens"))
    assert group["model"]["loss_per_token"] == pytest.approx(-nll / tokens)
    assert group["model"]["loss_per_sequence"] == pytest.approx(-nll / len(own))
    # An untrained model: the loss of a uniform guess over 384 tokens is 5.95.
    assert 3 < group["model"]["loss_per_token"] < 100


def test_terminal_output(evaluated):
    words = evaluated.process.stderr
    for expected in (
        "task",
        "hold-out",
        "/token",
        "match",
        "floor:",
        "copy",
        "1st line",
        "frequent",
        "over best",
        "chinese",
        "phrasing",
        "not above",
        "mean over tasks",
        "answering: 8 of 8",
        f"report: {evaluated.output / 'report.html'}",
    ):
        assert expected in words
    assert evaluated.process.stdout == "loaded: []\n"


def test_the_report_has_the_runs_loss_curve(evaluated):
    page = (evaluated.output / "report.html").read_text(encoding="utf-8")
    assert "Loss per target token" in page
    assert "3.250" in page
    assert "Evaluation of run" in page


def test_evaluating_again_gives_the_same_bytes(evaluated, tmp_path):
    progress = []
    for folder in ("first", "second"):
        progress.clear()
        evaluate_checkpoint(
            checkpoint=evaluated.run,
            dataset=evaluated.dataset,
            output=tmp_path / folder,
            batch_size=4,
            say=lambda text: None,
            progress=lambda *done: progress.append(done),
        )
    for name in FILES:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    # The other process has another number of devices, which rounds the last digit otherwise.
    here, there = read_output(tmp_path / "first")[1], read_output(evaluated.output)[1]
    assert [each["output"] for each in here] == [each["output"] for each in there]
    assert [each["target_logprob"] for each in here] == pytest.approx(
        [each["target_logprob"] for each in there], rel=1e-5
    )
    for stage in ("answering", "scoring targets"):
        done = [count for name, count, total in progress if name == stage and total == 8]
        assert done == sorted(done)
        assert done[-1] == 8


@pytest.fixture
def planted(monkeypatch):
    """Puts a model in place that answers each text by a function of it, tells how it is asked."""

    def plant(answer):
        asked_with = {}

        def generate(params, config, tokenizer, texts, **options):
            asked_with.update(options)
            return [
                SimpleNamespace(output=answer(text), score=-1.0, stop_reason="eos", truncated=False)
                for text in texts
            ]

        def score(params, config, tokenizer, texts, targets, **options):
            return [
                SimpleNamespace(logprob=-0.5 * len(target), token_logprobs=[-0.5] * len(target))
                for target in targets
            ]

        monkeypatch.setattr(prediction, "generate", generate)
        monkeypatch.setattr(prediction, "score", score)
        return asked_with

    return plant


def evaluate_planted(evaluated, output, **options):
    given = {"checkpoint": evaluated.run, "dataset": evaluated.dataset, "batch_size": 1, "say": str}
    return evaluate_checkpoint(output=output, **{**given, **options})


def test_a_planted_perfect_model(evaluated, planted, tmp_path):
    targets = {
        encoder_text(example.instruction, example.input): example.target
        for example in read_examples(evaluated.dataset)
    }
    planted(targets.__getitem__)
    metrics = evaluate_planted(evaluated, tmp_path)
    for groups in metrics["tasks"].values():
        for group in groups.values():
            assert group["model"]["chrf"] == group["model"]["exact_match"] == 1.0
            assert group["intervals"]["chrf"] == [1.0, 1.0]
            assert group["model"]["loss_per_token"] == 0.5
            # Where a floor gives one of two answers, chance may have made it so.
            doubtful = group["floors"][group["best_floor"]]["chrf"] == 0.5
            assert group["verdict"] == ("not above" if doubtful else "above (few)")
    assert metrics["summary"]["tasks_beating_floors"] == 1
    assert metrics["summary"]["tasks_beating_floors_few"] == 1
    assert metrics["tasks"]["add"]["document"]["model"]["rouge_l"] == 1.0
    # ROUGE-L sees no Chinese, right answers included: the reason why chrF decides.
    assert metrics["tasks"]["chinese"]["document"]["model"]["rouge_l"] == 0.0


def test_a_planted_copying_model(evaluated, planted, tmp_path):
    planted(lambda text: text.split("\n\n", 1)[1])
    metrics = evaluate_planted(evaluated, tmp_path)
    for groups in metrics["tasks"].values():
        for group in groups.values():
            floor = group["floors"]["copy_input"]
            assert {name: group["model"][name] for name in floor} == floor
            assert not group["beats_floors"]


def test_a_planted_model_that_ignores_its_instruction(evaluated, planted, tmp_path):
    planted(lambda text: text.rsplit("\n\n", 1)[-1].partition(" and ")[0])
    metrics = evaluate_planted(
        evaluated, tmp_path, sensitivity_examples=3, untrained_floor=True, shots=0
    )
    sensitivity = metrics["sensitivity"]
    assert sensitivity["verdict"] == "ignores its instruction (few)"
    assert sensitivity["tasks_ignoring"] == 2
    # One phrasing a task: there is no other.
    assert set(sensitivity["macro"]) == {"removed", "shuffled", "another_task", "contradicted"}
    assert {row["examples"] for row in sensitivity["macro"].values()} == {6}
    with (tmp_path / "sensitivity.jsonl").open(encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    assert len(records) == 4 * 6
    assert all(each["output"] == each["true_output"] for each in records)
    group = metrics["tasks"]["add"]["document"]
    assert group["floors"]["untrained"] == {
        name: group["model"][name] for name in group["floors"]["untrained"]
    }
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Does it read its instruction?" in page
    assert "untrained model" in page
    # The next evaluation into this folder has none: no old answers stay beside its figures.
    evaluate_planted(evaluated, tmp_path)
    assert not (tmp_path / "sensitivity.jsonl").exists()


def test_shots_reach_the_model(evaluated, planted, tmp_path):
    seen = []
    planted(lambda text: seen.append(text) or "?")
    metrics = evaluate_planted(evaluated, tmp_path, shots=1)
    asked = [text for text in seen if text.count("Do ") == 2]
    left_out = metrics["decoding"]["demonstrations_left_out"]
    assert metrics["decoding"]["shots"] == 1
    assert len(asked) + left_out == 8
    with pytest.raises(ConfigError, match="--shots=1: the data hold no train examples"):
        lines = evaluated.dataset.read_text(encoding="utf-8").splitlines(keepends=True)
        alone = tmp_path / "test_alone.jsonl"
        alone.write_text("".join(lines[40:]), encoding="utf-8")
        evaluate_checkpoint(
            checkpoint=evaluated.run, dataset=alone, output=tmp_path, shots=1, say=str
        )


def test_code_is_run(evaluated, planted, tmp_path):
    wrong = "def add(a, b):\n    return a - b\n\nassert add(1, 2) == 3"
    records = [
        {
            "id": str(number),
            "task": "repair_function",
            "instruction": "Mend it.",
            "input": wrong,
            "target": "def add(a, b):\n    return a + b",
        }
        for number in range(2)
    ]
    dataset = tmp_path / "code.jsonl"
    dataset.write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
    planted(lambda text: "def add(x, y):\n    return y + x")
    metrics = evaluate_planted(evaluated, tmp_path / "out", dataset=dataset)
    group = metrics["tasks"]["repair_function"]["all"]
    assert (group["model"]["pass_rate"], group["model"]["exact_match"]) == (1.0, 0.0)
    assert group["floors"]["copy_input"]["pass_rate"] == 0.0
    assert metrics["code"]["examples"] == 2
    assert "system_calls" in metrics["code"]["confined_by"] or os.name != "posix"


def test_a_benchmark_with_choices_by_the_model_itself(evaluated, tmp_path):
    records = [
        {
            "id": f"q{number}",
            "options": ["one", "two or three"],
            "target": "one",
            "prompts": {"short": f"{number}?", "long": f"Is it {number} or not?"},
        }
        for number in range(3)
    ]
    dataset = tmp_path / "entail.jsonl"
    dataset.write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
    metrics = evaluate_checkpoint(
        checkpoint=evaluated.run,
        dataset=dataset,
        output=tmp_path / "out",
        benchmark="t0",
        batch_size=6,
        say=str,
    )
    assert metrics["benchmark"]["name"] == "t0"
    assert metrics["primary_metric"] == "accuracy"
    assert metrics["decoding"]["chosen_among_options"] == 6
    _, predictions = read_output(tmp_path / "out")
    for each in predictions:
        logprobs = each["option_logprobs"]["sum"]
        assert each["output"] == each["options"][logprobs.index(max(logprobs))]
        # The target is among the options: scored apart, it has the same log-probability.
        assert each["target_logprob"] == pytest.approx(logprobs[0], rel=1e-4)
        assert 0.5 <= each["confidence"] <= 1
    spread = metrics["breakdown"]["prompts"]["entail"]
    right = {
        template: sum(each["accuracy"] for each in predictions if each["template"] == template) / 3
        for template in ("long", "short")
    }
    assert spread["prompts"] == pytest.approx(right)
    assert spread["median"] == pytest.approx(sum(right.values()) / 2)
    assert "Over all prompts" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_an_evaluation_is_current_until_run_or_dataset_change(evaluated, tmp_path):
    output = tmp_path / "output"
    shutil.copytree(evaluated.output, output)
    run = tmp_path / "run"
    shutil.copytree(evaluated.run, run)
    dataset = tmp_path / "data.jsonl"
    shutil.copy(evaluated.dataset, dataset)
    assert is_current(output, checkpoint=run, dataset=dataset)
    metrics = json.loads((output / "metrics.json").read_text("utf-8"))
    earlier = json.dumps({**metrics, "format_version": metrics["format_version"] - 1})
    (output / "metrics.json").write_text(earlier, "utf-8")
    assert not is_current(output, checkpoint=run, dataset=dataset)
    (output / "metrics.json").write_text(json.dumps(metrics), "utf-8")
    lines = dataset.read_text(encoding="utf-8")
    dataset.write_text(lines.replace("The sum is 48", "The sum is 49"), encoding="utf-8")
    assert not is_current(output, checkpoint=run, dataset=dataset)
    dataset.write_text(lines, encoding="utf-8")
    folder, _ = find_model_folder(run)
    metadata = folder / "metadata" / "metadata"
    record = json.loads(metadata.read_text())
    name = next(iter(record["fingerprints"]["parameters"]))
    record["fingerprints"]["parameters"][name] += 1
    record.pop("sha256", None)
    metadata.write_text(json.dumps(record))
    assert not is_current(output, checkpoint=run, dataset=dataset)
    assert not is_current(tmp_path / "nowhere", checkpoint=run, dataset=dataset)


def test_losses_that_are_not_finite_become_null(evaluated, planted, tmp_path, monkeypatch):
    planted(str)
    monkeypatch.setattr(
        prediction,
        "score",
        lambda *texts, **options: [
            SimpleNamespace(logprob=float("nan"), token_logprobs=[0.0]) for _ in texts[-1]
        ],
    )
    metrics = evaluate_planted(evaluated, tmp_path)
    assert metrics["macro"]["document"]["model"]["loss_per_token"] is None
    assert "NaN" not in (tmp_path / "metrics.json").read_text(encoding="utf-8")
    assert "NaN" not in (tmp_path / "predictions.jsonl").read_text(encoding="utf-8")


def test_a_bound_on_examples(evaluated, planted, tmp_path):
    planted(str)
    metrics = evaluate_planted(evaluated, tmp_path, max_examples_per_task=1)
    assert metrics["summary"]["examples"] == 4
    assert metrics["dataset"]["examples"] == 8
    groups = [group for each in metrics["tasks"].values() for group in each.values()]
    assert [group["examples"] for group in groups] == [1, 1, 1, 1]


def test_sentinels_are_read_as_the_run_did(evaluated, planted, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(evaluated.run, run)
    config = {"dataset": str(evaluated.dataset), "data": {"parse_sentinels": True}}
    (run / "config.json").write_text(json.dumps({"config": config, "origins": {}}))
    for given, expected in (({"checkpoint": run}, True), ({}, False)):
        asked_with = planted(str)
        metrics = evaluate_planted(evaluated, tmp_path / "output", **given)
        told = metrics["decoding"]["parse_sentinels"], asked_with["parse_sentinels"]
        assert told == (expected, expected)


def test_user_errors(evaluated, tmp_path):
    def evaluate(**changes):
        evaluate_planted(evaluated, **{"output": tmp_path / "output", **changes})

    with pytest.raises(CheckpointError, match="nowhere"):
        evaluate(checkpoint=tmp_path / "nowhere")
    with pytest.raises(DataError, match="missing"):
        evaluate(dataset=tmp_path / "missing.jsonl")
    with pytest.raises(DataError, match="no example in the split 'validation'"):
        evaluate(split="validation")
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    with pytest.raises(ConfigError, match="--output=.*file cannot be written"):
        evaluate(output=in_the_way)
    assert not (tmp_path / "output").exists()


def test_over_a_mesh(evaluated, tmp_path):
    mesh = decode_mesh("data=4,tensor=2")
    with jax.set_mesh(mesh):
        evaluate_checkpoint(
            checkpoint=evaluated.run,
            dataset=evaluated.dataset,
            output=tmp_path,
            batch_size=4,
            mesh=mesh,
            say=print,
        )
    alone, found = read_output(evaluated.output)[1], read_output(tmp_path)[1]
    assert [each["output"] for each in found] == [each["output"] for each in alone]
    for name in ("target_logprob", "score"):
        figures = [[each[name] for each in answers] for answers in (found, alone)]
        assert figures[0] == pytest.approx(figures[1], rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (["--dataset=x", "--output=y"], 2, "error: --checkpoint is missing\n"),
        (["--checkpoint=x", "--dataset=no.jsonl", "--output=y"], 3, "error: no.jsonl"),
    ],
)
def test_exit_codes(arguments, exit_code, words):
    process = run_binary(*arguments)
    assert process.returncode == exit_code
    assert process.stderr.startswith(words)
    assert process.stderr.count("\n") == 1


def test_comparing_by_the_binary(evaluated, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(evaluated.output, other)
    process = run_binary(f"--compare={evaluated.output},{other}", f"--output={tmp_path / 'out'}")
    assert process.returncode == 0, process.stderr
    assert "examples in common: 8" in process.stderr
    assert "no difference shown" in process.stderr
    assert (tmp_path / "out" / "comparison.html").is_file()
    process = run_binary("--compare=x,y", "--dataset=z", "--output=o")
    assert process.stderr == "error: --dataset has no meaning with --compare\n"
    assert process.returncode == 2
