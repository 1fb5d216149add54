"""A model's answers to instruction examples: its own output, and how likely the target was."""

from collections.abc import Callable, Sequence
from typing import Any

from instructrec_jax.data.tokenizer import Tokenizer
from instructrec_jax.decoding.generate import generate
from instructrec_jax.decoding.scoring import score
from instructrec_jax.evaluation.protocol import Answer
from instructrec_jax.instructions.example import InstructionExample
from instructrec_jax.instructions.few_shot import fitted_texts, token_length
from instructrec_jax.model.config import T5Config


def answer_examples(
    *,
    params: Any,
    config: T5Config,
    tokenizer: Tokenizer,
    examples: Sequence[InstructionExample],
    batch_size: int,
    max_new_tokens: int,
    encoder_length: int,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Answer]:
    """Greedy output and target log-probability of each example, in their order.

    `progress` is called with the stage ("answering", then "scoring targets"), the number of
    examples done in it and the number of all.
    """
    length = token_length(tokenizer.encode_batch)
    fitted = fitted_texts(examples, length=length, limit=encoder_length)
    texts = [text for text, _ in fitted]

    def progress_of(stage: str) -> Callable[[int], None] | None:
        if progress is None:
            return None
        return lambda done: progress(stage, done, len(texts))

    generations = generate(
        params,
        config,
        tokenizer,
        texts,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        encoder_length=encoder_length,
        progress=progress_of("answering"),
    )
    scores = score(
        params,
        config,
        tokenizer,
        texts,
        [example.target for example in examples],
        batch_size=batch_size,
        encoder_length=encoder_length,
        progress=progress_of("scoring targets"),
    )
    return [
        Answer(
            output=generation.output,
            score=generation.score,
            stop_reason=generation.stop_reason,
            target_logprob=target.logprob,
            target_tokens=len(target.token_logprobs),
            input_cut=generation.truncated,
            demonstrations_left_out=left_out,
        )
        for generation, target, (_, left_out) in zip(generations, scores, fitted, strict=True)
    ]
