"""What flows through a build: raw documents, and drafts of examples made from them."""

import random
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from instructrec_jax.instructions import hashing
from instructrec_jax.instructions.execution import Sandbox


@dataclass(frozen=True)
class Document:
    """One item of a raw corpus: a function, a passage, a date in several languages.

    `group` says what belongs together: all documents of a group go to the same split. `content`
    holds what the generators of this corpus read. `hashed` is what `sha256` covers where drafts are
    made of more than `text`, such as the same text in other languages.
    """

    corpus: str
    uri: str
    span: tuple[int, int] | None
    text: str
    licence: str
    group: str
    content: Mapping[str, Any] = field(compare=False)
    hashed: str = ""

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
