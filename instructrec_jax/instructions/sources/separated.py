"""CSV and TSV (RFC 4180): rows with the lines that they stand on, broken ones told apart."""

import csv
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from instructrec_jax.instructions.document import Unreadable
from instructrec_jax.instructions.sources import encodings
from instructrec_jax.instructions.sources.corpus import Corpus
from instructrec_jax.instructions.sources.files import shown, whole_text
from instructrec_jax.instructions.sources.line_files import Line, lines_from

_DELIMITERS = (",", "\t", ";", "|")
# A quoted field may go over lines; a quote that is never closed is given up after so many.
_MOST_LINES = 500
_MOST_CHARACTERS = 1 << 20


@dataclass(frozen=True)
class Dialect:
    """How a file is written: its delimiter, columns, and where its first row of data begins."""

    delimiter: str
    columns: tuple[str, ...]
    data_start: int
    data_line: int


@dataclass(frozen=True)
class Row:
    """A row, or a line that is none (`problem`): its values, lines, bytes and text."""

    values: list[str]
    first: int
    last: int
    start: int
    raw: str
    problem: str = ""
    detail: str = ""


def dialect_of(corpus: Corpus, path: str, encoding: str) -> Dialect | Unreadable:
    """The dialect of a file by its first line, which names the columns unless `columns` does."""
    place = shown(path)
    given = corpus.options["columns"]
    delimiter = corpus.options["delimiter"] or ("\t" if path.endswith((".tsv", ".tab")) else "")
    for line in _lines(corpus, path, encoding, start=0, number=1):
        if isinstance(line, Unreadable):
            return line
        if not line.text.strip():
            continue
        delimiter = delimiter or max(_DELIMITERS, key=line.text.count)
        if given:
            return Dialect(delimiter, given, line.start, line.number)
        try:
            (names,) = csv.reader([line.text], delimiter=delimiter, strict=True)
        except (csv.Error, ValueError) as error:
            return Unreadable(corpus.name, place, "broken_header", str(error))
        names = [name.strip() for name in names]
        if len(set(names)) < len(names):
            return Unreadable(corpus.name, place, "broken_header", "two columns of one name")
        return Dialect(delimiter, tuple(names), line.end, line.number + 1)
    return Unreadable(corpus.name, place, "empty")


@dataclass(frozen=True)
class _TextLine:
    number: int
    start: int
    end: int
    text: str
    decodes: bool = True


def _lines(
    corpus: Corpus, path: str, encoding: str, *, start: int, number: int
) -> Iterator[_TextLine | Unreadable]:
    """Yield a file's lines as text; those of a file in UTF-16 have their number as offset."""
    if encoding in encodings.WIDE:
        found = whole_text(corpus, path)
        if isinstance(found, Unreadable):
            yield found
            return
        for place, text in enumerate(found[0].split("\n"), start=1):
            if place >= number:
                yield _TextLine(place, place - 1, place, text)
        return
    for line in lines_from(corpus, path, start=start, number=number):
        yield _decoded(line, encoding)


def _decoded(line: Line, encoding: str) -> _TextLine:
    try:
        text = line.data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError:
        return _TextLine(line.number, line.start, line.end, "", decodes=False)
    return _TextLine(line.number, line.start, line.end, text)


def rows_from(
    corpus: Corpus, path: str, *, encoding: str, dialect: Dialect, start: int, number: int
) -> Iterator[Row]:
    """Yield the rows from the one that begins at byte `start`, line `number`.

    A line at which no row of the file's columns begins is given up by itself, and reading goes on
    with the next one: a stray quote costs one line, not the rest of the file.
    """
    csv.field_size_limit(_MOST_CHARACTERS)
    source = _lines(corpus, path, encoding, start=start, number=number)
    ahead: deque[_TextLine] = deque()
    while True:
        if not ahead:
            line = next(source, None)
            if line is None or isinstance(line, Unreadable):
                return
            ahead.append(line)
        if not ahead[0].text and ahead[0].decodes:
            ahead.popleft()
            continue
        row, used = _row(ahead, source, dialect)
        yield row
        for _ in range(used):
            ahead.popleft()


def _row(
    ahead: deque[_TextLine], source: Iterator[_TextLine | Unreadable], dialect: Dialect
) -> tuple[Row, int]:
    """The row that begins at the first line ahead, and how many lines it takes."""
    first = ahead[0]
    taken = length = 0

    def lines() -> Iterator[str]:
        nonlocal taken, length
        while taken < _MOST_LINES and length < _MOST_CHARACTERS:
            if taken == len(ahead):
                following = next(source, None)
                if following is None or isinstance(following, Unreadable):
                    return
                ahead.append(following)
            line = ahead[taken]
            if not line.decodes:
                return
            taken += 1
            length += len(line.text) + 1
            yield line.text + "\n"

    def broken(problem: str, detail: str) -> tuple[Row, int]:
        bad = Row([], first.number, first.number, first.start, first.text, problem, detail)
        return bad, 1

    if not first.decodes:
        return broken("undecodable", "")
    try:
        values = next(csv.reader(lines(), delimiter=dialect.delimiter, strict=True))
    except (csv.Error, StopIteration) as error:
        return broken("broken_row", str(error))
    if len(values) != len(dialect.columns):
        return broken("broken_row", f"{len(values)} values for {len(dialect.columns)} columns")
    raw = "\n".join(line.text for line in list(ahead)[:taken])
    return Row(values, first.number, first.number + taken - 1, first.start, raw), taken
