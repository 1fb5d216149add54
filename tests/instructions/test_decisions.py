"""What only the whole can decide, on documents made by hand."""

import gzip
import json
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory_runner import run_in_memory

from instructrec_jax.instructions import construct as constructing
from instructrec_jax.instructions.audit import audit
from instructrec_jax.instructions.construct import NumberedUnit
from instructrec_jax.instructions.counting import counts
from instructrec_jax.instructions.decisions import label_shares
from instructrec_jax.instructions.document import Document, Unreadable
from instructrec_jax.instructions.example import SPLITS, InstructionExample, Provenance
from instructrec_jax.instructions.filters import FilterSettings
from instructrec_jax.instructions.phrasings import Phrasings
from instructrec_jax.instructions.sources import units_of
from instructrec_jax.instructions.tasks import TASKS

LANGUAGE_NAMES = {"en": "English", "de": "German"}
MEASURES = {"sources": ("locale_names",), "tasks": ("translate_measures",)}


@dataclass
class Built:
    """What a build in memory gave."""

    info: dict
    examples: list
    rejects: list
    held_out: dict

    def read(self, split):
        return [example for example in self.examples if example.split == split]


def built(recipe, units=None):
    """The dataset of a recipe, or of some units, without folder and tokenizer."""
    tally, files = run_in_memory(recipe, units)
    phrasings = Phrasings.of(recipe)
    lines = [
        json.loads(line)
        for _, contents in sorted(files.items())
        for line in gzip.decompress(contents).splitlines()
    ]
    rejects = [json.loads(line) for _, line in tally.records("reject")]
    return Built(
        info=counts(tally, recipe, phrasings),
        examples=[_example(record) for record in lines if "id" in record],
        rejects=rejects + [record for record in lines if "reason" in record],
        held_out={task: {t.id for t in kept} for task, kept in phrasings.held_out.items()},
    )


def _example(record):
    source = Provenance(**record.pop("provenance"))
    return InstructionExample(**record, provenance=source)


@pytest.fixture
def planted(monkeypatch):
    """planted({document: split}) puts these documents in place of the corpora; gives the units."""

    def plant(documents):
        splits = {item.uri: split for item, split in documents if isinstance(item, Document)}
        units = [NumberedUnit(item.corpus, n, (str(n),)) for n, (item, _) in enumerate(documents)]
        monkeypatch.setattr(
            constructing, "documents_of", lambda _, unit, __: [documents[int(unit[0])][0]]
        )
        monkeypatch.setattr(
            constructing, "split_of_document", lambda document, **_: splits[document.uri]
        )
        return units

    return plant


@pytest.fixture
def assembled(recipe, planted):
    """assembled([(key, texts, split), ...], **recipe) → the dataset of translated measures."""

    def assemble(rows, **changes):
        documents = [
            (
                Document(
                    "locale_names", key, None, texts["en"], "MIT", key, kind="locale",
                    content={"kind": "measure", "texts": texts, "names": LANGUAGE_NAMES, "iso": ""},
                ),
                split,
            )
            for key, texts, split in rows
        ]  # fmt: skip
        return built(recipe(**(MEASURES | changes)), planted(documents))

    return assemble


@pytest.fixture
def passages(recipe, planted):
    """passages([(key, text, split), ...], **recipe) → the dataset of passages to complete."""

    def make(rows, **changes):
        documents = [
            (
                Document(
                    "python_topics", key, None, text, "MIT", key, kind="prose",
                    content={
                        "title": key, "headings": (key,), "work": "", "passage": text,
                        "opens": False, "language": "", "topic": key,
                    },
                ),
                split,
            )
            for key, text, split in rows
        ]  # fmt: skip
        chosen = {"sources": ("python_topics",), "tasks": ("complete_passage",)}
        return built(recipe(**(chosen | changes)), planted(documents))

    return make


def measure(number, german="Meilen", english="miles"):
    return {"en": f"{number} {english}", "de": f"{number} {german}"}


