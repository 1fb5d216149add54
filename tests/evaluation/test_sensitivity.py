"""Planted models: one that ignores its instruction must be exposed, one that reads it must not."""

from dataclasses import replace

import pytest

from instructrec_jax.evaluation.rewording import (
    VARIANTS,
    Wordings,
    contradicted,
    of_another_task,
    paraphrased,
    removed,
    shuffled,
)
from instructrec_jax.evaluation.sensitivity import measure_sensitivity, overall_verdict
from instructrec_jax.instructions.example import Demonstration, InstructionExample
from instructrec_jax.instructions.hashing import fraction

ASKED = {
    "upper": ("Write this in capital letters.", "Make every letter of it a capital."),
    "reverse": ("Write this backwards.", "Turn the word around."),
}


def answer(instruction, word):
    """What a model that reads its instruction says."""
    if "nothing" in instruction:
        return "nothing"
    for task, phrasings in ASKED.items():
        if instruction in phrasings:
            return word.upper() if task == "upper" else word[::-1]
    return word


WORDS = [f"{first}{middle}{last}ing" for first in "bcd" for middle in "aei" for last in "lmnrs"]
EXAMPLES = [
    InstructionExample(
        id=f"{task}/{word}",
        task=task,
        instruction=phrasings[place % 2],
        input=word,
        target=answer(phrasings[0], word),
    )
    for task, phrasings in ASKED.items()
    for place, word in enumerate(WORDS)
]


def measured(model, examples=EXAMPLES, **options):
    def respond(changed, stage):
        assert stage.startswith("instruction ")
        return [model(each.instruction, each.input) for each in changed]

    outputs = [model(each.instruction, each.input) for each in examples]
    return measure_sensitivity(examples, outputs, respond, primary="chrf", **options)


@pytest.mark.parametrize("model", [lambda q, x: x.upper(), lambda q, x: x], ids=["upper", "copy"])
def test_a_model_that_ignores_its_instruction_is_exposed(model):
    figures = measured(model).figures
    for task in [*figures["tasks"].values(), {"variants": figures["macro"]}]:
        for name in ("removed", "another_task", "contradicted"):
            row = task["variants"][name]
            assert row["drop"] == {"value": 0, "low": 0, "high": 0}
            assert row["verdict"] == "ignores its instruction"
            assert row["true"] == row["changed"]
    assert figures["verdict"] == figures["tasks"]["upper"]["verdict"] == "ignores its instruction"
    assert figures["tasks_ignoring"] == 2
    assert figures["macro"]["contradicted"]["obeyed"] == 0


def test_chance_is_not_taken_for_reading():
    # Right on two of three, on others with each instruction.
    def model(instruction, word):
        return word.upper() if fraction(instruction, word) < 2 / 3 else "?"

    figures = measured(model).figures
    row = figures["tasks"]["upper"]["variants"]["another_task"]
    assert row["drop"]["low"] < 0 < row["drop"]["high"]
    # Nor for not reading: the drop may be greater than the least one.
    assert row["verdict"] == "undecided"
    assert figures["tasks"]["upper"]["verdict"] == "undecided"
    assert figures["tasks_undecided"] >= 1 and figures["tasks_following"] == 0


def test_demonstrations_tell_the_task_too_and_are_left_out():
    shown = (Demonstration(ASKED["upper"][0], "x", "X"),)
    seen = []

    def respond(changed, stage):
        seen.append(stage)
        assert not any(each.demonstrations for each in changed)
        return [answer(each.instruction, each.input) for each in changed]

    examples = [replace(each, demonstrations=shown) for each in EXAMPLES]
    wrong = ["?"] * len(examples)
    figures = measure_sensitivity(examples, wrong, respond, primary="chrf").figures
    assert seen[0] == "instruction true, zero-shot"
    assert figures["macro"]["removed"]["true"] == 1.0
    assert figures["verdict"] == "follows"


def test_words_in_front_of_an_input_are_not_an_instruction_that_is_read():
    # Falls where the instruction is missing, and so far from any other's: whatever it says.
    figures = measured(lambda instruction, word: word.upper() if instruction else "?").figures
    upper = figures["tasks"]["upper"]
    assert upper["variants"]["removed"]["verdict"] == "follows"
    assert upper["verdict"] == figures["verdict"] == "ignores its instruction"


