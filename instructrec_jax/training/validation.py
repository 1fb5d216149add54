"""What is looked at while a run trains: validation loss, and decoded samples."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
from jax import Array
from jax.sharding import Mesh

from instructrec_jax.data.pipeline import evaluation_batches
from instructrec_jax.data.plan import PackingPlan
from instructrec_jax.data.tokenizer import Tokenizer
from instructrec_jax.decoding.generate import generate
from instructrec_jax.instructions.example import InstructionExample
from instructrec_jax.instructions.few_shot import fitted_texts, token_length
from instructrec_jax.model.config import T5Config
from instructrec_jax.training import sharding


def validation_figures(
    plan: PackingPlan,
    *,
    evaluate: Callable[[dict[str, Array]], dict[str, Array]],
    mesh: Mesh,
) -> dict[str, Any]:
    """NLL and accuracy on the examples of a plan.

    Args:
      plan: unshuffled plan of the validation split.
      evaluate: global batch -> sums `nll`, `correct`, `tokens`, `sequences`.
      mesh: devices that share a batch.

    Returns:
      loss_per_token, loss_per_sequence and accuracy; tokens and sequences as whole numbers.
    """
    index, count = sharding.host_rows(mesh, plan.config.batch_size)
    totals = {"nll": 0.0, "correct": 0.0, "tokens": 0.0, "sequences": 0.0}
    for rows in evaluation_batches(plan, process_index=index, process_count=count):
        batch = sharding.global_batch(mesh, rows, plan.config.batch_size)
        for name, value in jax.device_get(evaluate(batch)).items():
            totals[name] += float(value)
    tokens, sequences = max(totals["tokens"], 1.0), max(totals["sequences"], 1.0)
    return {
        "loss_per_token": totals["nll"] / tokens,
        "loss_per_sequence": totals["nll"] / sequences,
        "accuracy": totals["correct"] / tokens,
        "tokens": int(totals["tokens"]),
        "sequences": int(totals["sequences"]),
    }


def decode_samples(
    samples: Sequence[InstructionExample],
    *,
    parameters: Any,
    model: T5Config,
    tokenizer: Tokenizer,
    max_new_tokens: int,
    encoder_length: int,
    parse_sentinels: bool,
) -> list[dict[str, str]]:
    """Greedy answers to a few examples, as records of samples.jsonl."""
    if not samples:
        return []
    length = token_length(partial(tokenizer.encode_batch, parse_sentinels=parse_sentinels))
    answers = generate(
        parameters,
        model,
        tokenizer,
        [text for text, _ in fitted_texts(samples, length=length, limit=encoder_length)],
        max_new_tokens=max_new_tokens,
        batch_size=len(samples),
        encoder_length=encoder_length,
        parse_sentinels=parse_sentinels,
    )
    return [
        {
            "id": sample.id,
            "task": sample.task,
            "instruction": sample.instruction,
            "input": sample.input,
            "target": sample.target,
            "output": answer.output,
        }
        for sample, answer in zip(samples, answers, strict=True)
    ]