def reasons(assembly):
    return assembly.info["rejected_by_reason"]


def inputs(assembly):
    return {(example.split, example.holdout, example.target) for example in assembly.examples}


def test_a_train_draft_becomes_one_example(assembled):
    assembly = assembled([("a", measure(5), "train")])
    assert inputs(assembly) == {("train", "", "5 Meilen"), ("train", "", "5 miles")}
    example = assembly.examples[0]
    assert example.provenance.uri == "a"
    assert example.provenance.generator == "tasks.translation.translate"
    assert example.target_source == "parallel"
    assert example.template.startswith("translate_measures.")
    (german,) = assembly.info["languages"]
    assert german == {"name": "German", "from_english": 1, "to_english": 1}


def test_a_test_draft_is_asked_in_a_seen_and_in_an_unseen_phrasing(assembled):
    assembly = assembled([("a", measure(5), "test"), ("b", measure(6), "train")])
    held_out = assembly.held_out["translate_measures"]
    test = [example for example in assembly.examples if example.split == "test"]
    assert Counter(example.holdout for example in test) == {"document": 2, "phrasing": 2}
    for example in assembly.examples:
        assert (example.template in held_out) == (example.holdout == "phrasing")


def test_material_inside_the_instruction_is_told_apart(assembled):
    assembly = assembled([(str(n), measure(n), "train") for n in range(40)])
    inside = [example for example in assembly.examples if not example.input]
    assert 0 < len(inside) < len(assembly.examples)
    for example in assembly.examples:
        assert bool(example.input) != bool(example.material)
        assert example.material in example.instruction
        assert ("material" in example.to_record()) == bool(example.material)


def test_a_held_out_task_is_asked_about_test_documents_alone(assembled):
    rows = [("a", measure(5), "test"), ("b", measure(6), "train"), ("c", measure(7), "validation")]
    assembly = assembled(rows, holdout_tasks=("translate_measures",))
    assert {target[0] for _, _, target in inputs(assembly)} == {"5"}
    assert {holdout for _, holdout, _ in inputs(assembly)} == {"task"}


def test_several_phrasings_differ(assembled):
    assembly = assembled([("a", measure(5), "train")], phrasings_per_example=3)
    assert len(assembly.examples) == 6
    assert len({(e.target, e.template) for e in assembly.examples}) == 6
    assert len({e.id for e in assembly.examples}) == 6


def test_duplicates_but_for_white_space(assembled):
    rows = [("a", measure(5), "train"), ("b", measure("5 "), "train")]
    assembly = assembled(rows)
    assert len(assembly.examples) == 2
    assert reasons(assembly) == {"duplicate": 2}


def test_contradicting_targets_are_all_refused(assembled):
    rows = [("a", measure(5), "train"), ("b", measure(5, german="Meile"), "train")]
    assembly = assembled(rows)
    # "5 miles" has two translations; "5 Meilen" and "5 Meile" have one each.
    assert reasons(assembly) == {"contradiction": 2}
    assert {example.target for example in assembly.examples} == {"5 miles"}
    assert len(assembly.examples) == 2


def test_train_loses_text_that_a_held_out_split_has(assembled):
    rows = [("a", measure(5, english="Miles"), "train"), ("b", measure(5), "validation")]
    assembly = assembled(rows)
    assert {split for split, _, _ in inputs(assembly)} == {"validation"}
    assert reasons(assembly) == {"text_in_held_out_split": 2}


def test_train_loses_an_answered_question_that_a_held_out_split_has(assembled):
    # Other documents, but the German question with the same answer up to case.
    rows = [
        ("a", {"en": "5 miles", "de": "5 Meilen"}, "test"),
        ("b", {"en": "5  MILES!", "de": "5 Yards"}, "train"),
        ("c", {"en": "5 Miles", "de": "5 Meilen"}, "validation"),
    ]
    assembly = assembled(rows)
    assert {(s, t) for s, _, t in inputs(assembly)} == {
        ("test", "5 miles"), ("test", "5 Meilen"), ("train", "5  MILES!"), ("train", "5 Yards"),
    }  # fmt: skip
    assert sum(reasons(assembly).values()) == 2


