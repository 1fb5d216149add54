"""Personal data and secrets in text: patterns, and the check sums that tell them from noise."""

import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

_SHORTEST_SECRET, _LEAST_SECRET_BITS = 10, 3.2
# Names that stand for no one (RFC 2606, RFC 6761) and addresses that belong to programs.
_EXAMPLE_DOMAIN = re.compile(
    r"(?:^|\.)(?:example(?:\.[a-z]+)?|test|invalid|localhost|local|domain\.com|python\.org)$"
)


@dataclass(frozen=True)
class Pattern:
    """What is looked for; `hints` are texts of which one must stand in it (a cheap first look).

    `accepts(match)` says whether a match is one.
    """

    reason: str
    hints: tuple[str, ...]
    expression: re.Pattern[str]
    accepts: Callable[[re.Match[str]], bool] = lambda match: True


def finding(text: str) -> str:
    """ "secret" or "personal_data" where the text holds one, else ""."""
    for pattern in PATTERNS:
        for hint in pattern.hints:
            if hint in text:
                break
        else:
            continue
        if any(pattern.accepts(match) for match in pattern.expression.finditer(text)):
            return pattern.reason
    return ""


def is_card_number(digits: str) -> bool:
    """Whether the digits have a card issuer's prefix and length and Luhn's check digit."""
    if not re.fullmatch(
        r"4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|6(?:011|5\d\d)\d{12}|35\d{14}",
        digits,
    ):
        return False
    doubled = (int(d) * (1 + place % 2) for place, d in enumerate(reversed(digits)))
    return sum(n - 9 if n > 9 else n for n in doubled) % 10 == 0


def is_iban(text: str) -> bool:
    """Whether the text is an International Bank Account Number (ISO 13616: modulus 97)."""
    compact = text.replace(" ", "")
    if not 15 <= len(compact) <= 34:
        return False
    digits = "".join(str(int(c, 36)) for c in compact[4:] + compact[:4])
    return int(digits) % 97 == 1


def entropy(text: str) -> float:
    """Bits a character, by the frequencies of the text's own characters."""
    counts = Counter(text).values()
    return -sum(n / len(text) * math.log2(n / len(text)) for n in counts)


def _is_own_address(match: re.Match[str]) -> bool:
    return _EXAMPLE_DOMAIN.search(match[1].casefold()) is None


def _is_card(match: re.Match[str]) -> bool:
    return is_card_number(re.sub(r"[ -]", "", match[0]))


def _is_random(match: re.Match[str]) -> bool:
    value = match[1]
    mixed = any(c.isdigit() for c in value) and any(c.isalpha() for c in value)
    return mixed and len(value) >= _SHORTEST_SECRET and entropy(value) >= _LEAST_SECRET_BITS


_TOKENS = {
    "-----BEGIN": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----",
    "AKIA": r"\bAKIA[0-9A-Z]{16}\b",
    "ASIA": r"\bASIA[0-9A-Z]{16}\b",
    "gh": r"\bgh[pousr]_[A-Za-z0-9]{36,}\b",
    "github_pat_": r"\bgithub_pat_[A-Za-z0-9_]{22,}\b",
    "glpat-": r"\bglpat-[\w-]{20,}",
    "xox": r"\bxox[abeprs]-[A-Za-z0-9-]{10,}",
    "hooks.slack.com": r"hooks\.slack\.com/services/T\w+/B\w+/\w+",
    "_live_": r"\b[sr]k_live_[A-Za-z0-9]{16,}",
    "AIza": r"\bAIza[\w-]{35}",
    "sk-": r"\bsk-(?:[a-z]+-)*[A-Za-z0-9_-]{32,}",
    "npm_": r"\bnpm_[A-Za-z0-9]{36}\b",
    "pypi-": r"\bpypi-[\w-]{50,}",
    "hf_": r"\bhf_[A-Za-z0-9]{30,}\b",
    "eyJ": r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}",
}
_DIGITS = tuple("0123456789")
PATTERNS = (
    *(Pattern("secret", (hint,), re.compile(source)) for hint, source in _TOKENS.items()),
    Pattern(
        "secret",
        ("=", ":"),
        re.compile(
            r"(?:password|passwd|passphrase|secret|token|api[_-]?key|access[_-]?key)\w*"
            r"[\"']?\s*[:=]\s*[\"']?([^\s\"'`,;<>(){}\[\]]{10,200})",
            re.IGNORECASE,
        ),
        _is_random,
    ),
    Pattern("secret", ("://",), re.compile(r"://[^\s/:@]+:[^\s/:@]{6,}@[\w-]")),
    Pattern(
        "personal_data",
        ("@",),
        re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@((?:[\w-]+\.)+[A-Za-z]{2,24})\b"),
        _is_own_address,
    ),
    Pattern(
        "personal_data",
        ("+", "("),
        re.compile(
            r"(?<![\w+])\+[1-9]\d{0,2}[ .-]?\(?\d{1,4}\)?(?:[ .-]\d{2,8}){1,4}(?![\w-])"
            r"|(?<![\w+])\+[1-9]\d{9,14}(?!\w)"
            r"|(?<!\w)\([2-9]\d{2}\) ?[2-9]\d{2}-\d{4}(?!\w)"
        ),
        lambda match: 10 <= sum(c.isdigit() for c in match[0]) <= 15,
    ),
    Pattern(
        "personal_data",
        ("-",),
        re.compile(r"(?<![\w.-])[2-9]\d{2}-[2-9]\d{2}-\d{4}(?![\w-])"),
    ),
    # United States social security numbers: no area 000, 666 or 9xx, group 00 or serial 0000.
    Pattern(
        "personal_data",
        ("-",),
        re.compile(r"(?<![\w.-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-]|\.\d)"),
    ),
    Pattern(
        "personal_data",
        _DIGITS,
        re.compile(r"(?<![\w.-])(?:\d[ -]?){12,18}\d(?![\w-]|\.\d)"),
        _is_card,
    ),
    Pattern(
        "personal_data",
        _DIGITS,
        re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"),
        lambda match: is_iban(match[0]),
    ),
)
