"""What an answer may be: guides that say, token by token, which ones may come next."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np


class Guide(Protocol):
    """The answers that are allowed, as states and the tokens that lead from one to the next.

    States are values: many answers may go on from one of them, each in its own way.
    """

    def start(self) -> Any:
        """The state before the first token."""

    def allowed(self, state: Any) -> np.ndarray:
        """bool [V]: tokens that may come next, eos among them where an answer may end.

        No token at all where nothing leads to an answer any more.
        """

    def next(self, state: Any, token: int) -> Any:
        """The state after one of the allowed tokens."""


class Trie:
    """The answers of a closed set, each as its tokens and eos."""

    def __init__(self, answers: Sequence[Sequence[int]], *, vocabulary_size: int) -> None:
        """`answers` are token ids that end with eos."""
        self._size = vocabulary_size
        self._root: dict[int, Any] = {}
        for answer in answers:
            node = self._root
            for token in answer:
                node = node.setdefault(token, {})

    def start(self) -> dict[int, Any]:
        """The root."""
        return self._root

    def allowed(self, state: dict[int, Any]) -> np.ndarray:
        """bool [V]: the tokens that follow in one of the answers."""
        tokens = np.zeros(self._size, bool)
        tokens[list(state)] = True
        return tokens

    def next(self, state: dict[int, Any], token: int) -> dict[int, Any]:
        """The node below."""
        return state[token]
