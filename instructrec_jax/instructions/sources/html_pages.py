"""HTML pages: their title, headings, paragraphs and lists, by lxml."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import lxml.etree
import lxml.html

from instructrec_jax.instructions.document import Document, Unreadable
from instructrec_jax.instructions.sources import prose
from instructrec_jax.instructions.sources.corpus import Corpus
from instructrec_jax.instructions.sources.files import (
    FILE,
    file_options,
    left_out,
    listed,
    shown,
    whole_bytes,
    whole_text,
)
from instructrec_jax.instructions.sources.prose import LeftOut, Paragraph

OPTIONS = {**file_options("*.html", "*.htm", "*.xhtml"), **prose.OPTIONS}
_CHARSET = re.compile(rb"<(?:meta|\?xml)[^>]*?(?:charset|encoding)\s*=\s*[\"']?([\w.:-]+)", re.I)
# Never text: their contents are dropped.
_SILENT_WORDS = """
script style template noscript head svg math iframe object canvas audio video select button form
"""
_SILENT = frozenset(_SILENT_WORDS.split())
# Not the page's own words; left out and counted.
_LEFT_OUT = {
    "table": "table",
    "pre": "code_block",
    "nav": "navigation",
    "header": "navigation",
    "footer": "navigation",
    "aside": "navigation",
}
_INLINE_WORDS = """
a abbr acronym b bdi bdo big br cite code data del dfn em font i img ins kbd label mark q rp rt ruby
s samp small span strike strong sub sup time tt u var wbr
"""
_INLINE = frozenset(_INLINE_WORDS.split())
_LEAST_CHARACTERS = 2
_UNSEEN_STYLE = re.compile(r"(?:^|;)\s*(?:display\s*:\s*none|visibility\s*:\s*hidden)", re.I)
_HIDDEN = "hidden_text"


def documents(corpus: Corpus, unit: tuple[str, ...]) -> Iterator[Document | Unreadable]:
    """The passages of a page: `span` ends on the line of source on which the next block begins."""
    if unit[0] != FILE:
        yield from left_out(corpus, unit)
        return
    path = unit[1]
    data = whole_bytes(corpus, path)
    told = _CHARSET.search(data[:2048]) if isinstance(data, bytes) else None
    found = whole_text(corpus, path, encoding=told[1].decode("ascii", "ignore") if told else "")
    if isinstance(found, Unreadable):
        yield found
        return
    text, encoding = found
    parser = lxml.html.HTMLParser(encoding="utf-8", huge_tree=True, no_network=True)
    try:
        page = lxml.html.document_fromstring(text.encode("utf-8", "replace"), parser=parser)
    except (lxml.etree.ParserError, lxml.etree.XMLSyntaxError) as error:
        yield Unreadable(corpus.name, shown(path), "no_html", str(error))
        return
    lines = text.split("\n")
    yield from prose.prose_documents(
        corpus,
        path,
        blocks=_blocks(page, last_line=len(lines)),
        lines=lines,
        first_line=1,
        encoding=encoding,
        language=(page.get("lang") or "").replace("-", "_"),
    )


def units(corpus: Corpus) -> Iterator[tuple[str, ...]]:
    """The corpus's pages."""
    return listed(corpus)


@dataclass
class _State:
    """What was gathered since the last block began."""

    headings: dict[int, str]
    line: int = 1
    words: list[str] = field(default_factory=list)
    level: int = -1


def _blocks(page: lxml.html.HtmlElement, *, last_line: int) -> Iterator[Paragraph | LeftOut]:
    """Yield the page's paragraphs in order, each up to the line before the next block's."""
    waiting: Paragraph | None = None
    for block in _raw_blocks(page):
        if isinstance(block, LeftOut):
            yield block
            continue
        if waiting is not None:
            end = max(waiting.first, block.first)
            yield Paragraph(waiting.first, end, waiting.text, waiting.headings)
        waiting = block
    if waiting is not None:
        yield Paragraph(waiting.first, last_line, waiting.text, waiting.headings)


def _raw_blocks(page: lxml.html.HtmlElement) -> Iterator[Paragraph | LeftOut]:
    title = prose.joined([page.findtext(".//title") or ""])
    state = _State(headings={0: title} if title else {})
    hidden = 0
    for event, element in lxml.etree.iterwalk(page, events=("start", "end", "comment", "pi")):
        tag = element.tag if isinstance(element.tag, str) else ""
        unseen = bool(tag) and tag not in _SILENT and _is_unseen(element)
        drops = unseen or tag in _SILENT or tag in _LEFT_OUT
        if event == "start":
            if not hidden and tag not in _INLINE:
                yield from _flushed(state)
                state.line = element.sourceline or state.line
                is_heading = not unseen and re.fullmatch("h[1-6]", tag)
                state.level = int(tag[1]) if is_heading else -1
            if not hidden and tag in _LEFT_OUT:
                yield LeftOut(_LEFT_OUT[tag], element.sourceline or state.line)
            elif not hidden and unseen and any(map(str.isalpha, element.text_content())):
                yield LeftOut(_HIDDEN, element.sourceline or state.line)
            hidden += drops
            if not hidden:
                state.words.append("\n" if tag == "br" else element.text or "")
            continue
        if event == "end":
            hidden -= drops
            if not hidden and tag not in _INLINE and not drops:
                yield from _flushed(state)
                state.level = -1
        if not hidden:
            state.words.append(element.tail or "")
    yield from _flushed(state)


def _is_unseen(element: lxml.html.HtmlElement) -> bool:
    """Whether the page itself says that the element is not to be seen or not to be read."""
    return (
        "hidden" in element.attrib
        or element.get("aria-hidden", "").strip().lower() == "true"
        or _UNSEEN_STYLE.search(element.get("style", "")) is not None
    )


def _flushed(state: _State) -> Iterator[Paragraph]:
    """The paragraph or heading that the words gathered so far make up."""
    text = prose.joined(["".join(state.words)])
    state.words.clear()
    if len(text) < _LEAST_CHARACTERS or not any(map(str.isalpha, text)):
        return
    if state.level >= 0:
        kept = {level: name for level, name in state.headings.items() if level < state.level}
        state.headings = {**kept, state.level: text}
        return
    path = tuple(dict.fromkeys(name for _, name in sorted(state.headings.items())))
    yield Paragraph(state.line, state.line, text, path)
