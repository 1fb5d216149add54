"""Which files a corpus has, in a fixed order, and their text.

A unit names what to read by its first word: "file" a whole file, "part" some lines of a large one,
"other_files" the files of a folder that the corpus's patterns leave out, "skipped" a folder that is
not entered. Everything but the first two is counted, never dropped in silence.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from instructrec_jax.errors import DataError
from instructrec_jax.instructions.document import Unreadable
from instructrec_jax.instructions.sources import encodings
from instructrec_jax.instructions.sources.corpus import Corpus, Option

Unit = tuple[str, ...]
FILE, PART, OTHER_FILES, SKIPPED = "file", "part", "other_files", "skipped"
# A text is read as a whole up to this size, and in parts of about this size above it; a file of
# rows in parts of ROWS_BYTES, where its form allows; other files may have WHOLE_FILE_BYTES.
PART_BYTES = 4 << 20
ROWS_BYTES = 1 << 18
WHOLE_FILE_BYTES = 64 << 20
_MAGIC = re.compile(r"[*?\[]")


FOLLOW_LINKS = Option(
    False, "whether links to folders, and to files outside the corpus's folder, are followed"
)


def file_options(*patterns: str) -> dict[str, Option]:
    """The options of every reader of text files."""
    return {
        "files": Option(patterns, "shell patterns of the file names that are taken from a folder"),
        "encoding": Option("", "of all files; empty = found out for each file"),
        "follow_links": FOLLOW_LINKS,
    }


def root_of(path: str) -> Path:
    """The folder that addresses are relative to: the corpus's own, or the one it lies in."""
    place = Path(path).expanduser()
    if place.is_dir():
        return place
    if place.exists() or not _MAGIC.search(path):
        return place.parent
    parts = place.parts
    plain = next(number for number, part in enumerate(parts) if _MAGIC.search(part))
    return Path(*parts[:plain])


def path_problems(corpus: Corpus) -> list[str]:
    """A line on a path that is not there or cannot be read; [] where all is well."""
    place = Path(corpus.path).expanduser()
    root = root_of(corpus.path)
    if not place.exists() and not _MAGIC.search(corpus.path):
        return [f"path: there is no {corpus.path}"]
    if not root.is_dir():
        return [f"path: there is no folder {root}"]
    if not os.access(place if place.exists() else root, os.R_OK):
        return [f"path: {corpus.path} may not be read"]
    return []


def listed(
    corpus: Corpus, *, skip: Callable[[str, Path], str] = lambda name, folder: ""
) -> Iterator[Unit]:
    """Yield the units of a corpus's files, folder by folder in the order of names.

    Hidden folders and folders for which `skip(name, path)` gives a reason are not entered; links to
    folders, and to files that lie outside, are followed where the option `follow_links` says so. A
    folder is entered once: links may go round in circles.

    Raises:
        DataError: there is no such path.
    """
    problems = path_problems(corpus)
    if problems:
        raise DataError(f"{corpus.name}: {problems[0]}")
    place = Path(corpus.path).expanduser()
    root = root_of(corpus.path)
    follow = corpus.options.get("follow_links", False)
    if place.is_file():
        yield FILE, place.name
    elif place.is_dir():
        patterns = corpus.options["files"]
        walk = _Walk(root, lambda _, name: _matches(name, patterns), skip, follow, count=True)
        yield from walk.units("")
    else:
        pattern = _glob_expression(place.relative_to(root).as_posix())
        walk = _Walk(
            root, lambda path, _: bool(pattern.fullmatch(path)), lambda *_: "", follow, count=False
        )
        yield from walk.units("")


def input_files(corpus: Corpus) -> Iterator[Path]:
    """The files that `listed` finds, and no others."""
    root = root_of(corpus.path)
    for unit in listed(corpus):
        if unit[0] == FILE:
            yield root / unit[1]


