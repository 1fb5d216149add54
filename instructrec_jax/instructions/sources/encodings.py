"""Bytes to text: which encoding a file is in, or why it cannot be told."""

import codecs
import re

import chardet
import chardetng_py
from charset_normalizer import from_bytes

# A byte order mark decides. UTF-32 comes first: its mark begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What is tried where UTF-8 is impossible; of those that read the same text the first is named.
_LEGACY = (
    *("cp1252", "iso8859-15", "mac-roman", "cp437", "cp850"),
    *("cp1250", "iso8859-2", "cp852", "cp1257", "iso8859-13", "iso8859-16"),
    *("cp1254", "cp1258", "cp874"),
    *("cp1251", "koi8-r", "koi8-u", "iso8859-5", "mac-cyrillic", "cp866"),
    *("cp1253", "iso8859-7", "cp1255", "iso8859-8", "cp1256", "iso8859-6"),
    *("euc-jp", "cp932", "cp949", "big5", "gb18030"),
)
# Two-byte encodings, the most particular first, each with the narrower one that holds the common
# characters of its languages alone, and their first bytes there: the rare ones of one encoding are
# the common ones of another. Japanese is told from the others by its kana too.
_MULTI_BYTE = {
    "euc_jp": ("euc_jp", range(0xA1, 0xD0)),
    "cp949": ("euc_kr", (0xA1, *range(0xB0, 0xC9))),
    "cp932": ("shift_jis", range(0x81, 0x98)),
    "big5": ("big5", range(0xA1, 0xC7)),
    "gb18030": ("gb2312", (0xA1, 0xA3, *range(0xB0, 0xD8))),
}
_JAPANESE = ("euc_jp", "cp932")
_KANA = re.compile(r"[\u3041-\u30fe]")
_LEAST_COMMON, _LEAST_KANA = 0.9, 0.1
# Encodings without a newline byte of their own: files in them are not read in parts.
WIDE = ("utf-16", "utf-16-le", "utf-16-be", "utf-32")
_SAMPLE_BYTES = 1 << 16
# So many characters, nearly all of them common ones, are proof enough.
_LEAST_WIDE_CHARACTERS = 8
# Fewer signs beyond ASCII tell no encoding from another.
_LEAST_SIGNS = 2
# How ISO-2022-JP goes into two-byte characters; its bytes look like ASCII.
_SHIFTS = re.compile(rb"\x1b\$[@B]")
# Control characters that no text holds; more than this share of them is no text.
_CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_MOST_CONTROLS = 0.01


class UndecodableError(Exception):
    """Bytes that are no text in a known encoding; `reason` is one word to count by."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def encoding_of(data: bytes, *, whole: bool) -> str:
    """The encoding of a file by its bytes, or by its first ones (`whole` false).

    A byte order mark, else UTF-8 where all bytes fit it, else UTF-16 without a mark, else the
    one that two of three detectors read the same text in.

    Raises:
        UndecodableError: "binary", "truncated_character" (UTF-8 that ends inside a character),
            "damaged_utf8" or "uncertain_encoding".
    """
    for mark, name in _MARKS:
        if data.startswith(mark):
            return name
    if b"\0" in data:
        return _unmarked_utf16(data)
    if len(_CONTROLS.findall(data[:_SAMPLE_BYTES])) > _MOST_CONTROLS * len(data[:_SAMPLE_BYTES]):
        raise UndecodableError("binary", "control characters")
    if _SHIFTS.search(data[:_SAMPLE_BYTES]):
        return "iso2022_jp"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        at_end = error.reason == "unexpected end of data"
        if at_end and not (whole and data[: error.start].isascii()):
            if whole:
                raise UndecodableError("truncated_character", f"byte {error.start}") from error
            return "utf-8"
        signs = [sign for sign in data.decode("utf-8", "surrogateescape") if sign > "\x7f"]
        broken = sum("\udc80" <= sign <= "\udcff" for sign in signs)
        if 2 * broken <= len(signs):
            # In no other encoding so many bytes fit by chance; as one of them it would be garbled.
            raise UndecodableError("damaged_utf8", f"the first at byte {error.start}") from error
        return _likeliest(data)
    return "utf-8"


def decoded(data: bytes, *, encoding: str = "") -> tuple[str, str]:
    """The text of a whole file, its newlines all "\\n", and the encoding; "" = found out.

    Raises:
        UndecodableError: as `encoding_of`, or "undecodable" where the bytes are not in it.
    """
    encoding = encoding or encoding_of(data, whole=True)
    try:
        return with_newlines(data.decode(encoding)), codecs.lookup(encoding).name
    except UnicodeDecodeError as error:
        detail = f"not {encoding}: byte {error.start}"
        raise UndecodableError("undecodable", detail) from error


def with_newlines(text: str) -> str:
    """The text with "\\n" for each line's end; "\\r" alone counts where there is nothing else."""
    text = text.replace("\r\n", "\n")
    return text if "\n" in text else text.replace("\r", "\n")


def _unmarked_utf16(data: bytes) -> str:
    sample = data[: _SAMPLE_BYTES & ~1]
    for name, places in (("utf-16-le", sample[1::2]), ("utf-16-be", sample[::2])):
        # Western text and line ends have a zero byte in each such place.
        if len(data) % 2 == 0 and places.count(0) > 0.3 * len(places):
            try:
                text = sample.decode(name)
            except UnicodeDecodeError:
                continue
            if not _CONTROLS.search(text.encode("utf-8")):
                return name
    raise UndecodableError("binary", "zero bytes")


def _likeliest(data: bytes) -> str:
    sample = data[:_SAMPLE_BYTES]
    if len(data) > len(sample):
        # Not to end inside a character.
        sample = sample[: sample.rfind(b"\n") + 1] or sample
    for name in _MULTI_BYTE:
        if _is_common(sample, name):
            return name
    # Three judges who look at different things: pairs of letters by language, the habits of web
    # pages, and how unlikely a text looks. Names differ, so texts are compared.
    first = chardet.detect(
        sample, max_bytes=len(sample), compat_names=False, include_encodings=_LEGACY
    )["encoding"]
    text = _text(sample, first)
    if text is not None and sum(sign > "\x7f" for sign in text) >= _LEAST_SIGNS:
        best = from_bytes(sample).best()
        for other in (chardetng_py.detect(sample), best.encoding if best else None):
            if _text(sample, other) == text:
                same = (name for name in _LEGACY if _text(sample, name) == text)
                return codecs.lookup(next(same)).name
    raise UndecodableError(
        "uncertain_encoding", "the encoding cannot be told: give `encoding=` in the source"
    )


def _text(data: bytes, encoding: str | None) -> str | None:
    """The text in that encoding, None where the bytes are not in it."""
    try:
        return data.decode(encoding) if encoding else None
    except (UnicodeDecodeError, LookupError):
        return None


def _is_common(sample: bytes, name: str) -> bool:
    """Whether the bytes are text of common characters in that two-byte encoding."""
    try:
        wide = [sign for sign in sample.decode(name) if sign > "\x7f"]
    except UnicodeDecodeError:
        return False
    narrow, first = _MULTI_BYTE[name]
    coded = (sign.encode(narrow, "ignore") for sign in wide)
    common = sum(len(pair) == 2 and pair[0] in first for pair in coded)
    kana = sum(_KANA.match(sign) is not None for sign in wide)
    return (
        len(wide) >= _LEAST_WIDE_CHARACTERS
        and common >= _LEAST_COMMON * len(wide)
        and (name not in _JAPANESE or kana >= _LEAST_KANA * len(wide))
    )
