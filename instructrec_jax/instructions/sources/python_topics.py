"""The reference text that ships with Python (`pydoc_data.topics`), passage by passage."""

import re
from collections.abc import Iterator
from pydoc_data.topics import topics

from instructrec_jax.instructions.document import Document

LICENCE = "PSF-2.0"
WORK = "the Python language reference"
_UNDERLINE = re.compile(r"[*=\-~^]{3,}")
# Passages are whole paragraphs, gathered up to this many characters.
_PASSAGE_CHARACTERS = 700


def units(languages: tuple[str, ...]) -> list[tuple[str, ...]]:
    """One unit a topic."""
    return [(name,) for name in sorted(topics)]


def documents(unit: tuple[str, ...], languages: tuple[str, ...], seed: int) -> Iterator[Document]:
    """Yield the passages of a topic.

    A passage is a document of its own: the passages of one topic may lie in different splits.
    In `content`, `opens` says whether the passage begins with the topic's very first paragraph (a
    code block or half a sentence in front is left out and makes it False).
    """
    (name,) = unit
    text = topics[name]
    heading = _heading(text) or name
    opening = _first_body_line(text)
    for first, last, passage in _passages(text):
        yield Document(
            corpus="python_topics",
            uri=f"pydoc_data.topics:{name}",
            span=(first, last),
            text=passage,
            licence=LICENCE,
            group=f"{name}:{first}",
            kind="prose",
            content={
                "title": heading,
                "headings": (WORK, heading),
                "work": WORK,
                "passage": passage,
                "opens": first == opening,
                "language": "en",
            },
        )


def _heading(text: str) -> str:
    lines = text.strip().splitlines()
    if len(lines) > 1 and _UNDERLINE.fullmatch(lines[1].strip()):
        return lines[0].strip().replace('"', "")
    return ""


def _paragraphs(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield (first line, last line, paragraph) of running text; headings and blocks left out."""
    for first, block in _blocks(text):
        paragraph = " ".join(" ".join(block).split())
        if not _is_heading(block) and _is_prose(block[0], paragraph):
            yield first, first + len(block) - 1, paragraph


def _first_body_line(text: str) -> int:
    """The line, from 1, where the first block that is no heading begins; 0 = there is none."""
    return next((first for first, block in _blocks(text) if not _is_heading(block)), 0)


def _blocks(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (first line, lines) of what blank lines set apart."""
    block: list[str] = []
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        if line.strip():
            block.append(line)
        elif block:
            yield number - len(block), block
            block = []


def _is_prose(first_line: str, paragraph: str) -> bool:
    """Indented blocks are code; what ends in a colon or starts small belongs to one.

    "[1]" starts a footnote, "*" an entry of a list.
    """
    starts_well = not paragraph[0].islower() and paragraph[0] not in "[*"
    return starts_well and not first_line[0].isspace() and paragraph[-1] in ".!?)"


def _is_heading(block: list[str]) -> bool:
    return len(block) <= 2 and bool(_UNDERLINE.fullmatch(block[-1].strip()))


def _passages(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield passages of one or more paragraphs, each with the lines it covers."""
    gathered: list[str] = []
    first = last = 0
    for start, end, paragraph in _paragraphs(text):
        if gathered and len(" ".join(gathered)) + len(paragraph) > _PASSAGE_CHARACTERS:
            yield first, last, "\n".join(gathered)
            gathered = []
        first = first if gathered else start
        gathered.append(paragraph)
        last = end
    if gathered:
        yield first, last, "\n".join(gathered)