def test_train_loses_a_question_that_a_held_out_split_has_in_another_case(assembled):
    rows = [
        ("a", {"en": "5 miles", "de": "5 Meilen"}, "test"),
        # Other answers: those of one split are two questions, and stay.
        ("b", {"en": "five miles", "de": "5 MEILEN"}, "train"),
        ("c", {"en": "9 km", "de": "9 Kilometer"}, "train"),
        ("d", {"en": "nine km", "de": "9 KILOMETER"}, "train"),
    ]
    assembly = assembled(rows)
    assert reasons(assembly) == {"answer_in_held_out_split": 1}
    # "5 MEILEN" is asked no more; as an answer it stays.
    train = {target for split, _, target in inputs(assembly) if split == "train"}
    assert train == {"5 MEILEN", "9 km", "nine km", "9 Kilometer", "9 KILOMETER"}


def test_caps_keep_the_same_drafts_whatever_else_there_is(assembled):
    rows = [(str(n), measure(n), "train") for n in range(20)]
    capped = assembled(rows, max_examples_per_task=10)
    assert len(capped.examples) == 10
    assert reasons(capped) == {"over_cap": 30}
    again = assembled(rows[::-1], max_examples_per_task=10)
    assert capped.examples == again.examples
    larger = assembled(rows, max_examples_per_task=12)
    assert {e.id for e in capped.examples} < {e.id for e in larger.examples}
    # The smallest cap is one question, not none and not all.
    least = assembled(rows, max_examples_per_task=1, phrasings_per_example=2)
    assert len(least.examples) == 2 and reasons(least) == {"over_cap": 39}
    rows = [(str(n), measure(n), "test") for n in range(20)]
    test = assembled(rows, max_test_examples=3)
    assert Counter(e.holdout for e in test.examples) == {"document": 3, "phrasing": 3}
    # The same questions under both hold-outs: they compare.
    assert len({e.target for e in test.examples}) == 3


def test_counts_add_up_and_rejects_are_samples_with_a_reason(assembled):
    rows = [(str(n), measure(n % 7, german=("Meilen", "Meile")[n % 2]), "train") for n in range(90)]
    rows += [("x", {"en": "7 km", "de": "7 km"}, "train")]
    assembly = assembled(rows, max_examples_per_task=5)
    for task in assembly.info["tasks"].values():
        assert task["drafts"] == task["accepted"] + sum(task["rejected"].values())
    assert set(reasons(assembly)) >= {"contradiction", "target_in_input", "duplicate"}
    written = Counter(row["reason"] for row in assembly.rejects)
    for reason, count in reasons(assembly).items():
        assert written[reason] == min(count, 20)
    assert all(row["record"]["provenance"] for row in assembly.rejects)
    every = assembled(rows, max_examples_per_task=5, filters=FilterSettings(rejects_written=0))
    assert Counter(row["reason"] for row in every.rejects) == reasons(every) == reasons(assembly)
    some = {json.dumps(row) for row in assembly.rejects}
    assert some < {json.dumps(row) for row in every.rejects}


WORDS = [
    f"{a}{b}" for a in ("lo", "ta", "mi", "re", "su", "ke") for b in ("n", "ra", "mo", "vi", "d")
]


def prose(seed, sentences=6):
    """Sentences of words without meaning; another seed gives other ones."""
    number = seed * 7919 + 13
    made = []
    for _ in range(sentences):
        chosen = []
        for _ in range(9):
            number = (number * 1103515245 + 12345) % 2**31
            chosen.append(WORDS[(number >> 8) % len(WORDS)] + WORDS[(number >> 16) % len(WORDS)])
        made.append(" ".join(chosen).capitalize() + ".")
    return " ".join(made)


