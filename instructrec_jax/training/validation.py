"""What is looked at while a run trains: validation loss, and decoded samples."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from instructrec_jax.data.plan import PackingPlan
from instructrec_jax.data.tokenizer import Tokenizer
from instructrec_jax.decoding.generate import generate
from instructrec_jax.instructions.example import InstructionExample
from instructrec_jax.instructions.few_shot import fitted_texts, token_length
from instructrec_jax.model.config import T5Config
from instructrec_jax.training import sharding
from instructrec_jax.training.figures import add_task_sums, task_losses


class EvaluationStopped(Exception):
    """`should_stop` said so; there is no result."""


def validation_figures(
    plan: PackingPlan,
    *,
    evaluate: Callable[[dict[str, Array]], dict[str, Array]],
    mesh: Mesh,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """NLL and accuracy on the examples of a plan.

    Args:
      plan: unshuffled plan of the validation split.
      evaluate: global batch -> sums `nll`, `correct`, `tokens`, `sequences`, and by task.
      mesh: devices that share a batch.
      should_stop: asked after each batch.

    Returns:
      loss_per_token, loss_per_sequence and accuracy; tokens and sequences as whole numbers;
      `tasks`, the loss a token of each task.

    Raises:
      EvaluationStopped: because `should_stop` said so.
    """
    # TensorFlow takes seconds to load: a mistake in the config is told before.
    from instructrec_jax.data.pipeline import evaluation_batches

    index, count = sharding.host_rows(mesh, plan.config.batch_size)
    totals = dict.fromkeys(("nll", "correct", "tokens", "sequences"), 0.0)
    by_task: dict[str, np.ndarray] = {}
    for rows in evaluation_batches(plan, process_index=index, process_count=count):
        batch = sharding.global_batch(mesh, rows, plan.config.batch_size)
        sums = jax.device_get(evaluate(batch))
        for name in totals:
            totals[name] += float(sums[name])
        add_task_sums(by_task, sums)
        if should_stop():
            raise EvaluationStopped
    tokens, sequences = max(totals["tokens"], 1.0), max(totals["sequences"], 1.0)
    return {
        "loss_per_token": totals["nll"] / tokens,
        "loss_per_sequence": totals["nll"] / sequences,
        "accuracy": totals["correct"] / tokens,
        "tokens": int(totals["tokens"]),
        "sequences": int(totals["sequences"]),
        "tasks": task_losses(by_task, plan.cache.tasks),
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
    should_stop: Callable[[], bool] = lambda: False,
) -> list[dict[str, str]]:
    """Greedy answers to a few examples, as records of samples.jsonl.

    Raises:
      EvaluationStopped: because `should_stop`, asked after each batch, said so.
    """
    if not samples:
        return []

    def after_batch(_: int) -> None:
        if should_stop():
            raise EvaluationStopped

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
        progress=after_batch,
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


def sample_text(sample: Mapping[str, str]) -> str:
    """A record of samples.jsonl for the terminal, a few short lines."""
    lines = [f"  [{sample['task']}] {_short(sample['instruction'])}"]
    if sample["input"]:
        lines.append(f"    input   {_short(sample['input'])}")
    lines.append(f"    target  {_short(sample['target'])}")
    lines.append(f"    output  {_short(sample['output'])}")
    return "\n".join(lines)


def _short(text: str, length: int = 100) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"
