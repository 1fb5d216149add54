"""Metrics against hand counts and direct calls of the reference libraries."""

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from instructrec_jax.evaluation import metrics

TEXTS = st.text(alphabet="ab c是d。\n", max_size=12)
PAIRS = [
    ("the cat sat on the mat", ["the cat is on the mat"]),
    ("Return the sum.", ["Returns the sum of two numbers.", "Return sum"]),
    ("", ["anything"]),
    ("阿尔巴尼亚", ["阿尔巴尼亚语", "阿尔巴尼亚"]),
    ("x", ["y"]),
]


def test_exact_match_ignores_outer_white_space_alone():
    assert metrics.exact_match(" a b\n", ["a b"]) == 1.0
    assert metrics.exact_match("a  b", ["a b"]) == 0.0
    assert metrics.exact_match("A b", ["a b"]) == 0.0
    assert metrics.exact_match("second", ["first", "second"]) == 1.0


def test_chrf_by_hand():
    # "ab" against "ac": 1-grams: 1 of 2 match; 2-grams: 0 of 1; precision = recall = 1/4.
    assert metrics.sentence_chrf("ab", ["ac"]) == pytest.approx(0.25)
    # Precision 1, recall 1/2 over 1-grams; "a" has no 2-gram, so one order counts;
    # F2 = 5 p r / (4 p + r) = 2.5 / 4.5.
    assert metrics.sentence_chrf("a", ["ab"]) == pytest.approx(2.5 / 4.5)


def test_rouge_l_by_hand():
    # LCS "the cat on the mat" = 5 of 6 words on both sides.
    assert metrics.rouge_l(*PAIRS[0]) == pytest.approx(5 / 6)
    # The stemmer makes "returned" and "returning" the same word.
    assert metrics.rouge_l("returned value", ["returning values"]) == 1.0


def test_rouge_l_is_zero_on_chinese_and_chrf_is_not():
    assert metrics.rouge_l("阿尔巴尼亚", ["阿尔巴尼亚"]) == 0.0
    assert metrics.sentence_chrf("阿尔巴尼亚", ["阿尔巴尼亚"]) == 1.0


@pytest.mark.parametrize(("output", "targets"), PAIRS)
def test_example_metrics_are_those_of_the_libraries(output, targets):
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    assert metrics.example_metrics(output, targets) == {
        "exact_match": float(output in targets),
        "chrf": sacrebleu.sentence_chrf(output, targets).score / 100,
        "rouge_l": max(scorer.score(target, output)["rougeL"].fmeasure for target in targets),
    }


def test_group_metrics_with_different_numbers_of_references():
    outputs = [output for output, _ in PAIRS]
    targets = [each for _, each in PAIRS]
    figures = metrics.group_metrics(outputs, targets)
    streams = [
        [each[0] for each in targets],
        [each[1] if len(each) > 1 else None for each in targets],
    ]
    assert figures["chrf"] == sacrebleu.corpus_chrf(outputs, streams).score / 100
    per_example = [metrics.example_metrics(*pair) for pair in PAIRS]
    assert figures["exact_match"] == 1 / 5
    assert figures["rouge_l"] == pytest.approx(sum(each["rouge_l"] for each in per_example) / 5)
    assert metrics.group_metrics(outputs, targets, per_example) == figures


def test_corpus_chrf_is_not_the_mean_of_sentences():
    outputs, targets = ["a", "bcdefghijk"], [["z"], ["bcdefghijk"]]
    mean = sum(map(metrics.sentence_chrf, outputs, targets)) / 2
    assert mean == 0.5
    assert metrics.corpus_chrf(outputs, targets) > 0.9


@settings(max_examples=50, deadline=None)
@given(output=TEXTS, targets=st.lists(TEXTS, min_size=1, max_size=3))
def test_figures_are_fractions_and_more_references_never_hurt(output, targets):
    every = metrics.example_metrics(output, targets)
    first = metrics.example_metrics(output, targets[:1])
    for name, figure in every.items():
        assert 0.0 <= figure <= 1.0
        assert figure >= first[name]


def test_empty_group_is_refused():
    with pytest.raises(ValueError, match="0 outputs"):
        metrics.group_metrics([], [])


def test_acceptable_targets_are_distinct_and_hold_the_target():
    assert metrics.acceptable_targets(target="a", references=["b", "a", "b"]) == ("a", "b")
    assert metrics.acceptable_targets(target="a", references=[]) == ("a",)


def test_every_metric_has_a_signature():
    assert set(metrics.signatures()) == {metric.name for metric in metrics.METRICS}
    assert "nc:6|nw:0|space:no" in metrics.signatures()["chrf"]
