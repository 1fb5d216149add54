"""Examples turned round, documents to instructions, and a build with them; models made by hand."""

import gzip
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from instructrec_jax.configuration import load_config
from instructrec_jax.errors import ConfigError, DataError
from instructrec_jax.instructions.building import build_from_config
from instructrec_jax.instructions.document import Document
from instructrec_jax.instructions.reading import read_examples
from instructrec_jax.instructions.sources import READERS, synthesised
from instructrec_jax.instructions.sources.corpus import Corpus, corpora_from_flags
from instructrec_jax.instructions.synthesis.backward import (
    pair_prompt,
    parse_pair,
    write_turned_round,
)
from instructrec_jax.instructions.synthesis.corpus import Synthesis, add_synthesised_corpus
from instructrec_jax.instructions.synthesis.curation import CurationSettings
from instructrec_jax.instructions.synthesis.generation import (
    SynthesisSettings,
    counted,
    requests_of,
    synthesise,
)
from instructrec_jax.instructions.synthesis.likelihood import Judge, Likelihood, Written

BASE = str(Path(__file__).parent.parent.parent / "configs/base.py")


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def test_examples_are_turned_round_in_their_splits(tmp_path):
    record = {"task": "days", "instruction": "Write it as YYYY-MM-DD.", "split": "train"}
    days = [record | {"input": f"{i} May 2021", "target": f"2021-05-{i:02}"} for i in range(10, 20)]
    odd = [
        record | {"instruction": "Say 3 May.", "target": "2021-05-03", "material": "3 May"},
        record | {"instruction": "A day?", "target": "2021-05-04", "split": "test"},
        record | {"input": "4 May", "instruction": "a ||| b", "target": "2021-05-04"},
    ]
    source = write_lines(tmp_path / "days.jsonl", days + odd)
    lines = []
    output = tmp_path / "new" / "turned.jsonl"
    assert write_turned_round(source, output, progress=lines.append) == 13 + 12 + 10
    records = [json.loads(line) for line in output.read_text().splitlines()]
    by_direction = {name: [] for name in ("instruction", "pair", "answer")}
    for each in records:
        by_direction[each["id"].partition("-")[0]].append(each)
    assert by_direction["instruction"][0] == {
        "id": "instruction-days.jsonl:1",
        "task": "synthesise_instruction",
        "instruction": "Write the instruction that has this answer. Task: date.",
        "input": "Input: 10 May 2021\n\nAnswer: 2021-05-10",
        "target": "Write it as YYYY-MM-DD.",
        "split": "train",
    }
    pair = by_direction["pair"][0]
    assert (pair["instruction"], pair["input"]) == pair_prompt("date", "10 May 2021")
    assert parse_pair(pair["target"]) == ("Write it as YYYY-MM-DD.", "2021-05-10")
    assert by_direction["instruction"][10]["input"] == "Answer: 2021-05-04"
    assert [each["split"] for each in records].count("test") == 2
    # `train` reads it.
    assert len(list(read_examples(output, split="train"))) == len(records) - 2
    assert "days = date" in lines[0]
    assert "1 holds_separator, 2 material_inside_instruction, 1 no_input" in lines[1]
    with pytest.raises(ConfigError, match="is there already"):
        write_turned_round(source, output, progress=print)
    with pytest.raises(ConfigError, match="'backward'; there are instruction, pair, answer"):
        write_turned_round(source, tmp_path / "x", directions=("backward",), progress=print)
    only_odd = write_lines(tmp_path / "odd.jsonl", odd[:1])
    with pytest.raises(DataError, match="no example can be turned round: 1 material"):
        write_turned_round(only_odd, tmp_path / "x", directions=("pair",), progress=print)
    assert not list(tmp_path.glob("*.partial"))


def test_only_pairs_are_parsed():
    assert parse_pair("Say it. |||  yes ") == ("Say it.", "yes")
    assert parse_pair("Say it.") == ("", "") == parse_pair("a ||| b ||| c")


def written(text, ended=True):
    return Written(text, Likelihood(-1.0, 2), ended)


