"""The raw corpora. A new corpus is one module with `units` and `documents`, and one entry here."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from instructrec_jax.instructions.document import Document
from instructrec_jax.instructions.sources import (
    locale_names,
    package_metadata,
    python_code,
    python_topics,
)

# A unit is the piece of a corpus that one call reads: a file, a package, a range of dates.
Unit = tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """A raw corpus.

    `units(languages)` names its pieces in a fixed order; `documents(unit, languages, seed)` yields
    the documents of one piece, the same ones in every process.
    """

    title: str
    description: str
    units: Callable[[tuple[str, ...]], list[Unit]]
    documents: Callable[[Unit, tuple[str, ...], int], Iterator[Document]]


SOURCES = {
    "python_code": Source(
        title="Python standard library",
        description="Functions and classes of the standard library of the running Python, "
        "with their docstrings.",
        units=python_code.units,
        documents=python_code.documents,
    ),
    "python_topics": Source(
        title="Python language reference",
        description="Passages of the reference text behind Python's help().",
        units=python_topics.units,
        documents=python_topics.documents,
    ),
    "locale_names": Source(
        title="Unicode CLDR, through babel",
        description="Names of languages, territories, scripts and currencies, and dates, times, "
        "measures, amounts and lists written by each language's own patterns.",
        units=locale_names.units,
        documents=locale_names.documents,
    ),
    "package_metadata": Source(
        title="Installed packages",
        description="Descriptions and summaries of the Python packages installed here.",
        units=package_metadata.units,
        documents=package_metadata.documents,
    ),
}
