"""Tables: JSON lines, JSON, CSV and TSV (large files in parts), and Parquet by row groups."""

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from instructrec_jax.errors import DataError
from instructrec_jax.instructions.document import Document, Unreadable
from instructrec_jax.instructions.sources import encodings, rows, separated
from instructrec_jax.instructions.sources.corpus import Corpus, Option
from instructrec_jax.instructions.sources.files import (
    FILE,
    PART,
    ROWS_BYTES,
    encoding_problems,
    file_options,
    left_out,
    listed,
    root_of,
    shown,
    whole_text,
)
from instructrec_jax.instructions.sources.line_files import file_encoding, in_parts, lines_from

FORMATS = {
    ".jsonl": "json_lines",
    ".ndjson": "json_lines",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".parquet": "parquet",
}
OPTIONS = {
    **file_options(*(f"*{suffix}" for suffix in FORMATS)),
    **rows.OPTIONS,
    "format": Option("", "json_lines, json, csv or parquet, for all files; empty = by their names"),
    "delimiter": Option("", "of CSV; empty = found out from the first line"),
    "columns": Option((), "names of the columns of CSV files that have no line of names"),
}
ROW_GROUP = "row_group"
_LOOKED_AT = 20


def format_of(corpus: Corpus, path: str) -> str:
    """The form of a file; "" where its name does not tell."""
    return corpus.options["format"] or FORMATS.get(PurePosixPath(path).suffix.lower(), "")


def units(corpus: Corpus) -> Iterator[tuple[str, ...]]:
    """The corpus's files; large files of lines in parts, Parquet files by row groups."""
    for unit in listed(corpus):
        form = format_of(corpus, unit[1]) if unit[0] == FILE else ""
        if form == "json_lines":
            yield from in_parts(corpus, unit, at_blank_lines=False)
        elif form == "csv":
            yield from _csv_parts(corpus, unit)
        elif form == "parquet":
            yield from _row_groups(corpus, unit)
        else:
            yield unit


def documents(corpus: Corpus, unit: tuple[str, ...]) -> Iterator[Document | Unreadable]:
    """The rows of a piece as documents; rows that are broken are counted, each with its line.

    `span` holds the lines of a row and `sha256` covers them; for JSON and Parquet it holds the
    row's number twice, and `sha256` covers the row as JSON with sorted keys.
    """
    action, path = unit[0], unit[1]
    if action not in (FILE, PART, ROW_GROUP):
        yield from left_out(corpus, unit)
        return
    read = {"json_lines": _json_lines, "json": _json, "csv": _csv, "parquet": _parquet}
    form = format_of(corpus, path)
    if form not in read:
        yield Unreadable(corpus.name, shown(path), "unknown_format", "give the option `format`")
        return
    yield from read[form](corpus, unit)


def _bounds(corpus: Corpus, unit: tuple[str, ...]) -> tuple[int, int, int, str] | Unreadable:
    """First byte, last byte, number of the first line and encoding of a file or part."""
    if unit[0] == PART:
        return int(unit[2]), int(unit[3]), int(unit[4]), unit[5]
    encoding = file_encoding(corpus, unit[1])
    return encoding if isinstance(encoding, Unreadable) else (0, 1 << 62, 1, encoding)


def _json_lines(corpus: Corpus, unit: tuple[str, ...]) -> Iterator[Document | Unreadable]:
    uri = shown(unit[1])
    for number, text, encoding in _text_lines(corpus, unit):
        if isinstance(text, Unreadable):
            yield text
        elif text.strip():
            row = _object(text)
            if isinstance(row, str):
                yield Unreadable(corpus.name, f"{uri}:{number}", "broken_row", row)
            else:
                yield rows.row_document(
                    corpus, row, uri=uri, span=(number, number), raw=text, encoding=encoding
                )


def _text_lines(
    corpus: Corpus, unit: tuple[str, ...]
) -> Iterator[tuple[int, str | Unreadable, str]]:
    """Yield the number, the text and the encoding of each line of a file or part."""
    path = unit[1]
    bounds = _bounds(corpus, unit)
    if isinstance(bounds, Unreadable):
        yield 0, bounds, ""
        return
    start, end, first, encoding = bounds
    if encoding in encodings.WIDE:
        found = whole_text(corpus, path)
        if isinstance(found, Unreadable):
            yield 0, found, ""
            return
        for number, text in enumerate(found[0].split("\n"), start=1):
            yield number, text, encoding
        return
    for line in lines_from(corpus, path, start=start, number=first):
        if line.start >= end:
            return
        try:
            yield line.number, line.data.decode(encoding).removeprefix("\ufeff"), encoding
        except UnicodeDecodeError:
            place = f"{shown(path)}:{line.number}"
            yield line.number, Unreadable(corpus.name, place, "undecodable", encoding), encoding


