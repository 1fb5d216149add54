"""Plain text and Markdown files: their passages, under their headings.

Files above 4 MiB are read in parts that end at a blank line, with the file's own line numbers.
"""

import re
from collections.abc import Iterator

from markdown_it import MarkdownIt
from markdown_it.token import Token

from instructrec_jax.instructions.document import Document, Unreadable
from instructrec_jax.instructions.sources import prose
from instructrec_jax.instructions.sources.corpus import Corpus
from instructrec_jax.instructions.sources.files import FILE, PART, file_options, left_out, listed
from instructrec_jax.instructions.sources.line_files import in_parts, part_text
from instructrec_jax.instructions.sources.prose import LeftOut, Paragraph

TEXT_OPTIONS = {**file_options("*.txt", "*.text", "*.rst"), **prose.OPTIONS}
MARKDOWN_OPTIONS = {
    **file_options("*.md", "*.markdown", "*.mdown", "*.mkd"),
    **prose.OPTIONS,
}
_UNDERLINE = re.compile(r"([=\-~^*#\"'`+:._])\1{2,}")
_CHAPTER = re.compile(
    r"(chapter|part|book|section|appendix|kapitel|chapitre)\s+[\divxlc]+\b.{0,60}"
    r"|第[\d一二三四五六七八九十百零〇]+[章节節回卷部篇].{0,40}",
    re.IGNORECASE,
)
_HEADING_CHARACTERS = 80
# Running text is made of letters; a table or a drawing is not.
_LEAST_LETTERS = 0.5
_FRONT_MATTER = re.compile(r"---\n(.*?)\n(?:---|\.\.\.)\n", re.DOTALL)
_FRONT_TITLE = re.compile(r"^title:\s*[\"']?(.*?)[\"']?\s*$", re.MULTILINE)
_MARKDOWN = MarkdownIt("commonmark").enable("table")


def units(corpus: Corpus) -> Iterator[tuple[str, ...]]:
    """The corpus's files, large ones in parts."""
    for unit in listed(corpus):
        yield from in_parts(corpus, unit, at_blank_lines=True) if unit[0] == FILE else (unit,)


def text_documents(corpus: Corpus, unit: tuple[str, ...]) -> Iterator[Document | Unreadable]:
    """The passages of a text file: paragraphs are set apart by blank lines.

    Headings are underlined lines, short lines in capitals, "Chapter 3", and a short first line.
    Blocks that are mostly no letters (tables, drawings) are left out and counted.
    """
    if unit[0] not in (FILE, PART):
        yield from left_out(corpus, unit)
        return
    text = part_text(corpus, unit)
    if isinstance(text, Unreadable):
        yield text
        return
    lines = text.text.split("\n")
    yield from prose.prose_documents(
        corpus,
        unit[1],
        blocks=text_blocks(lines, text.first_line),
        lines=lines,
        first_line=text.first_line,
        encoding=text.encoding,
    )


def text_blocks(lines: list[str], first_line: int) -> Iterator[Paragraph | LeftOut]:
    """Yield the paragraphs of plain text, with their lines numbered from `first_line`."""
    headings: tuple[str, ...] = ()
    has_title = 0
    block: list[str] = []
    opens = first_line == 1
    for number, line in enumerate([*lines, ""], start=first_line):
        if line.strip():
            block.append(line)
            continue
        if not block:
            continue
        first, text = number - len(block), prose.joined(block)
        title = _heading(block, opens=opens)
        if title:
            # What stands before everything else is the whole text's title.
            headings = (title,) if opens else (*headings[:has_title], title)
            has_title = 1 if opens else has_title
        elif sum(map(str.isalpha, text)) < _LEAST_LETTERS * len(text.replace(" ", "")):
            yield LeftOut("no_running_text", first)
        else:
            yield Paragraph(first, number - 1, text, headings)
        opens = False
        block = []


def _heading(block: list[str], *, opens: bool) -> str:
    """The heading that a block is, "" if it is none; `opens`: nothing stood before it."""
    lines = [line.strip() for line in block]
    if len(lines) == 3 and _UNDERLINE.fullmatch(lines[0]):
        lines = lines[1:]
    if len(lines) == 2 and _UNDERLINE.fullmatch(lines[1]) and len(lines[0]) <= _HEADING_CHARACTERS:
        return lines[0]
    line = lines[0]
    if len(lines) > 1 or len(line) > _HEADING_CHARACTERS or not any(map(str.isalpha, line)):
        return ""
    told = opens and line[-1] not in ".!?;:,。！？；：，"
    capitals = line.isupper() and len(line) > 3
    return line if told or capitals or _CHAPTER.fullmatch(line) else ""


def markdown_documents(corpus: Corpus, unit: tuple[str, ...]) -> Iterator[Document | Unreadable]:
    """The passages of a Markdown file, as plain text under the path of their headings.

    Code, tables and raw HTML are left out and counted; links keep their words.
    """
    if unit[0] not in (FILE, PART):
        yield from left_out(corpus, unit)
        return
    text = part_text(corpus, unit)
    if isinstance(text, Unreadable):
        yield text
        return
    yield from prose.prose_documents(
        corpus,
        unit[1],
        blocks=markdown_blocks(text.text, text.first_line),
        lines=text.text.split("\n"),
        first_line=text.first_line,
        encoding=text.encoding,
    )


def markdown_blocks(text: str, first_line: int) -> Iterator[Paragraph | LeftOut]:
    """Yield the paragraphs of Markdown, with their lines numbered from `first_line`."""
    headings: dict[int, str] = {}
    front = _FRONT_MATTER.match(text) if first_line == 1 else None
    if front:
        title = _FRONT_TITLE.search(front[1])
        if title and title[1]:
            headings[0] = title[1]
        # Blank lines in its place keep the numbers of those behind it.
        text = "\n" * front[0].count("\n") + text[front.end() :]
    tokens = _MARKDOWN.parse(text)
    in_table = False
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        line = first_line + (token.map[0] if token.map else 0)
        if token.type == "table_open":
            in_table = True
            yield LeftOut("table", line)
        elif token.type == "table_close":
            in_table = False
        elif token.type in ("fence", "code_block"):
            yield LeftOut("code_block", line)
        elif token.type == "html_block":
            if not token.content.startswith("<!--"):
                yield LeftOut("html_block", line)
        elif token.type == "heading_open" and following:
            level = int(token.tag[1:])
            headings = {depth: kept for depth, kept in headings.items() if depth < level}
            headings[level] = _plain(following)
        elif token.type == "paragraph_open" and following and not in_table and token.map:
            words = _plain(following)
            last = first_line + token.map[1] - 1
            if any(map(str.isalpha, words)):
                path = tuple(title for _, title in sorted(headings.items()) if title)
                yield Paragraph(line, last, words, path)


def _plain(inline: Token) -> str:
    """The words of an inline token, without marks, images and HTML."""
    return prose.joined(["".join(map(_words, inline.children or []))])


def _words(token: Token) -> str:
    if token.type in ("softbreak", "hardbreak"):
        return "\n"
    return token.content if token.type in ("text", "code_inline") else ""
