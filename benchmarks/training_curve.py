"""The loss of training, step by step, beside that of transformers in torch.

    python benchmarks/training_curve.py --steps=50

Both start from the same weights (a small T5 1.1, float32) and take the same steps of AdamW with
warm-up, decay and clipped gradients by the sequence objective. Here the examples of a step are
packed rows of the data pipeline, on all devices; there the same examples, by their ids, are one a
row, padded, with token ids made by hand. Prints both losses of every step and the largest relative
difference. Needs torch and transformers.
"""

import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags
from jax.sharding import AxisType, Mesh

from instructrec_jax.data.pipeline import training_batches
from instructrec_jax.data.plan import PackingPlan, PlanConfig
from instructrec_jax.data.token_cache import open_token_cache
from instructrec_jax.data.tokenizer import byte_tokenizer
from instructrec_jax.model.config import T5Config
from instructrec_jax.model.hugging_face import entries
from instructrec_jax.model.hugging_face_config import config_to_json
from instructrec_jax.training import sharding
from instructrec_jax.training.optimizer import make_optimizer, make_schedule
from instructrec_jax.training.step import (
    StepSettings,
    initial_state,
    make_train_step,
    state_shardings,
)

CONFIG = T5Config(
    vocabulary_size=384,
    d_model=64,
    head_size=16,
    num_heads=4,
    d_ff=128,
    num_encoder_layers=2,
    num_decoder_layers=2,
    activation_dtype="float32",
)
LENGTHS = {"encoder_length": 96, "decoder_length": 48}
LEARNING_RATE, WARMUP_STEPS, WEIGHT_DECAY, CLIP_NORM = 3e-3, 10, 0.1, 1.0
B1, B2, EPSILON = 0.9, 0.99, 1e-8
EOS, FIRST_BYTE = 1, 3  # ByT5's ids


def write_examples(file: Path, count: int) -> dict[str, dict[str, str]]:
    """Words to put in order, as JSON lines; the examples by id."""
    draw = random.Random(0)
    examples = {}
    for number in range(count):
        words = ["".join(draw.choices("abcdefgh", k=3)) for _ in range(draw.randint(1, 6))]
        examples[str(number)] = {
            "id": str(number),
            "task": "order",
            "instruction": f"Sort: {' '.join(words)}",
            "input": "",
            "target": " ".join(sorted(words)),
        }
    file.write_text("".join(json.dumps(example) + "\n" for example in examples.values()))
    return examples


def make_plan(file: Path, folder: Path, rows: int) -> PackingPlan:
    """The packed rows of a run on these examples."""
    cache = open_token_cache(
        dataset=file,
        split="train",
        tokenizer=byte_tokenizer(0),
        over_length="error",
        validation_fraction=0.0,
        seed=0,
        folder=folder,
        **LENGTHS,
    )
    return PackingPlan(cache, PlanConfig(batch_size=rows, open_bins=8, **LENGTHS))


def our_losses(plan: PackingPlan, steps: int, devices: int) -> tuple[Any, Iterator[float]]:
    """The first parameters, and the loss of each step on packed rows, divided over devices."""
    schedule = make_schedule(
        name="constant", learning_rate=LEARNING_RATE, warmup_steps=WARMUP_STEPS, steps=steps
    )
    optimizer = make_optimizer(
        name="adamw",
        options={"b1": B1, "b2": B2, "eps": EPSILON},
        schedule=schedule,
        clip_norm=CLIP_NORM,
        weight_decay=WEIGHT_DECAY,
        decay=(".*/kernel", "token_embedder/embedding"),
    )
    mesh = Mesh(
        np.asarray(jax.devices()[:devices]).reshape(1, devices, 1, 1),
        sharding.AXES,
        axis_types=(AxisType.Auto,) * len(sharding.AXES),
    )
    shardings = state_shardings(
        jax.eval_shape(lambda: initial_state(CONFIG, optimizer, seed=0)), mesh
    )
    state = jax.jit(lambda: initial_state(CONFIG, optimizer, seed=0), out_shardings=shardings)()
    step = make_train_step(
        config=CONFIG,
        optimizer=optimizer,
        schedule=schedule,
        settings=StepSettings("sequences", 1, 0.0, 0.0, 0, 0),
        mesh=mesh,
        shardings=shardings,
    )
    rows = plan.config.batch_size

    def losses() -> Iterator[float]:
        nonlocal state
        batches = training_batches(
            plan, start_step=0, stop_step=steps, process_index=0, process_count=1
        )
        for batch in batches:
            whole = {**batch, "stop_votes": np.zeros(rows, np.int32)}
            with jax.set_mesh(mesh):
                state, figures = step(state, sharding.global_batch(mesh, whole, rows))
            yield float(figures["loss"])

    return jax.device_get(state.parameters), losses()


