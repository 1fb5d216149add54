"""The raw corpora: four that every machine has, and readers for the user's own.

A new kind of file is one module with `units`, `documents` and OPTIONS, and one entry in READERS.
Everything streams: units are named without their contents being held, and one unit is a file, or a
part of a large one.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from instructrec_jax.instructions.document import Document, Unreadable
from instructrec_jax.instructions.sources import (
    locale_names,
    package_metadata,
    python_code,
    python_topics,
)
from instructrec_jax.instructions.sources.corpus import Corpus, Option, corpus_of

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
    what can be known to be wrong before anything is read. `kind` is that of the documents.
    """

    description: str
    kind: str
    options: Mapping[str, Option]
    units: Callable[[Corpus], Iterator[Unit]]
    documents: Callable[[Corpus, Unit], Iterator[Document | Unreadable]]
    problems: Callable[[Corpus], list[str]]


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
READERS: dict[str, Reader] = {}


def corpora(recipe: "Recipe") -> dict[str, Corpus]:
    """The user's own corpora of a recipe without problems, by name."""
    return {
        entry["name"]: corpus_of(entry, options=READERS[entry["reader"]].options)
        for entry in recipe.corpora
    }


def kind_of(name: str, recipe: "Recipe") -> str:
    """The kind of the documents of a corpus; "" for a corpus or reader that does not exist."""
    if name in SOURCES:
        return SOURCES[name].kind
    readers = [entry.get("reader") for entry in recipe.corpora if entry.get("name") == name]
    return READERS[readers[0]].kind if readers and readers[0] in READERS else ""


def title_of(name: str, recipe: "Recipe") -> str:
    """What a person calls the corpus."""
    return SOURCES[name].title if name in SOURCES else name


def description_of(name: str, recipe: "Recipe") -> str:
    """A sentence on what the corpus holds."""
    if name in SOURCES:
        return SOURCES[name].description
    corpus = corpora(recipe)[name]
    return f"{READERS[corpus.reader].description} Read from {corpus.path}."


def units_of(name: str, recipe: "Recipe") -> Iterator[Unit]:
    """The pieces of a corpus of the recipe, in a fixed order.

    Raises:
        DataError: the corpus is not there or cannot be listed.
    """
    if name in SOURCES:
        yield from SOURCES[name].units(recipe.languages)
        return
    corpus = corpora(recipe)[name]
    yield from READERS[corpus.reader].units(corpus)


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
    return READERS[corpus.reader].documents(corpus, unit)