@pytest.mark.parametrize(
    ("removed_drop", "other_drop", "verdict"),
    [
        (0.02, 0.01, "ignores its instruction"),  # as an untrained model's, with any certainty
        (0.4, 0.02, "ignores its instruction"),
        (0.4, 0.04, "undecided"),  # the interval reaches to 0.08
        (0.4, 0.3, "follows"),
    ],
)
def test_both_drops_must_be_large_enough_to_matter(removed_drop, other_drop, verdict):
    def row(value):
        spread = {"value": value, "low": 0.9 * value, "high": 2 * value}
        return {"examples": 100, "clusters": 100, "drop": spread}

    variants = {
        "removed": row(removed_drop),
        "another_task": row(other_drop),
        "contradicted": row(0.5),
    }
    assert overall_verdict(variants) == verdict
    assert overall_verdict({"contradicted": row(0.5)}) == "follows"
    assert overall_verdict({"shuffled": row(0.5)}) == "nothing to change"


def test_a_model_that_reads_its_instruction():
    sensitivity = measured(answer)
    figures = sensitivity.figures
    assert figures["verdict"] == "follows"
    assert figures["tasks_ignoring"] == 0
    for task in figures["tasks"].values():
        assert task["verdict"] == "follows"
        verdicts = {name: row["verdict"] for name, row in task["variants"].items()}
        assert verdicts == {
            "removed": "follows",
            "shuffled": "reads the order",
            "paraphrased": "robust",
            "another_task": "follows",
            "contradicted": "follows",
        }
        assert task["variants"]["paraphrased"]["drop"]["value"] == 0
        assert task["variants"]["contradicted"]["obeyed"] == 1
        assert task["variants"]["removed"]["drop"]["low"] > 0.5
    assert len(sensitivity.records) == 5 * len(EXAMPLES)
    assert {"id", "variant", "instruction", "output", "true_output"} <= set(sensitivity.records[0])


def test_a_model_that_hangs_on_the_wording():
    known = [phrasings[0] for phrasings in ASKED.values()]
    examples = [replace(each, instruction=ASKED[each.task][0]) for each in EXAMPLES]

    def model(instruction, word):
        return answer(instruction, word) if instruction in known else "?"

    figures = measured(model, examples, wordings=Wordings(EXAMPLES)).figures
    assert figures["macro"]["paraphrased"]["verdict"] == "hangs on the wording"


def test_few_examples_are_marked():
    figures = measured(answer, examples_per_task=5).figures
    assert figures["tasks"]["upper"]["variants"]["removed"]["examples"] == 5
    assert figures["tasks"]["upper"]["verdict"] == "follows (few)"


def test_each_change_of_an_example():
    wordings = Wordings(EXAMPLES)
    first = EXAMPLES[0]
    assert removed(first, wordings) == replace(first, instruction="")
    mixed = shuffled(first, wordings).instruction
    assert mixed != first.instruction
    assert sorted(mixed.split()) == sorted(first.instruction.split())
    assert paraphrased(first, wordings).instruction == ASKED["upper"][1]
    assert of_another_task(first, wordings).instruction in ASKED["reverse"]
    assert contradicted(first, wordings).instruction.startswith(first.instruction + " No,")
    for variant in VARIANTS:
        assert variant.change(first, wordings) == variant.change(first, Wordings(EXAMPLES[::-1]))


def test_material_inside_the_instruction_is_kept_apart():
    inside = InstructionExample(
        id="x",
        task="t",
        instruction="Give 'a b' a short title",
        input="",
        material="a b",
        target="T",
    )
    wordings = Wordings([inside])
    assert removed(inside, wordings).input == "a b"
    assert "\na b\n" in f"\n{shuffled(inside, wordings).instruction}\n"
    other = of_another_task(inside, wordings)
    assert other.input == "a b"
    assert other.instruction not in wordings.shared.get("t", ()) and "a b" not in other.instruction
    nothing_apart = replace(inside, material="")
    assert removed(nothing_apart, wordings) is None
    assert of_another_task(nothing_apart, wordings) is None
    assert paraphrased(nothing_apart, wordings) is None
    assert "“没有”" in contradicted(replace(inside, instruction="写一个标题"), wordings).instruction
    chinese = shuffled(replace(inside, instruction="写一个标题", material=""), wordings).instruction
    assert sorted(chinese) == sorted("写一个标题")


def test_phrasings_of_the_template_bank():
    example = InstructionExample(
        id="x",
        task="judge_sentiment",
        template="judge_sentiment.none",
        instruction="Judge.",
        input="Fine.",
        target="positive",
        options=("positive", "negative"),
    )
    found = Wordings([example]).paraphrases(example)
    assert len(found) > 3
    assert all("positive" not in text or "negative" in text for text, _ in found)
    assert paraphrased(example, Wordings([example])).instruction != "Judge."
