"""What the examples of a task show: its type, and patterns that all of them share."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from statistics import median

from instructrec_jax.instructions.filters import script_of

# A share of the examples that counts as all of them: real data has exceptions.
_NEARLY_ALL = 0.9
# A closed set of answers: so few different ones, each so often on average, so short.
_MOST_OPTIONS, _LEAST_REPETITION, _MOST_OPTION_WORDS = 24, 2.5, 5
# A summary is at most this long, relative to a text of at least so many words.
_SUMMARY_SHARE, _LEAST_SUMMARISED_WORDS = 0.4, 25
# An expansion is at least that much longer.
_EXPANSION_RATIO = 1.5
# Words that input and target share where one is the other rewritten.
_REWRITTEN_SHARE = 0.5
_CODE = re.compile(
    r"(?m)^\s*(?:def |class |return\b|import |from \w+ import |for .*:$|if .*:$|@\w+|[\w.]+\(.*\)$"
    r"|[\w.\[\]]+ [+*/-]?= |#include|function |(?:const|let|var) |.*[;{}]\s*$)"
)
# What a target can be whole, by name; the first that nearly all targets match.
_FORMATS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("iso_date", re.compile(r"\d{4}-\d{2}-\d{2}")),
    ("number", re.compile(r"[-+]?\d[\d.,]*\s?%?")),
    ("json", re.compile(r"(?s)[\[{].*[\]}]")),
    ("list", re.compile(r"[^,\n]+(?:,[^,\n]+)+")),
    ("one_word", re.compile(r"\S+")),
    ("one_line", re.compile(r"[^\n]+")),
)
# The commonest words of some languages in Latin letters: enough to tell texts of a language apart.
_FUNCTION_WORDS = {
    "English": "the of and to in is that for it with as was on are be this by from",
    "German": "der die das und ist nicht ein eine zu mit den von auf für im dem sich auch",
    "French": "le la les des et est une dans que pour pas sur qui du au avec ce il",
    "Spanish": "el la los las de y es una que en por con para del se no un su",
    "Italian": "il di che è la per un una non sono con del della le gli si nel come",
    "Portuguese": "o de que não é uma um para com os as do da em se por no mais",
    "Dutch": "de het een van en is niet dat op te voor met zijn aan ook die er",
}
_LANGUAGE_OF_SCRIPT = {
    "CJK": "Chinese", "HIRAGANA": "Japanese", "KATAKANA": "Japanese", "HANGUL": "Korean",
    "CYRILLIC": "Russian", "ARABIC": "Arabic", "GREEK": "Greek", "HEBREW": "Hebrew",
    "DEVANAGARI": "Hindi", "THAI": "Thai",
}  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """One example of a task before anybody has worded the task: what is given, what is wanted."""

    input: str
    target: str


@dataclass(frozen=True)
class Traits:
    """What a task's pairs have in common.

    `task_type` is a key of TYPES. `options` is the closed set of targets, in the order of their
    frequency, empty where it is open. `target_format` is a name of the formats above or "".
    `input_prefix`, `target_prefix` and `target_suffix` stand in all of the texts; `target_words` is
    the median; languages are English names, "" where none could be told.
    """

    task_type: str
    options: tuple[str, ...] = ()
    target_format: str = ""
    input_prefix: str = ""
    target_prefix: str = ""
    target_suffix: str = ""
    target_words: int = 0
    input_language: str = ""
    target_language: str = ""


@dataclass(frozen=True)
class _Found:
    """The pairs, and what several types ask about them."""

    pairs: Sequence[Pair]
    options: tuple[str, ...]
    target_format: str
    input_words: float
    target_words: float
    input_language: str
    target_language: str

    def share(self, holds: Callable[[Pair], bool]) -> float:
        return sum(map(holds, self.pairs)) / len(self.pairs)


def traits_of(pairs: Sequence[Pair]) -> Traits:
    """Type and patterns of the task that the pairs are examples of.

    Raises:
        ValueError: no pairs.
    """
    if not pairs:
        raise ValueError("a task without examples has no traits")
    inputs, targets = [p.input for p in pairs], [p.target.strip() for p in pairs]
    found = _Found(
        pairs=pairs,
        options=_closed_set(targets),
        target_format=_format(targets),
        input_words=median(len(words(text)) for text in inputs),
        target_words=median(len(words(text)) for text in targets),
        input_language=language_of(inputs),
        target_language=language_of(targets),
    )
    closed = bool(found.options)
    return Traits(
        task_type=next(name for name, is_type in TYPES.items() if is_type(found)),
        options=found.options,
        target_format=found.target_format,
        input_prefix=_shared_prefix(inputs),
        target_prefix="" if closed else _shared_prefix(targets),
        target_suffix="" if closed else _shared_prefix([text[::-1] for text in targets])[::-1],
        target_words=round(found.target_words),
        input_language=found.input_language,
        target_language=found.target_language,
    )


def words(text: str) -> list[str]:
    """The words without case; a Chinese or Japanese character is a word of its own."""
    return re.findall(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+",
                      text.casefold())  # fmt: skip


def language_of(texts: Sequence[str]) -> str:
    """The English name of the language that most of the letters or function words are of; or ""."""
    letters = "".join(texts)[:5_000]
    scripts = Counter(script_of(letter) for letter in letters if letter.isalpha())
    if not scripts:
        return ""
    # Japanese writes most of its letters in the Chinese script.
    kana = scripts["HIRAGANA"] + scripts["KATAKANA"]
    if kana > 0.1 * scripts.total():
        return "Japanese"
    script, count = scripts.most_common(1)[0]
    if script != "LATIN":
        return _LANGUAGE_OF_SCRIPT.get(script, "") if 2 * count > scripts.total() else ""
    seen = Counter(word for text in texts for word in words(text))
    hits = {
        language: sum(seen[word] for word in known.split())
        for language, known in _FUNCTION_WORDS.items()
    }
    best = max(hits, key=lambda language: hits[language])
    # A language shares some words with its neighbours; one in twenty words are function words.
    return best if 20 * hits[best] >= seen.total() else ""


def _closed_set(targets: Sequence[str]) -> tuple[str, ...]:
    counts = Counter(targets)
    most = min(_MOST_OPTIONS, len(targets) / _LEAST_REPETITION)
    if not 2 <= len(counts) <= most:
        return ()
    if max(len(words(target)) for target in counts) > _MOST_OPTION_WORDS:
        return ()
    return tuple(sorted(counts, key=lambda target: (-counts[target], target)))


def _format(targets: Sequence[str]) -> str:
    for name, pattern in _FORMATS:
        matching = sum(pattern.fullmatch(target) is not None for target in targets)
        if matching >= _NEARLY_ALL * len(targets):
            return name
    return ""


def _shared_prefix(texts: Sequence[str]) -> str:
    """What all texts begin with, whole words of it; "" where the texts are but one."""
    if len(set(texts)) < 2:
        return ""
    prefix = commonprefix(list(texts))
    ends = [match.end() for match in re.finditer(r"[\s:：,.>\-]+", prefix)]
    return prefix[: ends[-1]] if ends and re.search(r"\w", prefix[: ends[-1]]) else ""


def _is_inside(pair: Pair) -> bool:
    """Whether the target, or each part of a list, stands in the input."""
    short, long = pair.target.strip().casefold(), pair.input.strip().casefold()
    return len(short) < len(long) and (
        short in long or all(part.strip() in long for part in short.split(","))
    )


def _is_code(text: str) -> bool:
    lines = [line for line in text.splitlines() if line.strip()]
    return bool(lines) and 2 * sum(bool(_CODE.match(line)) for line in lines) > len(lines)


def _is_rewritten(pair: Pair) -> bool:
    one, two = Counter(words(pair.input)), Counter(words(pair.target))
    return (one & two).total() >= _REWRITTEN_SHARE * max(one.total(), two.total(), 1)


def _yes_or_no(found: _Found) -> bool:
    answers = {option.casefold().strip(".") for option in found.options}
    return bool(answers) and answers <= {"yes", "no", "true", "false", "是", "否", "对", "错"}


def _translated(found: _Found) -> bool:
    one, two = found.input_language, found.target_language
    return bool(one and two) and one != two and found.target_words >= 2


def _summarised(found: _Found) -> bool:
    return (
        found.input_words >= _LEAST_SUMMARISED_WORDS
        and 4 <= found.target_words <= _SUMMARY_SHARE * found.input_words
    )


def _asked(found: _Found) -> bool:
    return found.share(lambda pair: pair.input.rstrip().endswith(("?", "？"))) >= _NEARLY_ALL


# The first type whose test holds is the task's; in this order the surest signs come first.
TYPES: dict[str, Callable[[_Found], bool]] = {
    "yes_or_no": _yes_or_no,
    "classification": lambda found: bool(found.options),
    "date": lambda found: found.target_format == "iso_date",
    "code": lambda found: found.share(lambda pair: _is_code(pair.target)) >= _NEARLY_ALL,
    "question": _asked,
    "translation": _translated,
    "extraction": lambda found: found.share(_is_inside) >= _NEARLY_ALL,
    "number": lambda found: found.target_format == "number",
    "code_description": lambda found: found.share(lambda pair: _is_code(pair.input)) >= _NEARLY_ALL,
    "summary": _summarised,
    "rewriting": lambda found: found.share(_is_rewritten) >= _NEARLY_ALL,
    "expansion": lambda found: found.target_words >= _EXPANSION_RATIO * found.input_words,
    "answer": lambda found: True,
}