def models(answers=None):
    """A synthesiser that asks for the passage's number, and a judge that can read it.

    The judge knows the number 3 as 4, and finds nothing likelier for an instruction on 5.
    """

    def ask(prompt):
        number = re.search(r"\d+", prompt)[0]
        if prompt.startswith("Write the instruction"):
            return written("Tell of this." if number == "0" else f"Tell of {number}.")
        return {
            "0": written(f"Which number? ||| {number}", ended=False),
            "1": written("Which number"),
            "2": written("||| 2"),
        }.get(number, written(f"Which number? ||| {number}"))

    def score(requests):
        def likelihood(text, target):
            helps = text.startswith(("Which number?", "Tell of")) and "5" not in target
            return Likelihood(-1.0 if helps else -2.0, 1)

        return [likelihood(*each) for each in requests]

    def answer(text):
        number = re.search(r"\d+", text)[0]
        return written("4" if number == "3" else number)

    synthesiser = Judge("asker", "1", score=score, write=lambda texts: list(map(ask, texts)))
    judge = Judge("reader", "2", score=score, write=lambda texts: list(map(answer, texts)))
    return synthesiser, judge


@pytest.fixture
def passages(document_of):
    return [
        document_of("prose", passage=f"The number of this passage is {number} and no other one.")
        for number in range(8)
    ]


def test_every_request_becomes_an_example_or_has_a_reason(passages):
    synthesiser, judge = models()
    settings = SynthesisSettings(types_per_document=1)
    found = synthesise(passages, synthesiser=synthesiser, judge=judge, settings=settings)
    pairs = [each for each in found if each.request.direction == "pair"]
    assert [each.reason for each in pairs] == [
        "cut_off", "no_pair", "no_instruction", "round_trip", "", "ifd_high", "", "",
    ]  # fmt: skip
    assert (pairs[4].instruction, pairs[4].target) == ("Which number?", "4")
    assert pairs[4].input == passages[4].content["passage"] and pairs[4].agreement == 1
    assert pairs[4].measures.margin == 1 and pairs[4].measures.nll == 1
    whole = [each for each in found if each.request.direction == "instruction"]
    assert [each.reason for each in whole] == [
        "material_is_missing", "", "", "", "", "ifd_high", "", "",
    ]  # fmt: skip
    assert whole[1].instruction == "Tell of 1." and whole[1].input == ""
    assert whole[1].target == passages[1].content["passage"]
    assert counted(found)["kept"] == 9 and counted(found).total() == 16


def test_requests_are_of_the_document_alone(passages, document_of):
    settings = SynthesisSettings(types_per_document=2)
    found = [list(requests_of(document, settings)) for document in passages]
    assert found == [list(requests_of(document, settings)) for document in passages]
    assert {len(each) for each in found} == {3}
    assert len({request.task_type for each in found for request in each}) > 4
    assert not list(requests_of(document_of("tune", body="A"), settings))
    assert not list(requests_of(document_of("prose", passage="x" * 2_000), settings))
    code = list(requests_of(document_of("python_definition", code="def f(): pass"), settings))
    assert code[-1].task_type == "code" and "Answer: def f(): pass" in code[-1].prompt
    none = SynthesisSettings(types_per_document=0, instructions=False)
    assert not list(requests_of(passages[0], none))


def test_repeated_text_and_questions_asked_twice_are_refused(document_of):
    def write(texts):
        return [
            written("Copy the river here ||| x" if "river" in t else "Ask! ||| y") for t in texts
        ]

    judge = models()[1]
    synthesiser = Judge("", "", score=judge.score, write=write)
    documents = [
        document_of("prose", passage="Copy the river here"),
        document_of("prose", passage="The other one"),
    ]
    settings = SynthesisSettings(types_per_document=2, instructions=False, min_agreement=0)
    judge = Judge("", "", score=judge.score, write=lambda texts: [written("") for _ in texts])
    found = synthesise(documents, synthesiser=synthesiser, judge=judge, settings=settings)
    assert [each.reason for each in found] == [
        "instruction_repeats_text", "instruction_repeats_text", "ifd_high", "asked_twice",
    ]  # fmt: skip


def test_settings_that_cannot_be_met_are_told():
    bad = SynthesisSettings(documents=-1, min_agreement=2, curation=CurationSettings(min_ifd=5))
    assert [line.partition(":")[0] for line in bad.problems()] == [
        "documents", "min_agreement", "min_ifd",
    ]  # fmt: skip


