from hypothesis import given, settings
from hypothesis import strategies as st

from instructrec_jax.instructions.document import Document
from instructrec_jax.instructions.splitting import split_of_document


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
