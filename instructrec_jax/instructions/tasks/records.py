"""Tasks about records: rows of a table with named fields, some of them text."""

import re
from collections.abc import Iterator

from instructrec_jax.instructions.document import Context, Document, Draft
from instructrec_jax.instructions.tasks.keywords import content_words, keywords_of
from instructrec_jax.instructions.tasks.sentences import (
    first_sentences,
    is_sound,
    paragraphs_of,
    prose_of,
    sentences,
)

SENTIMENTS = ("negative", "neutral", "positive")
# Fields of a record that may hold its class.
_LABELS = ("label", "category")
_RATING = re.compile(r"(\d+(?:\.\d+)?)(?:\s*/\s*(\d+)|\s*stars?)?", re.IGNORECASE)
_MOST_STARS = 5
# Shares of the scale: below them negative, above them positive.
_NEUTRAL = (0.3, 0.65)
_SUBJECT_KEYWORDS = 4
_LONGEST_VALUE = 80
_MOST_COLUMNS = 8
_LEAST_COLUMNS = 3
_LONGEST_TEXT = 1_500
_LEAD_CHARACTERS = (40, 250)
_LEAD_REST_CHARACTERS = (200, 1_500)
# Share of the lead's words that the rest must hold too: else it cannot be told from the rest.
_LEAD_SHARE = 0.5


def write_title(document: Document, context: Context) -> Iterator[Draft]:
    """A record's text → its title."""
    content = document.content
    if content.get("title") and content.get("text"):
        yield Draft({"input": content["text"]}, target=content["title"])


