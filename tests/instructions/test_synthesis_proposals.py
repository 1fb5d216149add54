"""Traits of a task, the phrase grammar, and instructions chosen by a judge made by hand."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instructrec_jax.errors import ConfigError, DataError
from instructrec_jax.instructions.synthesis.design import (
    DesignSettings,
    Scored,
    TaskExamples,
    design_instructions,
    read_tasks,
    score_proposals,
    select,
)
from instructrec_jax.instructions.synthesis.grammar import (
    Proposal,
    propose,
    rouge_l,
    wrong_instructions,
)
from instructrec_jax.instructions.synthesis.likelihood import Judge, Likelihood
from instructrec_jax.instructions.synthesis.traits import TYPES, Pair, Traits, traits_of
from instructrec_jax.instructions.templates import STYLES, load_templates

LONG = "the cat sat on the mat and the dog lay by the door of the house in the rain of the year"
EXAMPLES = {
    "classification": [(f"film {i} was {w}", w) for i in range(9) for w in ("good", "bad")],
    "yes_or_no": [(f"{i} is even", "yes" if i % 2 == 0 else "no") for i in range(12)],
    "date": [(f"{i} May 2021", f"2021-05-{i:02}") for i in range(1, 20)],
    "code": [(f"adds {i}", f"def add(x):\n    return x + {i}") for i in range(6)],
    "question": [(f"What is {i} and {i}?", f"It is {i + i} today.") for i in range(6)],
    "translation": [(f"the house of {i} is by the sea", f"das Haus {i} ist an der See und nicht")
                    for i in range(8)],
    "extraction": [(f"name: {name} of York", name) for name in ("Ann", "Bob", "Cy", "Di")],
    "number": [(f"{i} plus one makes", str(i + 1)) for i in range(8)],
    "code_description": [(f"def f{i}(x):\n    return x + {i}", f"Adds number {i}, silently")
                         for i in range(6)],
    "summary": [(f"{LONG} {LONG} {i}", f"Cat {i} sits, dog {i} lies") for i in range(6)],
    "rewriting": [(f"he go to town {i}", f"he goes to town {i}") for i in range(6)],
    "expansion": [(f"tea {i}", f"Tea {i}: leaves in hot water, drunk by many") for i in range(6)],
    "answer": [(f"left {i} up", f"right {i + 7} down") for i in range(6)],
}  # fmt: skip


def pairs_of(task_type):
    return [Pair(text, target) for text, target in EXAMPLES[task_type]]


@pytest.mark.parametrize("task_type", TYPES)
def test_the_type_of_a_task_is_told_from_its_examples(task_type):
    assert traits_of(pairs_of(task_type)).task_type == task_type


def test_patterns_that_all_examples_share_are_mined():
    traits = traits_of([Pair(f"Word: w{i}", f"The plural is w{i}s.") for i in range(5)])
    assert traits.input_prefix == "Word: " and traits.target_prefix == "The plural is "
    assert traits.target_format == "one_line" and traits.target_words == 4
    assert traits_of(pairs_of("classification")).options == ("bad", "good")
    assert traits_of(pairs_of("translation")).target_language == "German"
    assert traits_of([Pair("hello there", f"你好{i}世界") for i in range(4)]).target_language == (
        "Chinese"
    )
    with pytest.raises(ValueError, match="without examples"):
        traits_of([])


@pytest.mark.parametrize("task_type", TYPES)
def test_proposals_are_filled_distinct_and_the_same_every_time(task_type):
    traits = traits_of(pairs_of(task_type))
    found = propose(traits)
    assert found == propose(traits) and len(found) >= 10
    assert len({proposal.id for proposal in found}) == len(found)
    assert {"imperative", "question", "terse", "polite", "chinese"} <= {p.style for p in found}
    for proposal in found:
        assert proposal.style in STYLES
        assert not set("{}[]|") & set(proposal.text) and "  " not in proposal.text
    texts = [proposal.text for proposal in found]
    assert all(rouge_l(a, b) <= 0.9 for n, a in enumerate(texts) for b in texts[:n])
    assert len(propose(traits, limit=3)) == 3


def test_field_names_and_options_stand_in_the_phrasings():
    traits = traits_of(pairs_of("classification"))
    texts = [p.text for p in propose(traits, input_field="filmReview", target_field="verdict")]
    assert "Classify this film review as bad or good." in texts
    assert "What is the verdict of this film review?" in texts
    assert any("bad或good" in text for text in texts)
    # Names that say nothing leave the type's own nouns.
    assert propose(traits, input_field="text", target_field="label") == propose(traits)


def test_braces_of_the_data_never_are_the_grammars():
    traits = Traits("classification", options=("[a|b]", "{input}"))
    assert any("[a|b] or {input}" in proposal.text for proposal in propose(traits))


def test_wrong_instructions_are_of_other_types():
    wrong = wrong_instructions("summary")
    assert len(set(wrong)) == len(TYPES) - 2 and not any("ummar" in text for text in wrong)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(["ab", "cd", "中文"]), max_size=6), st.lists(st.just("ab")))
def test_rouge_l_is_symmetric_and_1_for_itself(first, second):
    one, two = " ".join(first), " ".join(second)
    assert rouge_l(one, two) == rouge_l(two, one) and rouge_l(one, one) == 1
    assert 0 <= rouge_l(one, two) <= 1


def test_rouge_l_by_hand():
    # The subsequence "classify this" of 3 and 4 words.
    assert rouge_l("Classify this text", "classify the text: this") == pytest.approx(4 / 7)
    assert rouge_l("翻译这句", "翻译那句") == 0.75


def judge_by(logprob, tokens=2):
    """A judge whose answers have `logprob(text, target)` and so many tokens."""
    return Judge(
        name="by hand",
        fingerprint="0",
        score=lambda requests: [Likelihood(logprob(*each), tokens) for each in requests],
        write=lambda texts: [],
    )


def test_scores_by_hand():
    likely = {"right\n\nx": -2.0, "x": -4.0, "": -8.0}
    judge = judge_by(lambda text, target: likely.get(text, -6.0))
    proposals = [Proposal("a", "terse", "right"), Proposal("b", "terse", "other")]
    right, other = score_proposals(proposals, [Pair("x", "y")], judge, task_type="answer")
    # Two tokens: -1 a token under "right", -2 under none, -3 under all others, -4 for y alone.
    assert right.log_likelihood == -1 and right.over_none == 1 and right.over_wrong == 2
    assert right.ifd == pytest.approx(math.exp(-3))
    assert other.log_likelihood == -3 and other.over_none == -1 and other.over_wrong == 0


def scored(text, likelihood, over_none=1.0, over_wrong=1.0):
    return Scored(Proposal(text, "terse", text), likelihood, over_none, over_wrong, 0.5)


def test_the_best_are_kept_unless_they_are_like_a_better_one_or_no_better_than_none():
    found = select(
        [
            scored("say the day of it now", -3),
            scored("say the day of it", -2),
            scored("translate", -1, over_wrong=0),
            scored("go", -0.5, over_none=-0.1),
            scored("which date", -4),
            scored("what then", -5),
        ],
        DesignSettings(keep=2, max_style_share=1),
    )
    assert [(each.proposal.text, each.reason) for each in found] == [
        ("go", "no_better_than_none"),
        ("translate", "no_better_than_wrong"),
        ("say the day of it", ""),
        ("say the day of it now", "like_a_better_one"),
        ("which date", ""),
        ("what then", "not_among_the_best"),
    ]


def test_no_style_takes_all_the_places():
    texts = ["one", "two", "three", "four", "five"]
    styles = ["terse", "terse", "terse", "polite", "polite"]
    found = select(
        [
            replace(scored(text, -place), proposal=Proposal(text, style, text))
            for place, (text, style) in enumerate(zip(texts, styles, strict=True))
        ],
        DesignSettings(keep=3, max_style_share=0.5),
    )
    assert [each.proposal.text for each in found if not each.reason] == ["one", "two", "four"]
    assert found[2].reason == "enough_of_its_style"


def test_a_file_of_templates_is_written_that_the_bank_reads(tmp_path):
    # A judge that likes its instructions short.
    judge = judge_by(lambda text, target: -50.0 if len(text) < 12 else -0.1 * len(text))
    lines = []
    pairs = (*(Pair(f"f{i}", w) for i in range(40) for w in ('{{"x"}}', "{%")),)
    results = design_instructions(
        [TaskExamples("my task", pairs, target_field="mark")],
        tmp_path / "out",
        judge=judge,
        settings=DesignSettings(keep=4, examples=8),
        progress=lines.append,
    )
    templates = load_templates("my_task", folder=tmp_path / "out")
    kept = [each for each in results["my task"] if not each.reason]
    assert 1 <= len(templates) == len(kept) <= 4
    for template, each in zip(templates, kept, strict=True):
        assert template.id == f"my_task.{each.proposal.id}" and template.fields == frozenset()
        assert template._parsed[1].render() == each.proposal.text
    report = json.loads((tmp_path / "out/scores.json").read_text())["my task"]
    assert report["traits"]["task_type"] == "classification"
    assert len(report["candidates"]) == len(results["my task"])
    assert "my task: classification" in lines[0] and "not_among_the_best" in lines[0]
    with pytest.raises(ConfigError, match=r"my_task.toml is there already"):
        design_instructions(
            [TaskExamples("my task", pairs)], tmp_path / "out",
            judge=None, settings=DesignSettings(), progress=print,
        )  # fmt: skip


def test_without_a_judge_the_grammars_order_decides(tmp_path):
    pairs = tuple(pairs_of("date"))
    found = design_instructions(
        [TaskExamples("days", pairs)], tmp_path,
        judge=None, settings=DesignSettings(keep=5), progress=lambda line: None,
    )  # fmt: skip
    assert [t.text for t in load_templates("days", folder=tmp_path)] == [
        each.proposal.text for each in found["days"] if not each.reason
    ]
    assert found["days"][0].proposal == propose(traits_of(pairs))[0]


def test_tasks_are_read_from_tables_and_instruction_data(tmp_path):
    table = tmp_path / "reviews.csv"
    table.write_text("id,review,stars\n1,fine,5\n2,poor,1\n3,none,\n")
    fields, lines = {"input": "review", "target": "stars"}, []
    (task,) = read_tasks(str(table), fields=fields, progress=lines.append)
    assert lines == [f"{table}: rows left out: 1 empty_target"]
    assert task == TaskExamples(
        "reviews", (Pair("fine", "5"), Pair("poor", "1")), "review", "stars"
    )
    with pytest.raises(ConfigError, match="which columns are meant.*id, review, stars"):
        read_tasks(str(table), fields={}, progress=print)
    with pytest.raises(ConfigError, match="no column 'reviews'; did you mean 'review'"):
        read_tasks(str(table), fields={"input": "reviews"}, progress=print)
    records = tmp_path / "two.jsonl"
    rows = [{"task": t, "text": f"{t}{i}", "label": "x"} for t in ("a", "b") for i in range(2)]
    records.write_text("".join(json.dumps(row) + "\n" for row in rows) + "broken\n")
    assert [
        (each.task, len(each.pairs)) for each in read_tasks(str(records), fields={}, progress=print)
    ] == [
        ("a", 2),
        ("b", 2),
    ]
    with pytest.raises(DataError):
        read_tasks(str(tmp_path / "none.csv"), fields={}, progress=print)


def test_settings_that_cannot_be_met_are_told_at_once():
    found = DesignSettings(keep=0, examples=0, max_similarity=2).problems()
    assert [line.partition(":")[0] for line in found] == ["keep", "examples", "max_similarity"]
