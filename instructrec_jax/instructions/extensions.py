"""Tasks, readers and phrasings of the user's own, from folders outside the package.

A folder looks like the package's own tables, each part of it optional:

    tasks.py              TASKS = {"name": Task(...)}
    readers.py            READERS = {"name": Reader(...)}
    templates/NAME.toml   phrasings of the task NAME, one of these or of the package

`build.extensions` names the folders. Every process of a build runs the files itself, so that a
generator may be any function, and a dataset's ingredients hold a hash of them. What the files
import besides must be installed, and is not in that hash.
"""

import functools
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from instructrec_jax.errors import ConfigError, DataError, UserError
from instructrec_jax.instructions.document import Context, Document, Draft
from instructrec_jax.instructions.tasks import TASKS, Task

_FILES = {"TASKS": "tasks.py", "READERS": "readers.py"}
_TARGET_SOURCES = ("intrinsic", "metadata", "mined", "parallel", "executed", "model")
_TARGET_IN_INPUT = ("never", "not_whole", "allowed")


def task_bank(folders: tuple[str, ...]) -> dict[str, Task]:
    """The package's tasks, and those of the folders behind them.

    Raises:
        ConfigError: a file that cannot be run or holds no such table, a name that is taken.
    """
    return {**TASKS, **_table("TASKS", folders)} if folders else TASKS


def own_readers(folders: tuple[str, ...]) -> dict[str, Any]:
    """The readers of the folders; raises as `task_bank` does."""
    return _table("READERS", folders) if folders else {}


def template_files(task: str, folders: tuple[str, ...]) -> list[Path]:
    """The files of phrasings of a task in the folders."""
    paths = [Path(folder) / "templates" / f"{task}.toml" for folder in folders]
    return [path for path in paths if path.exists()]


def files_of(folder: str) -> Iterator[Path]:
    """What a dataset made with the folder depends on."""
    yield from (path for name in _FILES.values() if (path := Path(folder) / name).exists())
    yield from Path(folder).glob("templates/*.toml")


def problems(folders: tuple[str, ...]) -> list[str]:
    """What is wrong with the folders, one line each; their files are run."""
    found = []
    for folder in folders:
        if not any(files_of(folder)):
            found.append(
                f"build.extensions: {folder}: no folder with tasks.py, readers.py or "
                "templates/TASK.toml"
            )
    try:
        bank = task_bank(folders)
        own_readers(folders)
    except ConfigError as error:
        return [*found, str(error)]
    templates = (file for folder in folders for file in files_of(folder) if file.suffix == ".toml")
    found += [f"{file}: no task is called {file.stem!r}" for file in templates
              if file.stem not in bank]  # fmt: skip
    return found


def _table(name: str, folders: tuple[str, ...]) -> dict[str, Any]:
    files = [path for folder in folders if (path := Path(folder) / _FILES[name]).exists()]
    # In a notebook an edited file is run again.
    return _merged(name, tuple((path.absolute(), path.stat().st_mtime_ns) for path in files))


@functools.lru_cache(maxsize=16)
def _merged(name: str, files: tuple[tuple[Path, int], ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path, _ in files:
        entries = _run(path).get(name)
        if not isinstance(entries, dict):
            raise ConfigError(f"{path}: no dictionary called {name}")
        for key, entry in entries.items():
            if key in found or (name == "TASKS" and key in TASKS):
                raise ConfigError(f"{path}: another entry is called {key!r}; give it another name")
            found[key] = _checked(path, key, entry) if name == "TASKS" else entry
    return found


def _run(path: Path) -> dict[str, Any]:
    """The names that a file defines."""
    name = f"instructrec_extension.{path.parent.name}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{path} fails{_line_of(path, error)}: {_told(error)}") from error
    return vars(module)


def _checked(path: Path, name: str, task: Any) -> Task:
    """The task, its generator guarded."""
    place = f"{path}: TASKS[{name!r}]"
    if not isinstance(task, Task):
        raise ConfigError(f"{place}: a {type(task).__name__} is no Task")
    function = getattr(task.generate, "func", task.generate)
    if not callable(function) or not hasattr(function, "__name__"):
        raise ConfigError(f"{place}: generate takes a function of (document, context)")
    for key, known in (
        ("target_source", _TARGET_SOURCES),
        ("target_in_input", _TARGET_IN_INPUT),
    ):
        if getattr(task, key) not in known:
            raise ConfigError(f"{place}: {key} is one of {', '.join(known)}")
    if not isinstance(task.kinds, tuple):
        raise ConfigError(f"{place}: kinds takes a tuple of texts, not {task.kinds!r}")
    return replace(task, generate=_guarded(path, name, task.generate))


def _guarded(
    path: Path, name: str, generate: Callable[[Document, Context], Iterator[Draft]]
) -> Callable[[Document, Context], Iterator[Draft]]:
    """The generator, its failures told in one line that names the document."""

    def drafts(document: Document, context: Context) -> Iterator[Draft]:
        place = f"{path}: the task {name!r} of {document.uri}, lines {document.span}"
        try:
            for draft in generate(document, context):
                if not isinstance(draft, Draft):
                    raise TypeError(f"a {type(draft).__name__} is no Draft")
                if not isinstance(draft.fields.get("input"), str):
                    raise TypeError('a draft\'s fields need a text called "input"')
                if not isinstance(draft.target, str):
                    raise TypeError(f"the target {draft.target!r} is no text")
                yield draft
        except UserError:
            raise
        except Exception as error:
            line = _line_of(path, error)
            raise DataError(f"{place} fails{line}: {_told(error)}") from error

    function = getattr(generate, "func", generate)
    drafts.__name__, drafts.__module__ = function.__name__, function.__module__
    return drafts


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _line_of(path: Path, error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path]
    return f" at line {lines[-1]}" if lines else ""
