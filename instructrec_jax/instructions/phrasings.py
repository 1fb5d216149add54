"""How the questions of a dataset are put: which templates a draft gets, in which split."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from instructrec_jax.instructions.example import TEST
from instructrec_jax.instructions.recipe import Recipe
from instructrec_jax.instructions.splitting import COMPOSITION, DOCUMENT, PHRASING, TASK
from instructrec_jax.instructions.templates import (
    Template,
    choose_template,
    held_out_templates,
)


@dataclass(frozen=True)
class Phrasings:
    """The templates of a recipe's tasks: all, those of the test split alone, and the others."""

    recipe: Recipe
    all: Mapping[str, tuple[Template, ...]]
    held_out: Mapping[str, tuple[Template, ...]]
    seen: Mapping[str, tuple[Template, ...]]

    @classmethod
    def of(cls, recipe: Recipe) -> "Phrasings":
        """Read the templates of every chosen task."""
        templates = {task: recipe.templates_of(task) for task in recipe.chosen_tasks}
        held_out = {
            task: ()
            if unseen_task(task, recipe)
            else held_out_templates(bank, count=recipe.holdout_phrasings, seed=recipe.seed)
            for task, bank in templates.items()
        }
        seen = {
            task: tuple(template for template in bank if template not in held_out[task])
            for task, bank in templates.items()
        }
        return cls(recipe, templates, held_out, seen)

    def banks(self, task: str, split: str) -> Mapping[str, tuple[Template, ...]]:
        """The templates that a draft may get, by what it then probes ("" outside test).

        A test draft is phrased twice, in a phrasing that training sees (`document`) and in one that
        it never sees (`phrasing`): the same unseen questions, so that the two compare.
        """
        if split != TEST:
            return {"": self.seen[task]}
        unseen = unseen_task(task, self.recipe) or DOCUMENT
        banks = {unseen: self.seen[task]}
        if self.held_out[task]:
            banks[PHRASING] = self.held_out[task]
        return banks

    def number(self, task: str, split: str) -> int:
        """How many examples each draft of a task gives in a split."""
        banks = self.banks(task, split)
        return sum(self._copies(holdout, bank) for holdout, bank in banks.items())

    def choose(self, task: str, split: str, identity: str) -> Iterator[tuple[str, int, Template]]:
        """(hold-out, number, template) of each example of a draft."""
        for holdout, bank in self.banks(task, split).items():
            for number in range(self._copies(holdout, bank)):
                yield (
                    holdout,
                    number,
                    choose_template(bank, seed=self.recipe.seed, example=identity, phrasing=number),
                )

    def _copies(self, holdout: str, bank: tuple[Template, ...]) -> int:
        return 1 if holdout else min(self.recipe.phrasings_per_example, len(bank))


def unseen_task(task: str, recipe: Recipe) -> str:
    """What the test examples of a task probe where training never sees the task; else ""."""
    if recipe.bank[task].composition:
        return COMPOSITION
    return TASK if task in recipe.holdout_tasks else ""
