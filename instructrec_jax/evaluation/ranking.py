"""Rank classification: the option that the model finds most probable is its answer.

By summed log-probability, as T0 (Sanh et al. 2022) and its kin report it; that favours short
options, a mean over tokens long ones.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from instructrec_jax.decoding.scoring import score


@dataclass(frozen=True)
class Ranking:
    """Summed log-probability of each option, the best one's place, the first of equal ones."""

    logprobs: tuple[float, ...]
    truncated: bool

    @property
    def best(self) -> int:
        """Place of the most probable option."""
        return max(range(len(self.logprobs)), key=self.logprobs.__getitem__)

    @property
    def confidence(self) -> float:
        """The best option's share of the probability of all options."""
        highest = self.logprobs[self.best]
        return 1 / sum(math.exp(logprob - highest) for logprob in self.logprobs)


def rank_options(
    params: Any,
    config: Any,
    tokenizer: Any,
    texts: Sequence[str],
    options: Sequence[Sequence[str]],
    *,
    batch_size: int,
    encoder_length: int,
    progress: Callable[[int], None] | None = None,
) -> list[Ranking]:
    """A ranking of each text's own options, in order; the arguments are those of `score`."""
    owners = [place for place, each in enumerate(options) for _ in each]
    scores = score(
        params,
        config,
        tokenizer,
        [texts[place] for place in owners],
        [option for each in options for option in each],
        batch_size=batch_size,
        encoder_length=encoder_length,
        progress=None
        if progress is None
        else lambda done: progress(done * len(texts) // len(owners)),
    )
    of_text: list[list[Any]] = [[] for _ in texts]
    for place, each in zip(owners, scores, strict=True):
        of_text[place].append(each)
    return [
        Ranking(tuple(each.logprob for each in found), any(each.truncated for each in found))
        for found in of_text
    ]
