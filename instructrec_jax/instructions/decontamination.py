"""Evaluation data that a dataset must not hold: an index of files, to ask about each draft.

A draft is refused where it shares 13 words in a row with an evaluation example (the rule of GPT-3,
Brown et al. 2020, arXiv:2005.14165, appendix C), where a long target of one stands in it, or where
it is one: the same input, however short, with the same target.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from glob import glob
from hashlib import blake2b

from instructrec_jax.instructions import hashing
from instructrec_jax.instructions.reading import read_examples

_WORDS_IN_A_ROW = 13
# A target of so many characters, white space left out, that comes up elsewhere is no chance.
_LONG_TARGET = 50
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Evaluation:
    """What evaluation files hold: hashes of runs of 13 words, long targets, hashes of whole pairs.

    `targets` holds for each hash of a target's first characters the targets that begin so.
    """

    runs: frozenset[int]
    targets: dict[str, tuple[str, ...]]
    pairs: frozenset[str] = frozenset()

    @classmethod
    def of(cls, paths: Iterable[str]) -> "Evaluation":
        """The index of some files in any of the formats that `reading` knows.

        Raises:
            DataError: a file cannot be read.
        """
        runs: set[int] = set()
        targets: dict[str, set[str]] = {}
        pairs: set[str] = set()
        for path in paths:
            for example in read_examples(path):
                asked = example.input or example.material or example.instruction
                pairs.add(_pair(asked, example.target))
                runs.update(_runs(asked))
                runs.update(_runs(example.target))
                target = _solid(example.target)
                if len(target) >= _LONG_TARGET:
                    targets.setdefault(target[:_LONG_TARGET], set()).add(target)
        longest = {key: tuple(sorted(held)) for key, held in targets.items()}
        return cls(frozenset(runs), longest, frozenset(pairs))

    @staticmethod
    def problems(paths: Iterable[str]) -> list[str]:
        """A line for each file that is not there."""
        return [
            f"build.filters.decontaminate: there is no {path}" for path in paths if not glob(path)
        ]

    def asks(self, text: str, target: str) -> bool:
        """Whether an example of the evaluation has this input and this target."""
        return _pair(text, target) in self.pairs

    def holds(self, *texts: str) -> bool:
        """Whether one of the texts is evaluation data, in whole or in part."""
        if not self.runs and not self.targets:
            return False
        for part in texts:
            if not self.runs.isdisjoint(_runs(part)):
                return True
            if self.targets and self._holds_target(_solid(part)):
                return True
        return False

    def _holds_target(self, text: str) -> bool:
        for start in range(len(text) - _LONG_TARGET + 1):
            for target in self.targets.get(text[start : start + _LONG_TARGET], ()):
                if text.startswith(target, start):
                    return True
        return False


def _runs(text: str) -> Iterator[int]:
    words = _WORD.findall(text.casefold())
    for start in range(len(words) - _WORDS_IN_A_ROW + 1):
        row = " ".join(words[start : start + _WORDS_IN_A_ROW]).encode("utf-8", "surrogatepass")
        yield int.from_bytes(blake2b(row, digest_size=8).digest(), "big")


def _pair(text: str, target: str) -> str:
    return hashing.digest(_solid(text), _solid(target))


def _solid(text: str) -> str:
    return "".join(text.casefold().split())