def write_from_title(document: Document, context: Context) -> Iterator[Draft]:
    """A record's title → the opening of its text."""
    content = document.content
    if content.get("title") and content.get("text"):
        opening = first_sentences(sentences(content["text"]), _LONGEST_TEXT // 2)
        yield Draft({"input": content["title"]}, target=opening)


def summarise_record(document: Document, context: Context) -> Iterator[Draft]:
    """A record's text → the summary that the record holds."""
    content = document.content
    if content.get("summary") and content.get("text"):
        yield Draft({"input": content["text"]}, target=content["summary"])


def summarise_passage(document: Document, context: Context) -> Iterator[Draft]:
    """A text without its first sentence → that sentence, where the rest holds half its words."""
    if document.kind == "prose" and not document.content["opens"]:
        return
    flat = [s for paragraph in paragraphs_of(document, context) for s in paragraph]
    if len(flat) < 3:
        return
    lead, rest = flat[0], first_sentences(flat[1:], _LEAD_REST_CHARACTERS[1])
    shortest, longest = _LEAD_CHARACTERS
    if not is_sound(lead) or not shortest <= len(lead) <= longest:
        return
    words = content_words(lead)
    if len(rest) < _LEAD_REST_CHARACTERS[0] or len(words) < 4:
        return
    if len(words & content_words(rest)) >= _LEAD_SHARE * len(words):
        yield Draft({"input": rest}, target=lead)


def classify_record(document: Document, context: Context) -> Iterator[Draft]:
    """A record's text → the label or category that the record carries."""
    content = document.content
    for field in _LABELS:
        if content.get(field) and _text_of(document):
            yield Draft({"input": _text_of(document), "field": field}, target=content[field])


def write_labelled_text(document: Document, context: Context) -> Iterator[Draft]:
    """A label or category, and a title or key phrases → a text that carries the label."""
    content = document.content
    for field in _LABELS:
        if content.get(field) and content.get("text") and _subject(document):
            text = first_sentences(sentences(content["text"]), _LONGEST_TEXT)
            fields = {"input": _subject(document), "field": field, "label": content[field]}
            yield Draft(fields, target=text)


def _subject(document: Document) -> str:
    """What a record is about: its title, else its key phrases; without it any text would do."""
    content = document.content
    return content.get("title") or ", ".join(keywords_of(content["text"])[:_SUBJECT_KEYWORDS])


def _text_of(document: Document) -> str:
    """A record's title and text."""
    content = document.content
    if not content.get("text"):
        return ""
    return "\n".join(filter(None, (content.get("title", ""), content["text"])))


def _sentiment(document: Document) -> str:
    """The sentiment of a record's rating; "" where there is none, or its scale is not known.

    "4/5" and "7 / 10" name their scale; a bare number from 1 to 5 is one of stars.
    """
    match = _RATING.fullmatch(str(document.content.get("rating", "")).strip())
    if not match:
        return ""
    rating, most = float(match[1]), float(match[2] or _MOST_STARS)
    least = 1 if most == _MOST_STARS else 0
    if not least <= rating <= most or most <= least:
        return ""
    share = (rating - least) / (most - least)
    return SENTIMENTS[(share > _NEUTRAL[0]) + (share > _NEUTRAL[1])]


def rate_sentiment(document: Document, context: Context) -> Iterator[Draft]:
    """A rated text → negative, neutral or positive: up to 2 stars of 5, up to 3.5, above."""
    sentiment = _sentiment(document)
    if sentiment and _text_of(document):
        options = _shuffled(document, context)
        fields = {"input": _text_of(document), "options": options}
        yield Draft(fields, target=sentiment, options=options)


def write_review(document: Document, context: Context) -> Iterator[Draft]:
    """A sentiment, and a title or key phrases → the rated text."""
    sentiment, content = _sentiment(document), document.content
    if sentiment and content.get("text") and _subject(document):
        text = first_sentences(sentences(content["text"]), _LONGEST_TEXT)
        yield Draft({"input": _subject(document), "sentiment": sentiment}, target=text)


def _shuffled(document: Document, context: Context) -> tuple[str, ...]:
    options = list(SENTIMENTS)
    context.random(document, "sentiments").shuffle(options)
    return tuple(options)


def _short_columns(document: Document) -> dict[str, str]:
    """The columns of a row whose values are words or numbers, not texts; at most eight."""
    columns = document.content.get("columns", {})
    short = {
        str(name).strip(): str(value).strip()
        for name, value in columns.items()
        if value is not None and 0 < len(str(value).strip()) <= _LONGEST_VALUE
    }
    named = {n: v for n, v in short.items() if n and "\n" not in n + v and ":" not in n}
    return dict(list(named.items())[:_MOST_COLUMNS])


def _lines(columns: dict[str, str]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in columns.items())


def read_column(document: Document, context: Context) -> Iterator[Draft]:
    """A row with named values → the value of one of its columns."""
    columns = _short_columns(document)
    if len(columns) >= _LEAST_COLUMNS:
        name = context.random(document, "column").choice(list(columns))
        yield Draft({"input": _lines(columns), "column": name}, target=columns[name])


def describe_record(document: Document, context: Context) -> Iterator[Draft]:
    """Named values → the sentence of the record's text that holds all of them."""
    for columns, sentence in _told(document):
        yield Draft({"input": _lines(columns)}, target=sentence)


def extract_columns(document: Document, context: Context) -> Iterator[Draft]:
    """A sentence and names of columns → the values that the sentence gives for them."""
    for columns, sentence in _told(document):
        fields = {"input": sentence, "columns": ", ".join(columns)}
        yield Draft(fields, target=_lines(columns))


def _told(document: Document) -> Iterator[tuple[dict[str, str], str]]:
    """The first sentence of the text that holds two or more of the row's values, and those."""
    columns = {name: value for name, value in _short_columns(document).items() if len(value) >= 3}
    if len(columns) < 2:
        return
    for sentence in sentences(prose_of(document)):
        held = {
            name: value
            for name, value in columns.items()
            if re.search(rf"(?<!\w){re.escape(value)}(?!\w)", sentence) and value != sentence
        }
        if len(set(held.values())) == len(held) >= 2 and is_sound(sentence):
            yield held, sentence
            return