def _object(text: str) -> dict[str, Any] | str:
    """The JSON object of a text, or what is wrong with it."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        return str(error)
    return row if isinstance(row, dict) else f"{type(row).__name__}, not an object"


def _json(corpus: Corpus, unit: tuple[str, ...]) -> Iterator[Document | Unreadable]:
    """An array of objects, or an object with one such array inside."""
    uri = shown(unit[1])
    found = whole_text(corpus, unit[1])
    if isinstance(found, Unreadable):
        yield found
        return
    try:
        table = json.loads(found[0])
    except (ValueError, RecursionError) as error:
        yield Unreadable(corpus.name, uri, "broken_file", str(error))
        return
    if isinstance(table, dict):
        arrays = [value for value in table.values() if isinstance(value, list)]
        table = arrays[0] if len(arrays) == 1 else [table]
    for number, row in enumerate(table if isinstance(table, list) else [], start=1):
        if isinstance(row, dict):
            yield rows.row_document(
                corpus, row, uri=uri, span=(number, number), raw=rows.canonical(row),
                encoding=found[1],
            )  # fmt: skip
        else:
            yield Unreadable(corpus.name, f"{uri}:{number}", "broken_row", type(row).__name__)
    if not table or not isinstance(table, list):
        yield Unreadable(corpus.name, uri, "empty")


def _csv(corpus: Corpus, unit: tuple[str, ...]) -> Iterator[Document | Unreadable]:
    uri = shown(unit[1])
    bounds = _bounds(corpus, unit)
    if isinstance(bounds, Unreadable):
        yield bounds
        return
    start, end, first, encoding = bounds
    dialect = separated.dialect_of(corpus, unit[1], encoding)
    if isinstance(dialect, Unreadable):
        yield dialect
        return
    missing = rows.missing_columns(corpus, dialect.columns, place=uri)
    if missing:
        yield Unreadable(corpus.name, uri, "missing_column", missing[0])
        return
    if start == 0:
        start, first = dialect.data_start, dialect.data_line
    for row in separated.rows_from(
        corpus, unit[1], encoding=encoding, dialect=dialect, start=start, number=first
    ):
        if row.start >= end:
            return
        if row.problem:
            yield Unreadable(corpus.name, f"{uri}:{row.first}", row.problem, row.detail)
        else:
            fields = dict(zip(dialect.columns, row.values, strict=True))
            yield rows.row_document(
                corpus, fields, uri=uri, span=(row.first, row.last), raw=row.raw, encoding=encoding
            )


def _csv_parts(corpus: Corpus, unit: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The parts of a large CSV file, found by a pass over it: a row may hold newlines."""
    path = unit[1]
    place = root_of(corpus.path) / path
    encoding = file_encoding(corpus, path)
    size = place.stat().st_size if place.exists() else 0
    if size <= ROWS_BYTES or isinstance(encoding, Unreadable) or encoding in encodings.WIDE:
        yield unit
        return
    dialect = separated.dialect_of(corpus, path, encoding)
    if isinstance(dialect, Unreadable):
        yield unit
        return
    start, first = 0, 1
    for row in separated.rows_from(
        corpus, path, encoding=encoding, dialect=dialect,
        start=dialect.data_start, number=dialect.data_line,
    ):  # fmt: skip
        if row.start - start >= ROWS_BYTES:
            yield PART, path, str(start), str(row.start), str(first), encoding
            start, first = row.start, row.first
    yield PART, path, str(start), str(size), str(first), encoding


def _row_groups(corpus: Corpus, unit: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(root_of(corpus.path) / unit[1]) as file:
            first = 1
            for number in range(file.num_row_groups):
                yield ROW_GROUP, unit[1], str(number), str(first)
                first += file.metadata.row_group(number).num_rows
    except (pyarrow.ArrowException, OSError):
        # Told, and counted, where it is read.
        yield unit


def _parquet(corpus: Corpus, unit: tuple[str, ...]) -> Iterator[Document | Unreadable]:
    import pyarrow
    import pyarrow.parquet

    path = unit[1]
    uri = shown(path)
    try:
        file = pyarrow.parquet.ParquetFile(root_of(corpus.path) / path)
    except (pyarrow.ArrowException, OSError) as error:
        yield Unreadable(corpus.name, uri, "broken_file", str(error).partition("\n")[0])
        return
    with file:
        missing = rows.missing_columns(corpus, file.schema_arrow.names, place=uri)
        if missing:
            yield Unreadable(corpus.name, uri, "missing_column", missing[0])
            return
        if unit[0] == FILE:
            yield Unreadable(corpus.name, uri, "empty")
            return
        number = int(unit[3])
        try:
            for batch in file.iter_batches(row_groups=[int(unit[2])], batch_size=1_000):
                for row in batch.to_pylist():
                    yield rows.row_document(
                        corpus, row, uri=uri, span=(number, number), raw=rows.canonical(row)
                    )
                    number += 1
        except (pyarrow.ArrowException, OSError) as error:
            detail = str(error).partition("\n")[0]
            yield Unreadable(corpus.name, f"{uri}:{number}", "broken_row_group", detail)


def problems(corpus: Corpus) -> list[str]:
    """Lines on the path, and on columns that the first file has not."""
    found = encoding_problems(corpus)
    form = corpus.options["format"]
    if form and form not in FORMATS.values():
        found.append(f"format: {form!r} is not one of {', '.join(dict.fromkeys(FORMATS.values()))}")
    if len(corpus.options["delimiter"]) > 1:
        found.append(f"delimiter: {corpus.options['delimiter']!r} is more than one character")
    if found:
        return found
    try:
        first = next((unit for unit in listed(corpus) if unit[0] == FILE), None)
    except DataError as error:
        return [str(error)]
    columns = first_columns(corpus, first[1]) if first else None
    return rows.missing_columns(corpus, columns, place=shown(first[1])) if first and columns else []


def first_columns(corpus: Corpus, path: str) -> Mapping[str, None] | None:
    """The columns of a file by its first rows; None where it cannot be told."""
    form = format_of(corpus, path)
    if form == "csv":
        encoding = file_encoding(corpus, path)
        if isinstance(encoding, Unreadable):
            return None
        dialect = separated.dialect_of(corpus, path, encoding)
        return None if isinstance(dialect, Unreadable) else dict.fromkeys(dialect.columns)
    if form == "json_lines":
        texts = (text for _, text, _ in _text_lines(corpus, (FILE, path)))
        found = [_object(text) for text in islice(texts, _LOOKED_AT) if isinstance(text, str)]
        columns = {key: None for row in found if isinstance(row, dict) for key in row}
        return columns or None
    return None
