"""What is refused, draft by draft; every refusal has a reason that is counted.

FILTERS is the table, in order of cost: the first filter that objects gives the reason. What can be
decided only by comparing drafts (near-duplicates, contradictions, ...) is in decisions.py.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

from instructrec_jax.errors import nearest
from instructrec_jax.instructions.decontamination import Evaluation
from instructrec_jax.instructions.document import Draft
from instructrec_jax.instructions.personal_data import finding, holds_part

__all__ = ["COMPARING_FILTERS", "FILTERS", "Evaluation", "FilterSettings", "Limits", "rejection"]

# A target this long that stands whole inside the input was copied, not answered.
_LONGEST_HARMLESS_COPY = 24
# A word that makes up more than this share of so many words is a stuck key.
_STUCK_WORD_SHARE, _STUCK_WORD_LENGTH = 0.5, 10
_STUCK_REPEATS = 20
_STUCK_SEQUENCE = re.compile(rf"(.{{1,8}}?)\1{{{_STUCK_REPEATS - 1},}}", re.DOTALL)
# The share of letters says something about texts of so many characters, white space left out.
_SHORTEST_JUDGED_BY_LETTERS = 80
_LEAST_LETTERS_OF_A_SCRIPT = 20
_LEAST_SHARE_OF_SCRIPTS = 0.8
_MEDIUM = r"(?:figures?|images?|pictures?|photos?|photographs?|diagrams?|screenshots?|videos?)"
# One of these stands in whatever the expression finds.
_MEDIA = ("figure", "image", "picture", "photo", "diagram", "screenshot", "video", "图")
_MISSING_MEDIUM = re.compile(
    rf"\b(?:{_MEDIUM} (?:above|below|on the (?:left|right)|[0-9]+(?:\.[0-9]+)*\b)"
    rf"|(?:in|see|from|by) (?:the|this) {_MEDIUM}(?=\s*(?:[.,;:?!)]|$|above|below|shows?\b))"
    rf"|the following {_MEDIUM}\b)|\[{_MEDIUM}\]"
    r"|(?:如|见|见下|如下|下)图(?:所示|中|[0-9]+)?|上图",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class FilterSettings:
    """The keys of build.filters; each is explained beside its default in configs/base.py."""

    without: tuple[str, ...] = ()
    max_target_ratio: float = 100.0
    min_letter_share: float = 0.25
    scripts: tuple[str, ...] = ()
    decontaminate: tuple[str, ...] = ()
    near_duplicate_similarity: float = 0.8
    near_duplicate_permutations: int = 128
    near_duplicate_words: int = 30
    max_rouge: float = 0.7
    rouge_words: int = 30
    label_ratio: float = 2.0
    rejects_written: int = 20

    @classmethod
    def of(cls, values: "Mapping[str, Any] | FilterSettings") -> "FilterSettings":
        """From a section of a config."""
        if isinstance(values, FilterSettings):
            return values
        given: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list | tuple) else value
            for key, value in dict(values).items()
        }
        return cls(**given)

    def uses(self, name: str) -> bool:
        """Whether the filter is in force."""
        return name not in self.without

    def problems(self) -> list[str]:
        """Everything that is wrong with the settings, one line each."""
        known = tuple(f.name for f in FILTERS if not f.required)
        known += (*COMPARING_FILTERS, *CURATING_FILTERS)
        found = [
            f"build.filters.without: no filter {name!r} can be switched off"
            f"{nearest(name, known) or '; there are ' + ', '.join(known)}"
            for name in self.without
            if name not in known
        ]
        ranges = {
            "max_target_ratio": (0, 1e9),
            "min_letter_share": (0, 1),
            "near_duplicate_similarity": (0.5, 1),
            "near_duplicate_permutations": (16, 1024),
            "near_duplicate_words": (5, 1e9),
            "max_rouge": (0.5, 1),
            "rouge_words": (5, 1e9),
            "label_ratio": (1, 1e9),
            "rejects_written": (0, 1e9),
        }
        assert set(ranges) <= {f.name for f in fields(self)}
        for key, (least, most) in ranges.items():
            value = getattr(self, key)
            if not least <= value <= most:
                bounds = f"between {least} and {most:g}" if most < 1e9 else f"{least} or more"
                found.append(f"build.filters.{key}: {value} must be {bounds}")
        found += [
            f"build.filters.scripts: {name!r} is the first word of no letter's Unicode name; "
            "LATIN, CYRILLIC, CJK, HIRAGANA, ARABIC, ... are"
            for name in self.scripts
            if name not in _known_scripts()
        ]
        return found + Evaluation.problems(self.decontaminate)


_DEFAULTS = FilterSettings()
# What only a comparison of drafts, or the finished phrasing, can refuse, and build.filters.without
# can switch off.
COMPARING_FILTERS = (
    "near_duplicate",
    "contradiction",
    "duplicate",
    "similar_question",
    "label_balance",
    "target_in_instruction",
)


# What a model refuses, where build.curation_checkpoint names one; see curated_train.py.
CURATING_FILTERS = ("ifd", "nll_outlier")


@dataclass(frozen=True)
class Limits:
    """Lengths in characters; 0 = no limit."""

    min_target_characters: int
    max_target_characters: int
    max_input_characters: int


@dataclass(frozen=True)
class Judged:
    """A draft with what a filter may need to know besides."""

    draft: Draft
    limits: Limits
    settings: FilterSettings
    target_in_input: str
    evaluation: Evaluation | None
    hidden: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Filter:
    """`objection(judged)` is the reason, "" where there is none. A required one is always on."""

    name: str
    objection: Callable[[Judged], str]
    required: bool = False


def rejection(
    draft: Draft,
    *,
    limits: Limits,
    target_in_input: str,
    settings: FilterSettings = _DEFAULTS,
    evaluation: Evaluation | None = None,
    hidden: frozenset[str] = frozenset(),
) -> str:
    """Why the draft is refused, "" if it is not.

    `target_in_input` is the task's policy; `hidden` are words of what is secret in the document.
    """
    if draft.rejected:
        return draft.rejected
    judged = Judged(draft, limits, settings, target_in_input, evaluation)
    for each in FILTERS:
        if settings.uses(each.name) and (reason := each.objection(judged)):
            return reason
    return ""


def _empty(judged: Judged) -> str:
    return "" if judged.draft.target.strip() else "empty_target"


def _texts(draft: Draft) -> list[str]:
    """The target and all that a phrasing may show."""
    return [draft.target, *(value for value in draft.fields.values() if isinstance(value, str))]


def _surrogate(judged: Judged) -> str:
    return "lone_surrogate" if any(map(_has_lone_surrogate, _texts(judged.draft))) else ""


def _has_lone_surrogate(text: str) -> bool:
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _length(judged: Judged) -> str:
    limits, target = judged.limits, len(judged.draft.target)
    if target < limits.min_target_characters:
        return "short_target"
    if 0 < limits.max_target_characters < target:
        return "long_target"
    return "long_input" if 0 < limits.max_input_characters < len(judged.draft.input) else ""


def _ratio(judged: Judged) -> str:
    most, text = judged.settings.max_target_ratio, judged.draft.input
    return "length_ratio" if 0 < most * len(text) < len(judged.draft.target) else ""


def _copy(judged: Judged) -> str:
    target, text = judged.draft.target, judged.draft.input
    return "target_in_input" if _is_copy(target, text, policy=judged.target_in_input) else ""


def _is_copy(target: str, text: str, *, policy: str) -> bool:
    if policy == "allowed":
        return False
    short, long = target.casefold().strip(), text.casefold().strip()
    if policy == "never":
        return re.search(rf"(?<!\w){re.escape(short)}(?!\w)", long) is not None
    return short == long or (len(short) >= _LONGEST_HARMLESS_COPY and short in long)


def _repetition(judged: Judged) -> str:
    texts = (judged.draft.target, judged.draft.input)
    return "degenerate" if any(map(_is_degenerate, texts)) else ""


# Drafts of a document ask about the same text many times.
@lru_cache(maxsize=256)
def _is_degenerate(text: str) -> bool:
    words = text.split()
    # No word comes more often; where that may be too often they are counted.
    most = len(words) - len(set(words)) + 1
    if most > min(_STUCK_WORD_SHARE * len(words), _STUCK_REPEATS - 3):
        most = max(Counter(words).values(), default=0)
    if len(words) >= _STUCK_WORD_LENGTH and most > _STUCK_WORD_SHARE * len(words):
        return True
    # A stuck sequence is a long word, or repeats its words: this spares most texts the search.
    if most < _STUCK_REPEATS - 2 and max(map(len, words), default=0) < _STUCK_REPEATS:
        return False
    return any(match[1].strip() for match in _STUCK_SEQUENCE.finditer(text))


def _script(judged: Judged) -> str:
    settings, texts = judged.settings, (judged.draft.input, judged.draft.target)
    counts = [_solid_and_letters(text) for text in texts]
    solid, count = map(sum, zip(*counts, strict=True))
    if solid >= _SHORTEST_JUDGED_BY_LETTERS and count < settings.min_letter_share * solid:
        return "few_letters"
    letters = [c for text in texts for c in text if c.isalpha()] if settings.scripts else []
    if len(letters) >= _LEAST_LETTERS_OF_A_SCRIPT:
        expected = sum(script_of(letter) in settings.scripts for letter in letters)
        if expected < _LEAST_SHARE_OF_SCRIPTS * len(letters):
            return "other_script"
    return ""


@lru_cache(maxsize=256)
def _solid_and_letters(text: str) -> tuple[int, int]:
    """Its length without white space, and how many of that are letters."""
    solid = "".join(text.split())
    return len(solid), sum(map(str.isalpha, solid))


@lru_cache(maxsize=1 << 16)
def script_of(letter: str) -> str:
    """The first word of the letter's Unicode name: LATIN, CYRILLIC, CJK, HIRAGANA, ..."""
    return unicodedata.name(letter, "").partition(" ")[0]


