"""Tasks about tunes in ABC notation: body and headers, checked bar by bar."""

import re
from collections.abc import Iterator
from fractions import Fraction

from instructrec_jax.instructions.document import Context, Document, Draft

_BAR_LINE = re.compile(r"\|\]|\[\||\|:|:\||::|\|\||\|")
# What takes no time: chord names and annotations, decorations, grace notes, slurs, endings.
_SILENT = re.compile(r'"[^"\n]*"|![^!\n]*!|\{[^}\n]*\}|(?<=\|)\s*\[?[1-4](?=[\s(A-Ga-gz"])|\[[1-4]')
_NOTE = re.compile(
    r"(?:\[(?P<chord>[^\]]+)\]|[_^=]{0,2}(?:[A-Ga-g][,']*|[zx]))(?P<length>\d*(?:/+\d*)?)"
)
_PITCH = re.compile(r"[_^=]{0,2}[A-Ga-g][,']*(\d*(?:/+\d*)?)")
_TUPLET = re.compile(r"\((\d)(?::(\d?))?(?::(\d?))?")
# In the time of how many, by the number of notes (ABC 2.1, 4.13); 5, 7 and 9 hang on the metre.
_TUPLET_TIME = {2: 3, 3: 2, 4: 3, 6: 2, 8: 3}
_METRE = re.compile(r"(\d+)/(\d+)")
# Metres that the notes tell: 2/2 and 4/4 look the same, so do their doubles.
METRES = ("2/4", "3/4", "4/4", "3/8", "6/8", "9/8", "12/8")
_INLINE_FIELD = re.compile(r"\[[A-Za-z]:[^\]]*\]")
# Shorter tunes have nothing to continue.
_LEAST_BARS = 8
_CONTINUED_BARS = 4


def metre_of(text: str) -> Fraction | None:
    """The length of a bar in whole notes: "C" is 4/4, "C|" 2/2; None for a free or odd metre."""
    text = {"C": "4/4", "C|": "2/2"}.get(text.strip(), text.strip())
    match = _METRE.fullmatch(text)
    return Fraction(int(match[1]), int(match[2])) if match and int(match[2]) else None


def unit_of(text: str, metre: Fraction) -> Fraction:
    """The length of a note without a number; by default 1/16 below a metre of 3/4, else 1/8."""
    match = _METRE.fullmatch(text.strip())
    if match and int(match[2]):
        return Fraction(int(match[1]), int(match[2]))
    return Fraction(1, 16) if metre < Fraction(3, 4) else Fraction(1, 8)


def bar_length(bar: str, unit: Fraction) -> Fraction | None:
    """The time that the notes of a bar take, in whole notes; None for what cannot be counted."""
    text = _SILENT.sub("", bar)
    total, place, factor, left = Fraction(0), 0, Fraction(1), 0
    broken = Fraction(1)
    while place < len(text):
        if tuplet := _TUPLET.match(text, place):
            count = int(tuplet[1])
            time = int(tuplet[2]) if tuplet[2] else _TUPLET_TIME.get(count, 0)
            if not count or not time:
                return None
            factor, left = Fraction(time, count), int(tuplet[3] or count)
            place = tuplet.end()
        elif note := _NOTE.match(text, place):
            length = _note_length(note)
            if length is None:
                return None
            length *= (factor if left else 1) * broken
            left, broken = max(0, left - 1), Fraction(1)
            place = note.end()
            if rhythm := re.compile(r"\s*(>+|<+)").match(text, place):
                dots = Fraction(1, 2 ** len(rhythm[1]))
                long, short = 2 - dots, dots
                length, broken = (
                    (length * long, short) if ">" in rhythm[1] else (length * short, long)
                )
                place = rhythm.end()
            total += length
        elif text[place] in " \t()-~.`uvTHLMOPSRJ\\":
            place += 1
        else:
            return None
    return total * unit if broken == 1 else None


def _note_length(note: re.Match[str]) -> Fraction | None:
    length = _multiple(note["length"])
    if length is None or note["chord"] is None:
        return length
    inner = {_multiple(text) for text in _PITCH.findall(note["chord"])}
    if len(inner) != 1 or _PITCH.sub("", note["chord"]).strip():
        return None
    (first,) = inner
    return None if first is None else length * first


def _multiple(text: str) -> Fraction | None:
    """ABC's length of a note: "" is 1, "3" 3, "/" a half, "//" a quarter, "3/2" three halves."""
    whole, slashes, part = re.fullmatch(r"(\d*)(/*)(\d*)", text).groups()  # type: ignore[union-attr]
    if not slashes:
        return Fraction(int(whole or 1))
    divisor = int(part) if part else 2 ** len(slashes)
    return Fraction(int(whole or 1), divisor) if divisor else None


def sound_bars(document: Document, context: Context) -> list[str]:
    """The bars of a tune with the lines that end them, if all of them are as long as the metre.

    The first bar and any that a repeat or double line begins or ends may be shorter (upbeats);
    else, or where the metre changes, [].
    """

    def check() -> list[str]:
        content = document.content
        body = "\n".join(
            line.partition("%")[0].rstrip().rstrip("\\")
            for line in content["body"].splitlines()
            if line.strip() and not line.startswith("%")
        )
        metre = metre_of(content["metre"])
        fields = re.search(r"^[A-Za-z]:", body, re.MULTILINE) or _INLINE_FIELD.search(body)
        if metre is None or fields:
            return []
        unit = unit_of(content.get("unit_length", ""), metre)
        bars, place, opened = [], 0, True
        for line in [*_BAR_LINE.finditer(body), None]:
            notes = body[place : line.start() if line else len(body)]
            end = line[0] if line else ""
            place = line.end() if line else len(body)
            length = bar_length(notes.replace("\n", " "), unit)
            if length is None or length > metre:
                return []
            loose = opened or end != "|"
            if notes.strip() and length < metre and not (loose and length):
                return []
            if notes.strip() or end:
                bars.append(notes + end)
            opened = end != "|" if notes.strip() else opened or end != "|"
        return bars

    return context.remember(document, "bars", check)


