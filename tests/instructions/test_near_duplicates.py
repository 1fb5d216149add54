import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_runner import run_in_memory
from rouge_score.rouge_scorer import RougeScorer

from instructrec_jax.instructions import near_duplicates as near
from instructrec_jax.instructions.filters import FilterSettings

ROUGE = RougeScorer(["rougeL"])
# Of "a b c d e f g", by the version of the library in requirements.txt.
SIGNATURE = [111574899, 281085647, 3330869960, 1458775416]
WORDS = [f"word{n}" for n in range(3000)]


def jaccard(first, second):
    one, two = ({tuple(t[i : i + 5]) for i in range(len(t) - 4)} for t in (first, second))
    return len(one & two) / len(one | two)


def changed(words, count, chosen):
    words = list(words)
    for place in chosen.sample(range(len(words)), count):
        words[place] = chosen.choice(WORDS)
    return words


def test_similarity_is_estimated_and_similar_texts_meet():
    chosen = random.Random(0)
    for changes in (0, 2, 10, 40):
        words = chosen.choices(WORDS, k=400)
        other = changed(words, changes, chosen)
        values = [near.signature(text, permutations=256) for text in (words, other)]
        exact = jaccard(words, other)
        estimate = near.estimated_similarity(*map(near.sketch, values))
        assert estimate == pytest.approx(exact, abs=0.1)
        shared = set.intersection(*(set(near.bands(v, similarity=0.8)) for v in values))
        assert shared or exact < 0.8


def test_signatures_are_fixed():
    # Another version of the library that hashes otherwise would change datasets.
    values = near.signature(list("abcdefg"), permutations=4)
    assert values.dtype == np.uint32 and values.tolist() == SIGNATURE
    assert near.rows_of_band(128, 0.8) == 6 and near.rows_of_band(128, 0.5) < 4


def test_followers_are_like_a_leader_before_them():
    assert near.followers([1, 2, 10, 11, 3, 20], lambda a, b: abs(a - b) <= 1) == [2, 11]
    # 2 follows 1 and is no leader, so that 3 leads.
    assert near.followers([1, 2, 3], lambda a, b: abs(a - b) <= 1) == [2]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from("abcdef"), max_size=30),
    st.lists(st.sampled_from("abcdef"), max_size=30),
)
def test_rouge_is_that_of_rouge_score(first, second):
    expected = ROUGE.score(" ".join(first), " ".join(second))["rougeL"].fmeasure
    one, two = (near.rouge_sketch(" ".join(text), least=0) for text in (first, second))
    for limit in (0.5, 0.7, 0.9):
        if abs(expected - limit) > 1e-9:
            assert near.rouge_above(one, two, limit=limit) == (expected > limit)


def test_followers_by_rouge_are_those_of_comparing_every_pair():
    chosen = random.Random(2)
    first = [chosen.choices(WORDS[:60], k=chosen.randint(30, 200)) for _ in range(20)]
    texts = [(str(n), words) for n, words in enumerate(first)]
    for n, words in enumerate(first):
        texts += [(str(n), changed(words, 2, chosen)), (f"{n}x", changed(words, 9, chosen))]
    texts = [(document, near.rouge_sketch(" ".join(words), least=0)) for document, words in texts]

    def like(one, two):
        return texts[one][0] != texts[two][0] and near.rouge_above(
            texts[one][1], texts[two][1], limit=0.7
        )

    expected = near.followers(range(len(texts)), like)
    assert near.rouge_followers(texts, limit=0.7) == expected and len(expected) > 10
    assert near.rouge_followers(texts[:1], limit=0.7) == []


def test_mistakes_put_into_one_function_are_no_copies_of_each_other():
    code = "def f(a, b):\n    total = a + b\n    return total < a if total > b else b\n"
    right, wrong = (near.rouge_sketch(c, least=9) for c in (code, code.replace("<", "<=")))
    # Words do not tell operators apart; documents do.
    assert right == wrong
    assert near.rouge_followers([("f", right), ("f", wrong), ("copy", wrong)], limit=0.7) == [2]


def test_texts_of_a_high_rouge_meet():
    chosen = random.Random(1)
    met = 0
    for _ in range(100):
        words = chosen.choices(WORDS, k=60)
        other = changed(words, 15, chosen)
        one, two = (near.rouge_sketch(" ".join(text), least=30) for text in (words, other))
        assert near.rouge_above(one, two, limit=0.7)
        met += bool(set(near.rouge_buckets(one)) & set(near.rouge_buckets(two)))
    assert met >= 90
    assert near.rouge_sketch("too short", least=30) == b""


def test_both_sides_of_a_translation_count_as_near_duplicates(recipe, tmp_path):
    words = [f"{word}{n}" for n in range(40) for word in ("haus", "baum", "licht")]
    german = [" ".join(words[start : start + 35]) for start in range(0, 105, 35)]
    short = " ".join(words[60:87])
    # Another English text with nearly the same German one; and short sides that count together.
    english = [f"The {n} first line of all is an other one in English." for n in range(3)]
    long = " ".join(f"word{n}" for n in range(27))
    pairs = [
        *zip(english, german, strict=True),
        ("Not at all the same English.", german[0] + " anders"),
        (f"{long} one", f"{short} eins"),
        (f"{long} two", f"{short} zwei"),
    ]
    for code, side in (("en", 0), ("de", 1)):
        (tmp_path / f"a.{code}").write_text("".join(f"{pair[side]}\n" for pair in pairs))
    path = str(tmp_path / "a.{language}")
    made = recipe(
        sources=("pairs",),
        corpora=({"name": "pairs", "reader": "parallel", "path": path},),
        filters=FilterSettings(near_duplicate_similarity=0.7),
    )
    tally, _ = run_in_memory(made)
    assert tally.counter("document_refused", "pairs") == {"near_duplicate": 2}
