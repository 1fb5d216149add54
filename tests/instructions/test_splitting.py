import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instructrec_jax.instructions.document import Document
from instructrec_jax.instructions.example import InstructionExample, Provenance
from instructrec_jax.instructions.splitting import audit, split_of_document


def document(group, corpus="c", uri="u"):
    return Document(corpus, uri, None, "text", "MIT", group, "prose", content={})


def split(item, validation=0.2, test=0.3, seed=0):
    return split_of_document(item, validation_fraction=validation, test_fraction=test, seed=seed)


@settings(max_examples=50, deadline=None)
@given(st.text(min_size=1), st.text(), st.text(), st.integers(0, 9))
def test_a_group_goes_to_one_split(group, first, second, seed):
    assert split(document(group, uri=first), seed=seed) == split(
        document(group, uri=second), seed=seed
    )


def test_shares_follow_the_fractions_and_the_seed_matters():
    groups = [document(str(number)) for number in range(4000)]
    splits = [split(item) for item in groups]
    assert abs(splits.count("test") / 4000 - 0.3) < 0.03
    assert abs(splits.count("validation") / 4000 - 0.2) < 0.03
    assert splits != [split(item, seed=1) for item in groups]
    assert {split(item, validation=0, test=0) for item in groups} == {"train"}


def test_larger_test_share_only_adds_to_the_test_split():
    groups = [document(str(number)) for number in range(500)]
    small = {g.group for g in groups if split(g, test=0.1) == "test"}
    assert small < {g.group for g in groups if split(g, test=0.3) == "test"}


def test_documents_without_a_group_are_never_held_out():
    assert {split(document("", uri=str(n)), test=0.9) for n in range(50)} == {"train"}


EXAMPLE = InstructionExample(
    id="a", task="t", instruction="Add.", input="1 2", target="3", template="t.a", split="train",
    provenance=Provenance("c", "u", (1, 2), "00", "MIT", "g", 0),
)  # fmt: skip
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
        [EXAMPLE, other], held_out_templates=frozenset({"t.z"}), held_out_tasks=frozenset({"u"})
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
        [EXAMPLE, other], held_out_templates=frozenset({"t.z"}), held_out_tasks=frozenset({"u"})
    )
    assert found.sound
