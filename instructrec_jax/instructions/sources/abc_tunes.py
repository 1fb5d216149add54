"""ABC music: files of one or many tunes, each from its X: line to the next.

The notation is that of the ABC standard 2.1 (abcnotation.com).
"""

import re
from collections.abc import Iterator

from instructrec_jax.instructions.document import Document, Unreadable
from instructrec_jax.instructions.sources.corpus import Corpus
from instructrec_jax.instructions.sources.files import (
    FILE,
    encoding_problems,
    file_options,
    left_out,
    listed,
    shown,
    whole_text,
)

OPTIONS = file_options("*.abc")
_FIELD = re.compile(r"([A-Za-z+]):\s*(.*)")
_NOTE = re.compile(r"[A-Ga-g]")
problems = encoding_problems


def units(corpus: Corpus) -> Iterator[tuple[str, ...]]:
    """The corpus's files."""
    return listed(corpus)


def documents(corpus: Corpus, unit: tuple[str, ...]) -> Iterator[Document | Unreadable]:
    """The tunes of a file. A tune without a key (K:) or without notes is counted as unreadable.

    The same tune in several settings, told by its first title, stays in one split.
    """
    if unit[0] != FILE:
        yield from left_out(corpus, unit)
        return
    found = whole_text(corpus, unit[1])
    if isinstance(found, Unreadable):
        yield found
        return
    text, encoding = found
    lines = text.split("\n")
    starts = [number for number, line in enumerate(lines) if re.match(r"X:\s*\d", line)]
    if not starts:
        yield Unreadable(corpus.name, shown(unit[1]), "no_tunes")
    for first, following in zip(starts, [*starts[1:], len(lines)], strict=True):
        last = first + 1
        # A blank line ends a tune: what stands behind it is the collection's own text.
        while last < following and lines[last].strip():
            last += 1
        yield _tune(corpus, unit[1], lines[first:last], first=first + 1, encoding=encoding)


def _tune(
    corpus: Corpus, path: str, lines: list[str], *, first: int, encoding: str
) -> Document | Unreadable:
    uri = shown(path)
    fields: dict[str, str] = {}
    end = 0
    for number, line in enumerate(lines, start=1):
        match = _FIELD.match(line)
        if match:
            fields.setdefault(match[1], match[2].partition("%")[0].strip())
        if match and match[1] == "K":
            end = number
            break
    body = "\n".join(line.rstrip() for line in lines[end:] if not line.startswith("%"))
    if not end or not fields["K"]:
        return Unreadable(corpus.name, f"{uri}:{first}", "no_key")
    if not _NOTE.search(re.sub(r"^[A-Za-z]:.*$|\"[^\"]*\"", "", body, flags=re.MULTILINE)):
        return Unreadable(corpus.name, f"{uri}:{first}", "no_notes")
    title = fields.get("T", "")
    raw = "\n".join(lines)
    return Document(
        corpus=corpus.name,
        uri=uri,
        span=(first, first + len(lines) - 1),
        text=body,
        licence=corpus.licence,
        group=f"tune/{title.casefold()}" if title else f"{uri}:{first}",
        kind="tune",
        content={
            "title": title,
            "metre": fields.get("M", ""),
            "key": fields["K"],
            "unit_length": fields.get("L", ""),
            "rhythm": fields.get("R", ""),
            "headers": "\n".join(lines[:end]),
            "body": body,
        },
        hashed=raw,
        encoding=encoding,
    )
