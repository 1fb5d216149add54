"""What a dataset is made by: every choice that its contents depend on."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from instructrec_jax.errors import nearest
from instructrec_jax.instructions import extensions
from instructrec_jax.instructions.filters import CURATING_FILTERS, FilterSettings, Limits
from instructrec_jax.instructions.sources import SOURCES, Reader, kind_of, readers_of
from instructrec_jax.instructions.sources.corpus import corpus_of, entry_problems
from instructrec_jax.instructions.sources.locale_names import is_known_language
from instructrec_jax.instructions.tasks import Task
from instructrec_jax.instructions.templates import STYLES, Template, load_templates


@dataclass(frozen=True)
class Recipe:
    """The build's settings; each is explained beside its default in configs/base.py.

    The number of processes is not among them: the dataset does not depend on it.
    """

    seed: int
    sources: tuple[str, ...]
    corpora: tuple[Mapping[str, Any], ...]
    allowed_licences: tuple[str, ...]
    tasks: tuple[str, ...]
    languages: tuple[str, ...]
    max_documents_per_source: int
    max_examples_per_task: int
    phrasings_per_example: int
    min_target_characters: int
    max_target_characters: int
    max_input_characters: int
    validation_fraction: float
    test_fraction: float
    holdout_phrasings: int
    holdout_tasks: tuple[str, ...]
    max_test_examples: int
    execution_seconds: float
    execution_mebibytes: int
    filters: FilterSettings = FilterSettings()
    styles: tuple[str, ...] = ()
    demonstrations: float = 0.0
    most_demonstrations: int = 3
    extensions: tuple[str, ...] = ()
    curation_checkpoint: str = ""

    def __post_init__(self) -> None:
        # Configs hand in their own kind of mapping.
        entries = tuple(_plain(entry) for entry in self.corpora)
        object.__setattr__(self, "corpora", entries)
        object.__setattr__(self, "extensions", tuple(map(str, self.extensions)))
        object.__setattr__(self, "filters", FilterSettings.of(self.filters))

    @property
    def limits(self) -> Limits:
        """The limits of length."""
        return Limits(
            min_target_characters=self.min_target_characters,
            max_target_characters=self.max_target_characters,
            max_input_characters=self.max_input_characters,
        )

    @property
    def bank(self) -> dict[str, Task]:
        """All tasks that there are: the package's and those of the extensions."""
        return extensions.task_bank(self.extensions)

    @property
    def chosen_tasks(self) -> tuple[str, ...]:
        """The tasks to construct, in the order of the task bank."""
        kinds = {kind_of(source, self) for source in self.sources}
        return tuple(
            name
            for name, task in self.bank.items()
            if (not self.tasks or name in self.tasks) and kinds & set(task.kinds)
        )

    def tasks_of(self, source: str) -> tuple[str, ...]:
        """The chosen tasks that are made from a corpus."""
        kind, bank = kind_of(source, self), self.bank
        return tuple(name for name in self.chosen_tasks if kind in bank[name].kinds)

    @property
    def used_sources(self) -> tuple[str, ...]:
        """The sources that any of the chosen tasks is made from."""
        return tuple(source for source in self.sources if self.tasks_of(source))

    def templates_of(self, task: str) -> tuple[Template, ...]:
        """The phrasings of a task, of the recipe's styles, with those of the extensions."""
        files = extensions.template_files(task, self.extensions)
        return load_templates(task, styles=self.styles, further=files)

    def to_record(self) -> dict[str, Any]:
        """The recipe as a JSON object."""
        record: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return record

    def problems(self) -> list[str]:
        """Everything that is wrong with the recipe, one line each; [] where nothing is."""
        found = extensions.problems(self.extensions)
        if found:
            return found
        bank = self.bank
        found = self._corpora_problems()
        entries = [entry for entry in self.corpora if isinstance(entry, dict)]
        named = [str(entry["name"]) for entry in entries if entry.get("name")]
        found += _unknown("build.sources", self.sources, (*SOURCES, *named))
        found += _unknown("build.tasks", self.tasks, bank)
        found += _unknown("build.holdout_tasks", self.holdout_tasks, bank)
        found += _unknown("build.styles", self.styles, STYLES)
        found += [
            f"build.languages: {code!r} is no CLDR locale"
            for code in self.languages
            if not is_known_language(code)
        ]
        found += self._number_problems() + self.filters.problems()
        if self.curation_checkpoint and not any(map(self.filters.uses, CURATING_FILTERS)):
            found.append("build.curation_checkpoint: both of its filters are switched off")
        if not self.sources:
            found.append("build.sources: no raw corpus is named")
        if found:
            return found
        if "en" in self.languages:
            found.append("build.languages: leave out 'en', which every language is paired with")
        if "locale_names" in self.sources and not self.languages:
            found.append("build.languages: locale_names needs a language besides English")
        orphans = [name for name in self.tasks if name not in self.chosen_tasks]
        found += [
            f"build.tasks: {name} needs documents of the kind {' or '.join(bank[name].kinds)}; "
            "no source gives them"
            for name in orphans
        ]
        for name in self.chosen_tasks:
            templates = len(self.templates_of(name))
            if not templates:
                found.append(f"build.styles: {name} has no template of {', '.join(self.styles)}")
                continue
            if name not in self.holdout_tasks and self.holdout_phrasings >= templates:
                found.append(
                    f"build.holdout_phrasings: {self.holdout_phrasings} leaves no template of "
                    f"{name} for training; it has {templates}"
                )
        if not set(self.chosen_tasks) - set(self.holdout_tasks):
            found.append("build.holdout_tasks: every task is held out")
        return found

    def _corpora_problems(self) -> list[str]:
        found: list[str] = []
        names: set[str] = set()
        readers = readers_of(self)
        found += [
            f"build.extensions: READERS[{name!r}] is no Reader"
            for name, reader in readers.items()
            if not isinstance(reader, Reader)
        ]
        if found:
            return found
        for number, entry in enumerate(self.corpora):
            if not isinstance(entry, dict):
                found.append(f"build.corpora[{number}]: {entry!r} is no mapping of a corpus")
                continue
            name = entry.get("name")
            place = f"build.corpora: {name}" if name else f"build.corpora[{number}]"
            problems = entry_problems(entry, place=place, readers=readers)
            if name in SOURCES or name in names:
                problems.append(f"{place}: another corpus has this name; give it its own `name`")
            elif name and name not in self.sources:
                problems.append(f"{place} is not named in build.sources")
            if not problems:
                reader = readers[entry["reader"]]
                corpus = corpus_of(entry, options=reader.options)
                problems += [f"{place}: {line}" for line in reader.problems(corpus)]
            if isinstance(name, str):
                names.add(name)
            found += problems
        return found

    def _number_problems(self) -> list[str]:
        found = [
            f"build.{key}: {getattr(self, key)} is below {least}"
            for key, least in (
                ("max_documents_per_source", 0),
                ("max_examples_per_task", 0),
                ("phrasings_per_example", 1),
                ("min_target_characters", 0),
                ("max_target_characters", 0),
                ("max_input_characters", 0),
                ("holdout_phrasings", 0),
                ("max_test_examples", 0),
                ("validation_fraction", 0),
                ("test_fraction", 0),
                ("demonstrations", 0),
                ("most_demonstrations", 1),
                ("execution_mebibytes", 64),
            )
            if getattr(self, key) < least
        ]
        fractions = ("validation_fraction", "test_fraction", "demonstrations")
        for key in (*fractions, "execution_seconds"):
            if not math.isfinite(getattr(self, key)):
                found.append(f"build.{key}: {getattr(self, key)} is no number")
        if self.validation_fraction + self.test_fraction >= 1:
            found.append("build.validation_fraction and build.test_fraction leave nothing to train")
        if self.demonstrations > 1:
            found.append(f"build.demonstrations: {self.demonstrations} is above 1, all examples")
        if self.execution_seconds <= 0:
            found.append("build.execution_seconds must be above 0")
        return found


def _unknown(key: str, names: Iterable[str], known: Iterable[str]) -> list[str]:
    known = tuple(known)
    return [
        f"{key}: unknown name {name!r}{nearest(name, known) or f'; there are {known}'}"
        for name in names
        if name not in known
    ]


def _plain(value: Any) -> Any:
    """Nested mappings as dicts, sequences as tuples."""
    if isinstance(value, Mapping) or hasattr(value, "items"):
        return {str(key): _plain(part) for key, part in value.items()}
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value
