"""Gettext catalogues, .po (by babel) and .mo: each message with its translation.

A catalogue set is a folder of any shape; every message of every catalogue becomes a document of two
languages. All translations of a message belong together, so that a held-out message is one that
training saw in no language.
"""

import codecs
import contextlib
import io
import re
import struct
from collections.abc import Iterator
from pathlib import PurePosixPath

from babel.messages.catalog import Message
from babel.messages.pofile import PoFileError, read_po

from instructrec_jax.instructions.document import Document, Unreadable
from instructrec_jax.instructions.sources.corpus import Corpus, Option
from instructrec_jax.instructions.sources.files import (
    FILE,
    encoding_problems,
    file_options,
    left_out,
    listed,
    root_of,
    shown,
    whole_bytes,
    whole_text,
)
from instructrec_jax.instructions.sources.locale_names import (
    canonical_code,
    is_known_language,
    language_name,
)

OPTIONS = {
    **file_options("*.po", "*.mo"),
    "source_language": Option("en", "CLDR code of the language that msgid is in"),
    "language": Option("", "CLDR code of the translations; empty = by the header, else the path"),
}
_CHARSET = re.compile(rb"charset=([\w.:-]+)")
_LANGUAGE = re.compile(r"^\"Language:\s*([\w@.-]+)", re.MULTILINE)
_COMPILED_LANGUAGE = re.compile(r"^Language:\s*([\w@.-]+)", re.MULTILINE)
# babel refuses a catalogue whose dates are not written as gettext's own tools do.
_DATE = re.compile(r'^"(?:POT-Creation|PO-Revision)-Date:.*$', re.MULTILINE)
# "login.title" names a message and is not one.
_IDENTIFIER = re.compile(r"[a-z0-9]+(?:[._-][A-Za-z0-9]+)+")
_PLACEHOLDER = re.compile(r"%\(\w+\)[a-z]|%[sdifur]|\{\w*\}")


def units(corpus: Corpus) -> Iterator[tuple[str, ...]]:
    """The corpus's catalogues."""
    return listed(corpus)


def documents(corpus: Corpus, unit: tuple[str, ...]) -> Iterator[Document | Unreadable]:
    """The messages of a catalogue.

    `span`: in a .po file the lines from msgid to the end of msgstr; in a .mo file, which has no
    lines, the message's number twice, and `sha256` is that of msgid, a newline and msgstr. Plural
    forms, fuzzy and empty messages, messages without words, copies of msgid, names in place of
    messages, and translations with other placeholders than msgid are left out and counted.
    """
    if unit[0] != FILE:
        yield from left_out(corpus, unit)
        return
    path = unit[1]
    compiled = path.endswith((".mo", ".gmo"))
    if compiled and (root_of(corpus.path) / path).with_suffix(".po").exists():
        yield Unreadable(corpus.name, shown(path), "compiled_twin", "its .po file is read")
        return
    found = _compiled(corpus, path) if compiled else _readable(corpus, path)
    if isinstance(found, Unreadable):
        yield found
        return
    messages, lines, encoding, told = found
    language = _language(corpus, path, told)
    if not language:
        detail = f"{told or 'no language'} in the header and none in the path"
        yield Unreadable(corpus.name, shown(path), "unknown_language", detail)
        return
    for number, message in enumerate(messages, start=1):
        span = _span(message, lines) if message.lineno else (number, number)
        reason = _refusal(message)
        if reason:
            yield Unreadable(corpus.name, f"{shown(path)}:{span[0]}", reason)
        else:
            raw = "\n".join(lines[span[0] - 1 : span[1]]) if message.lineno else ""
            yield _document(corpus, path, message, span=span, language=language, raw=raw,
                            encoding=encoding)  # fmt: skip
    if not messages:
        yield Unreadable(corpus.name, shown(path), "no_messages")


# The messages, the file's lines, its encoding and the language of its header.
_Read = tuple[list[Message], list[str], str, str]


def _readable(corpus: Corpus, path: str) -> _Read | Unreadable:
    data = whole_bytes(corpus, path)
    if isinstance(data, Unreadable):
        return data
    told = _CHARSET.search(data)
    found = whole_text(corpus, path, encoding=told[1].decode("ascii", "ignore") if told else "")
    if isinstance(found, Unreadable):
        return found
    text, encoding = found
    lines = text.split("\n")
    try:
        # babel prints a warning for each line that it cannot read, and goes on behind it.
        with contextlib.redirect_stdout(io.StringIO()):
            catalog = read_po(io.StringIO(_DATE.sub('""', text)))
    except (PoFileError, ValueError, IndexError) as error:
        return Unreadable(corpus.name, shown(path), "no_catalogue", str(error))
    language = _LANGUAGE.search(text)
    messages = [message for message in catalog if message.id]
    return messages, lines, encoding, language[1] if language else ""


