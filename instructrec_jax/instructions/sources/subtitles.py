"""Subtitles, SubRip (.srt) and WebVTT (.vtt): the dialogue as prose, or two languages in step."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from instructrec_jax.instructions.document import Document, Unreadable
from instructrec_jax.instructions.sources import prose
from instructrec_jax.instructions.sources.corpus import Corpus, Option
from instructrec_jax.instructions.sources.files import (
    FILE,
    Unit,
    encoding_problems,
    file_options,
    left_out,
    listed,
    root_of,
    shown,
    whole_text,
)
from instructrec_jax.instructions.sources.locale_names import is_known_language
from instructrec_jax.instructions.sources.parallel_files import parallel_document

OPTIONS = {**file_options("*.srt", "*.vtt"), **prose.OPTIONS}
PARALLEL_OPTIONS = {
    **file_options("*.srt", "*.vtt"),
    "languages": Option((), "CLDR codes of two or more languages, as in film.en.srt, film.de.srt"),
}
_TIME = r"(?:(\d+):)?(\d{1,2}):(\d{2})[.,](\d{1,3})"
_TIMES = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}")
_MARKS = re.compile(r"<[^>\n]*>|\{[^}\n]*\}")
# What is heard and not said: [door slams], (laughs), a line of music.
_SOUNDS = re.compile(r"\[[^\]]*\]|\([^)]*\)|[♪♫#][^♪♫#]*[♪♫#]?")
_SPEAKER = re.compile(r"^\s*(?:[-–—]\s*|[A-Z][A-Z .]+:\s*)", re.MULTILINE)
# A pause of so many seconds ends a paragraph.
_PAUSE = 4.0
# Cues of two languages belong together if they overlap for this share of the shorter one; runs of
# more cues than these are out of step.
_OVERLAP = 0.5
_MOST_CUES = 3
_SUFFIX = re.compile(r"(?P<stem>.+)\.(?P<language>[A-Za-z_-]+)(?P<type>\.(?:srt|vtt))", re.I)


@dataclass(frozen=True)
class Cue:
    """What is shown at once: its seconds, its lines in the file (from 1), its words (or "")."""

    start: float
    end: float
    first: int
    last: int
    text: str


def cues(lines: list[str]) -> list[Cue]:
    """The cues of a file in order; marks, sounds and speakers' names are taken out."""
    found = []
    number = 0
    while number < len(lines):
        match = _TIMES.match(lines[number])
        number += 1
        if not match:
            continue
        first = number
        while number < len(lines) and lines[number].strip():
            number += 1
        said = _SOUNDS.sub("", _MARKS.sub("", "\n".join(lines[first:number])))
        text = prose.joined(_SPEAKER.sub("", said).split("\n"))
        parts = match.groups()
        if any(map(str.isalpha, text)):
            found.append(Cue(_seconds(parts[:4]), _seconds(parts[4:]), first, number, text))
        else:
            found.append(Cue(_seconds(parts[:4]), _seconds(parts[4:]), first, number, ""))
    return found


def _seconds(parts: tuple[str | None, ...]) -> float:
    hours, minutes, seconds, fraction = (part or "0" for part in parts)
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + float(f"0.{fraction}")


def units(corpus: Corpus) -> Iterator[Unit]:
    """The corpus's files."""
    return listed(corpus)


def documents(corpus: Corpus, unit: Unit) -> Iterator[Document | Unreadable]:
    """The dialogue of a file in passages; a pause ends a paragraph. `span` begins at a time line.

    Cues without words (music, sounds) are left out and counted.
    """
    if unit[0] != FILE:
        yield from left_out(corpus, unit)
        return
    found = whole_text(corpus, unit[1])
    if isinstance(found, Unreadable):
        yield found
        return
    lines = found[0].split("\n")
    yield from prose.prose_documents(
        corpus,
        unit[1],
        blocks=_paragraphs(cues(lines)),
        lines=lines,
        first_line=1,
        encoding=found[1],
        language=_language(unit[1]),
    )


def _language(path: str) -> str:
    match = _SUFFIX.fullmatch(Path(path).name)
    code = match["language"].replace("-", "_") if match else ""
    return code if code and is_known_language(code) else ""


