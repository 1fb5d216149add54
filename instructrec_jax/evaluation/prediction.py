"""A model's answers to instruction examples: its own output, and how likely the target was."""

from collections.abc import Callable, Sequence
from typing import Any

from instructrec_jax.data.tokenizer import Tokenizer
from instructrec_jax.decoding.generate import generate
from instructrec_jax.decoding.scoring import score
from instructrec_jax.evaluation.protocol import Answer
from instructrec_jax.instructions.example import InstructionExample, encoder_text
from instructrec_jax.model.config import T5Config

# Batches between two reports of progress.
BATCHES_PER_REPORT = 4


def answer_examples(
    *,
    params: Any,
    config: T5Config,
    tokenizer: Tokenizer,
    examples: Sequence[InstructionExample],
    batch_size: int,
    max_new_tokens: int,
    encoder_length: int,
    progress: Callable[[int], None] | None = None,
) -> list[Answer]:
    """Greedy output and target log-probability of each example, in their order.

    Examples are worked through from the longest encoder text to the shortest, so that lack of
    memory shows at once and few shapes are compiled. `progress` is called with the number of
    examples that are done.
    """
    texts = [encoder_text(example.instruction, example.input) for example in examples]
    order = sorted(range(len(examples)), key=lambda index: (-len(texts[index]), index))
    answers: list[Answer | None] = [None] * len(examples)
    step = batch_size * BATCHES_PER_REPORT
    for start in range(0, len(order), step):
        chosen = order[start : start + step]
        chosen_texts = [texts[index] for index in chosen]
        generations = generate(
            params,
            config,
            tokenizer,
            chosen_texts,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            encoder_length=encoder_length,
        )
        scores = score(
            params,
            config,
            tokenizer,
            chosen_texts,
            [examples[index].target for index in chosen],
            batch_size=batch_size,
            encoder_length=encoder_length,
        )
        for index, generation, target in zip(chosen, generations, scores, strict=True):
            answers[index] = Answer(
                output=generation.output,
                score=generation.score,
                stop_reason=generation.stop_reason,
                target_logprob=target.logprob,
                target_tokens=len(target.token_logprobs),
            )
        if progress is not None:
            progress(min(start + step, len(order)))
    return [answer for answer in answers if answer is not None]
