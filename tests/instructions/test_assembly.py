"""The filters that look at the whole dataset, on documents made by hand."""

import dataclasses
from collections import Counter

import pytest

from instructrec_jax.instructions.assembly import Assembler
from instructrec_jax.instructions.construct import DocumentDrafts, construct_unit
from instructrec_jax.instructions.document import Context, Document
from instructrec_jax.instructions.sources import SOURCES
from instructrec_jax.instructions.splitting import audit
from instructrec_jax.instructions.tasks import TASKS

LANGUAGE_NAMES = {"en": "English", "de": "German"}


@pytest.fixture
def assembled(recipe, sandbox, monkeypatch):
    """assembled([(key, texts, split), ...], **recipe) → the assembly of translated measures."""

    def assemble(rows, **changes):
        made = recipe(**({"tasks": ("translate_measures",)} | changes))
        documents = {
            str(number): Document(
                "locale_names", key, None, texts["en"], "MIT", key, "locale",
                content={"kind": "measure", "texts": texts, "names": LANGUAGE_NAMES, "iso": ""},
            )
            for number, (key, texts, _) in enumerate(rows)
        }  # fmt: skip
        assembler = Assembler(made)
        for number, (_, _, split) in enumerate(rows):
            document = documents[str(number)]
            source = SOURCES["locale_names"]
            monkeypatch.setitem(
                SOURCES, "locale_names", _with_documents(source, lambda *_, d=document: iter([d]))
            )
            monkeypatch.setattr(
                "instructrec_jax.instructions.construct.split_of_document",
                lambda *_, s=split, **__: s,
            )
            context = Context(seed=0, sandbox=sandbox)
            assembler.add(construct_unit("locale_names", (), recipe=made, context=context))
        return assembler.assemble()

    return assemble


def _with_documents(source, documents):
    return dataclasses.replace(source, documents=documents)


def measure(number, german="Meilen", english="miles"):
    return {"en": f"{number} {english}", "de": f"{number} {german}"}


def reasons(assembly):
    return dict(sum(assembly.rejected.values(), Counter()))


def inputs(assembly):
    return {(example.split, example.holdout, example.target) for example in assembly.examples}


def test_a_train_draft_becomes_one_example(assembled):
    assembly = assembled([("a", measure(5), "train")])
    assert inputs(assembly) == {("train", "", "5 Meilen"), ("train", "", "5 miles")}
    (example, _) = assembly.examples
    assert example.provenance.uri == "a"
    assert example.provenance.generator == "tasks.translation.translate"
    assert example.target_source == "parallel"
    assert example.template.startswith("translate_measures.")
    assert assembly.directions == {("English", "German"): 1, ("German", "English"): 1}


def test_a_test_draft_is_asked_in_a_seen_and_in_an_unseen_phrasing(assembled):
    assembly = assembled([("a", measure(5), "test"), ("b", measure(6), "train")])
    held_out = {template.id for template in assembly.held_out["translate_measures"]}
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
    for task in assembly.templates:
        rejected = sum(assembly.rejected[task].values())
        assert assembly.drafts[task] == assembly.accepted[task] + rejected
    assert set(reasons(assembly)) >= {"contradiction", "target_in_input", "duplicate"}
    written = Counter(reason for reason, _ in assembly.rejects)
    for reason, count in reasons(assembly).items():
        assert written[reason] == min(count, 20)
    assert all(example.provenance for _, example in assembly.rejects)


def test_the_real_corpora_do_not_leak(recipe, sandbox):
    made = recipe(languages=("de",), holdout_tasks=("fill_blanks",), max_test_examples=20)
    assembler = Assembler(made)
    context = Context(seed=0, sandbox=sandbox)
    units = {
        "python_code": [("bisect.py",), ("heapq.py",), ("_pyio.py",), ("queue.py",), ("shlex.py",)],
        "locale_names": [u for u in SOURCES["locale_names"].units(("de",)) if u[1] in ("0", "20")],
    }
    for source, chosen in units.items():
        for unit in chosen:
            assembler.add(construct_unit(source, unit, recipe=made, context=context))
    assembly = assembler.assemble()
    splits = Counter(example.split for example in assembly.examples)
    assert splits["train"] > 500 and splits["test"] > 50 and splits["validation"] > 20
    templates = frozenset(t.id for held_out in assembly.held_out.values() for t in held_out)
    leaks = audit(
        assembly.examples, held_out_templates=templates, held_out_tasks=frozenset(["fill_blanks"])
    )
    assert leaks.sound
    assert len({example.id for example in assembly.examples}) == len(assembly.examples)
    assert {e.target_source for e in assembly.examples} == {"intrinsic", "executed", "parallel"}
    assert all(e.target_source == TASKS[e.task].target_source for e in assembly.examples)


def test_document_drafts_travel_without_their_content(recipe, sandbox):
    context = Context(seed=0, sandbox=sandbox)
    (first, *_) = construct_unit("python_topics", ("assert",), recipe=recipe(), context=context)
    assert isinstance(first, DocumentDrafts)
    assert first.document.content == {} and first.document.text
