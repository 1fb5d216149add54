"""Floors counted by hand."""

from dataclasses import replace

from instructrec_jax.evaluation.floors import (
    EVALUATED_EXAMPLES,
    FLOORS,
    TRAIN_SPLIT,
    FrequentTarget,
    copy_demonstration,
    copy_first_line,
    copy_input,
    most_frequent_target,
    most_frequent_targets,
)
from instructrec_jax.instructions.example import Demonstration, InstructionExample


def example(
    task: str, target: str, *, input: str = "", instruction: str = "Do it.", material: str = ""
) -> InstructionExample:
    return InstructionExample(
        id=f"{task}/{target}",
        task=task,
        instruction=instruction,
        input=input,
        target=target,
        material=material,
    )


def test_counted_on_the_train_split_of_the_task():
    test = [example("colour", "blue"), example("colour", "blue")]
    train = [
        example("colour", "red"),
        example("colour", "red"),
        example("colour", "blue"),
        example("other", "green"),
        example("other", "green"),
        example("other", "green"),
    ]
    frequent = most_frequent_targets(test, train)
    assert frequent["colour"].to_record() == {
        "target": "red",
        "count": 2,
        "counted": 3,
        "counted_on": TRAIN_SPLIT,
    }
    assert sorted(target for _, target in frequent["colour"].drawn) == ["blue", "red", "red"]


def test_held_out_task_is_counted_on_the_evaluated_examples():
    test = [
        example("unseen", "b"),
        example("unseen", "a"),
        example("unseen", "b"),
        example("seen", "x"),
    ]
    frequent = most_frequent_targets(test, [example("seen", "y")])
    found = {task: tuple(each.to_record().values()) for task, each in frequent.items()}
    assert found == {"unseen": ("b", 2, 3, EVALUATED_EXAMPLES), "seen": ("y", 1, 1, TRAIN_SPLIT)}


def test_no_train_split_and_ties_go_to_the_alphabet():
    frequent = most_frequent_targets([example("t", "b"), example("t", "a")], ())
    assert tuple(frequent["t"].to_record().values()) == ("a", 1, 2, EVALUATED_EXAMPLES)


def test_answers():
    frequent = {"t": FrequentTarget("often", 3, 4, TRAIN_SPLIT)}
    asked = example("t", "target", input="given")
    assert copy_input(asked, frequent) == "given"
    assert copy_input(example("t", "target"), frequent) == "Do it."
    assert most_frequent_target(asked, frequent) == "often"
    assert [floor.name for floor in FLOORS] == [
        "copy_input",
        "copy_first_line",
        "most_frequent_target",
        "copy_demonstration",
    ]


def test_a_demonstration_that_is_shown_or_could_have_been():
    shown = replace(
        example("t", "target"),
        demonstrations=(Demonstration("Do it.", "a", "first"), Demonstration("Do it.", "b", "no")),
    )
    assert copy_demonstration(shown, {}) == "first"
    own = example("t", "target")
    others = (("t/other", "another"), (own.id, "its own"))
    known = {"t": FrequentTarget("x", 1, 2, EVALUATED_EXAMPLES, drawn=others)}
    assert copy_demonstration(own, known) == "another"
    alone = {"t": FrequentTarget("x", 1, 1, EVALUATED_EXAMPLES, drawn=others[1:])}
    assert copy_demonstration(own, alone) == ""


def test_first_line_is_the_first_that_is_not_blank():
    assert copy_first_line(example("t", "x", input=" \n\n  one \ntwo"), {}) == "  one "
    assert copy_first_line(example("t", "x"), {}) == "Do it."
    assert copy_first_line(example("t", "x", input=" \n"), {}) == " \n"


def test_material_inside_the_instruction_is_copied_without_the_question():
    inside = example("t", "x", instruction="Shorten 'a\nb' now.", material="a\nb")
    assert copy_input(inside, {}) == "a\nb"
    assert copy_first_line(inside, {}) == "a"
