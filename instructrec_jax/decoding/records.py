"""What decode writes of each line: plain dictionaries, ready for JSON."""

import math
from collections.abc import Sequence
from typing import Any

from instructrec_jax.decoding.choosing import CHOOSE_BY, Choice, ChooseBy
from instructrec_jax.decoding.generate import Generation
from instructrec_jax.decoding.scoring import Score

_DECIMALS = 6  # of log-probabilities


def generation_record(
    record_id: str | int, generations: Sequence[Generation], *, several: bool, prefix: str = ""
) -> dict[str, Any]:
    """The answers to a prompt: the only one's fields, or with `several` a list, the best first.

    `prefix` is the text that they go on from. ValueError: a score is not a finite number.
    """
    outputs = [_output(generation) for generation in generations]
    answer = {"outputs": outputs} if several else outputs[0]
    forced = {"prefix": prefix} if prefix else {}
    return {"id": record_id, **forced, **answer, **_truncated(generations[0].truncated)}


def choice_record(
    record_id: str | int, options: Sequence[str], choice: Choice, *, by: ChooseBy
) -> dict[str, Any]:
    """The chosen option, and what speaks for each. ValueError: a number that is not finite."""
    logprobs = {name: [_rounded(number) for number in getattr(choice, name)] for name in CHOOSE_BY}
    return {
        "id": record_id,
        "choice": options[choice.best(by)],
        "option_logprobs": logprobs,
        **_truncated(choice.truncated),
    }


def score_record(record_id: str | int, score: Score) -> dict[str, Any]:
    """The log-probability of a target. ValueError: it is not a finite number."""
    return {
        "id": record_id,
        "logprob": _rounded(score.logprob),
        "token_logprobs": [_rounded(number) for number in score.token_logprobs],
        **_truncated(score.truncated),
    }


def _output(generation: Generation) -> dict[str, Any]:
    output: dict[str, Any] = {
        "output": generation.output,
        "output_tokens": generation.output_tokens,
        "score": _rounded(generation.score),
        "stop_reason": generation.stop_reason,
    }
    if generation.beam_score is not None:
        output["beam_score"] = _rounded(generation.beam_score)
    return output


def _truncated(truncated: bool) -> dict[str, Any]:
    return {"truncated": True} if truncated else {}


def _rounded(number: float) -> float:
    if not math.isfinite(number):
        raise ValueError("the model's probabilities are not finite numbers")
    return round(number, _DECIMALS)
