"""Tasks about running text: passages, records, docstrings and package descriptions."""

import re
from collections.abc import Iterator

from instructrec_jax.instructions.document import Context, Document, Draft
from instructrec_jax.instructions.tasks.sentences import (
    first_sentences,
    last_sentences,
    prose_of,
    sentences,
)

_LONGEST_OPENING = 300
_PASSAGE_CHARACTERS = (120, 700)
_LONGEST_CONTINUATION = 300
_BLANKED_CHARACTERS = (60, 400)
_MOST_BLANKS = 3
_ORDERED_SENTENCES = (3, 5)
_LONGEST_DESCRIPTION = 1_500


def open_topic(document: Document, context: Context) -> Iterator[Draft]:
    """A section's heading → the opening of its text."""
    content = document.content
    if content["opens"] and content["title"]:
        # What stood between two paragraphs may be left out: the opening is of the first one.
        first = content["passage"].partition("\n")[0]
        opening = first_sentences(sentences(first), _LONGEST_OPENING)
        fields = {"input": content["title"], "work": content["work"]}
        yield Draft(fields, target=opening)


def name_topic(document: Document, context: Context) -> Iterator[Draft]:
    """A passage → the heading of the section that it belongs to."""
    content = document.content
    if content["title"]:
        yield Draft({"input": content["passage"]}, target=content["title"])


def complete_passage(document: Document, context: Context) -> Iterator[Draft]:
    """The first sentences of a passage → those that follow."""
    parts = sentences(prose_of(document))
    shortest, longest = _PASSAGE_CHARACTERS
    half = (len(parts) + 1) // 2
    beginning = last_sentences(parts[:half], longest)
    rest = first_sentences(parts[half:], _LONGEST_CONTINUATION)
    if beginning and rest and len(beginning) + len(rest) >= shortest:
        yield Draft({"input": beginning}, target=rest)


def fill_blanks(document: Document, context: Context) -> Iterator[Draft]:
    """Sentences with words blanked out → the words, in order."""
    shortest, longest = _BLANKED_CHARACTERS
    text = first_sentences(sentences(prose_of(document)), longest)
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
    parts = [s for s in sentences(prose_of(document)) if 20 <= len(s) <= 200][:longest]
    if len(parts) < shortest:
        return
    shown = list(range(len(parts)))
    context.random(document, "order").shuffle(shown)
    text = "\n".join(f"{place}. {parts[i]}" for place, i in enumerate(shown, start=1))
    target = " ".join(str(shown.index(i) + 1) for i in range(len(parts)))
    yield Draft({"input": text, "count": len(parts)}, target=target)


def summarise_package(document: Document, context: Context) -> Iterator[Draft]:
    """A package's description, without any sentence that repeats it → the one-line summary."""
    content = document.content
    summary = content["summary"]
    parts = sentences(content["description"])
    rest = [s for s in parts if summary.casefold().rstrip(".") not in s.casefold()]
    text = first_sentences(rest, _LONGEST_DESCRIPTION)
    if len(text.split()) >= 10:
        yield Draft({"input": text, "name": content["name"]}, target=summary)
