"""Descriptions of the installed packages, as their authors wrote them into the metadata."""

import re
from collections.abc import Iterator, Mapping
from importlib import metadata

from instructrec_jax.instructions.document import Document

_LICENCE_CLASSIFIER = "License :: OSI Approved :: "
# A licence field that is longer than this holds the licence's text, not its name.
_LICENCE_NAME_CHARACTERS = 60


def units(languages: tuple[str, ...]) -> list[tuple[str, ...]]:
    """One unit a package, by normalised name."""
    names = (package.metadata["Name"] for package in metadata.distributions())
    return [(name,) for name in sorted({_normalised(name) for name in names if name})]


def documents(unit: tuple[str, ...], languages: tuple[str, ...], seed: int) -> Iterator[Document]:
    """Yield the package's document, if it has a summary, a description and a named licence.

    `content`: `name`, `summary`, `description` (plain text).
    """
    (name,) = unit
    package = metadata.distribution(name)
    fields = package.metadata.json
    summary = str(fields.get("summary") or "").strip()
    description = plain_text(str(fields.get("description") or ""))
    licence = licence_name(fields)
    if not summary or not description or not licence:
        return
    yield Document(
        corpus="package_metadata",
        uri=f"{name}=={package.version}",
        span=None,
        text=description,
        licence=licence,
        group=name,
        kind="package",
        content={"name": fields["name"], "summary": summary, "description": description},
    )


def licence_name(fields: Mapping[str, str | list[str]]) -> str:
    """The licence by expression, else by a short licence field, else by classifier; "" = none."""
    for key in ("license_expression", "license"):
        value = str(fields.get(key) or "").strip()
        if value and "\n" not in value and len(value) <= _LICENCE_NAME_CHARACTERS:
            return "" if value.upper() == "UNKNOWN" else value
    for classifier in fields.get("classifier") or []:
        if classifier.startswith(_LICENCE_CLASSIFIER):
            return classifier.removeprefix(_LICENCE_CLASSIFIER)
    return ""


def plain_text(description: str) -> str:
    """Running text of a Markdown or reStructuredText description; marks, code, badges dropped."""
    text = description.replace("\r\n", "\n")
    text = re.sub(r"```.*?```|<!--.*?-->", " ", text, flags=re.DOTALL)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", " ", text)
    text = re.sub(r"\[([^\]\n]*)\]\([^)\n]*\)", r"\1", text)
    text = re.sub(r"`([^`<\n]+?)\s*<[^>\n]*>`__?", r"\1", text)
    text = re.sub(r"<[^>\n]+>", " ", text)
    paragraphs = (
        " ".join(block.split()) for block in re.split(r"\n\s*\n", text) if _is_prose(block)
    )
    return "\n".join(paragraph for paragraph in paragraphs if paragraph)


def _is_prose(block: str) -> bool:
    """Whether a paragraph is text: no code, table, directive, heading or list of links."""
    first = block.lstrip("\n")
    if first.startswith(("    ", "\t", "..", "|", "#", "+--", ">>>", "[")):
        return False
    words = re.findall(r"[^\W\d_]{2,}", block)
    return len(words) >= 8 and "http" not in block


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
