"""Keywords of a text by RAKE (Rose et al. 2010), and the tasks made of them."""

import re
from collections.abc import Callable, Iterator

from instructrec_jax.instructions.document import Context, Document, Draft
from instructrec_jax.instructions.tasks.sentences import (
    first_sentences,
    is_chinese,
    is_sound,
    paragraphs_of,
)

_KEYWORDS = (3, 6)
_TEXT_CHARACTERS = (200, 1_200)
_MOST_WORDS = 3
_CONSIDERED = 40
_BREAK = re.compile(r"[^\w\s'-]+|\d+")
_STOP_WORDS = """\
a about above across actually after again against all almost along already also although
always am among an and another any anything are around as at away back be became because become
becomes been before behind being below best better between both but by call called calls can
cannot come comes could did different do does doing done down due during each either else
enough especially etc even ever every example far few find first follow following follows for
found from full further gave general get gets give given gives go goes going good got had has
have having he hence her here him his how however if important in including indeed instead into
is it its itself just keep kind know known last later least less let like likely little long
longer look lot made mainly make makes making many may maybe me mean means might more most
mostly much must my near need needed needs neither never new next no non none nor not note
nothing now of off often on once one only onto or other others otherwise our out over own part
particular per perhaps possible provide provided provides put quite rather really same say
second see seem seems seen set several shall she should show shown shows simply since so some
something sometimes soon still such take taken takes than that the their them then there
therefore these they thing things third this those though three through thus time to together
too toward try two under unless until up upon us use used useful user uses using usually various
very via want wants was way we well went were what when where whether which while who whole
whose why will with within without work works would yet you your able allow allows based
contain contains depending describe described describes different easily easy ensure false
handle handling help helps include includes number order similar simple specific specified true
whenever available currently directly automatically e.g i.e"""
STOP_WORDS = frozenset(_STOP_WORDS.split())


def content_words(text: str) -> set[str]:
    """The first six letters of each word of three or more that is no stop word."""
    words = (word.casefold() for word in re.findall(r"[^\W\d_]{3,}", text))
    return {word[:6] for word in words if word not in STOP_WORDS}


def keywords_of(text: str, keep: Callable[[str], bool] = bool) -> list[str]:
    """The text's key phrases that are to be kept, best first; ties by place.

    Words between stop words, and parts of these that come twice, by their words' degree over
    frequency. Of phrases that share a word the best is taken.
    """
    frequency: dict[str, int] = {}
    degree: dict[str, int] = {}
    counts: dict[tuple[str, ...], int] = {}
    spelling: dict[tuple[str, ...], list[str]] = {}
    runs = [(run, tuple(map(str.casefold, run))) for run in _runs(text)]
    whole = {words for _, words in runs}
    for _, words in runs:
        for word in words:
            frequency[word] = frequency.get(word, 0) + 1
        for word in set(words):
            degree[word] = degree.get(word, 0) + len(words)
    for run, words in runs:
        for first, word in enumerate(words):
            # A phrase that begins with a word that comes once counts as a whole run alone.
            if frequency[word] == 1 and (first or len(words) > _MOST_WORDS):
                continue
            for last in range(first + 1, min(first + _MOST_WORDS, len(words)) + 1):
                phrase = words[first:last]
                if phrase in counts:
                    counts[phrase] += 1
                else:
                    counts[phrase] = 1
                    spelling[phrase] = run[first:last]
    scores = {
        phrase: count**0.5 * sum(degree[word] / frequency[word] for word in phrase)
        for phrase, count in counts.items()
        if (count > 1 or phrase in whole) and not phrase[-1].endswith(("ed", "ly", "ing"))
    }
    found: list[str] = []
    taken: set[str] = set()
    for phrase in sorted(scores, key=lambda phrase: -scores[phrase])[:_CONSIDERED]:
        stems = {word.removesuffix("s") for word in phrase}
        spelled = " ".join(spelling[phrase])
        if not stems & taken and keep(spelled):
            found.append(spelled)
            taken |= stems
    return found


def _runs(text: str) -> Iterator[list[str]]:
    """The words between two stop words, numbers or marks."""
    for part in _BREAK.split(text):
        run: list[str] = []
        for word in [*part.split(), "the"]:
            plain = word.strip("'-")
            if len(plain) >= 3 and plain.casefold() not in STOP_WORDS and "'" not in plain:
                run.append(plain)
            elif run:
                yield run
                run = []


def list_keywords(document: Document, context: Context) -> Iterator[Draft]:
    """A passage → its key phrases, in the order in which they stand in the text."""
    text, found = passage_and_keywords(document, context)
    if found:
        yield Draft({"input": text, "count": len(found)}, target=", ".join(found))


def passage_and_keywords(document: Document, context: Context) -> tuple[str, list[str]]:
    """The opening of a document's text and its key phrases; [] where there are too few."""
    shortest, longest = _TEXT_CHARACTERS
    flat = [s for paragraph in paragraphs_of(document, context) for s in paragraph]
    text = first_sentences([s for s in flat if is_sound(s)], longest)
    if len(text) < shortest or is_chinese(text):
        return "", []
    fewest, most = _KEYWORDS
    parts = re.findall(r"[\w'-]+", text.casefold())
    words = f" {' '.join(parts)} "
    stems = f" {' '.join(part.removesuffix('s') for part in parts)} "
    found = keywords_of(text, keep=lambda key: _is_frequent(key, words, stems))
    if len(found) < fewest:
        return "", []
    return text, sorted(found[:most], key=lambda key: text.casefold().index(key.casefold()))


def _is_frequent(key: str, words: str, stems: str) -> bool:
    """A phrase that comes twice is no accident, nor is a noun that comes three times.

    A word counts as a noun where it also stands right behind an article or in the plural. `words`
    are the text's in small letters with spaces around, `stems` the same without a last "s".
    """
    stem = " ".join(word.removesuffix("s") for word in key.casefold().split())
    count = stems.count(f" {stem} ")
    if " " in key or count < 3:
        return " " in key and count >= 2
    articles = any(f" {article} {stem} " in stems for article in ("a", "an", "the", "thi", "each"))
    return articles or f" {stem}s " in words or key[0].isupper()


def write_from_keywords(document: Document, context: Context) -> Iterator[Draft]:
    """Key phrases of a sentence → the sentence."""
    for paragraph in paragraphs_of(document, context):
        for sentence in paragraph[:1]:
            if not is_sound(sentence) or is_chinese(sentence) or len(sentence) < 60:
                continue
            found = keywords_of(sentence)[: _KEYWORDS[1] - 1]
            if len(found) >= _KEYWORDS[0]:
                choose = context.random(document, "keywords", sentence)
                choose.shuffle(found)
                fields = {"input": ", ".join(found), "count": len(found)}
                yield Draft(fields, target=sentence)
                return