def test_a_near_duplicate_leaves_train(passages):
    text = prose(1)
    rows = [(str(n), prose(n), "train") for n in range(2, 9)]
    rows += [("held", text, "test"), ("copy", text.replace("Ta", "Si", 1) + " End", "train")]
    assembly = passages(rows)
    assert reasons(assembly) == {"near_duplicate": 1}
    (reject,) = assembly.rejects
    assert reject["record"]["provenance"]["uri"] == "copy"
    source = assembly.info["sources"]["python_topics"]
    assert source["documents_refused"] == {"near_duplicate": 1, "all_drafts_refused": 0}
    assert source["documents"] == 9 and source["documents_used"] == 8
    without = passages(rows, filters=FilterSettings(without=("near_duplicate", "similar_question")))
    assert reasons(without) == {}


def test_one_of_two_near_duplicates_of_a_split_is_left(passages):
    rows = [("a", prose(1), "train"), ("b", prose(1) + " More words.", "train")]
    assembly = passages(rows)
    assert reasons(assembly) == {"near_duplicate": 1} and len(assembly.examples) == 1
    assert {e.id for e in passages(rows[::-1]).examples} == {e.id for e in assembly.examples}


def test_a_document_read_twice_is_no_near_duplicate_of_itself_and_leaves_train_as_one(passages):
    rows = [("a", prose(1), "train"), ("a", prose(1), "train")]
    assert reasons(passages(rows)) == {"duplicate": 1}
    held_out = ("b", prose(1) + " More words.", "test")
    assert reasons(passages([*rows, held_out])) == {"near_duplicate": 2}
    assert reasons(passages([*rows, ("b", prose(1), "test")])) == {"text_in_held_out_split": 2}


def test_drafts_alike_by_rouge_are_refused_though_their_documents_differ(passages):
    # Every fifth word differs: hardly a run of five words is the same, most words are.
    words = prose(3).split()
    other = " ".join(w if n % 5 else w.capitalize() + "x" for n, w in enumerate(words))
    other = " ".join(w + "." if n % 9 == 8 else w.rstrip(".") for n, w in enumerate(other.split()))
    rows = [("a", prose(3), "test"), ("b", other, "train"), ("c", prose(4), "train")]
    assert reasons(passages(rows)) == {"similar_question": 1}
    assert reasons(passages(rows, filters=FilterSettings(without=("similar_question",)))) == {}


def test_what_cannot_be_read_is_counted_by_reason(recipe, planted):
    rows = [
        (Unreadable("python_topics", f"f{n}", ("binary", "encoding")[n % 2]), "") for n in range(5)
    ]
    assembly = built(recipe(sources=("python_topics",)), planted(rows))
    source = assembly.info["sources"]["python_topics"]
    assert source["unreadable"] == {"binary": 3, "encoding": 2}
    assert source["items"] == 5 and source["documents"] == 0
    assert Counter(row["reason"] for row in assembly.rejects) == {"binary": 3, "encoding": 2}


def test_planted_secrets_and_addresses_are_refused(passages):
    rows = [
        ("a", prose(1) + " Her key is AKIAIOSFODNN7EXAMPLE. " + prose(2, 2), "train"),
        ("b", prose(3) + " Write to jane.roe@mailbox.org now. " + prose(4, 2), "train"),
        ("c", prose(5), "train"),
    ]
    assert reasons(passages(rows)) == {"personal_data": 1, "secret": 1}
    assert reasons(passages(rows, filters=FilterSettings(without=("personal_data",)))) == {}


def test_a_phrasing_that_names_the_answer_is_refused(assembled):
    names = {"German": "Deutsch", "English": "Englisch"}
    rows = [(en, {"en": en, "de": de}, "train") for en, de in names.items()]
    rows.append(("b", measure(5), "train"))
    # "Translate this measurement from German to English." tells, "Write it in English." does not.
    without = assembled(rows, filters=FilterSettings(without=("target_in_instruction",)))
    telling = {e.id for e in without.examples if e.target.lower() in e.instruction.lower()}
    assembly = assembled(rows)
    assert {e.id for e in assembly.examples} == {e.id for e in without.examples} - telling
    assert telling and reasons(assembly) == {"target_in_instruction": len(telling)}


