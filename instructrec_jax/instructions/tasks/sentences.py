"""Running text cut into paragraphs and sentences, for the tasks that are made of them.

English and other languages of spaces and full stops, and Chinese.
"""

import re
from functools import lru_cache

from instructrec_jax.instructions.document import Context, Document

_END = re.compile(
    r"(?<=[.!?])\s+(?=[A-Z])|(?<=[。！？])\s*(?=[^\s”’」』）])|(?<=[。！？][”’」』）])\s*(?=\S)"
)
# What ends in one of these goes on: "e.g. Linux", "Dr. Hill".
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|cf|vs|etc|al|approx|resp|Dr|Mr|Mrs|Ms|Prof|St|Fig|Eq|Sec|Ch|No|Vol|Inc|Ltd"
    r"|Jr|Sr|[A-Z])\.)$"
)
# Characters at the end of a text that hold any of them and what stands before.
_ABBREVIATION_CHARACTERS = 12
_HAN = re.compile(r"[\u4e00-\u9fff]")
# What a sentence refers to and a passage does not hold.
_ELSEWHERE = re.compile(
    r"\b(?:Listing|Figure|Fig\.|Table|Chapter|Section|Appendix|Eq\.|Equation) [\dA-Z]|^See\b"
    r"|\b(?:the following|as follows|shown below|see below|see above|listed below)\b"
    r"|如下|下面的|下列"
)
# Signs of code, mark-up and links, which no sentence of running text holds.
_MARKUP = re.compile(r"``|::|https?:|www\.|[{}|<>\\^~=*_#\[\]]|\(\)|\.\.\.$|@\w|--")
_BRACKETS = (("(", ")"), ("“", "”"), ("（", "）"), ("「", "」"), ("《", "》"))
_SENTENCE_CHARACTERS = (20, 300)
_HAN_SENTENCE_CHARACTERS = (8, 120)
_LEAST_WORDS = 4
_LEAST_LETTERS, _MOST_CAPITALS = 0.7, 0.3


def is_chinese(text: str) -> bool:
    """Whether most of the text is in Chinese characters."""
    return not text.isascii() and len(_HAN.findall(text)) * 2 > len("".join(text.split()))


def sentences(text: str) -> list[str]:
    """The sentences of a text, white space made single."""
    return list(_sentences(text))


# Several tasks ask for those of the same text.
@lru_cache(maxsize=16)
def _sentences(text: str) -> tuple[str, ...]:
    found: list[str] = []
    for part in _END.split(" ".join(text.split())):
        if found and _goes_on(found[-1]):
            found[-1] += f" {part}"
        else:
            found.append(part)
    return tuple(found)


def _goes_on(text: str) -> bool:
    return _ABBREVIATION.search(text[-_ABBREVIATION_CHARACTERS:]) is not None


def joined(parts: list[str]) -> str:
    """Sentences as one text: a space between them, none after a Chinese full stop."""
    text = ""
    for part in parts:
        space = " " if text and part and text[-1] not in "。！？”’」』）" else ""
        text += space + part
    return text


def first_sentences(parts: list[str], length: int) -> str:
    """The longest run of first sentences within `length` characters; "" if the first is longer."""
    kept = ""
    for number in range(1, len(parts) + 1):
        longer = joined(parts[:number])
        if len(longer) > length:
            break
        kept = longer
    return kept


def last_sentences(parts: list[str], length: int) -> str:
    """The longest run of last sentences within `length` characters; "" if the last is longer."""
    kept = ""
    for number in range(1, len(parts) + 1):
        longer = joined(parts[-number:])
        if len(longer) > length:
            break
        kept = longer
    return kept


def prose_of(document: Document) -> str:
    """The running text of a document, paragraphs set apart by line ends; may be ""."""
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


def paragraphs_of(document: Document, context: Context) -> list[list[str]]:
    """The paragraphs of a document's running text, each a list of sentences; split once."""

    def split() -> list[list[str]]:
        return [sentences(line) for line in prose_of(document).split("\n") if line.strip()]

    return context.remember(document, "paragraphs", split)


# Several tasks ask of the same sentences.
@lru_cache(maxsize=4096)
def is_sound(sentence: str) -> bool:
    """Whether this is a whole sentence of running text: no fragment, code, link or heading."""
    return bool(sentence) and (_sound_chinese if is_chinese(sentence) else _sound)(sentence)


def _sound(sentence: str) -> bool:
    shortest, longest = _SENTENCE_CHARACTERS
    if not shortest <= len(sentence) <= longest or sentence[-1] not in ".!?":
        return False
    if not (sentence[0].isupper() or sentence[0] in "\"'“"):
        return False
    characters = len(sentence.replace(" ", ""))
    return (
        sum(map(str.isalpha, sentence)) >= _LEAST_LETTERS * characters
        and sum(map(str.isupper, sentence)) <= _MOST_CAPITALS * characters
        and len(sentence.split()) >= _LEAST_WORDS
        and not _refers_outside(sentence)
        and _is_balanced(sentence)
    )


def _sound_chinese(sentence: str) -> bool:
    shortest, longest = _HAN_SENTENCE_CHARACTERS
    return (
        shortest <= len(sentence) <= longest
        and sentence[-1] in "。！？”"
        and not _refers_outside(sentence)
        and _is_balanced(sentence)
    )


def _refers_outside(sentence: str) -> bool:
    return bool(_MARKUP.search(sentence) or _ELSEWHERE.search(sentence) or _goes_on(sentence))


def _is_balanced(sentence: str) -> bool:
    pairs = all(sentence.count(left) == sentence.count(right) for left, right in _BRACKETS)
    return pairs and sentence.count('"') % 2 == 0


def capitalised(text: str) -> str:
    """The text with a capital first letter, unless it starts with a name such as "x1" or "iPad"."""
    first = text.partition(" ")[0]
    return (
        text[:1].upper() + text[1:]
        if first.rstrip(",").replace("-", "").islower()
        and (first.rstrip(",").replace("-", "").isalpha())
        else text
    )
