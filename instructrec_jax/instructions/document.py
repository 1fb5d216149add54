"""What flows through a build: raw documents, and drafts of examples made from them."""

import random
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from instructrec_jax.instructions import hashing
from instructrec_jax.instructions.execution import Sandbox

# What a document's `content` holds, by its kind. A task names the kinds that it is made from.
KINDS = {
    "prose": "title (of the section, may be empty), headings (titles from the whole text's down to "
    "the section's), work (what the whole text is called, may be empty), passage (paragraphs, one "
    "a line), opens (whether the passage begins its section), language (code, may be empty)",
    "python_definition": "kind, name, signature, docstring, body, code, methods, modules; see "
    "sources/python_code.py",
    "record": "the fields of a row under the names of the field map (title, text, label, rating, "
    "... all text, rating a number), and columns: every column of the row",
    "parallel": "texts (the language codes' texts), names (the languages' English names)",
    "catalogue_message": "texts, names, context (msgctxt, may be empty), comment (of the "
    "developers, may be empty)",
    "tune": "title, metre, key, unit_length, rhythm, headers (lines before and with K:), body",
    "package": "name, summary, description",
    "synthesised": "made (a list of what a model made of a document: direction, instruction, "
    "input, target and measures)",
    "locale": "kind (of name or phrase), texts, names, iso; see sources/locale_names.py",
}


@dataclass(frozen=True)
class Document:
    """One item of a raw corpus: a function, a passage, a date in several languages.

    `group` says what belongs together: all documents of a group go to the same split. `kind` is a
    key of KINDS and tells what `content`, which the generators read, holds. `hashed` is what
    `sha256` covers where that is not `text`: for files the lines `span` of `uri`, decoded, without
    a line's end, joined by newlines; or all the texts of a translation. `encoding` is what a file's
    bytes were found to be in; "" where that is no question. `other_texts`, the other languages of a
    translation, are looked through beside `text` for near duplicates and evaluation data.
    """

    corpus: str
    uri: str
    span: tuple[int, int] | None
    text: str
    licence: str
    group: str
    kind: str
    content: Mapping[str, Any] = field(compare=False)
    hashed: str = ""
    encoding: str = ""
    other_texts: tuple[str, ...] = ()

    @cached_property
    def sha256(self) -> str:
        """Hash of all the text that drafts are made of."""
        return hashing.sha256(self.hashed or self.text)

    @cached_property
    def identity(self) -> str:
        """A short hash that tells this document from every other one."""
        return hashing.digest(self.corpus, self.uri, self.span, self.sha256)

    @cached_property
    def normalised_text_hash(self) -> str:
        """Hash of the text without case and white space: equal for near-identical documents."""
        return hashing.digest("".join(self.text.casefold().split()))


@dataclass(frozen=True)
class Unreadable:
    """What a corpus holds and no document is made of: where, and why.

    `reason` is one of a few words to count by, `detail` says more for a person.
    """

    corpus: str
    uri: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Draft:
    """One question and answer before it is phrased.

    `fields` are what a template may use; `fields["input"]` is the material that the question is
    about. `rejected` names the reason when the generator itself found the draft unusable (such a
    draft is counted and written to the rejects).
    """

    fields: Mapping[str, Any]
    target: str
    references: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    rejected: str = ""

    @property
    def input(self) -> str:
        """The material that the question is about; may be empty."""
        return self.fields["input"]


@dataclass
class Context:
    """What a generator may use besides its document.

    Randomness comes from `random(...)`: a generator that depends on the build's seed, the document
    and the given key alone. `remember` shares costly results among the tasks of one document.
    """

    seed: int
    sandbox: Sandbox
    _document: str = ""
    _memory: dict[Hashable, Any] = field(default_factory=dict)

    def random(self, document: Document, *key: object) -> random.Random:
        """A pseudo-random generator that belongs to the document and the key."""
        return hashing.generator(self.seed, document.identity, *key)

    def remember(self, document: Document, name: str, compute: Callable[[], Any]) -> Any:
        """The result of `compute()`, computed once for each document and name."""
        if self._document != document.identity:
            self._document = document.identity
            self._memory.clear()
        if name not in self._memory:
            self._memory[name] = compute()
        return self._memory[name]
