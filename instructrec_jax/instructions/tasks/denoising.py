"""Tasks whose target is the text itself as it was before something was done to it."""

import re
import string
from collections.abc import Iterator
from random import Random

from instructrec_jax.instructions.document import Context, Document, Draft
from instructrec_jax.instructions.tasks.sentences import (
    is_chinese,
    is_sound,
    joined,
    paragraphs_of,
)

_SPAN_WORDS = (2, 5)
_SPANS = (2, 3)
_SPAN_TEXT_CHARACTERS = (120, 500)
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
# Text whose marks can be told from its words.
_PLAIN = re.compile(r"[^\W_]+(?:(?:['’.-]|[,;:]?\s|[.!?]\s)[^\W_]+)*[.!?]")
_ORDERED_WORDS = (5, 14)
_CHOICES = "ABCD"
_TYPO_SHARE = 0.15
_MOST_TYPOS = 5
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def _sound_run(document: Document, context: Context, *, count: int) -> list[str]:
    """The first `count` sentences in a row, of one paragraph, that are all sound; [] = none."""
    for paragraph in paragraphs_of(document, context):
        run: list[str] = []
        for sentence in paragraph:
            run = [*run, sentence] if is_sound(sentence) else []
            if len(run) == count:
                return run
    return []


def restore_spans(document: Document, context: Context) -> Iterator[Draft]:
    """A text with several numbered gaps of some words each → what stood in each gap."""
    shortest, longest = _SPAN_TEXT_CHARACTERS
    run = _sound_run(document, context, count=2)
    text = joined(run)
    if not shortest <= len(text) <= longest or is_chinese(text) or re.search(r"\(\d\)", text):
        return
    choose = context.random(document, "spans")
    words = list(re.finditer(r"\S+", text))
    count = choose.randint(*_SPANS)
    # One span in each of `count` equal parts; between two spans there is always a word.
    part = len(words) // count
    shown, targets, place = "", [], 0
    for number in range(count):
        length = choose.randint(*_SPAN_WORDS)
        part_words = words[number * part : (number + 1) * part - 1]
        places = [
            (run[0].start(), run[-1].end())
            for run in (part_words[i : i + length] for i in range(1, len(part_words) - length + 1))
            if all(_WORD.fullmatch(word[0]) for word in run)
        ]
        if not places:
            return
        start, end = choose.choice(places)
        shown += f"{text[place:start]}({number + 1})____"
        targets.append(f"({number + 1}) {text[start:end]}")
        place = end
    fields = {"input": shown + text[place:], "count": count}
    yield Draft(fields, target="\n".join(targets))


def restore_sentence(document: Document, context: Context) -> Iterator[Draft]:
    """Sentences with the one in the middle left out → that sentence."""
    run = _sound_run(document, context, count=3)
    if run:
        before, middle, after = run
        yield Draft({"input": f"{before}\n[...]\n{after}"}, target=middle)


def order_words(document: Document, context: Context) -> Iterator[Draft]:
    """The words of a sentence in disorder, without case and full stop → the sentence."""
    fewest, most = _ORDERED_WORDS
    for sentence in _sound_run(document, context, count=1):
        words = _lower_first(sentence[:-1]).split()
        if is_chinese(sentence) or sentence[-1] != "." or not fewest <= len(words) <= most:
            return
        if any(word[-1] in ",;:)" or word[0] in "(\"'" for word in words):
            return
        shown = list(words)
        context.random(document, "words").shuffle(shown)
        if shown != words:
            yield Draft({"input": " / ".join(shown), "count": len(words)}, target=sentence)


def _lower_first(sentence: str) -> str:
    """A sentence with a small first letter, unless its first word is a name or "I"."""
    first = sentence.split()[0]
    if len(first) == 1 and first != "A" or not first[1:].islower() and first != "A":
        return sentence
    return sentence[0].lower() + sentence[1:]


def restore_punctuation(document: Document, context: Context) -> Iterator[Draft]:
    """A text in small letters without punctuation → the text."""
    run = _sound_run(document, context, count=2)
    text = joined(run)
    if is_chinese(text):
        return
    if _PLAIN.fullmatch(text):
        bare = re.sub(r"[.,;:!?](?=\s|$)", "", text).casefold()
        yield Draft({"input": bare}, target=text)


def correct_spelling(document: Document, context: Context) -> Iterator[Draft]:
    """A text with typing errors put into it → the text. Some have none: those stay as they are."""
    run = _sound_run(document, context, count=1)
    if not run or is_chinese(run[0]):
        return
    (text,) = run
    choose = context.random(document, "typos")
    words = [m for m in _WORD.finditer(text) if m[0].islower() and len(m[0]) >= 4]
    if len(words) < 4:
        return
    count = max(1, min(_MOST_TYPOS, round(_TYPO_SHARE * len(words))))
    shown, changed = text, 0
    for match in sorted(choose.sample(words, count), key=lambda m: -m.start()):
        wrong = _misspelt(match[0], choose)
        changed += wrong != match[0]
        shown = f"{shown[: match.start()]}{wrong}{shown[match.end() :]}"
    if changed:
        yield Draft({"input": shown, "count": changed}, target=text)


def _misspelt(word: str, choose: Random) -> str:
    """The word with one slip of the fingers: swapped, doubled, lost or neighbouring letter.

    The first letter stays. The result may be another word: the text around tells.
    """
    place = choose.randint(1, len(word) - 2)
    letter = word[place]
    if letter not in string.ascii_lowercase or word[place + 1] not in string.ascii_lowercase:
        return word
    row = next(row for row in _ROWS if letter in row)
    near = row[max(0, row.index(letter) - 1) : row.index(letter) + 2].replace(letter, "")
    return word[:place] + choose.choice(
        (
            word[place + 1] + letter + word[place + 2 :],
            letter + word[place:],
            word[place + 1 :],
            choose.choice(near) + word[place + 1 :],
        )
    )


def choose_next_sentence(document: Document, context: Context) -> Iterator[Draft]:
    """Two sentences and four lettered ones, of the same text → the one that comes next."""
    paragraphs = paragraphs_of(document, context)
    run = _sound_run(document, context, count=3)
    if not run:
        return
    flat = [sentence for paragraph in paragraphs for sentence in paragraph]
    # What follows the right one may well follow the two as well.
    near = flat[: flat.index(run[2]) + 2][-1]
    others = [s for s in flat if s not in run and s != near and is_sound(s)]
    if len(others) < len(_CHOICES) - 1:
        return
    choose = context.random(document, "next")
    shown = [run[2], *choose.sample(others, len(_CHOICES) - 1)]
    choose.shuffle(shown)
    lines = [f"{letter}. {sentence}" for letter, sentence in zip(_CHOICES, shown, strict=True)]
    text = "\n".join([joined(run[:2]), "", *lines])
    letter = _CHOICES[shown.index(run[2])]
    fields = {"input": text, "options": tuple(_CHOICES)}
    yield Draft(fields, target=letter, options=tuple(_CHOICES))
