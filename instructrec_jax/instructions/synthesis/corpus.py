"""What a synthesiser made of a recipe's corpora: written to a file that is a corpus.

Its reader is sources/synthesised.py, one like any other, so that synthesised questions go through
the same filters, splits and audit as all others, and what was refused is counted with the rest.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from instructrec_jax.errors import ConfigError
from instructrec_jax.instructions import hashing
from instructrec_jax.instructions.document import Document
from instructrec_jax.instructions.recipe import Recipe
from instructrec_jax.instructions.sources import documents_of, units_of
from instructrec_jax.instructions.synthesis.generation import (
    Synthesised,
    SynthesisSettings,
    counted,
    synthesise,
)
from instructrec_jax.instructions.synthesis.likelihood import Judge
from instructrec_jax.instructions.writing import json_line

# Of the corpus, and of the reader that reads it: sources/synthesised.py.
NAME = "synthesised"
TASK_NAMES = ("synthesised_pair", "synthesised_instruction")


@dataclass(frozen=True)
class Synthesis:
    """The two models and the settings."""

    synthesiser: Judge
    judge: Judge
    settings: SynthesisSettings


def add_synthesised_corpus(
    config: ConfigDict, output: Path, synthesis: Synthesis, progress: Callable[[str], None]
) -> Path:
    """Make the file of the config's corpora beside the output, and name it as a further corpus.

    The file's name is a hash of the recipe, the models and the settings: it is made once.

    Returns:
        The file.

    Raises:
        ConfigError: a recipe or settings that cannot be followed.
    """
    build = {key: value for key, value in dict(config.build).items() if key != "processes"}
    # No corpus gives the documents of these tasks yet.
    build["tasks"] = tuple(task for task in config.build.tasks if task not in TASK_NAMES)
    recipe = Recipe(seed=config.seed, **build)
    problems = [*recipe.problems(), *synthesis.settings.problems()]
    if NAME in recipe.sources:
        problems.append(f"build.sources: {NAME!r} is the name of the corpus that is made")
    if problems:
        raise ConfigError("\n  ".join(["instructions cannot be synthesised:", *problems]))
    digest = hashing.digest(
        json.dumps([recipe.to_record(), asdict(synthesis.settings)], sort_keys=True, default=str),
        synthesis.synthesiser.fingerprint,
        synthesis.judge.fingerprint,
    )
    path = output.with_name(f"{output.name}.synthesised") / f"{digest}.jsonl"
    if path.exists():
        progress(f"{path} is there already, made by the same models of the same recipe")
    else:
        _write(recipe, path, synthesis, progress)
    config.build.corpora = (
        *config.build.corpora,
        {"name": NAME, "reader": NAME, "path": str(path)},
    )
    config.build.sources = (*config.build.sources, NAME)
    # Where tasks are chosen by name, these are meant too, unless one of them was named.
    if config.build.tasks and build["tasks"] == tuple(config.build.tasks):
        config.build.tasks = (*config.build.tasks, *TASK_NAMES)
    return path


def documents_to_ask(recipe: Recipe, settings: SynthesisSettings) -> Iterator[Document]:
    """The documents of each of the recipe's corpora; its first ones by hash of their units."""
    for source in recipe.sources:
        units = units_of(source, recipe)
        if settings.documents:
            units = iter(sorted(units, key=lambda u: hashing.digest(settings.seed, source, *u)))
        found = (
            document
            for unit in units
            for document in documents_of(source, unit, recipe)
            if isinstance(document, Document)
        )
        yield from islice(found, settings.documents or None)


def _write(
    recipe: Recipe, path: Path, synthesis: Synthesis, progress: Callable[[str], None]
) -> None:
    found = synthesise(
        documents_to_ask(recipe, synthesis.settings),
        synthesiser=synthesis.synthesiser,
        judge=synthesis.judge,
        settings=synthesis.settings,
        progress=lambda count: progress(f"synthesiser: {count:,} documents"),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with open(partial, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(json_line(record) for record in _records(found))
    partial.rename(path)
    told = ", ".join(f"{count:,} {reason}" for reason, count in counted(found).most_common())
    progress(f"synthesiser {synthesis.synthesiser.name}, judge {synthesis.judge.name}")
    progress(f"{path}: {told or 'the corpora have no text to ask about'}")


def _records(found: list[Synthesised]) -> Iterator[dict[str, Any]]:
    """One record a document, with all that was made of it."""
    by_document: dict[str, list[Synthesised]] = {}
    for each in found:
        by_document.setdefault(each.request.document.identity, []).append(each)
    for made in by_document.values():
        document = made[0].request.document
        yield {
            "document": {
                "corpus": document.corpus,
                "uri": document.uri,
                "span": list(document.span) if document.span else None,
                "licence": document.licence,
                "group": document.group,
                "encoding": document.encoding,
                "text": document.text,
                "hashed": document.hashed,
            },
            "made": [each.to_record() for each in made],
        }