def _key(document: Document) -> str:
    """The key in ABC's short form: tonic and mode, e.g. "D", "Am", "Gmix"; "" if it is none."""
    match = re.fullmatch(
        r"((?-i:[A-G][#b]?))\s*(maj\w*|min\w*|m|ion\w*|dor\w*|phr\w*|lyd\w*|mix\w*|aeo\w*|loc\w*)?",
        document.content["key"].strip(),
        re.IGNORECASE,
    )
    if not match:
        return ""
    mode = (match[2] or "maj").casefold()[:3]
    return match[1] + {"maj": "", "ion": "", "m": "m", "min": "m", "aeo": "m"}.get(mode, mode)


def _bars(document: Document, context: Context) -> list[str]:
    bars = sound_bars(document, context)
    return bars if len(bars) >= _LEAST_BARS else []


def name_metre(document: Document, context: Context) -> Iterator[Draft]:
    """A tune's notes and the length of its unit → its metre, where the notes can tell it."""
    content = document.content
    bars, unit = _bars(document, context), content.get("unit_length", "").strip()
    metre = "4/4" if content["metre"].strip() == "C" else content["metre"].strip()
    if bars and unit and metre in METRES:
        fields = {"input": f"L:{unit}\n{_text(bars)}", "options": METRES}
        yield Draft(fields, target=metre, options=METRES)


def name_key(document: Document, context: Context) -> Iterator[Draft]:
    """A tune's notes with every accidental of the key written out → its key.

    The signature is what the key adds to the notes; without it no one could tell D from Dm. Keys
    such as G#, which would sharpen a letter twice, have none.
    """
    bars, key = _bars(document, context), _key(document)
    signature = _signature(key) if key else None
    if bars and signature is not None and not re.search(r"[_^=]", _text(bars)):
        yield Draft({"input": _spelt_out(_text(bars), signature)}, target=key)


_SHARPS = "FCGDAEB"
_MODES = {"": 0, "m": -3, "dor": -2, "phr": -4, "lyd": 1, "mix": -1, "loc": -5}


def _signature(key: str) -> dict[str, str] | None:
    """The letters that a key sharpens ("^") or flattens ("_"); None beyond seven of them."""
    match = re.fullmatch(r"([A-G])([#b]?)(.*)", key)
    assert match
    fifths = _SHARPS.index(match[1]) - 1 + {"": 0, "#": 7, "b": -7}[match[2]] + _MODES[match[3]]
    if abs(fifths) > len(_SHARPS):
        return None
    if fifths >= 0:
        return dict.fromkeys(_SHARPS[:fifths], "^")
    return dict.fromkeys(_SHARPS[fifths:], "_")


def _spelt_out(text: str, signature: dict[str, str]) -> str:
    # Chord names in quotation marks and decorations hold letters that are no notes.
    parts = re.split(r'("[^"\n]*"|![^!\n]*!)', text)
    return "".join(
        part
        if number % 2
        else re.sub(r"[A-Ga-g]", lambda note: signature.get(note[0].upper(), "") + note[0], part)
        for number, part in enumerate(parts)
    )


def continue_tune(document: Document, context: Context) -> Iterator[Draft]:
    """Headers and all bars but the last four → these."""
    bars = _bars(document, context)
    if bars:
        first, last = _text(bars[:-_CONTINUED_BARS]), _text(bars[-_CONTINUED_BARS:])
        yield Draft(
            {"input": f"{_headers(document)}\n{first}", "count": _CONTINUED_BARS}, target=last
        )


def write_tune(document: Document, context: Context) -> Iterator[Draft]:
    """Title, kind where it is known, metre, unit and key → the tune."""
    content = document.content
    bars, key = _bars(document, context), _key(document)
    if bars and key and content["title"]:
        fields = {
            "input": f"T:{content['title']}\n{_headers(document)}",
            "title": content["title"],
            "key": key,
            "metre": content["metre"].strip(),
        }
        yield Draft(fields, target=_text(bars))


def title_tune(document: Document, context: Context) -> Iterator[Draft]:
    """A tune → its title."""
    bars = _bars(document, context)
    if bars and document.content["title"]:
        text = f"{_headers(document)}\n{_text(bars)}"
        yield Draft({"input": text}, target=document.content["title"])


def _headers(document: Document) -> str:
    """The headers that the notes need; no title, source or number."""
    content = document.content
    rhythm = content.get("rhythm", "")
    pairs = (
        ("R", rhythm if any(map(str.isalpha, rhythm)) else ""),
        ("M", content["metre"]),
        ("L", content.get("unit_length", "")),
        ("K", content["key"]),
    )
    return "\n".join(f"{name}:{value.strip()}" for name, value in pairs if value.strip())


def _text(bars: list[str]) -> str:
    return "".join(bars).strip()
