"""What is refused, draft by draft; every refusal has a reason that is counted."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from instructrec_jax.instructions.document import Draft

# A target this long that stands whole inside the input was copied, not answered.
_LONGEST_HARMLESS_COPY = 24
# A word that makes up more than this share of so many words is a stuck key.
_STUCK_WORD_SHARE, _STUCK_WORD_LENGTH = 0.5, 10
_STUCK_SEQUENCE = re.compile(r"(.{1,8}?)\1{19,}", re.DOTALL)


@dataclass(frozen=True)
class Limits:
    """Lengths in characters; 0 = no limit."""

    min_target_characters: int
    max_target_characters: int
    max_input_characters: int


def rejection(draft: Draft, *, limits: Limits, target_in_input: str) -> str:
    """Why the draft is refused, "" if it is not. `target_in_input` is the task's policy."""
    if draft.rejected:
        return draft.rejected
    target, text = draft.target, draft.input
    if not target.strip():
        return "empty_target"
    if _has_lone_surrogate(target) or any(_has_lone_surrogate(v) for v in draft.fields.values()):
        return "lone_surrogate"
    if len(target) < limits.min_target_characters:
        return "short_target"
    if 0 < limits.max_target_characters < len(target):
        return "long_target"
    if 0 < limits.max_input_characters < len(text):
        return "long_input"
    if _is_copy(target, text, policy=target_in_input):
        return "target_in_input"
    if _is_degenerate(target) or _is_degenerate(text):
        return "degenerate"
    return ""


def _has_lone_surrogate(value: Any) -> bool:
    return isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value)


def _is_copy(target: str, text: str, *, policy: str) -> bool:
    if policy == "allowed":
        return False
    short, long = target.casefold().strip(), text.casefold().strip()
    if policy == "never":
        return re.search(rf"(?<!\w){re.escape(short)}(?!\w)", long) is not None
    return short == long or (len(short) >= _LONGEST_HARMLESS_COPY and short in long)


def _is_degenerate(text: str) -> bool:
    words = text.split()
    if len(words) >= _STUCK_WORD_LENGTH:
        most = Counter(words).most_common(1)[0][1]
        if most > _STUCK_WORD_SHARE * len(words):
            return True
    return any(match[1].strip() for match in _STUCK_SEQUENCE.finditer(text))
