"""Passages of running text: whole paragraphs under one heading, gathered up to a length."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from instructrec_jax.instructions.document import Document, Unreadable
from instructrec_jax.instructions.sources.corpus import Corpus, Option
from instructrec_jax.instructions.sources.files import encoding_problems, shown

PASSAGE_CHARACTERS = 700
# A paragraph without an end, as in a file of one line, is cut at the ends of its sentences.
_LONGEST_PARAGRAPH = 2_000
_SENTENCE_END = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])")
_WIDE = r"[\u3000-\u30ff\u3400-\u9fff\uff00-\uffef]"
_BREAK_IN_WIDE_TEXT = re.compile(rf"(?<={_WIDE})\s*\n\s*(?={_WIDE})")
OPTIONS = {
    "language": Option("", "code of the texts' language, such as en; empty = unknown"),
    "together": Option(
        "",
        "what stays in one split, `file` or `passage`; empty = file, unless the path is one file",
    ),
}


@dataclass(frozen=True)
class Paragraph:
    """A paragraph on one line, the lines that it stands on (from 1), the headings above it."""

    first: int
    last: int
    text: str
    headings: tuple[str, ...]


@dataclass(frozen=True)
class LeftOut:
    """Blocks that are no running text: what they are, and the line of one of them."""

    reason: str
    line: int


def joined(lines: Iterable[str]) -> str:
    """Lines as one; Chinese and Japanese lines are joined without a space."""
    text = "\n".join(line.strip() for line in lines)
    return " ".join(_BREAK_IN_WIDE_TEXT.sub("", text).split())


def prose_documents(
    corpus: Corpus,
    path: str,
    *,
    blocks: Iterable[Paragraph | LeftOut],
    lines: list[str],
    first_line: int,
    encoding: str,
    language: str = "",
) -> Iterator[Document | Unreadable]:
    """Yield a file's passages, then what was left out of it, one item a reason.

    Args:
        corpus: that the file belongs to.
        path: of the file inside the corpus.
        blocks: of the file in order.
        lines: of the file or part, without their ends.
        first_line: number of the first of them.
        encoding: that the file is in.
        language: that the file says it is in; the corpus's option `language` goes before it.
    """
    uri = shown(path)
    left: dict[str, list[int]] = {}
    paragraphs = []
    for block in blocks:
        if isinstance(block, LeftOut):
            left.setdefault(block.reason, []).append(block.line)
        else:
            paragraphs.append(block)
    together = _stays_together(corpus)
    last_span, repeated = (0, 0), 1
    for group, opens in _gathered(paragraphs):
        span = (group[0].first, group[-1].last)
        # Passages that stand on the same lines are told apart by their number.
        repeated = repeated + 1 if span == last_span else 1
        last_span = span
        headings = group[0].headings
        passage = "\n".join(paragraph.text for paragraph in group)
        yield Document(
            corpus=corpus.name,
            uri=uri if repeated == 1 else f"{uri}#{repeated}",
            span=span,
            text=passage,
            licence=corpus.licence,
            group=uri if together else f"{uri}:{span[0]}#{repeated}",
            kind="prose",
            content={
                "title": headings[-1] if headings else "",
                "headings": headings,
                "work": headings[0] if len(headings) > 1 else "",
                "passage": passage,
                "opens": opens,
                "language": corpus.options["language"] or language,
            },
            hashed="\n".join(lines[span[0] - first_line : span[1] - first_line + 1]),
            encoding=encoding,
        )
    for reason, places in left.items():
        detail = f"{len(places)} of them, the first on line {places[0]}"
        yield Unreadable(corpus.name, uri, reason, detail)
    if not paragraphs and not left:
        yield Unreadable(corpus.name, uri, "no_paragraphs")


def problems(corpus: Corpus) -> list[str]:
    """Lines on the path and on options that are not what they may be."""
    found = encoding_problems(corpus)
    if corpus.options["together"] not in ("", "file", "passage"):
        found.append(f"together: {corpus.options['together']!r} is not file or passage")
    return found


def _stays_together(corpus: Corpus) -> bool:
    chosen = corpus.options["together"]
    return chosen == "file" or (not chosen and not Path(corpus.path).expanduser().is_file())


def _gathered(paragraphs: Iterable[Paragraph]) -> Iterator[tuple[list[Paragraph], bool]]:
    """Yield runs of paragraphs of one section, and whether a run begins the section."""
    gathered: list[Paragraph] = []
    opens = length = 0
    section: tuple[str, ...] | None = None
    for paragraph in _cut(paragraphs):
        new_section = paragraph.headings != section
        if gathered and (new_section or length + len(paragraph.text) > PASSAGE_CHARACTERS):
            yield gathered, bool(opens)
            gathered = []
        if not gathered:
            opens, length = new_section, 0
        section = paragraph.headings
        gathered.append(paragraph)
        length += len(paragraph.text)
    if gathered:
        yield gathered, bool(opens)


def _cut(paragraphs: Iterable[Paragraph]) -> Iterator[Paragraph]:
    for paragraph in paragraphs:
        if len(paragraph.text) <= _LONGEST_PARAGRAPH:
            yield paragraph
            continue
        piece = ""
        for sentence in _SENTENCE_END.split(paragraph.text):
            if piece and len(piece) + len(sentence) > PASSAGE_CHARACTERS:
                yield Paragraph(paragraph.first, paragraph.last, piece, paragraph.headings)
                piece = ""
            piece = f"{piece} {sentence}".strip()
        if piece:
            yield Paragraph(paragraph.first, paragraph.last, piece, paragraph.headings)
