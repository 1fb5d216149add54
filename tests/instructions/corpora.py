"""Corpora for the tests of readers: read by a name and options, and traced back to their bytes."""

from types import SimpleNamespace

from instructrec_jax.instructions import hashing
from instructrec_jax.instructions.document import Document
from instructrec_jax.instructions.sources import READERS, documents_of, units_of
from instructrec_jax.instructions.sources.corpus import corpora_from_flags, corpus_of


def recipe_of(reader, path, *, allowed_licences=(), **options):
    entry = {"name": "mine", "reader": reader, "path": str(path), **options}
    return SimpleNamespace(
        corpora=(entry,),
        extensions=(),
        allowed_licences=allowed_licences,
        languages=(),
        seed=0,
    )


def corpus(reader, path, **options):
    entry = recipe_of(reader, path, **options).corpora[0]
    return corpus_of(entry, options=READERS[reader].options)


def read(reader, path, **options):
    """The documents and the unreadable items of a corpus."""
    recipe = recipe_of(reader, path, **options)
    found = [
        item for unit in units_of("mine", recipe) for item in documents_of("mine", unit, recipe)
    ]
    documents = [item for item in found if isinstance(item, Document)]
    assert all(document.kind == READERS[reader].kind for document in documents)
    return documents, [item for item in found if not isinstance(item, Document)]


def reasons(unreadable):
    """{address: reason}"""
    return {item.uri: item.reason for item in unreadable}


def flags(*texts):
    return corpora_from_flags(texts)


def lines_hash(file, span, encoding="utf-8"):
    """The hash of the lines of a file, read without the package's own code."""
    lines = file.read_bytes().decode(encoding).removeprefix("\ufeff").replace("\r\n", "\n")
    return hashing.sha256("\n".join(lines.split("\n")[span[0] - 1 : span[1]]))