@pytest.fixture
def config(tmp_path):
    words = ("river", "forest", "winter", "harbour", "engine")
    for number in range(30):
        text = f"The number of this passage is {number}, and it tells of a {words[number % 5]}."
        (tmp_path / f"{number}.txt").write_text(f"{text} Nobody knows why.\n")
    overrides = {
        "build.test_fraction": "0.3",
        "build.tasks": "complete_passage",
        "build.holdout_tasks": "()",
        "build.processes": "1",
        "tokenizer.kind": "bytes",
    }
    config, _ = load_config(BASE, overrides)
    config.build.corpora = corpora_from_flags([f"text:{tmp_path},licence=MIT"])
    config.build.sources = ("text",)
    return config


def test_a_build_takes_what_was_made_and_counts_what_was_not(tmp_path_factory, config):
    folder = tmp_path_factory.mktemp("out")
    synthesis = Synthesis(*models(), SynthesisSettings(types_per_document=1))
    lines = []
    path = add_synthesised_corpus(config, folder / "data", synthesis, lines.append)
    assert path.parent == folder / "data.synthesised" and config.build.sources[1] == "synthesised"
    assert "kept" in lines[-1] and "round_trip" in lines[-1]
    assert config.build.tasks == (
        "complete_passage",
        "synthesised_pair",
        "synthesised_instruction",
    )
    build_from_config(config, folder / "data", lines.append)
    info = json.loads((folder / "data/dataset.json").read_text())
    examples = list(read_examples(folder / "data"))
    made = [each for each in examples if each.task.startswith("synthesised_")]
    assert {each.task for each in made} == {"synthesised_pair", "synthesised_instruction"}
    assert {each.target_source for each in made} == {"model"}
    assert all(each.provenance.corpus == "text" and each.provenance.licence == "MIT"
               for each in made)  # fmt: skip
    # All that is made of a document is in one split.
    splits = {}
    for each in examples:
        splits.setdefault(each.provenance.uri, set()).add(each.split)
    assert {len(each) for each in splits.values()} == {1} and len(set.union(*splits.values())) > 1
    stored = [json.loads(line) for line in path.read_text().splitlines()]
    reasons = Counter(e["reason"] for record in stored for e in record["made"])
    with gzip.open(folder / "data/rejected.jsonl.gz", "rt") as rejected:
        told = Counter(json.loads(line)["reason"] for line in rejected)
    for reason in ("cut_off", "no_pair", "round_trip", "ifd_high"):
        assert told[reason] == min(reasons[reason], config.build.filters.rejects_written) > 0
    assert info["sources"]["synthesised"]["documents"] > 20
    # What it was made of is compared with held-out text.
    corpus = Corpus("synthesised", "synthesised", str(path))
    read = [d for d in synthesised.documents(corpus, (str(path),)) if isinstance(d, Document)]
    texts = {(record["document"]["uri"], record["document"]["text"]) for record in stored}
    assert read and {(document.uri, document.text) for document in read} <= texts


def test_a_file_is_made_once_for_the_same_models(tmp_path_factory, config):
    folder = tmp_path_factory.mktemp("out")
    config.build.tasks = ("complete_passage", "synthesised_pair")
    asker, reader = models()
    before = config.copy_and_resolve_references()
    synthesis = Synthesis(asker, reader, SynthesisSettings(documents=3))
    first = add_synthesised_corpus(config, folder / "data", synthesis, print)
    assert len(first.read_text().splitlines()) == 3
    assert config.build.tasks == ("complete_passage", "synthesised_pair")
    again = before.copy_and_resolve_references()
    silent = Judge("asker", "1", score=None, write=None)
    lines = []
    same = Synthesis(silent, reader, SynthesisSettings(documents=3))
    assert add_synthesised_corpus(again, folder / "data", same, lines.append) == first
    assert "is there already" in lines[0]
    other = Synthesis(asker, asker, SynthesisSettings(documents=3))
    assert add_synthesised_corpus(before, folder / "data", other, print) != first
    with pytest.raises(ConfigError, match="is the name of the corpus that is made"):
        add_synthesised_corpus(config, folder / "data", synthesis, print)


def test_a_file_that_no_synthesiser_wrote_is_refused(tmp_path):
    path = tmp_path / "made.jsonl"
    path.write_text('{"document": 1}\n')
    reader, corpus = READERS["synthesised"], Corpus("synthesised", "synthesised", str(path))
    with pytest.raises(DataError, match=r"made.jsonl:1: not written by a synthesiser"):
        list(reader.documents(corpus, next(reader.units(corpus))))
    assert not reader.problems(corpus) and list(reader.files(corpus)) == [path]
    assert reader.problems(Corpus("s", "synthesised", "/none"))