def _paragraphs(found: list[Cue]) -> Iterator[prose.Paragraph | prose.LeftOut]:
    run: list[Cue] = []
    for cue in [*found, None]:
        length = sum(len(part.text) for part in run)
        if run and (
            cue is None
            or cue.start - run[-1].end > _PAUSE
            or (length > prose.PASSAGE_CHARACTERS // 2 and run[-1].text[-1] in ".!?…。！？")
        ):
            text = prose.joined(part.text for part in run)
            yield prose.Paragraph(run[0].first, run[-1].last, text, ())
            run = []
        if cue is not None and not cue.text:
            yield prose.LeftOut("no_words", cue.first)
        elif cue is not None:
            run.append(cue)


def parallel_units(corpus: Corpus) -> Iterator[Unit]:
    """One unit a film: the files that differ by their language alone; others are told one by one.

    The film stands for its file in the first language.
    """
    first, *others = corpus.options["languages"]
    for unit in listed(corpus):
        match = _SUFFIX.fullmatch(unit[1]) if unit[0] == FILE else None
        if match and match["language"] in others:
            if not (root_of(corpus.path) / _file(unit[1], first)).exists():
                yield "alone", unit[1]
        elif match and match["language"] == first:
            yield "film", unit[1]
        else:
            yield ("alone", unit[1]) if unit[0] == FILE else unit


def _file(path: str, language: str) -> str:
    match = _SUFFIX.fullmatch(path)
    assert match is not None
    return f"{match['stem']}.{language}{match['type']}"


def parallel_documents(corpus: Corpus, unit: Unit) -> Iterator[Document | Unreadable]:
    """What is said at the same time in all the languages.

    `uri` is all files in the shell's form, "film.{en,de}.srt"; `span` the lines in the first of
    them; `sha256` covers the texts, one a line. Cues without a counterpart are counted.
    """
    if unit[0] == "alone":
        yield Unreadable(corpus.name, shown(unit[1]), "no_other_language")
        return
    if unit[0] != "film":
        yield from left_out(corpus, unit)
        return
    codes = corpus.options["languages"]
    read: dict[str, list[Cue]] = {}
    encodings = []
    for code in codes:
        found = whole_text(corpus, _file(unit[1], code))
        if isinstance(found, Unreadable):
            yield found
            return
        read[code] = [cue for cue in cues(found[0].split("\n")) if cue.text]
        encodings.append(found[1])
    uri = shown(_file(unit[1], "{" + ",".join(codes) + "}"))
    for group in aligned([read[code] for code in codes]):
        if not all(group) or max(map(len, group)) > _MOST_CUES:
            place = next(cues for cues in group if cues)[0]
            yield Unreadable(corpus.name, f"{uri}:{place.first}", "out_of_step")
            continue
        texts = {
            code: prose.joined(cue.text for cue in part)
            for code, part in zip(codes, group, strict=True)
        }
        span = (group[0][0].first, group[0][-1].last)
        encoding = " ".join(dict.fromkeys(encodings))
        yield parallel_document(corpus, texts, uri=uri, span=span, encoding=encoding)


def aligned(languages: list[list[Cue]]) -> Iterator[list[list[Cue]]]:
    """Yield the smallest groups of cues such that cues of two groups never overlap, in order.

    Each group has one list a language, which may be empty.
    """
    waiting = sorted(
        ((cue, number) for number, found in enumerate(languages) for cue in found),
        key=lambda item: (item[0].start, item[1]),
    )
    group: list[tuple[Cue, int]] = []
    for cue, number in waiting:
        joins = any(
            other != number and _overlap(cue, member) >= _OVERLAP for member, other in group
        )
        if group and not joins and cue.start >= max(m.start for m, _ in group):
            reach = max(member.end for member, _ in group)
            if reach - cue.start < _OVERLAP * (cue.end - cue.start):
                yield _by_language(group, len(languages))
                group = []
        group.append((cue, number))
    if group:
        yield _by_language(group, len(languages))


def _overlap(one: Cue, other: Cue) -> float:
    shared = min(one.end, other.end) - max(one.start, other.start)
    return shared / max(1e-3, min(one.end - one.start, other.end - other.start))


def _by_language(group: list[tuple[Cue, int]], count: int) -> list[list[Cue]]:
    return [[cue for cue, number in group if number == language] for language in range(count)]


def parallel_problems(corpus: Corpus) -> list[str]:
    """Lines on the path and the languages."""
    found = encoding_problems(corpus)
    codes = corpus.options["languages"]
    if len(codes) < 2:
        found.append("languages: name two or more, as the files' names have them: en|de")
    return found + [
        f"languages: {code!r} is no CLDR locale" for code in codes if not is_known_language(code)
    ]
