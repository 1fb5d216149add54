"""Sentiment by a lexicon (VADER, Hutto and Gilbert 2014): only where it is beyond doubt."""

from collections.abc import Iterator
from functools import cache
from typing import Any

from instructrec_jax.instructions.document import Context, Document, Draft
from instructrec_jax.instructions.tasks.sentences import is_chinese, is_sound, paragraphs_of

POLARITIES = ("negative", "positive")
# VADER's valences are in [-4, 4], its compound score in [-1, 1]; it calls 0.05 and more positive.
# Weaker words are terms of a trade as often as feelings: "true", "error", "shared", "like".
_STRONG_WORD, _STRONG = 1.9, 0.6
_LEAST_WORDS = 2


@cache
def _analyzer() -> Any:
    # Half a megabyte of lexicon is read only where the task is made.
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


def judge_sentiment(document: Document, context: Context) -> Iterator[Draft]:
    """A sentence of strong words, all of one direction → positive or negative."""
    for paragraph in paragraphs_of(document, context):
        for sentence in paragraph:
            if is_sound(sentence) and not is_chinese(sentence):
                polarity = _polarity(sentence)
                if polarity:
                    options = list(POLARITIES)
                    context.random(document, "polarities", sentence).shuffle(options)
                    fields = {"input": sentence, "options": tuple(options)}
                    yield Draft(fields, target=polarity, options=tuple(options))


def _polarity(sentence: str) -> str:
    lexicon = _analyzer().lexicon
    words = {word.strip(".,;:!?()\"'").casefold() for word in sentence.split()}
    values = [lexicon[word] for word in words if word in lexicon]
    strong = [value for value in values if abs(value) >= _STRONG_WORD]
    if len(strong) < _LEAST_WORDS or not (min(values) > 0 or max(values) < 0):
        return ""
    # The whole rule also knows negation, which turns words round: then it must agree.
    compound = _analyzer().polarity_scores(sentence)["compound"]
    if abs(compound) < _STRONG or (compound > 0) != (strong[0] > 0):
        return ""
    return POLARITIES[compound > 0]
