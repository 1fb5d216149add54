"""Solved questions in front: the records' own, or the train split's; never the question."""

import pytest

from instructrec_jax.errors import ConfigError
from instructrec_jax.evaluation.shots import with_shots
from instructrec_jax.instructions.example import Demonstration, InstructionExample


def example(task, number, target=None, **fields):
    return InstructionExample(
        id=f"{task}/{number}", task=task, instruction="Do it.", input=f"{task} {number}",
        target=target or f"answer {number}", **fields,
    )  # fmt: skip


TRAIN = [example(task, number) for task in ("a", "b") for number in range(20)]


def test_of_the_train_split_by_hash():
    asked = [example("a", 99), example("b", 99), example("a", 3)]
    found = with_shots(asked, TRAIN, shots=3)
    for each in found:
        assert len(set(each.demonstrations)) == 3
        for shown in each.demonstrations:
            assert shown.input.startswith(each.task)
            # Neither the question itself nor its answer.
            assert (shown.input, shown.target) != (each.input, each.target)
    assert found[0].demonstrations != found[2].demonstrations
    assert with_shots(asked, TRAIN[::-1], shots=3) == found
    assert [each.id for each in found] == [each.id for each in asked]


def test_in_order_and_none():
    (found,) = with_shots([example("a", 99)], TRAIN, shots=2, in_order=True)
    assert [shown.input for shown in found.demonstrations] == ["a 0", "a 1"]
    own = example("a", 99, demonstrations=(Demonstration("I", "x", "y"),) * 3)
    assert with_shots([own], [], shots=2)[0].demonstrations == own.demonstrations[:2]
    assert with_shots([own], [], shots=0)[0].demonstrations == ()


def test_labels_are_shown_as_often_as_they_occur():
    labelled = [example("a", number, target="yes" if number % 4 else "no") for number in range(80)]
    found = with_shots(labelled, labelled, shots=4)
    same = [shown.target == each.target for each in found for shown in each.demonstrations]
    # As often as two of them are alike: (3/4)^2 + (1/4)^2.
    assert sum(same) / len(same) == pytest.approx(10 / 16, abs=0.06)


def test_a_task_without_train_examples():
    with pytest.raises(ConfigError, match="--shots=2: .*no train examples of the task 'c'"):
        with_shots([example("c", 1)], TRAIN, shots=2)