def torch_model(parameters: Any) -> Any:
    """The model of transformers with these weights."""
    import torch
    import transformers

    fields = config_to_json(CONFIG, foreign={})
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**fields))
    # It ties the head whatever its config says; here it is a matrix of its own.
    model.lm_head = torch.nn.Linear(CONFIG.d_model, CONFIG.vocabulary_size, bias=False)
    tensors = dict(model.named_parameters())
    with torch.no_grad():
        for entry in entries(CONFIG):
            leaf = parameters
            for part in entry.path:
                leaf = leaf[part]
            for name, values in zip(entry.names, entry.tensors(leaf), strict=True):
                tensors.pop(name).copy_(torch.from_numpy(values.copy()))
    assert not tensors, sorted(tensors)
    return model.train()


def torch_losses(
    model: Any, plan: PackingPlan, examples: dict[str, dict[str, str]], steps: int
) -> Iterator[float]:
    """The loss of each step on the examples of its packed rows, one a row."""
    import torch

    plain = ("layer_norm", "relative_attention_bias")
    groups: dict[bool, list[Any]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        groups[not any(word in name for word in plain)].append(parameter)
    optimizer = torch.optim.AdamW(
        [
            {"params": groups[True], "weight_decay": WEIGHT_DECAY},
            {"params": groups[False], "weight_decay": 0.0},
        ],
        betas=(B1, B2),
        eps=EPSILON,
    )
    for step in range(steps):
        chosen = [examples[name] for name in plan.example_ids(step)]
        inputs, mask = _padded([_ids(example["instruction"]) for example in chosen])
        targets, known = _padded([_ids(example["target"]) for example in chosen])
        shifted = torch.zeros_like(targets)
        shifted[:, 1:] = targets[:, :-1]
        logits = model(input_ids=inputs, attention_mask=mask, decoder_input_ids=shifted).logits
        nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
        loss = (nll * known).sum() / len(chosen)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(step / WARMUP_STEPS, 1.0)
        optimizer.step()
        yield loss.item()


def _ids(text: str) -> list[int]:
    return [FIRST_BYTE + byte for byte in text.encode()] + [EOS]


def _padded(rows: list[list[int]]) -> tuple[Any, Any]:
    """(ids, mask) of rows of different lengths, as torch tensors."""
    import torch

    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return ids, mask


def curves(
    folder: Path, *, steps: int, rows: int, devices: int
) -> Iterator[tuple[float, float, int]]:
    """(our loss, torch's loss, examples) of each step."""
    examples = write_examples(folder / "examples.jsonl", 600)
    plan = make_plan(folder / "examples.jsonl", folder / "tokens", rows)
    parameters, ours = our_losses(plan, steps, devices)
    theirs = torch_losses(torch_model(parameters), plan, examples, steps)
    for step, (left, right) in enumerate(zip(ours, theirs, strict=True)):
        yield left, right, len(plan.example_ids(step))


def main(_: list[str]) -> None:
    """Prints the table."""
    chosen = flags.FLAGS
    largest = 0.0
    print("step  examples  here        torch       relative difference")
    with tempfile.TemporaryDirectory() as folder:
        every = curves(
            Path(folder), steps=chosen.steps, rows=chosen.rows, devices=jax.device_count()
        )
        for step, (ours, theirs, count) in enumerate(every, start=1):
            difference = abs(ours - theirs) / abs(theirs)
            largest = max(largest, difference)
            print(f"{step:4}  {count:8}  {ours:10.6f}  {theirs:10.6f}  {difference:.1e}")
    print(f"largest relative difference: {largest:.1e}")


if __name__ == "__main__":
    # Here, as tests import this file beside others that have flags.
    flags.DEFINE_integer("steps", 50, "Steps to take.", lower_bound=1)
    flags.DEFINE_integer("rows", 8, "Packed rows of a step.", lower_bound=1)
    app.run(main)
