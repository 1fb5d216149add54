"""A row of a table as a document: fields under the user's names, by a map from name to column."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from instructrec_jax.errors import nearest
from instructrec_jax.instructions.document import Document, Unreadable
from instructrec_jax.instructions.sources.corpus import Corpus, Option

# Fields that tasks are made from, by what their columns hold.
FIELDS = {
    "text": "the text that a row is about",
    "title": "the text's title",
    "summary": "a summary of the text",
    "label": "the class of the row, which classify_record asks for",
    "category": "another class of the row",
    "rating": "a rating, which sentiment is read off",
}
OPTIONS = {
    "fields": Option(
        {},
        'name → column, such as {"title": "headline", "text": "body", "label": "section"}; a dot '
        "goes into a nested object; empty = every column under its own name",
    ),
    **{
        name: Option("", f"column of {told}; goes before `fields`") for name, told in FIELDS.items()
    },
    "licence_field": Option("", "column of a row's own licence; where it is empty, the corpus's"),
    "group_field": Option("", "column that says which rows stay together in one split"),
    "highest_rating": Option(
        0, "of a field `rating` in plain numbers; 0 = they are stars, from 1 to 5"
    ),
}

_NUMBER = re.compile(r"\s*\d+(?:\.\d+)?\s*")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def row_document(
    corpus: Corpus,
    row: Mapping[str, Any],
    *,
    uri: str,
    span: tuple[int, int],
    raw: str,
    encoding: str = "",
) -> Document | Unreadable:
    """The document of a row, or why there is none: no field holds anything.

    Args:
        corpus: with the options of OPTIONS.
        row: column → value.
        uri: of the file.
        span: of the row in it: its lines, or its number twice.
        raw: what `sha256` covers: the lines as they stand, or `canonical(row)`.
        encoding: that the file is in.
    """
    options = corpus.options
    named = {name: options[name] for name in FIELDS if options[name]}
    columns = {str(key): _text(value) for key, value in row.items()}
    fields = {
        name: columns.get(column, _text(_nested(row, column)))
        for name, column in ((options["fields"] or {key: key for key in columns}) | named).items()
    }
    if not any(value.strip() for value in fields.values()):
        return Unreadable(corpus.name, f"{uri}:{span[0]}", "empty_row")
    if any(map(_LONE_SURROGATE.search, columns.values())):
        # Half a character, as "\\ud83d" in JSON; it can be written in no encoding.
        return Unreadable(corpus.name, f"{uri}:{span[0]}", "half_a_character")
    if options["highest_rating"] and _NUMBER.fullmatch(fields.get("rating", "")):
        fields["rating"] = f"{fields['rating'].strip()}/{options['highest_rating']}"
    text = fields.get("text") or "\n".join(filter(None, fields.values()))
    group = _text(_nested(row, options["group_field"])) if options["group_field"] else ""
    licence = _text(_nested(row, options["licence_field"])) if options["licence_field"] else ""
    return Document(
        corpus=corpus.name,
        uri=uri,
        span=span,
        text=text,
        licence=licence or corpus.licence,
        group=f"group/{group}" if group else f"{uri}:{span[0]}",
        kind="record",
        content={**fields, "columns": columns},
        hashed=raw,
        encoding=encoding,
    )


def canonical(row: Mapping[str, Any]) -> str:
    """A row as JSON with sorted keys, as `sha256` covers rows that are no lines of text."""
    return json.dumps(row, ensure_ascii=False, sort_keys=True, default=str)


def missing_columns(corpus: Corpus, columns: Iterable[str], *, place: str) -> list[str]:
    """A line on each column that the options name and a table lacks."""
    known = tuple(columns)
    options = corpus.options
    wanted = {f"fields.{name}": column for name, column in options["fields"].items()}
    for key in (*FIELDS, "licence_field", "group_field"):
        if options[key]:
            wanted[key] = options[key]
    return [
        f"{key}: {place} has no column {column!r}{nearest(column, known)}; "
        f"it has {', '.join(known)}"
        for key, column in wanted.items()
        if column not in known and column.partition(".")[0] not in known
    ]


def _nested(row: Mapping[str, Any], column: str) -> Any:
    """The value of a column, or of "a.b.c" inside nested objects; None where there is none."""
    if column in row:
        return row[column]
    value: Any = row
    for key in column.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value


def _text(value: Any) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return (
        str(value)
        if type(value) in (int, float)
        else json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
    )
