"""The arithmetic of curation, by numbers worked out by hand, and a real model behind it."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_model

from instructrec_jax.errors import CheckpointError, ConfigError, DataError
from instructrec_jax.instructions.example import InstructionExample
from instructrec_jax.instructions.reading import read_examples
from instructrec_jax.instructions.synthesis.curated_file import write_curated
from instructrec_jax.instructions.synthesis.curation import (
    CurationSettings,
    Measures,
    counted,
    curate,
    flipped_margin,
    instruction_following_difficulty,
    log_likelihood_per_token,
    measure,
    outlier_scores,
    verdicts,
)
from instructrec_jax.instructions.synthesis.grammar import few_wrong_instructions
from instructrec_jax.instructions.synthesis.likelihood import Judge, Likelihood, load_judge


def test_likelihoods_by_hand():
    assert log_likelihood_per_token([Likelihood(-2, 1), Likelihood(-4, 2)]) == -2
    # Perplexities e^1 and e^3.
    assert instruction_following_difficulty(Likelihood(-2, 2), Likelihood(-6, 2)) == pytest.approx(
        math.exp(-2)
    )
    assert instruction_following_difficulty(Likelihood(-9e9, 1), Likelihood(-1, 1)) > 1e300
    assert flipped_margin(Likelihood(-2, 2), [Likelihood(-3, 1), Likelihood(-4, 2)]) == 1.5
    assert flipped_margin(Likelihood(-2, 2), []) == 0


def test_outliers_by_hand():
    # Median 5, median deviation 2.
    scores = outlier_scores([1, 2, 3, 4, 5, 6, 7, 8, 100])
    assert scores[-1] == pytest.approx(0.6745 * 95 / 2) and scores[4] == 0
    assert outlier_scores([1, 2, 100]) == [0, 0, 0]
    assert outlier_scores([3] * 8 + [9]) == [0] * 9


def found(nll=1.0, ifd=0.5, margin=1.0):
    return Measures(nll, ifd, margin)


def test_verdicts_name_the_first_reason_and_outliers_are_of_what_is_left():
    measures = {f"usual{i}": found(nll=1 + i / 10) for i in range(9)}
    measures |= {
        "far": found(nll=9),
        "other_task": found(nll=9),
        "useless": found(ifd=1.0, margin=-1),
        "easy": found(ifd=0.1),
        "any_instruction": found(margin=0),
    }
    tasks = dict.fromkeys(measures, "t") | {"other_task": "u"}
    judged = verdicts(measures, tasks, CurationSettings(min_ifd=0.2))
    reasons = {name: verdict.reason for name, verdict in judged.items() if verdict.reason}
    assert reasons == {
        "far": "nll_outlier",
        "useless": "ifd_high",
        "easy": "ifd_low",
        "any_instruction": "no_margin",
    }
    assert counted(judged) == dict.fromkeys(reasons.values(), 1)
    off = CurationSettings(max_ifd=math.inf, min_margin=-math.inf, max_outlier=0)
    assert not counted(verdicts(measures, tasks, off))


def test_thresholds_that_cannot_be_met_are_refused():
    settings = CurationSettings(max_ifd=math.nan, min_ifd=2, max_outlier=-1)
    assert len(settings.problems()) == 2
    judge = Judge("", "", score=lambda requests: [], write=lambda texts: [])
    with pytest.raises(ConfigError, match="max_outlier: -1 is below 0"):
        curate([], judge, settings, wrong=few_wrong_instructions)


def example(name, instruction="Double it.", text="4", target="8", **changes):
    return InstructionExample(name, "number", instruction, text, target, **changes)


def test_examples_are_measured_one_by_one_whatever_the_portion():
    asked = []

    def score(requests):
        asked.append(list(requests))
        likely = {"Double it.\n\n4": -1.0, "": -3.0}
        return [Likelihood(likely.get(text, -2.0), 1) for text, _ in requests]

    judge = Judge("", "", score=score, write=lambda texts: [])
    examples = [example("a"), example("b", "Double 4.", "", material="4"), example("c", target="9")]
    wrong = lambda example: ("Shout.", "Sing.")  # noqa: E731
    measures = measure(examples, judge, wrong=wrong)
    assert measures["a"] == Measures(nll=1, ifd=pytest.approx(math.exp(-2)), margin=1)
    assert measures["b"] == Measures(nll=2, ifd=pytest.approx(math.exp(-1)), margin=0)
    # The material is there under wrong instructions too.
    assert asked[0][4:8] == [
        ("Double 4.", "8"), ("", "8"), ("Shout.\n\n4", "8"), ("Sing.\n\n4", "8"),
    ]  # fmt: skip
    whole = curate(examples, judge, CurationSettings(), wrong=wrong)
    assert whole == curate(iter(examples), judge, CurationSettings(), wrong=wrong, portion=1)
    assert {name: verdict.reason for name, verdict in whole.items()} == {
        "a": "",
        "b": "no_margin",
        "c": "",
    }


def test_a_checkpoint_judges_and_writes(tmp_path):
    run = tiny_model.write_run(tmp_path / "run", tiny_model.write_dataset(tmp_path / "data.jsonl"))
    judge = load_judge(str(run), batch_size=4, max_new_tokens=3)
    requests = [("Do add:", "The sum"), ("", "零"), ("Do add:", "The sum")]
    first, second, again = judge.score(requests)
    assert first == again and first.logprob < 0 and first.tokens >= second.tokens >= 2
    (written,) = judge.write(["Do add:"])
    assert written.likelihood.tokens <= 3 and isinstance(written.text, str)
    assert "step 30" in judge.name and "token_embedder/embedding" in judge.fingerprint
    assert judge.score([]) == [] and judge.write([]) == []
    with pytest.raises(CheckpointError):
        load_judge(str(tmp_path / "none"))


def test_a_build_without_a_checkpoint_does_not_load_jax():
    code = "import sys, instructrec_jax.build; print({'jax', 'flax'} & set(sys.modules) or 'none')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "none"


def test_a_dataset_is_curated_into_a_file_and_its_rejects(tmp_path):
    rows = [
        {"task": task, "instruction": ask, "input": f"{i}", "target": f"{i}", "split": split}
        for task, ask in (("echo", "Repeat."), ("noise", "Invent."))
        for i in range(4)
        for split in ("train", "test")
    ]
    source = tmp_path / "data.jsonl"
    rows[8]["input"] = "Ask jane.roe@uni-mail.de."
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def score(requests):
        # An instruction helps where it is to repeat; "Invent." makes the target no more likely.
        likely = [-1.0 if text.startswith("Repeat.") else -2.0 for text, _ in requests]
        return [Likelihood(logprob, 1) for logprob in likely]

    judge = Judge("by hand", "0", score=score, write=lambda texts: [])
    lines, output = [], tmp_path / "kept.jsonl"
    refused = write_curated(
        str(source), output, judge=judge, settings=CurationSettings(), progress=lines.append
    )
    assert refused == {"ifd_high": 4}
    kept = list(read_examples(output))
    assert [(e.task, e.split) for e in kept if e.split == "train"] == [("echo", "train")] * 4
    assert sum(e.split == "test" for e in kept) == 8
    lines_refused = Path(f"{output}.rejected.jsonl").read_text().splitlines()
    rejected = [json.loads(line) for line in lines_refused]
    assert [each["record"]["task"] for each in rejected] == ["noise"] * 4
    assert rejected[0]["record"]["input"] == "Ask [e-mail address masked]."
    # The other task's instruction is the better one.
    assert rejected[0]["reason"] == "ifd_high" and rejected[0]["margin"] == -1
    assert "4 of 8 examples for training are left" in lines[1]
    with pytest.raises(ConfigError, match="is there already"):
        write_curated(str(source), output, judge=judge, settings=CurationSettings(), progress=print)
    with pytest.raises(DataError, match="leaves no example: 8 no_margin"):
        write_curated(
            str(source), tmp_path / "none.jsonl", judge=judge,
            settings=CurationSettings(max_ifd=9, min_margin=9), progress=print,
        )  # fmt: skip


def test_flags_that_do_not_go_together_are_refused():
    command = [sys.executable, "-m", "instructrec_jax.build", "--config=configs/base.py"]
    flags = ["--output=/nowhere", "--turn_round=a", "--curate=b"]
    root = Path(__file__).parent.parent.parent
    done = subprocess.run([*command, *flags], capture_output=True, text=True, cwd=root)
    assert done.returncode == 2
    assert "--turn_round and --curate are different commands" in done.stderr
