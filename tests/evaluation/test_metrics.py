"""Metrics against hand counts and direct calls of the reference libraries."""

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from instructrec_jax.evaluation import metrics
from instructrec_jax.evaluation.metrics import Judged

TEXTS = st.text(alphabet="ab c是d。\n", max_size=12)
PAIRS = [
    ("the cat sat on the mat today", ["the cat is on the mat"]),
    ("Return the sum.", ["Returns the sum of two numbers.", "Return sum"]),
    ("", ["anything"]),
    ("阿尔巴尼亚", ["阿尔巴尼亚语", "阿尔巴尼亚"]),
    ("x", ["y"]),
    ("one two three four five.", ["one two three four five."]),
]
JUDGED = [Judged(output, tuple(targets)) for output, targets in PAIRS]


def one(output, targets, **fields):
    return metrics.example_metrics(
        metrics.statistics_of([Judged(output, tuple(targets), **fields)])
    )[0]


def group(judged):
    return metrics.group_metrics(metrics.statistics_of(judged))


def test_exact_match_ignores_outer_white_space_alone():
    assert metrics.exact_match(" a b\n", ["a b"]) == 1.0
    assert metrics.exact_match("a  b", ["a b"]) == 0.0
    assert metrics.exact_match("A b", ["a b"]) == 0.0
    assert metrics.exact_match("second", ["first", "second"]) == 1.0


def test_normalised_match_and_token_f1_by_hand():
    assert metrics.normalised_match("The  Cat!", ["the cat"]) == 1.0
    assert metrics.normalised_match("cat", ["the cat"]) == 0.0
    # Articles do not count: {cat, sat} against {cat, is, here}: 2 * 1 / (2 + 3).
    assert metrics.token_f1("A cat sat.", ["the cat is here"]) == pytest.approx(0.4)
    # A word counts as often as both have it.
    assert metrics.token_f1("no no no", ["no"]) == pytest.approx(0.5)
    assert metrics.token_f1("the", ["an"]) == 1.0
    assert metrics.token_f1("the", ["cat"]) == 0.0


def test_chrf_by_hand():
    # "ab" against "ac": 1-grams: 1 of 2 match; 2-grams: 0 of 1; precision = recall = 1/4.
    assert one("ab", ["ac"])["chrf"] == pytest.approx(0.25)
    # Precision 1, recall 1/2 over 1-grams; "a" has no 2-gram, so one order counts;
    # F2 = 5 p r / (4 p + r) = 2.5 / 4.5.
    assert (
        one("a", ["ab"])["chrf"] == metrics.sentence_chrf("a", ["ab"]) == pytest.approx(2.5 / 4.5)
    )


def test_rouge_l_by_hand():
    # LCS "the cat on the mat" = 5 of 7 and of 6 words.
    assert metrics.rouge_l(*PAIRS[0]) == pytest.approx(10 / 13)
    # The stemmer makes "returned" and "returning" the same word.
    assert metrics.rouge_l("returned value", ["returning values"]) == 1.0


def test_rouge_l_is_zero_on_chinese_and_chrf_is_not():
    figures = one("阿尔巴尼亚", ["阿尔巴尼亚"])
    assert (figures["rouge_l"], figures["chrf"]) == (0.0, 1.0)


@pytest.mark.parametrize(("output", "targets"), PAIRS)
def test_example_metrics_are_those_of_the_libraries(output, targets):
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    bleu = sacrebleu.BLEU(effective_order=True)
    figures = one(output, targets)
    assert figures["exact_match"] == float(output in targets)
    assert figures["chrf"] == pytest.approx(sacrebleu.sentence_chrf(output, targets).score / 100)
    assert figures["bleu"] == pytest.approx(bleu.sentence_score(output, targets).score / 100)
    assert figures["rouge_l"] == max(
        scorer.score(target, output)["rougeL"].fmeasure for target in targets
    )
    assert {"accuracy", "macro_f1", "pass_rate"}.isdisjoint(figures)


