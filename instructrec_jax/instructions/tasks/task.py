"""What a task is."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from instructrec_jax.instructions.document import Context, Document, Draft


@dataclass(frozen=True)
class Task:
    """A task: what it asks, the kinds of document it is made from, the generator of its drafts.

    Every document of one of the kinds is used, whatever corpus it comes from; document.KINDS.
    `target_source` says how the target came about. `target_in_input` says when a draft whose
    target stands in its input is refused: "never" (wherever it stands), "not_whole" (it is the
    input, or a long part of it), "allowed" (tasks of extraction). `composition` names the two tasks
    that this one chains on one document: such a task is made from test documents alone.
    """

    description: str
    kinds: tuple[str, ...]
    generate: Callable[[Document, Context], Iterator[Draft]]
    target_source: str
    target_in_input: str = "not_whole"
    composition: tuple[str, str] | None = None

    @property
    def generator_name(self) -> str:
        """Where the generator is found, e.g. "tasks.code.find_bug"."""
        function = getattr(self.generate, "func", self.generate)
        return f"tasks.{function.__module__.rpartition('.')[2]}.{function.__name__}"
