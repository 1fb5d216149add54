"""How beam search is to go."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from instructrec_jax.errors import ConfigError


@dataclass(frozen=True)
class BeamSettings:
    """How to search; the names and defaults are those of transformers' `generate`.

    A prompt's search ends when `num_beams` answers have ended and, by `early_stopping`:
    - True: at once;
    - False: no answer under way could enter the list by its score at its present length;
    - "never": nor at the length limit, which matters where a `length_penalty` above 0 divides
      longer answers' sums by more.
    All of them end at the length limit, where the best answers under way count as ended.
    ConfigError: more outputs than beams, groups of different sizes.
    """

    num_beams: int
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    num_outputs: int = 1  # best answers to return, num_beams at most
    # Groups that the beams are split into, each a search that shuns the tokens of those before it.
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0  # see diverse.py

    def __post_init__(self) -> None:
        if self.num_beam_groups < 1 or self.num_beams % self.num_beam_groups:
            raise ConfigError(
                f"num_beam_groups ({self.num_beam_groups}) must divide num_beams ({self.num_beams})"
            )
        if not 0.0 <= self.diversity_penalty < float("inf"):
            raise ConfigError(f"diversity_penalty must be 0 or more, not {self.diversity_penalty}")
        if not 1 <= self.num_outputs <= self.num_beams:
            raise ConfigError(
                f"num_outputs must be from 1 to num_beams ({self.num_beams}), "
                f"not {self.num_outputs}"
            )

    def check(self, *, max_new_tokens: int, vocabulary_size: int) -> None:
        """ConfigError where no such search for so many tokens of so many kinds can be."""
        if self.num_beams >= vocabulary_size:
            raise ConfigError(
                f"num_beams must be less than the {vocabulary_size} tokens of the vocabulary, "
                f"not {self.num_beams}"
            )
        divisors = self.length_divisors(max_new_tokens)
        if not (np.isfinite(divisors).all() and (divisors > 0).all()):
            raise ConfigError(
                f"length_penalty {self.length_penalty} is out of range: {max_new_tokens} tokens to "
                "this power are no float32 number"
            )

    def length_divisors(self, max_new_tokens: int) -> np.ndarray:
        """float32 [max_new_tokens]: what divides the sum of 1, 2, ... tokens, eos included."""
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            powers = np.arange(1, max_new_tokens + 1, dtype=np.float64) ** self.length_penalty
            return powers.astype(np.float32)
