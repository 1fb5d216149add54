"""The shape of a build: stages of pure functions over groups of records, whoever runs them.

Records travel in named streams under a key. A stage takes some streams, group by group, and gives
records for later streams; the order inside a group is not fixed, so its functions sort. What a
stage counts on the way goes to a tally. The runners (`local_runner`, `beam_runner`) only group.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from instructrec_jax.instructions.document import Context
from instructrec_jax.instructions.execution import Sandbox
from instructrec_jax.instructions.filters import Evaluation
from instructrec_jax.instructions.phrasings import Phrasings
from instructrec_jax.instructions.recipe import Recipe
from instructrec_jax.instructions.tally import Tally

# A stream's name, the record's key in it, the record.
Emission = tuple[str, str, Any]
Group = Mapping[str, list[Any]]
# The stream whose records are finished files of the dataset: key = name, record = contents.
FILES = "files"


@dataclass
class Run:
    """What the functions of a build share inside one process.

    `side` is what the stage asked to know about the whole; `tally` takes its counts.
    """

    recipe: Recipe
    tally: Tally = field(default_factory=Tally)
    side: Any = None

    @cached_property
    def context(self) -> Context:
        """For generators; its guarded processes end with `close`."""
        recipe = self.recipe
        sandbox = Sandbox(seconds=recipe.execution_seconds, mebibytes=recipe.execution_mebibytes)
        return Context(seed=recipe.seed, sandbox=sandbox)

    @cached_property
    def phrasings(self) -> Phrasings:
        """The templates of the recipe's tasks."""
        return Phrasings.of(self.recipe)

    @cached_property
    def evaluation(self) -> Evaluation:
        """What stands in the evaluation files that the dataset must not hold."""
        return Evaluation.of(self.recipe.filters.decontaminate)

    def close(self) -> None:
        """End the guarded processes."""
        if "context" in self.__dict__:
            self.context.sandbox.close()


@dataclass(frozen=True)
class Stage:
    """A step of a build: `apply(key, records by stream, run)` for each key of the streams it reads.

    `gives` names the streams of the records that it gives. `side`, where there is one, is computed
    once from all that earlier stages counted.
    """

    name: str
    reads: tuple[str, ...]
    gives: tuple[str, ...]
    apply: Callable[[str, Group, Run], Iterator[Emission]]
    side: Callable[[Recipe, Tally], Any] | None = None
