"""The raw corpora: four that every machine has, and readers for the user's own.

A new kind of file is one module with `units`, `documents` and OPTIONS, and one entry in READERS.
Everything streams: units are named without their contents being held, and one unit is a file, or a
part of a large one.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from instructrec_jax.instructions import extensions
from instructrec_jax.instructions.document import Document, Unreadable
from instructrec_jax.instructions.sources import (
    abc_tunes,
    catalogues,
    datasets_by_name,
    html_pages,
    locale_names,
    package_metadata,
    parallel_files,
    prose,
    python_code,
    python_files,
    python_topics,
    records,
    subtitles,
    synthesised,
    text_files,
)
from instructrec_jax.instructions.sources.corpus import Corpus, Option, corpus_of
from instructrec_jax.instructions.sources.files import input_files, root_of

if TYPE_CHECKING:
    from instructrec_jax.instructions.recipe import Recipe

# A unit is the piece of a corpus that one call reads: a file, a package, a range of dates.
Unit = tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """A raw corpus that is there already.

    `units(languages)` names its pieces in a fixed order; `documents(unit, languages, seed)` yields
    the documents of one piece, all of `kind`, the same ones in every process.
    """

    title: str
    description: str
    kind: str
    units: Callable[[tuple[str, ...]], list[Unit]]
    documents: Callable[[Unit, tuple[str, ...], int], Iterator[Document]]


@dataclass(frozen=True)
class Reader:
    """How the user's own data of one form are read.

    `units(corpus)` names the pieces in a fixed order and `documents(corpus, unit)` yields what is
    in one, or why it cannot be read, the same in every process. `problems(corpus)` are lines on
    what can be known to be wrong before anything is read, `files(corpus)` are what a dataset made
    from it depends on. `kind` is that of the documents.
    """

    description: str
    kind: str
    options: Mapping[str, Option]
    units: Callable[[Corpus], Iterator[Unit]]
    documents: Callable[[Corpus, Unit], Iterator[Document | Unreadable]]
    problems: Callable[[Corpus], list[str]]
    files: Callable[[Corpus], Iterator[Path]] = lambda corpus: iter(())


SOURCES = {
    "python_code": Source(
        title="Python standard library",
        description="Functions and classes of the standard library of the running Python, "
        "with their docstrings.",
        kind="python_definition",
        units=python_code.units,
        documents=python_code.documents,
    ),
    "python_topics": Source(
        title="Python language reference",
        description="Passages of the reference text behind Python's help().",
        kind="prose",
        units=python_topics.units,
        documents=python_topics.documents,
    ),
    "locale_names": Source(
        title="Unicode CLDR, through babel",
        description="Names of languages, territories, scripts and currencies, and dates, times, "
        "measures, amounts and lists written by each language's own patterns.",
        kind="locale",
        units=locale_names.units,
        documents=locale_names.documents,
    ),
    "package_metadata": Source(
        title="Installed packages",
        description="Descriptions and summaries of the Python packages installed here.",
        kind="package",
        units=package_metadata.units,
        documents=package_metadata.documents,
    ),
}
READERS = {
    "text": Reader(
        "Passages of plain text files.",
        kind="prose",
        options=text_files.TEXT_OPTIONS,
        units=text_files.units,
        documents=text_files.text_documents,
        problems=prose.problems,
        files=input_files,
    ),
    "markdown": Reader(
        "Passages of Markdown files.",
        kind="prose",
        options=text_files.MARKDOWN_OPTIONS,
        units=text_files.units,
        documents=text_files.markdown_documents,
        problems=prose.problems,
        files=input_files,
    ),
    "html": Reader(
        "Passages of HTML pages.",
        kind="prose",
        options=html_pages.OPTIONS,
        units=html_pages.units,
        documents=html_pages.documents,
        problems=prose.problems,
        files=input_files,
    ),
    "python": Reader(
        "Functions and classes of Python files.",
        kind="python_definition",
        options=python_files.OPTIONS,
        units=python_files.units,
        documents=python_files.documents,
        problems=python_files.problems,
        files=input_files,
    ),
    "records": Reader(
        "Rows of JSON lines, JSON, CSV, TSV or Parquet files.",
        kind="record",
        options=records.OPTIONS,
        units=records.units,
        documents=records.documents,
        problems=records.problems,
        files=input_files,
    ),
    "gettext": Reader(
        "Messages of gettext catalogues with their translations.",
        kind="catalogue_message",
        options=catalogues.OPTIONS,
        units=catalogues.units,
        documents=catalogues.documents,
        problems=catalogues.problems,
        files=input_files,
    ),
    "parallel": Reader(
        "Lines of line-aligned files in several languages.",
        kind="parallel",
        options=parallel_files.OPTIONS,
        units=parallel_files.units,
        documents=parallel_files.documents,
        problems=parallel_files.problems,
        files=parallel_files.input_files,
    ),
    "subtitles": Reader(
        "Dialogue of subtitles.",
        kind="prose",
        options=subtitles.OPTIONS,
        units=subtitles.units,
        documents=subtitles.documents,
        problems=prose.problems,
        files=input_files,
    ),
    "parallel_subtitles": Reader(
        "Subtitles in several languages, by time.",
        kind="parallel",
        options=subtitles.PARALLEL_OPTIONS,
        units=subtitles.parallel_units,
        documents=subtitles.parallel_documents,
        problems=subtitles.parallel_problems,
        files=input_files,
    ),
    "tfds": Reader(
        "Records of a prepared TensorFlow dataset.",
        kind="record",
        options=datasets_by_name.TFDS_OPTIONS,
        units=datasets_by_name.tfds_units,
        documents=datasets_by_name.tfds_documents,
        problems=datasets_by_name.tfds_problems,
    ),
    "huggingface": Reader(
        "Records of a Hugging Face dataset.",
        kind="record",
        options=datasets_by_name.HUGGING_FACE_OPTIONS,
        units=datasets_by_name.hugging_face_units,
        documents=datasets_by_name.hugging_face_documents,
        problems=datasets_by_name.hugging_face_problems,
    ),
    "abc": Reader(
        "Tunes in ABC notation.",
        kind="tune",
        options=abc_tunes.OPTIONS,
        units=abc_tunes.units,
        documents=abc_tunes.documents,
        problems=abc_tunes.problems,
        files=input_files,
    ),
    "synthesised": Reader(
        "Instructions that a model made of documents: build --synthesiser=CHECKPOINT writes them.",
        kind=synthesised.KIND,
        options=synthesised.OPTIONS,
        units=synthesised.units,
        documents=synthesised.documents,
        problems=synthesised.problems,
        files=synthesised.files,
    ),
}


def readers_of(recipe: "Recipe") -> dict[str, Reader]:
    """The package's readers, and those of the recipe's extensions."""
    return READERS | extensions.own_readers(recipe.extensions) if recipe.extensions else READERS


def corpora(recipe: "Recipe") -> dict[str, Corpus]:
    """The user's own corpora of a recipe without problems, by name."""
    readers = readers_of(recipe)
    return {
        entry["name"]: corpus_of(entry, options=readers[entry["reader"]].options)
        for entry in recipe.corpora
    }