@pytest.mark.parametrize("some", [slice(None), slice(0, 1), slice(2, 5), slice(4, 5)])
def test_group_metrics_are_those_of_the_libraries(some):
    pairs = PAIRS[some]
    figures = group(JUDGED[some])
    outputs = [output for output, _ in pairs]
    streams = [
        [targets[0] for _, targets in pairs],
        [targets[1] if len(targets) > 1 else None for _, targets in pairs],
    ]
    assert figures["chrf"] == pytest.approx(sacrebleu.corpus_chrf(outputs, streams).score / 100)
    expected = sacrebleu.BLEU().corpus_score(outputs, streams).score / 100
    assert figures["bleu"] == pytest.approx(expected)
    per_example = metrics.example_metrics(metrics.statistics_of(JUDGED[some]))
    for name in ("exact_match", "token_f1", "rouge_l"):
        assert figures[name] == pytest.approx(np.mean([each[name] for each in per_example]))


def test_corpus_chrf_is_not_the_mean_of_sentences():
    judged = [Judged("a", ("z",)), Judged("bcdefghijk", ("bcdefghijk",))]
    assert group(judged)["chrf"] > 0.9


LABELS = ("yes", "no", "it is not possible to tell")


def test_accuracy_and_macro_f1_by_hand():
    truth = ["yes", "yes", "yes", "no", "no", LABELS[2]]
    given = ["yes", " YES", "no", "no", "perhaps", "yes"]
    judged = [Judged(a, (b,), options=LABELS) for a, b in zip(given, truth, strict=True)]
    figures = group(judged)
    assert figures["accuracy"] == pytest.approx(3 / 6)
    # yes: 2 right, 1 wrongly given, 1 missed; no: 1, 1, 1; the third: none right.
    assert figures["macro_f1"] == pytest.approx((2 * 2 / 6 + 2 * 1 / 4 + 0) / 3)
    # A label that never is the answer has no F1.
    assert group(judged[:2])["macro_f1"] == 1.0
    # Examples with options of their own have no labels in common.
    other = [*judged, Judged("a", ("a",), options=("a", "b"))]
    assert "macro_f1" not in group(other)
    assert group(other)["accuracy"] == pytest.approx(4 / 7)
    # Examples without options are not judged.
    assert group([*judged, Judged("x", ("y",))])["accuracy"] == pytest.approx(3 / 6)


def test_pass_rate_counts_what_was_run():
    judged = [Judged("x", ("x",), passed=passed) for passed in (True, False, None, True)]
    assert group(judged)["pass_rate"] == pytest.approx(2 / 3)
    rows = metrics.example_metrics(metrics.statistics_of(judged))
    assert [row.get("pass_rate") for row in rows] == [1.0, 0.0, None, 1.0]


@settings(max_examples=40, deadline=None)
@given(output=TEXTS, targets=st.lists(TEXTS, min_size=1, max_size=3))
def test_figures_are_fractions_and_more_references_never_hurt(output, targets):
    every, first = one(output, targets), one(output, targets[:1])
    for name, figure in every.items():
        assert 0.0 <= figure <= 1.0
        # The closest reference decides BLEU's brevity.
        if name != "bleu":
            assert figure >= first[name]


def test_empty_group_is_refused():
    with pytest.raises(ValueError, match="no outputs"):
        metrics.statistics_of([])


def test_acceptable_targets_are_distinct_and_hold_the_target():
    assert metrics.acceptable_targets(target="a", references=["b", "a", "b"]) == ("a", "b")
    assert metrics.acceptable_targets(target="a", references=[]) == ("a",)


def test_every_metric_has_a_signature():
    signatures = metrics.signatures()
    assert set(signatures) == {metric.name for metric in metrics.METRICS}
    assert "nc:6|nw:0|space:no" in signatures["chrf"]
    assert "tok:13a|smooth:exp" in signatures["bleu"]
