"""Where an answer's text ends before its eos: at stop strings, and what follows a forced prefix."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from instructrec_jax.decoding.batching import TextTokenizer


def continuation(tokenizer: TextTokenizer, prefix: Sequence[int], tokens: Sequence[int]) -> str:
    """The text that `tokens` add to that of `prefix`: a space between them belongs to it."""
    if not prefix:
        return tokenizer.decode(tokens)
    before, whole = tokenizer.decode(prefix), tokenizer.decode([*prefix, *tokens])
    return whole[len(before) :] if whole.startswith(before) else tokenizer.decode(tokens)


@dataclass(frozen=True)
class Stops:
    """Strings that end an answer. They are looked for in its text, however that is cut to tokens.

    A string that the prefix begins and the answer ends does not count.
    """

    strings: tuple[str, ...]
    tokenizer: TextTokenizer

    def found_in(self, prefix: Sequence[int], tokens: Sequence[int]) -> bool:
        """Whether the answer holds one of them."""
        text = continuation(self.tokenizer, prefix, tokens)
        return any(string in text for string in self.strings)

    def cut(self, prefix: Sequence[int], tokens: Sequence[int]) -> tuple[str, int] | None:
        """The text before the first stop string, and how many tokens it took to complete one.

        None where the answer holds none.
        """
        if not self.found_in(prefix, tokens):
            return None
        found = partial(self.found_in, prefix)
        count = next(n for n in range(1, len(tokens) + 1) if found(tokens[:n]))
        text = continuation(self.tokenizer, prefix, tokens[:count])
        return text[: min(text.find(string) for string in self.strings if string in text)], count