def kind_of(name: str, recipe: "Recipe") -> str:
    """The kind of the documents of a corpus; "" for a corpus or reader that does not exist."""
    if name in SOURCES:
        return SOURCES[name].kind
    used = [entry.get("reader") for entry in recipe.corpora if entry.get("name") == name]
    readers = readers_of(recipe)
    return readers[used[0]].kind if used and used[0] in readers else ""


def title_of(name: str, recipe: "Recipe") -> str:
    """What a person calls the corpus."""
    return SOURCES[name].title if name in SOURCES else name


def description_of(name: str, recipe: "Recipe") -> str:
    """A sentence on what the corpus holds."""
    if name in SOURCES:
        return SOURCES[name].description
    corpus = corpora(recipe)[name]
    return f"{readers_of(recipe)[corpus.reader].description} Read from {corpus.path}."


def contents_hash(name: str, recipe: "Recipe") -> str:
    """Hash of the names and contents of a corpus's files, wherever its folder lies."""
    corpus = corpora(recipe)[name]
    root, digest = root_of(corpus.path), hashlib.sha256()
    for path in readers_of(recipe)[corpus.reader].files(corpus):
        digest.update(os.fsencode(os.path.relpath(path, root)) + b"\0")
        try:
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            digest.update(type(error).__name__.encode())
    return digest.hexdigest()


def units_of(name: str, recipe: "Recipe") -> Iterator[Unit]:
    """The pieces of a corpus of the recipe, in a fixed order.

    Raises:
        DataError: the corpus is not there or cannot be listed.
    """
    if name in SOURCES:
        yield from SOURCES[name].units(recipe.languages)
        return
    corpus = corpora(recipe)[name]
    yield from readers_of(recipe)[corpus.reader].units(corpus)


def documents_of(name: str, unit: Unit, recipe: "Recipe") -> Iterator[Document | Unreadable]:
    """What is in one piece of a corpus; documents of a licence that is not allowed are refused."""
    for found in _read(name, unit, recipe):
        allowed = recipe.allowed_licences
        if isinstance(found, Document) and allowed and found.licence not in allowed:
            yield Unreadable(name, found.uri, reason="licence", detail=found.licence)
        else:
            yield found


def _read(name: str, unit: Unit, recipe: "Recipe") -> Iterator[Document | Unreadable]:
    if name in SOURCES:
        return SOURCES[name].documents(unit, recipe.languages, recipe.seed)
    corpus = corpora(recipe)[name]
    return readers_of(recipe)[corpus.reader].documents(corpus, unit)
