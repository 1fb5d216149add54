"""Line-aligned files: line n of each is the same text in another language.

The path holds `{language}` where the files' names differ: "europarl.{language}.txt". Parts are runs
of lines that begin at the same line number in every file.
"""

import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from instructrec_jax.errors import DataError
from instructrec_jax.instructions.document import Document, Unreadable
from instructrec_jax.instructions.sources import encodings
from instructrec_jax.instructions.sources.corpus import Corpus, Option
from instructrec_jax.instructions.sources.line_files import Line, file_encoding, lines_from
from instructrec_jax.instructions.sources.locale_names import is_known_language, language_name

PLACE = "{language}"
OPTIONS = {
    "languages": Option((), "CLDR codes of the files; empty = every file that fits the path"),
    "encoding": Option("", "of all files; empty = found out for each file"),
}
_LINES_A_UNIT = 2_000


def languages_of(corpus: Corpus) -> tuple[str, ...]:
    """The languages of the corpus: as chosen, else those of which there is a file, by name."""
    if corpus.options["languages"]:
        return corpus.options["languages"]
    pattern = Path(corpus.path).expanduser()
    expression = re.compile(re.escape(pattern.name).replace(re.escape(PLACE), r"(\w+)"))
    if PLACE not in pattern.name or not pattern.parent.is_dir():
        return ()
    matches = (expression.fullmatch(place.name) for place in pattern.parent.iterdir())
    return tuple(sorted({m[1] for m in matches if m and is_known_language(m[1])}))


def file_of(corpus: Corpus, language: str) -> Path:
    """The file of a language."""
    return Path(corpus.path.replace(PLACE, language)).expanduser()


def input_files(corpus: Corpus) -> Iterator[Path]:
    """The files of all the languages."""
    return (file_of(corpus, language) for language in languages_of(corpus))


def _single(corpus: Corpus, language: str) -> tuple[Corpus, str]:
    """One file as a corpus of its own, for readers of single files."""
    place = file_of(corpus, language)
    alone = Corpus(corpus.name, corpus.reader, str(place), corpus.licence, corpus.options)
    return alone, place.name


def units(corpus: Corpus) -> Iterator[tuple[str, ...]]:
    """Runs of lines, ("lines", first, last, *offsets), after a pass over all files in step.

    Raises:
        DataError: a file that is not there or not read by lines, or fewer lines in one than in
            another.
    """
    codes = languages_of(corpus)
    streams = []
    for code in codes:
        alone, name = _single(corpus, code)
        found = file_encoding(alone, name)
        if isinstance(found, Unreadable):
            raise DataError(f"{corpus.name}: {file_of(corpus, code)}: {found.reason}")
        if found in encodings.WIDE:
            raise DataError(f"{corpus.name}: {file_of(corpus, code)} is {found}; make it UTF-8")
        streams.append(lines_from(alone, name))
    starts = [0] * len(codes)
    first, last = 1, 0
    for lines in zip_longest(*streams):
        if None in lines:
            raise DataError(f"{corpus.name}: {_unequal(corpus, codes, lines)}")
        last = lines[0].number
        if last - first + 1 == _LINES_A_UNIT:
            yield "lines", str(first), str(last), *map(str, starts)
            first, starts = last + 1, [line.end for line in lines]
    if first <= last:
        yield "lines", str(first), str(last), *map(str, starts)


def _unequal(corpus: Corpus, codes: tuple[str, ...], lines: tuple[Line | None, ...]) -> str:
    number = next(line.number for line in lines if line)
    over = [file_of(corpus, c).name for c, line in zip(codes, lines, strict=True) if line]
    under = [file_of(corpus, c).name for c, line in zip(codes, lines, strict=True) if not line]
    return (
        f"{' and '.join(under)} ends before line {number}, {' and '.join(over)} does not; "
        "line-aligned files have the same number of lines"
    )


def documents(corpus: Corpus, unit: tuple[str, ...]) -> Iterator[Document | Unreadable]:
    """One document a line number; `uri` is the path in the shell's form, "europarl.{de,en}.txt".

    `sha256` is that of the lines, in the order of the languages, joined by newlines. Numbers with a
    line that is empty or does not decode are left out and counted.
    """
    _, first, last, *starts = unit
    codes = languages_of(corpus)
    uri = uri_of(corpus, codes)
    streams, names = [], []
    for code, start in zip(codes, starts, strict=True):
        alone, name = _single(corpus, code)
        streams.append(lines_from(alone, name, start=int(start), number=int(first)))
        names.append(file_encoding(alone, name))
    for lines in zip(*streams, strict=False):
        number = lines[0].number
        if number > int(last):
            break
        try:
            texts = {
                code: line.data.decode(str(name)).removeprefix("\ufeff")
                for code, name, line in zip(codes, names, lines, strict=True)
            }
        except UnicodeDecodeError as error:
            yield Unreadable(corpus.name, f"{uri}:{number}", "undecodable", error.encoding)
            continue
        if not all(text.strip() for text in texts.values()):
            yield Unreadable(corpus.name, f"{uri}:{number}", "empty_line")
            continue
        yield parallel_document(
            corpus,
            texts,
            uri=uri,
            span=(number, number),
            encoding=" ".join(dict.fromkeys(map(str, names))),
        )


def uri_of(corpus: Corpus, codes: tuple[str, ...]) -> str:
    """All files in one address: a shell reads {de,en} as both."""
    return Path(corpus.path).name.replace(PLACE, "{" + ",".join(codes) + "}")


def parallel_document(
    corpus: Corpus, texts: dict[str, str], *, uri: str, span: tuple[int, int], encoding: str
) -> Document:
    """The same text in several languages; documents with the same first text belong together."""
    first = next(iter(texts.values()))
    return Document(
        corpus=corpus.name,
        uri=uri,
        span=span,
        text=first,
        licence=corpus.licence,
        group="text/" + "".join(first.casefold().split()),
        kind="parallel",
        content={
            "texts": {code: text.strip() for code, text in texts.items()},
            "names": {code: language_name(code) for code in texts},
        },
        hashed="\n".join(texts.values()),
        other_texts=tuple(texts.values())[1:],
        encoding=encoding,
    )


def problems(corpus: Corpus) -> list[str]:
    """Lines on the path, on files that are not there and on unknown languages."""
    if PLACE not in corpus.path:
        return [f"path: {corpus.path} has no {PLACE} where the files' names differ"]
    codes = languages_of(corpus)
    if len(codes) < 2:
        return [
            f"path: fewer than two files fit {corpus.path} (found: {', '.join(codes) or 'none'})"
        ]
    found = [
        f"languages: {code!r} is no CLDR locale" for code in codes if not is_known_language(code)
    ]
    return found + [
        f"path: there is no {file_of(corpus, code)}"
        for code in codes
        if not file_of(corpus, code).is_file()
    ]
