"""What a dataset is made of: a finished one is reused only where it would come out the same."""

import hashlib
import json
import platform
from collections.abc import Iterable, Iterator, Mapping
from glob import glob
from importlib import metadata
from pathlib import Path
from typing import Any

from instructrec_jax.instructions import extensions
from instructrec_jax.instructions.recipe import Recipe
from instructrec_jax.instructions.sources import contents_hash
from instructrec_jax.instructions.templates import FOLDER

_GENERATORS = Path(__file__).parent
# What the text of a dataset depends on, and what that of the user's own corpora does besides.
_LIBRARIES = ("babel", "sentencepiece", "jinja2", "rensa")
_READING_LIBRARIES = (
    *("chardet", "chardetng-py", "charset-normalizer", "lxml", "markdown-it-py", "pyarrow"),
)


def recipe_record(
    recipe: Recipe,
    *,
    tokenizer: Mapping[str, Any],
    tokenizer_sha256: str,
    format_version: int,
    curation_fingerprint: str = "",
) -> dict[str, Any]:
    """The recipe, all that its result depends on besides, and one hash of everything.

    Args:
        recipe: of the dataset.
        tokenizer: the tokenizer's settings.
        tokenizer_sha256: of the model that is given; "" where one is trained.
        format_version: of the dataset folder.
        curation_fingerprint: of the model of build.curation_checkpoint; "" where there is none.
    """
    ingredients: dict[str, Any] = {
        "generators": files_digest(_GENERATORS, _GENERATORS.rglob("*.py")),
        "templates": {
            task: hashlib.sha256((FOLDER / f"{task}.toml").read_bytes()).hexdigest()
            for task in recipe.chosen_tasks
            if (FOLDER / f"{task}.toml").exists()
        },
        "tokenizer": tokenizer_sha256,
    }
    if curation_fingerprint:
        ingredients["curating model"] = curation_fingerprint
    if recipe.extensions:
        ingredients["files of the extensions"] = [
            files_digest(Path(folder), extensions.files_of(folder)) for folder in recipe.extensions
        ]
    if recipe.filters.decontaminate:
        ingredients["evaluation files"] = {
            path: files_digest(Path("/"), map(Path.absolute, _files(path)))
            for path in recipe.filters.decontaminate
        }
    if "package_metadata" in recipe.used_sources:
        ingredients["installed packages"] = packages_digest(metadata.distributions())
    corpora = {
        entry["name"]: contents_hash(entry["name"], recipe)
        for entry in recipe.corpora
        if entry["name"] in recipe.used_sources
    }
    if corpora:
        ingredients["files of the corpora"] = corpora
    libraries = (*_LIBRARIES, *(_READING_LIBRARIES if corpora else ()))
    record = {
        "recipe": {**recipe.to_record(), "tokenizer": dict(tokenizer)},
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in libraries},
        },
        "ingredients": ingredients,
    }
    text = json.dumps([format_version, record], sort_keys=True)
    return {**record, "recipe_sha256": hashlib.sha256(text.encode()).hexdigest()}


def files_digest(folder: Path, files: Iterable[Path]) -> str:
    """Hash of the names, inside `folder`, and contents of some files."""
    digest = hashlib.sha256()
    for name, file in sorted((file.relative_to(folder).as_posix(), file) for file in files):
        content = file.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _files(path: str) -> Iterator[Path]:
    """The files of a glob, of folders their data."""
    for found in map(Path, glob(path)):
        yield from found.rglob("*.jsonl.gz") if found.is_dir() else [found]


def packages_digest(packages: Iterable[metadata.Distribution]) -> str:
    """Hash of names and versions, in whatever order the packages come."""
    lines = sorted({f"{package.metadata['Name']}=={package.version}" for package in packages})
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Names of what differs between two records, for a person; [] where nothing does."""
    if mine.get("recipe_sha256") == theirs.get("recipe_sha256"):
        return []
    recipe, other = mine["recipe"], _mapping(theirs.get("recipe"))
    found = _unequal(recipe, other)
    found += [
        f"version of {name}"
        for name in _unequal(mine["versions"], _mapping(theirs.get("versions")))
    ]
    kinds, others = mine["ingredients"], _mapping(theirs.get("ingredients"))
    for kind in _unequal(kinds, others):
        if kind == "templates":
            tasks = _unequal(_mapping(kinds.get(kind)), _mapping(others.get(kind)))
            if "tasks" not in found:
                found.append(f"templates of {', '.join(tasks)}")
        elif kind != "tokenizer" or kind not in found:
            found.append(f"the {kind}")
    return found or ["format version"]


def _unequal(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Keys of both, those that theirs alone has behind the others."""
    keys = [*mine, *(key for key in theirs if key not in mine)]
    return [key for key in keys if mine.get(key) != theirs.get(key)]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
