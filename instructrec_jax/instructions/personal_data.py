"""Personal data and secrets in text: patterns, and the check sums that tell them from noise.

`finding` tells whether there are any, `masked` takes them out of what people are shown, `parts_of`
names the words of those of a whole document, of which a draft may hold some.
"""

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

_SHORTEST_SECRET, _LEAST_SECRET_BITS, _LEAST_KEY_BITS = 10, 3.2, 4.5
# Names that stand for no one (RFC 2606, RFC 6761) and addresses that belong to programs.
_EXAMPLE_DOMAIN = re.compile(
    r"(?:^|\.)(?:example(?:\.[a-z]+)?|test|invalid|localhost|local|domain\.com|python\.org)$"
)


# Addresses of public name servers, which everyone writes.
_NAME_SERVERS = frozenset(
    ("8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "9.9.9.9", "2001:4860:4860::8888")
    + ("2001:4860:4860::8844", "2606:4700:4700::1111", "2606:4700:4700::1001")
)
# The newer of the ranges for documentation (RFC 9637), which Python does not know before 3.13.
_DOCUMENTATION = ipaddress.ip_network("3fff::/20")
# In front of four numbers with dots that are no address.
_VERSION = re.compile(
    r"(?:version|release|revision|build|section|chapter|clause|figure|table|rfc|oid|v|ver|sec)s?"
    r"[\s.:=#\"']*$|(?:[=<>~!^]=?|§)\s*[\"']?$|[\w)]/$",
    re.IGNORECASE,
)
# Versions and sections have small numbers; an address of such is taken for one where a word says
# so.
_SMALL, _ADDRESS_WORD = (
    32,
    re.compile(r"(?:\bip\W*|\bips\W*|address\W*|host\W*|//)$", re.IGNORECASE),
)
_CONTEXT = 24
_CHINESE_TELEPHONE = re.compile(r"[\u4e00-\u9fff]|phone|mobile|\btel\b|\bcell\b", re.IGNORECASE)


# A word that may be part of a secret: long, and of letters and digits, or very long.
_PART = re.compile(r"[^\s\"'`\\,;]{8,}")
_LONG_PART = 20
# Masking makes room for what another pattern's match stood in the way of.
_ROUNDS = 4


@dataclass(frozen=True)
class Pattern:
    """What is looked for; `hints` are texts of which one must stand in it (a cheap first look).

    `accepts(match)` says whether a match is one; it is `name` for a person, and `begins` is the
    group of the expression with which it begins. With `any_case` the hints are in small letters,
    and stand in the text in any.
    """

    reason: str
    hints: tuple[str, ...]
    expression: re.Pattern[str]
    accepts: Callable[[re.Match[str]], bool] = lambda match: True
    name: str = "secret"
    begins: int = 0
    any_case: bool = False


def finding(text: str) -> str:
    """ "secret" or "personal_data" where the text holds one, else ""."""
    return next((pattern.reason for pattern, _, _ in _found(text)), "")


def masked(text: str, parts: Iterable[str] = ()) -> str:
    """The text with "[secret masked]", "[e-mail address masked]", ... for all that `finding` finds.

    Of a private key the whole body goes. `parts`, of `parts_of`, are words that go too, also where
    a draft cut them.
    """
    for _ in range(_ROUNDS):
        spans = [(start, end, pattern.name) for pattern, start, end in _found(text)]
        if not spans:
            break
        text = _without(text, spans)
    if not (known := tuple(parts)):
        return text
    hidden = [(*word.span(), "secret") for word in _PART.finditer(text) if _is_of(word[0], known)]
    return _without(text, hidden)


def parts_of(*texts: str) -> frozenset[str]:
    """The words that the secrets and personal data of the texts are made of."""
    return frozenset(part for text in texts for part in _parts_of(text))


def holds_part(text: str, parts: Iterable[str]) -> bool:
    """Whether the text holds one of these words, or a piece of one."""
    known = tuple(parts)
    return bool(known) and any(_is_of(word[0], known) for word in _PART.finditer(text))


# The drafts of a document ask for the same one.
@lru_cache(maxsize=64)
def _parts_of(text: str) -> tuple[str, ...]:
    found = (text[start:end] for _, start, end in _found(text))
    return tuple(word[0] for piece in found for word in _parts(piece))


def _found(text: str) -> Iterator[tuple[Pattern, int, int]]:
    """Yield each finding with its place, pattern by pattern."""
    small = text.lower()
    for pattern in PATTERNS:
        looked_at = small if pattern.any_case else text
        # A loop is faster here than `any`.
        for hint in pattern.hints:
            if hint in looked_at:
                break
        else:
            continue
        for match in pattern.expression.finditer(text):
            if pattern.accepts(match):
                yield pattern, match.start(pattern.begins), match.end()


def _without(text: str, spans: list[tuple[int, int, str]]) -> str:
    """The text with the name of what stood there in place of each span; the earlier one counts."""
    pieces, last = [], 0
    for start, end, name in sorted(spans):
        if start >= last:
            pieces += [text[last:start], f"[{name} masked]"]
        last = max(last, end)
    return "".join([*pieces, text[last:]])


def _parts(text: str) -> Iterator[re.Match[str]]:
    for word in _PART.finditer(text):
        digits = sum(map(str.isdigit, word[0]))
        mixed = digits and (digits >= 7 or any(map(str.isalpha, word[0])))
        if mixed or (len(word[0]) >= _LONG_PART and word[0].strip("-=*#_~.")):
            yield word


def _is_of(word: str, parts: tuple[str, ...]) -> bool:
    return any(word in part or part in word for part in parts)


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


def is_placeholder(digits: str) -> bool:
    """Whether a telephone number is one of those that stand for any: 555-01xx, 123456789, 00000."""
    local = digits[-7:]
    fictional = local.startswith("55501") or (len(digits) == 7 and local.startswith("555"))
    return fictional or digits in "01234567890123456789" or len(set(digits)) <= 2


def is_public_address(text: str) -> bool:
    """Whether the text is the address of one machine on the internet (IPv4 or IPv6).

    Private, local and documentation ranges, networks and public name servers are not.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if str(address) in _NAME_SERVERS or address.is_multicast or address.is_reserved:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        # Global unicast is 2000::/3; without an interface it is a network.
        inside = int(address) >> 125 == 1 and int(address) % 2**64 != 0
        return inside and address.is_global and address not in _DOCUMENTATION
    return address.is_global and int(address) % 2**8 != 0


def _is_machine(match: re.Match[str]) -> bool:
    before = match.string[max(0, match.start() - _CONTEXT) : match.start()]
    named = _ADDRESS_WORD.search(before) is not None
    small = sum(int(part) < _SMALL for part in match[1].split(".")) >= 3
    if not named and (small or _VERSION.search(before)):
        return False
    return is_public_address(match[1]) and not is_placeholder(match[1].replace(".", ""))


def _is_telephone(match: re.Match[str]) -> bool:
    digits = re.sub(r"\D", "", match[match.lastindex or 0])
    return 7 <= len(digits) <= 15 and not is_placeholder(digits) and not _is_size(int(digits))


def _is_mobile(match: re.Match[str]) -> bool:
    digits = re.sub(r"\D", "", match[0])
    if _is_size(int(digits)) or is_placeholder(digits):
        return False
    # Eleven digits in a row are a number of any kind, but for what stands around them.
    start, end = match.span()
    around = match.string[max(0, start - _CONTEXT) : end + _CONTEXT]
    return match[1] is not None or _CHINESE_TELEPHONE.search(around) is not None


def _is_size(number: int) -> bool:
    """Whether it is a power of two or next to one, as sizes and limits are."""
    return number & (number - 1) == 0 or number & (number + 1) == 0


def _is_own_address(match: re.Match[str]) -> bool:
    return _EXAMPLE_DOMAIN.search(match[1].casefold()) is None


def _is_card(match: re.Match[str]) -> bool:
    return is_card_number(re.sub(r"[ -]", "", match[0]))


def _is_random(match: re.Match[str]) -> bool:
    value = match[1]
    mixed = any(c.isdigit() for c in value) and any(c.isalpha() for c in value)
    return mixed and len(value) >= _SHORTEST_SECRET and entropy(value) >= _LEAST_SECRET_BITS


_TOKENS = {
    # With the body, up to its last line or, where that is cut off, the end of the text.
    "-----BEGIN": r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
    r"(?:[\s\S]*?-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----|[\s\S]*)",
    "-----END": r"(?<![\w+/=])(?:[A-Za-z0-9+/=]{8,76}\s+)*"
    r"-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----",
    "AGE-SECRET-KEY-": r"\bAGE-SECRET-KEY-1[A-Z0-9]{20,}",
    "AKIA": r"\bAKIA[0-9A-Z]{16}\b",
    "ASIA": r"\bASIA[0-9A-Z]{16}\b",
    **{f"gh{kind}_": rf"\bgh{kind}_[A-Za-z0-9]{{36,}}\b" for kind in "pousr"},
    "github_pat_": r"\bgithub_pat_[A-Za-z0-9_]{22,}\b",
    "glpat-": r"\bglpat-[\w-]{20,}",
    "xox": r"\bxox[abeprs]-[A-Za-z0-9-]{10,}",
    "hooks.slack.com": r"hooks\.slack\.com/services/T\w+/B\w+/\w+",
    "_live_": r"\b[sr]k_live_[A-Za-z0-9]{16,}",
    "AIza": r"\bAIza[\w-]{35}",
    "sk-": r"\bsk-(?:[a-z]+-)*[A-Za-z0-9_-]{32,}",
    "GOCSPX-": r"\bGOCSPX-[\w-]{20,}",
    "SG.": r"\bSG\.[\w-]{16,}\.[\w-]{16,}",
    "shp": r"\bshp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}\b",
    "dop_v1_": r"\bdop_v1_[0-9a-f]{64}\b",
    "AccountKey=": r"\bAccountKey=[A-Za-z0-9+/]{40,}={0,2}",
    ":AA": r"\b\d{8,10}:AA[\w-]{32,33}(?![\w-])",
    "npm_": r"\bnpm_[A-Za-z0-9]{36}\b",
    "pypi-": r"\bpypi-[\w-]{50,}",
    "hf_": r"\bhf_[A-Za-z0-9]{30,}\b",
    "eyJ": r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}",
}
_DIGITS = tuple("0123456789")
PATTERNS = (
    *(Pattern("secret", (hint,), re.compile(source)) for hint, source in _TOKENS.items()),
    # The lines of a key whose first and last one stand elsewhere.
    Pattern(
        "secret",
        _DIGITS,
        re.compile(
            r"(?<![\w+/=])[A-Za-z0-9+/]{60,76}(?:\s+[A-Za-z0-9+/]{60,76})+"
            r"(?:\s+(?=\S*\d)[A-Za-z0-9+/]{8,76}={0,2})?(?![\w+/])"
        ),
        lambda match: entropy(match[0]) >= _LEAST_KEY_BITS,
    ),
    Pattern(
        "secret",
        ("earer ", "asic "),
        re.compile(r"\b(?:[Bb]earer|Authorization: [Bb]asic) ([\w.~+/-]{16,}=*)"),
        _is_random,
        begins=1,
    ),
    Pattern(
        "secret",
        ("=", ":"),
        re.compile(
            r"(?:password|passwd|passphrase|secret|token|api[_-]?key|access[_-]?key|密码|口令)\w*"
            r"[\"']?\s*[:=]\s*[\"']?([^\s\"'`,;<>(){}\[\]]{10,200})[^\s\"'`]*",
            re.IGNORECASE,
        ),
        _is_random,
        begins=1,
    ),
    Pattern(
        "secret",
        ("://",),
        re.compile(r"://([^\s/:@]+:[^\s/:@]{6,})(?=@[\w-])"),
        begins=1,
    ),
    Pattern(
        "personal_data",
        ("@",),
        re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@((?:[\w-]+\.)+[A-Za-z]{2,24})\b"),
        _is_own_address,
        name="e-mail address",
    ),
    Pattern(
        "personal_data",
        ("+", "("),
        re.compile(
            r"(?<![\w+])\+[1-9]\d{0,2}[ .-]?\(?\d{1,4}\)?(?:[ .-]\d{2,8}){1,4}(?![\w-])"
            r"|(?<![\w+])\+[1-9]\d{9,14}(?!\w)"
            r"|(?<!\w)\([2-9]\d{2}\) ?[2-9]\d{2}-\d{4}(?!\w)"
        ),
        lambda match: sum(map(str.isdigit, match[0])) >= 10 and _is_telephone(match),
        name="telephone number",
    ),
    Pattern(
        "personal_data",
        ("-",),
        re.compile(r"(?<![\w.-])(?:1-)?[2-9]\d{2}-[2-9]\d{2}-\d{4}(?![\w-])"),
        _is_telephone,
        name="telephone number",
    ),
    # Chinese mobile numbers; those of other countries begin with 0 and are told by a word.
    Pattern(
        "personal_data",
        ("1",),
        re.compile(
            r"(?<![\w.,+*/-])1(?:[38]\d|4[5-9]|5[0-35-9]|6[2567]|7[0-8]|9[0-35-9])"
            r"(?:\d{8}|([ -])\d{4}\1\d{4})(?![\w*/-]|[.,]\d)"
        ),
        _is_mobile,
        name="telephone number",
    ),
    Pattern(
        "personal_data",
        ("tel", "tél", "phon", "fon", "fax", "mob", "ел", "电话", "電話", "手机"),
        re.compile(
            r"(?:\b(?:(?:tele)?phone|telefon[oe]?|tél(?:éphone)?|tel|fon|fax|mobil[e]?|тел)"
            r"|电话|電話|手机)\b[.]?"
            r"(?:\s*(?:numbers?|no\.|nr\.|号码|is))?[\"']?\s*[:：.=]?\s*[\"']?"
            r"(\(?\d{2,5}\)?(?:[ /.-]{0,2}\(?\d{2,8}\)?){1,5})(?![\w-])",
            re.IGNORECASE,
        ),
        _is_telephone,
        name="telephone number",
        begins=1,
        any_case=True,
    ),
    Pattern(
        "personal_data",
        _DIGITS,
        re.compile(r"(?<![\w.-])((?:\d{1,3}\.){3}\d{1,3})(?![\w-]|\.\d)"),
        _is_machine,
        name="internet address",
    ),
    Pattern(
        "personal_data",
        ("2", "3"),
        re.compile(r"(?<![\w:.])([23][0-9a-f]{3}:[0-9a-f:]{2,34})(?!\w|\.\d)", re.IGNORECASE),
        lambda match: is_public_address(match[1].rstrip(":")),
        name="internet address",
    ),
    # United States social security numbers: no area 000, 666 or 9xx, group 00 or serial 0000.
    Pattern(
        "personal_data",
        ("-",),
        re.compile(r"(?<![\w.-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-]|\.\d)"),
        name="social security number",
    ),
    Pattern(
        "personal_data",
        _DIGITS,
        re.compile(r"(?<![\w.-])(?:\d[ -]?){12,18}\d(?![\w-]|\.\d)"),
        _is_card,
        name="card number",
    ),
    Pattern(
        "personal_data",
        _DIGITS,
        re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"),
        lambda match: is_iban(match[0]),
        name="account number",
    ),
)