@lru_cache(maxsize=1)
def _known_scripts() -> frozenset[str]:
    return frozenset(script_of(chr(code)) for code in range(0x2FA20) if chr(code).isalpha())


def _medium(judged: Judged) -> str:
    texts = (judged.draft.target, judged.draft.input)
    return "missing_medium" if any(map(_misses_medium, texts)) else ""


@lru_cache(maxsize=256)
def _misses_medium(text: str) -> bool:
    lower = text.lower()
    return any(name in lower for name in _MEDIA) and _MISSING_MEDIUM.search(text) is not None


def _personal(judged: Judged) -> str:
    texts = (*_texts(judged.draft), *judged.draft.references)
    found = next(filter(None, map(_finding, texts)), "")
    # A draft may hold a part of what stands in its document: the rest of a key.
    cut = bool(judged.hidden) and any(holds_part(text, judged.hidden) for text in texts)
    return found or ("secret" if cut else "")


@lru_cache(maxsize=256)
def _finding(text: str) -> str:
    return finding(text)


def _evaluated(judged: Judged) -> str:
    evaluation, draft = judged.evaluation, judged.draft
    if evaluation is None:
        return ""
    found = evaluation.asks(draft.input, draft.target) or evaluation.holds(*_texts(draft))
    return "in_evaluation_data" if found else ""


FILTERS = (
    Filter("empty_target", _empty, required=True),
    Filter("lone_surrogate", _surrogate, required=True),
    Filter("length", _length),
    Filter("length_ratio", _ratio),
    Filter("copy", _copy),
    Filter("repetition", _repetition),
    Filter("script", _script),
    Filter("missing_medium", _medium),
    Filter("personal_data", _personal),
    Filter("decontamination", _evaluated),
)
