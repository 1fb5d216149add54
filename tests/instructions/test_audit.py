import dataclasses

import pytest

from instructrec_jax.instructions.audit import audit, near_leaks
from instructrec_jax.instructions.example import InstructionExample, Provenance

EXAMPLE = InstructionExample(
    id="a", task="t", instruction="Add.", input="1 2", target="3", template="t.a", split="train",
    provenance=Provenance("c", "u", (1, 2), "00", "MIT", "g", 0),
)  # fmt: skip


def reader(*examples):
    return lambda split: [example for example in examples if example.split == split]


OTHER = Provenance("c", "v", (1, 2), "00", "MIT", "g", 0)


@pytest.mark.parametrize(
    ("changes", "leak"),
    [
        ({"input": "4"}, "documents_in_two_splits"),
        ({"provenance": OTHER, "input": "1  2 "}, "questions_and_answers_in_two_splits"),
        ({"provenance": OTHER, "input": "", "instruction": "12"}, "questions_and_answers_in_two_"),
        (
            {"provenance": OTHER, "input": "", "instruction": "Add 1 2.", "material": "1 2"},
            "questions_and_answers_in_two_",
        ),
        ({"provenance": OTHER, "input": "5", "split": "train", "template": "t.z"}, "templates"),
        ({"provenance": OTHER, "input": "5", "split": "train", "task": "u"}, "held_out_tasks"),
    ],
)
def test_the_audit_sees_every_kind_of_leak(changes, leak):
    other = dataclasses.replace(EXAMPLE, **({"split": "test"} | changes))
    found = audit(
        reader(EXAMPLE, other),
        held_out_templates=frozenset({"t.z"}),
        held_out_tasks=frozenset({"u"}),
    )
    assert not found.sound
    assert [name for name, count in vars(found).items() if count] == [
        name for name in vars(found) if leak in name
    ]


def test_the_audit_lets_sound_data_pass():
    other = dataclasses.replace(
        EXAMPLE, split="test", input="5", provenance=OTHER, template="t.z", task="u"
    )
    found = audit(
        reader(EXAMPLE, other),
        held_out_templates=frozenset({"t.z"}),
        held_out_tasks=frozenset({"u"}),
    )
    assert found.sound


def test_texts_nearly_the_same_are_found():
    words = [f"word{n}" for n in range(60)]
    text = " ".join(words)
    near = " ".join([*words[:57], "and", "other", "ones"])
    far = " ".join(words[30:] + words[:30][::-1])
    train = [dataclasses.replace(EXAMPLE, input=t) for t in (near, far, near, "short")]
    held = [
        dataclasses.replace(EXAMPLE, split="test", input=t) for t in (text, "some " + far[::-1])
    ]
    found = near_leaks(reader(*train, *held), similarity=0.8, words=5)
    assert (found.found, found.held_out_texts, found.train_texts) == (1, 2, 2)
    assert near_leaks(reader(*train, *held), similarity=0.95, words=5).found == 0
