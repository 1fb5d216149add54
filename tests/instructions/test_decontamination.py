import json

from instructrec_jax.instructions import construct as constructing
from instructrec_jax.instructions.decontamination import Evaluation
from instructrec_jax.instructions.document import Document
from instructrec_jax.instructions.filters import FilterSettings
from instructrec_jax.instructions.flow import Run
from instructrec_jax.instructions.sources import documents_of, units_of

RUN = "one two three four five six seven eight nine ten eleven twelve thirteen"
TARGET = "This long answer must not come up anywhere in what is trained on, ever."


def test_runs_of_words_and_long_targets_are_found(tmp_path):
    ours = {"id": "a", "task": "t", "instruction": "Q", "input": f"Zero {RUN} end", "target": "x"}
    alpaca = {"instruction": "Say something long.", "input": "", "output": TARGET}
    for name, record in (("ours", ours), ("alpaca", alpaca)):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(record) + "\n")
    paths = [str(tmp_path / f"{name}.jsonl") for name in ("ours", "alpaca")]
    index = Evaluation.of(paths)
    assert index.holds(RUN.upper().replace(" ", ", "), "y")
    assert index.holds("x", f"before {RUN} after")
    assert not index.holds(RUN.rpartition(" ")[0], "y")
    assert index.holds("x", "So: " + TARGET.replace(" ", "  ") + " Yes.")
    assert not index.holds("x", TARGET[:60])
    assert not index.holds("", "") and not Evaluation.of([]).holds(RUN, TARGET)
    assert index.asks(f"zero {RUN} END", "X") and not index.asks(f"zero {RUN} end", "y")


def test_missing_files_are_told(tmp_path):
    (tmp_path / "there.jsonl").write_text("{}")
    told = Evaluation.problems([str(tmp_path / "gone"), str(tmp_path / "*.jsonl")])
    assert len(told) == 1 and "gone" in told[0]


def test_evaluation_text_inside_a_source_document_refuses_all_that_is_made_of_it(recipe, tmp_path):
    # In blanks, shuffled words and parts the text would not be found again in the drafts.
    words = " ".join(f"word{n}" for n in range(14))
    held = f"The evaluation says that {words} and nothing else."
    evaluation = tmp_path / "evaluation.jsonl"
    evaluation.write_text(json.dumps({"instruction": held, "output": "yes"}))
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    plain = "It rained in the harbour for a week, and {} old boats were lost there. "
    for name, inside in (("clean", ""), ("dirty", held)):
        text = " ".join(plain.format(f"{name} {word}") for word in ("seven", "nine", "ten", "two"))
        (corpus / f"{name}.txt").write_text(f"{text}{inside}\n")
    for without, reasons in (((), {"in_evaluation_data"}), (("decontamination",), set())):
        made = recipe(
            sources=("texts",),
            corpora=({"name": "texts", "reader": "text", "path": str(corpus)},),
            tasks=("order_words", "fill_blanks", "restore_punctuation", "correct_spelling"),
            filters=FilterSettings(decontaminate=(str(evaluation),), without=without),
        )
        run = Run(made)
        found = {}
        for document in documents_of_corpus(made):
            drafts = constructing.construct_document(
                "texts", document, made, run.context, run.evaluation
            )
            found[document.uri] = {candidate.reason for candidate in drafts.candidates}
        run.close()
        assert found["dirty.txt"] - {"few_letters"} == (reasons or {""})
        assert "in_evaluation_data" not in found["clean.txt"] and found["clean.txt"]


def documents_of_corpus(made):
    return [
        document
        for unit in units_of("texts", made)
        for document in documents_of("texts", unit, made)
        if isinstance(document, Document)
    ]