@dataclass(frozen=True)
class _Walk:
    """A way through a folder: which files are wanted, which folders are not entered, and why."""

    root: Path
    wanted: Callable[[str, str], bool]
    skip: Callable[[str, Path], str]
    follow: bool
    count: bool
    entered: set[str] = field(default_factory=set)

    def units(self, folder: str) -> Iterator[Unit]:
        """The units of a folder inside the root, and of those inside it."""
        self.entered.add(os.path.realpath(self.root / folder))
        try:
            with os.scandir(self.root / folder) as entries:
                found = sorted(
                    (entry.name, _is_folder(entry), entry.is_symlink()) for entry in entries
                )
        except OSError as error:
            yield SKIPPED, folder, "unreadable_folder", error.strerror or ""
            return
        others = False
        for name, is_folder, is_link in found:
            path = f"{folder}/{name}" if folder else name
            wanted = not is_folder and self.wanted(path, name)
            others = others or not (is_folder or wanted)
            if is_folder or wanted:
                reason = (
                    self._folder(name, path, is_link) if is_folder else self._file(path, is_link)
                )
                if reason:
                    yield SKIPPED, path, reason, ""
                elif is_folder:
                    yield from self.units(path)
                else:
                    yield FILE, path
        if others and self.count:
            yield OTHER_FILES, folder

    def _folder(self, name: str, path: str, is_link: bool) -> str:
        """Why a folder is not entered."""
        if is_link and not self.follow:
            return "linked_folder"
        if self.follow and os.path.realpath(self.root / path) in self.entered:
            return "folder_entered_before"
        return "hidden_folder" if name.startswith(".") else self.skip(name, self.root / path)

    def _file(self, path: str, is_link: bool) -> str:
        """Why a file is not read."""
        place = self.root / path
        # What a link leads to may be no part of the corpus, and nobody's to pass on.
        if is_link and not self.follow and not _is_inside(place, self.root):
            return "link_out_of_folder"
        # Reading a pipe or a device would never end.
        return "no_regular_file" if place.exists() and not place.is_file() else ""


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link that leads to itself: told where it is read.
        return False


def _is_inside(place: Path, folder: Path) -> bool:
    return Path(os.path.realpath(place)).is_relative_to(os.path.realpath(folder))


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name.lower(), pattern.lower()) for pattern in patterns)


def _glob_expression(pattern: str) -> re.Pattern[str]:
    """A glob over whole relative paths: `**/` is any number of folders, `*` stays in one."""
    signs = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^]]+\])", pattern)
    return re.compile(
        "".join(
            signs.get(part) or (part if part.startswith("[") else re.escape(part)) for part in parts
        ),
        re.DOTALL,
    )


def left_out(corpus: Corpus, unit: Unit) -> Iterator[Unreadable]:
    """What a unit that is no file stands for."""
    action, path, *rest = unit
    if action == SKIPPED:
        yield Unreadable(corpus.name, path or ".", reason=rest[0], detail=rest[1])
        return
    with os.scandir(root_of(corpus.path) / path) as entries:
        names = sorted(entry.name for entry in entries if not _is_folder(entry))
    for name in names:
        if not _matches(name, corpus.options["files"]):
            address = shown(f"{path}/{name}" if path else name)
            yield Unreadable(corpus.name, address, reason="other_file_type")


def shown(path: str) -> str:
    """A path as an address; bytes that are no UTF-8 written as \\xNN."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def whole_text(corpus: Corpus, path: str, *, encoding: str = "") -> tuple[str, str] | Unreadable:
    """The text of a file with "\\n" for newlines, and its encoding; or why there is none.

    `encoding` is what the file itself says that it is in; it is believed where it fits.
    """
    data = whole_bytes(corpus, path)
    if isinstance(data, Unreadable):
        return data
    uri = shown(path)
    text = ""
    for choice in (corpus.options["encoding"] or encoding, ""):
        try:
            text, used = encodings.decoded(data, encoding=choice)
        except encodings.UndecodableError as error:
            if choice and not corpus.options["encoding"]:
                continue
            return Unreadable(corpus.name, uri, error.reason, error.detail)
        except LookupError:
            continue
        break
    if not text.strip():
        return Unreadable(corpus.name, uri, "empty")
    return text.removeprefix("\ufeff"), used


def whole_bytes(corpus: Corpus, path: str) -> bytes | Unreadable:
    """The bytes of a file, or why there are none."""
    try:
        with open(root_of(corpus.path) / path, "rb") as file:
            data = file.read(WHOLE_FILE_BYTES + 1)
    except OSError as error:
        return Unreadable(corpus.name, shown(path), "unreadable", error.strerror or "")
    if len(data) > WHOLE_FILE_BYTES:
        detail = f"more than {WHOLE_FILE_BYTES >> 20} MiB"
        return Unreadable(corpus.name, shown(path), "too_large", detail)
    return data if data else Unreadable(corpus.name, shown(path), "empty")


def encoding_problems(corpus: Corpus) -> list[str]:
    """Lines on the path and on an encoding that Python does not know."""
    found = path_problems(corpus)
    try:
        "".encode(corpus.options["encoding"] or "utf-8")
    except LookupError:
        found.append(f"encoding: unknown encoding {corpus.options['encoding']!r}")
    return found
