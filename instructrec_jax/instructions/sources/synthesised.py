"""Instructions that a model made of documents, as synthesis/corpus.py writes them.

A file of JSON lines, one a document: where it comes from, and what was made of it or why not. The
build writes and names it itself: build --synthesiser=CHECKPOINT.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from instructrec_jax.errors import DataError
from instructrec_jax.instructions.document import Document, Unreadable
from instructrec_jax.instructions.sources.corpus import Corpus, Option

KIND = "synthesised"
OPTIONS: dict[str, Option] = {}


def problems(corpus: Corpus) -> list[str]:
    """A line where there is no such file."""
    return [] if Path(corpus.path).is_file() else [f"path: there is no file {corpus.path}"]


def files(corpus: Corpus) -> Iterator[Path]:
    """The file."""
    yield Path(corpus.path)


def units(corpus: Corpus) -> Iterator[tuple[str, ...]]:
    """The file."""
    yield (corpus.path,)


def documents(corpus: Corpus, unit: tuple[str, ...]) -> Iterator[Document | Unreadable]:
    """The documents that something was made of, and each refusal with its reason.

    A document keeps the name of its first corpus, its group and its hash, so that it falls into the
    same split as what else is made of it, and its text: where that is (nearly) in a held-out split,
    what was made of it leaves train with the original. It is no duplicate of the original itself.

    Raises:
        DataError: the file is none that a synthesiser wrote.
    """
    with open(unit[0], encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                stored, made = record["document"], record["made"]
                span = tuple(stored["span"]) if stored["span"] else None
                kept = [each for each in made if not each["reason"]]
                original = Document(**{**stored, "span": span}, kind=KIND, content={"made": kept})
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{unit[0]}:{number}: not written by a synthesiser") from error
            for each in made:
                if each["reason"]:
                    asked = f"{each['direction']}: {each['instruction']}"
                    yield Unreadable(corpus.name, original.uri, each["reason"], asked)
            if kept:
                yield original
