"""A raw corpus of the user's own: its name, its reader, where it lies and how it is read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from instructrec_jax.errors import nearest

# What a corpus has whatever its reader; the reader's own options stand beside them.
KEYS = ("name", "reader", "path", "licence")
UNKNOWN_LICENCE = "unknown"


@dataclass(frozen=True)
class Corpus:
    """A corpus by the entry of build.corpora: `options` holds every option of its reader."""

    name: str
    reader: str
    path: str
    licence: str = UNKNOWN_LICENCE
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Option:
    """An option of a reader: its default, which also sets its type, and what it does."""

    default: Any
    description: str

    def problem(self, value: Any) -> str:
        """What is wrong with a value, "" where nothing is."""
        if isinstance(self.default, Mapping):
            fits = isinstance(value, Mapping) and all(
                isinstance(part, str) for pair in value.items() for part in pair
            )
            return "" if fits else f"takes {{name: column, ...}}, not {value!r}"
        if isinstance(self.default, tuple):
            fits = isinstance(value, Sequence) and all(isinstance(part, str) for part in value)
            return "" if fits else f"takes texts, not {value!r}"
        if type(value) is not type(self.default):
            return f"takes {_TYPES[type(self.default)]}, not {value!r}"
        return ""

    def value(self, value: Any) -> Any:
        """The value in the type of the default; one text stands for a tuple of it."""
        if isinstance(self.default, tuple):
            return (value,) if isinstance(value, str) else tuple(value)
        return dict(value) if isinstance(self.default, Mapping) else value


_TYPES = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}


def corpora_from_flags(texts: Sequence[str]) -> tuple[dict[str, Any], ...]:
    """Entries of build.corpora out of "READER:PATH[,key=value...]".

    A corpus without `name=` is called by its reader: markdown, markdown_2, ... Values stay text
    until `typed` reads them.
    """
    entries: list[dict[str, Any]] = []
    for text in texts:
        entry = _entry(text)
        same = sum(other["reader"] == entry["reader"] for other in entries)
        name = f"{entry['reader']}_{same + 1}" if same else entry["reader"]
        entries.append({"name": name, **entry})
    return tuple(entries)


def _entry(text: str) -> dict[str, Any]:
    head, *pairs = text.split(",")
    reader, _, path = head.partition(":")
    entry: dict[str, Any] = {"reader": reader, "path": path}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals and "path" in entry:
            # A comma inside the path.
            entry["path"] += f",{pair}"
        entry.update({key: value} if equals else {})
    return entry


def typed(value: Any, option: Option) -> Any:
    """A text in the type of the option: a|b for several, a:x|b:y for a field map.

    What is no text stays as it is, and so does a text that cannot be of this type.
    """
    if not isinstance(value, str) or isinstance(option.default, str):
        return value
    if isinstance(option.default, Mapping):
        pairs = [part.partition(":") for part in value.split("|")]
        return {key: column for key, colon, column in pairs if colon} or value
    if isinstance(option.default, tuple):
        return tuple(value.split("|"))
    if isinstance(option.default, bool):
        return {"true": True, "false": False}.get(value.lower(), value)
    try:
        return type(option.default)(value)
    except ValueError:
        return value


def entry_problems(
    entry: Mapping[str, Any], *, place: str, readers: Mapping[str, Any]
) -> list[str]:
    """What is wrong with the keys and types of an entry of build.corpora, one line each."""
    found = [
        f"{place}: {key} is missing" for key in ("name", "reader", "path") if not entry.get(key)
    ]
    found += [
        f"{place}: {key} takes a text, not {entry[key]!r}"
        for key in KEYS
        if entry.get(key) and not isinstance(entry[key], str)
    ]
    if found:
        return found
    if entry["reader"] not in readers:
        known = tuple(readers)
        hint = nearest(entry["reader"], known) or f"; there are {', '.join(known)}"
        return [f"{place}: unknown reader {entry['reader']!r}{hint}"]
    options = readers[entry["reader"]].options
    for key, value in entry.items():
        if key in KEYS:
            continue
        if key not in options:
            names = (*KEYS, *options)
            hint = nearest(key, names) or f"; there are {', '.join(names)}"
            found.append(f"{place}: the reader {entry['reader']} has no option {key!r}{hint}")
        elif problem := options[key].problem(typed(value, options[key])):
            found.append(f"{place}: {key} {problem}")
    return found


def corpus_of(entry: Mapping[str, Any], *, options: Mapping[str, Option]) -> Corpus:
    """The corpus of an entry without problems."""
    given = {
        key: option.value(typed(entry.get(key, option.default), option))
        for key, option in options.items()
    }
    return Corpus(
        name=entry["name"],
        reader=entry["reader"],
        path=entry["path"],
        licence=entry.get("licence") or UNKNOWN_LICENCE,
        options=given,
    )