def test_planted_evaluation_data_are_refused(passages, tmp_path):
    file = tmp_path / "evaluation.jsonl"
    leaked = " ".join(prose(2).split()[5:30])
    file.write_text(json.dumps({"instruction": "Go on.", "input": leaked, "output": "x"}) + "\n")
    rows = [(str(n), prose(n), "train") for n in range(1, 5)]
    found = passages(rows, filters=FilterSettings(decontaminate=(str(file),)))
    assert reasons(found) == {"in_evaluation_data": 1}
    assert found.rejects[0]["record"]["provenance"]["uri"] == "2"


def test_a_label_that_is_too_frequent_is_thinned_out():
    assert label_shares(Counter(a=100, b=10, c=5), 2.0) == {"a": 0.2}
    assert label_shares(Counter(a=20, b=10), 2.0) == {}
    assert label_shares(Counter({"": 100, "a": 9}), 2.0) == {}


def test_chained_tasks_are_made_from_test_documents_alone(assembled, monkeypatch):
    task = TASKS["translate_measures"]
    chained = type(task)(**{**vars(task), "composition": ("translate_dates", "identify_language")})
    monkeypatch.setitem(TASKS, "translate_measures", chained)
    assembly = assembled([("a", measure(5), "test"), ("b", measure(6), "train")])
    assert {(s, h) for s, h, _ in inputs(assembly)} == {("test", "composition")}
    assert assembly.info["holdouts"]["composition"] == 2
    assert assembly.held_out["translate_measures"] == set()


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from(["Meilen", "x"]), st.sampled_from(SPLITS)),
        min_size=1, max_size=20,
    ),
    cap=st.integers(0, 6),
)  # fmt: skip
def test_the_funnel_adds_up_and_nothing_leaks(rows, cap, assembled):
    documents = [
        (f"d{n}", measure(number, german=german), split)
        for n, (number, german, split) in enumerate(rows)
    ]
    assembly = assembled(documents, max_examples_per_task=cap, max_test_examples=cap)
    (task,) = assembly.info["tasks"].values()
    assert task["drafts"] == 2 * len(rows) == task["accepted"] + sum(task["rejected"].values())
    assert not cap or task["examples"].get("train", {}).get("", 0) <= cap
    source = assembly.info["sources"]["locale_names"]
    assert source["documents"] == len(rows)
    assert len({e.id for e in assembly.examples}) == len(assembly.examples)
    leaks = audit(
        assembly.read, held_out_templates=frozenset(*assembly.held_out.values()),
        held_out_tasks=frozenset(),
    )  # fmt: skip
    assert leaks.sound
    # Another order of the documents gives the same dataset.
    again = assembled(documents[::-1], max_examples_per_task=cap, max_test_examples=cap)
    assert again.examples == assembly.examples


def test_the_real_corpora_do_not_leak(recipe):
    made = recipe(languages=("de",), holdout_tasks=("fill_blanks",), max_test_examples=20)
    chosen = {
        "python_code": [("bisect.py",), ("heapq.py",), ("queue.py",), ("shlex.py",)],
        "locale_names": [u for u in units_of("locale_names", made) if u[1] in ("0", "20")],
    }
    units = [
        NumberedUnit(source, number, unit)
        for source, listed in chosen.items()
        for number, unit in enumerate(listed)
    ]
    assembly = built(made, units)
    splits = assembly.info["examples"]
    assert splits["train"] > 300 and splits["test"] > 20 and splits["validation"] > 10
    leaks = audit(
        assembly.read,
        held_out_templates=frozenset().union(*assembly.held_out.values()),
        held_out_tasks=frozenset(["fill_blanks"]),
    )
    assert leaks.sound
    assert len({example.id for example in assembly.examples}) == len(assembly.examples)
    assert all(e.target_source == TASKS[e.task].target_source for e in assembly.examples)
