"""Tasks about running text: passages, records, docstrings and package descriptions."""

import re
from collections.abc import Iterator

from instructrec_jax.instructions.document import Context, Document, Draft

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_LONGEST_OPENING = 300
_PASSAGE_CHARACTERS = (120, 700)
_LONGEST_CONTINUATION = 300
_BLANKED_CHARACTERS = (60, 400)
_MOST_BLANKS = 3
_ORDERED_SENTENCES = (3, 5)
_LONGEST_DESCRIPTION = 1_500


def _sentences(text: str) -> list[str]:
    return _SENTENCE_END.split(" ".join(text.split()))


def _first_sentences(sentences: list[str], length: int) -> str:
    """The longest run of first sentences within `length` characters; "" if the first is longer."""
    kept = ""
    for sentence in sentences:
        longer = f"{kept} {sentence}".strip()
        if len(longer) > length:
            break
        kept = longer
    return kept


def _last_sentences(sentences: list[str], length: int) -> str:
    """The longest run of last sentences within `length` characters; "" if the last is longer."""
    kept = ""
    for sentence in reversed(sentences):
        longer = f"{sentence} {kept}".strip()
        if len(longer) > length:
            break
        kept = longer
    return kept


def _prose(document: Document) -> str:
    """The running text of a document of any of this module's kinds; may be ""."""
    content = document.content
    if document.kind == "prose":
        return content["passage"]
    if document.kind == "record":
        return content.get("text", "")
    if document.kind == "package":
        return content["description"]
    paragraphs = content["docstring"].split("\n\n")
    prose = [p for p in paragraphs if not re.search(r"^\s|>>>|^[-=*]{3}", p, re.MULTILINE)]
    return " ".join(prose)


def open_topic(document: Document, context: Context) -> Iterator[Draft]:
    """A section's heading → the opening of its text."""
    content = document.content
    if content["opens"] and content["title"]:
        # What stood between two paragraphs may be left out: the opening is of the first one.
        first = content["passage"].partition("\n")[0]
        opening = _first_sentences(_sentences(first), _LONGEST_OPENING)
        fields = {"input": content["title"], "work": content["work"]}
        yield Draft(fields, target=opening)


def name_topic(document: Document, context: Context) -> Iterator[Draft]:
    """A passage → the heading of the section that it belongs to."""
    content = document.content
    if content["title"]:
        yield Draft({"input": content["passage"]}, target=content["title"])


def complete_passage(document: Document, context: Context) -> Iterator[Draft]:
    """The first sentences of a passage → those that follow."""
    sentences = _sentences(_prose(document))
    shortest, longest = _PASSAGE_CHARACTERS
    half = (len(sentences) + 1) // 2
    beginning = _last_sentences(sentences[:half], longest)
    rest = _first_sentences(sentences[half:], _LONGEST_CONTINUATION)
    if beginning and rest and len(beginning) + len(rest) >= shortest:
        yield Draft({"input": beginning}, target=rest)


def fill_blanks(document: Document, context: Context) -> Iterator[Draft]:
    """Sentences with words blanked out → the words, in order."""
    shortest, longest = _BLANKED_CHARACTERS
    text = _first_sentences(_sentences(_prose(document)), longest)
    words = list(re.finditer(r"(?<![\w\"'`.])[a-z]{4,}(?![\w\"'`(])", text))
    if len(text) < shortest or len(words) < 2 * _MOST_BLANKS:
        return
    choose = context.random(document, "blanks")
    blanks = sorted(choose.sample(words, choose.randint(1, _MOST_BLANKS)), key=lambda m: m.start())
    for match in reversed(blanks):
        text = f"{text[: match.start()]}____{text[match.end() :]}"
    fields = {"input": text, "count": len(blanks)}
    yield Draft(fields, target=", ".join(match[0] for match in blanks))


def order_sentences(document: Document, context: Context) -> Iterator[Draft]:
    """Numbered sentences in disorder → the numbers in the order of the text."""
    shortest, longest = _ORDERED_SENTENCES
    sentences = [s for s in _sentences(_prose(document)) if 20 <= len(s) <= 200][:longest]
    if len(sentences) < shortest:
        return
    shown = list(range(len(sentences)))
    context.random(document, "order").shuffle(shown)
    text = "\n".join(f"{place}. {sentences[i]}" for place, i in enumerate(shown, start=1))
    target = " ".join(str(shown.index(i) + 1) for i in range(len(sentences)))
    yield Draft({"input": text, "count": len(sentences)}, target=target)


def summarise_package(document: Document, context: Context) -> Iterator[Draft]:
    """A package's description, without any sentence that repeats it → the one-line summary."""
    content = document.content
    summary = content["summary"]
    sentences = _sentences(content["description"])
    rest = [s for s in sentences if summary.casefold().rstrip(".") not in s.casefold()]
    text = _first_sentences(rest, _LONGEST_DESCRIPTION)
    if len(text.split()) >= 10:
        yield Draft({"input": text, "name": content["name"]}, target=summary)
