"""Large files by lines: parts of them by byte offset, with the numbers of their lines."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from instructrec_jax.instructions.document import Unreadable
from instructrec_jax.instructions.sources import encodings
from instructrec_jax.instructions.sources.corpus import Corpus
from instructrec_jax.instructions.sources.files import (
    FILE,
    PART,
    PART_BYTES,
    ROWS_BYTES,
    WHOLE_FILE_BYTES,
    Unit,
    root_of,
    shown,
    whole_text,
)

_SAMPLE_BYTES = 1 << 18


@dataclass(frozen=True)
class PartText:
    """Lines of a file: their text, the number of the first, the file's encoding."""

    text: str
    first_line: int
    encoding: str


@dataclass(frozen=True)
class Line:
    """A line without its end: its number from 1, where it begins and where the next one does."""

    number: int
    start: int
    end: int
    data: bytes


def file_encoding(corpus: Corpus, path: str) -> str | Unreadable:
    """The encoding of a file by its first bytes, or why there is none."""
    try:
        with open(root_of(corpus.path) / path, "rb") as file:
            sample = file.read(_SAMPLE_BYTES)
            whole = not file.read(1)
    except OSError as error:
        return Unreadable(corpus.name, shown(path), "unreadable", error.strerror or "")
    if not sample:
        return Unreadable(corpus.name, shown(path), "empty")
    if corpus.options["encoding"]:
        return corpus.options["encoding"]
    try:
        return encodings.encoding_of(sample, whole=whole)
    except encodings.UndecodableError as error:
        return Unreadable(corpus.name, shown(path), error.reason, error.detail)


def lines_from(corpus: Corpus, path: str, *, start: int = 0, number: int = 1) -> Iterator[Line]:
    """Yield the lines of a file from an offset on; nothing but the line is held.

    Args:
        corpus: that the file belongs to.
        path: of the file inside the corpus.
        start: byte at which a line begins.
        number: of that line.
    """
    with open(root_of(corpus.path) / path, "rb") as file:
        file.seek(start)
        for data in iter(partial(file.readline, WHOLE_FILE_BYTES), b""):
            end = start + len(data)
            yield Line(number, start, end, data.rstrip(b"\r\n"))
            start, number = end, number + 1


def in_parts(corpus: Corpus, unit: Unit, *, at_blank_lines: bool) -> Iterator[Unit]:
    """A file's units: itself, or ("part", path, start, end, first line, encoding) of a large one.

    Offsets count bytes. Files in UTF-16 or UTF-32 stay whole.
    """
    path = unit[1]
    place = root_of(corpus.path) / path
    encoding = ""
    most = PART_BYTES if at_blank_lines else ROWS_BYTES
    if place.exists() and place.stat().st_size > most:
        found = file_encoding(corpus, path)
        encoding = "" if isinstance(found, Unreadable) else found
    if not encoding or encoding in encodings.WIDE:
        yield unit
        return
    start, first = 0, 1
    for line in lines_from(corpus, path):
        good = not at_blank_lines or not line.data.strip() or line.end - start >= 2 * most
        if good and line.end - start >= most:
            yield PART, path, str(start), str(line.end), str(first), encoding
            start, first = line.end, line.number + 1
    if start < place.stat().st_size:
        yield PART, path, str(start), str(place.stat().st_size), str(first), encoding


def part_text(corpus: Corpus, unit: Unit) -> PartText | Unreadable:
    """The text of a whole file or of a part of one, or why it cannot be read."""
    if unit[0] == FILE:
        found = whole_text(corpus, unit[1])
        return found if isinstance(found, Unreadable) else PartText(found[0], 1, found[1])
    _, path, start, end, first, encoding = unit
    with open(root_of(corpus.path) / path, "rb") as file:
        file.seek(int(start))
        data = file.read(int(end) - int(start))
    try:
        text, _ = encodings.decoded(data, encoding=encoding)
    except encodings.UndecodableError as error:
        return Unreadable(corpus.name, f"{shown(path)}:{first}", error.reason, error.detail)
    return PartText(text, int(first), encoding)