def _compiled(corpus: Corpus, path: str) -> _Read | Unreadable:
    data = whole_bytes(corpus, path)
    if isinstance(data, Unreadable):
        return data
    try:
        pairs = _compiled_pairs(data)
        header = next((target for source, target in pairs if not source), b"")
        told = _CHARSET.search(header)
        encoding = codecs.lookup(told[1].decode("ascii") if told else "utf-8").name
        messages = [
            _message(source.decode(encoding), target.decode(encoding))
            for source, target in pairs
            if source
        ]
    except (struct.error, ValueError, LookupError) as error:
        return Unreadable(corpus.name, shown(path), "no_catalogue", str(error))
    language = _COMPILED_LANGUAGE.search(header.decode(encoding, "replace"))
    return messages, [], encoding, language[1] if language else ""


def _compiled_pairs(data: bytes) -> list[tuple[bytes, bytes]]:
    """The msgid and msgstr of a .mo file, by the format in the manual of GNU gettext.

    Raises:
        ValueError: the bytes are no such file.
        struct.error: they end too early.
    """
    order = {b"\xde\x12\x04\x95": "<", b"\x95\x04\x12\xde": ">"}.get(data[:4])
    if order is None:
        raise ValueError("no .mo file")
    count, sources, targets = struct.unpack_from(f"{order}3I", data, 8)

    def text(table: int, number: int) -> bytes:
        length, start = struct.unpack_from(f"{order}2I", data, table + 8 * number)
        if start + length > len(data):
            raise ValueError("a message lies behind the end of the file")
        return data[start : start + length]

    if count > len(data) // 16:
        raise ValueError("more messages than the file has room for")
    return [(text(sources, number), text(targets, number)) for number in range(count)]


def _message(source: str, target: str) -> Message:
    context, found, rest = source.rpartition("\x04")
    forms = rest.split("\0")
    if len(forms) > 1:
        return Message(tuple(forms), tuple(target.split("\0")), context=context or None)
    return Message(rest, target, context=context if found else None)


def _language(corpus: Corpus, path: str, told: str) -> str:
    """The CLDR code of a catalogue's language; "" where nothing names a known one."""
    if corpus.options["language"]:
        return corpus.options["language"]
    pure = PurePosixPath(path)
    for name in (told, pure.stem, pure.stem.rpartition(".")[2], *reversed(pure.parts[:-1])):
        code = canonical_code(name.partition("@")[0].partition(".")[0].replace("-", "_"))
        if code:
            return code
    return ""


def _refusal(message: Message) -> str:
    if message.pluralizable:
        return "plural_form"
    if message.fuzzy:
        return "fuzzy"
    if not message.string or not str(message.string).strip():
        return "untranslated"
    source, target = str(message.id), str(message.string)
    if not any(map(str.isalpha, source)) or not any(map(str.isalpha, target)):
        return "no_words"
    if source.strip() == target.strip():
        return "same_as_source"
    if _IDENTIFIER.fullmatch(source):
        return "identifier"
    if sorted(_PLACEHOLDER.findall(source)) != sorted(_PLACEHOLDER.findall(target)):
        return "other_placeholders"
    return ""


def _span(message: Message, lines: list[str]) -> tuple[int, int]:
    """The lines from the one of msgid to the last one of its entry."""
    first = last = message.lineno or 1
    while last < len(lines):
        line = lines[last].lstrip()
        if not line.startswith(("msgstr", "msgid_plural", '"')):
            break
        last += 1
    return first, last


def _document(
    corpus: Corpus,
    path: str,
    message: Message,
    *,
    span: tuple[int, int],
    language: str,
    raw: str,
    encoding: str,
) -> Document:
    source = corpus.options["source_language"]
    texts = {source: str(message.id), language: str(message.string)}
    return Document(
        corpus=corpus.name,
        uri=shown(path),
        span=span,
        text=texts[source],
        licence=corpus.licence,
        group="message/" + "".join(texts[source].casefold().split()),
        kind="catalogue_message",
        content={
            "texts": texts,
            "names": {code: language_name(code) for code in texts},
            "source_language": source,
            "context": message.context or "",
            "comment": " ".join(message.auto_comments),
        },
        hashed=raw or "\n".join(texts.values()),
        other_texts=(texts[language],),
        encoding=encoding,
    )


def problems(corpus: Corpus) -> list[str]:
    """Lines on the path and on languages that CLDR does not know."""
    found = encoding_problems(corpus)
    for key in ("source_language", "language"):
        code = corpus.options[key]
        if (code or key == "source_language") and not is_known_language(code):
            found.append(f"{key}: {code!r} is no CLDR locale")
    return found
