"""The train state and the two jitted functions of training: one optimizer step, one evaluation."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, stages
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from instructrec_jax.model.config import T5Config
from instructrec_jax.model.t5 import T5, init_parameters
from instructrec_jax.training import sharding
from instructrec_jax.training.freezing import Freezing, joined, split
from instructrec_jax.training.loss import normaliser, summed_nll

Batch = Mapping[str, Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a step changes: arrays, or what stands for them (shapes, shardings)."""

    step: Any  # int32 scalar: optimizer steps taken = global batches consumed
    nonfinite_in_a_row: Any  # int32 scalar
    trained: Any  # parameters; nested dict
    frozen: Any  # the other parameters; nested dict, {} where all are trained
    optimizer_state: Any  # of the trained parameters
    averaged: Any  # moving average of the trained parameters, float32; {} where it is off

    @property
    def parameters(self) -> dict[str, Any]:
        """The whole model's."""
        return joined(self.trained, self.frozen)

    @property
    def averaged_parameters(self) -> dict[str, Any]:
        """The whole model's to evaluate and decode with; `parameters` where nothing is averaged."""
        return joined(self.parameters, self.averaged)


@dataclasses.dataclass(frozen=True)
class StepSettings:
    """What a step computes; the meaning of each field stands in configs/base.py."""

    objective: str
    accumulation_steps: int
    label_smoothing: float
    z_loss: float
    loss_chunk: int
    seed: int
    ema_decay: float = 0.0


def initial_state(
    config: T5Config,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    freezing: Freezing | None = None,
    given: Mapping[str, Any] | None = None,
    ema: bool = False,
) -> TrainState:
    """Step 0; call it under jit or eval_shape.

    Args:
      config: the model's.
      optimizer: of the trained parameters.
      seed: parameters that are not given are drawn from it.
      freezing: what is not trained; None = nothing.
      given: parameters to start from, a nested dict of some or all of them.
      ema: whether a moving average of the trained parameters is kept; it starts from them.
    """
    drawn = init_parameters(config, jax.random.key(seed))
    trained, frozen = split(joined(drawn, given or {}), freezing or Freezing())
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        nonfinite_in_a_row=jnp.zeros((), jnp.int32),
        trained=trained,
        frozen=frozen,
        optimizer_state=optimizer.init(trained),
        averaged=jax.tree.map(lambda leaf: leaf.astype(jnp.float32), trained) if ema else {},
    )


def state_shardings(state: TrainState, mesh: Mesh) -> TrainState:
    """A NamedSharding for each leaf of a state (arrays or ShapeDtypeStructs)."""
    whole = NamedSharding(mesh, P())
    optimizer_state = sharding.optimizer_specs(state.optimizer_state, state.trained)
    trained = sharding.named(mesh, sharding.parameter_specs(state.trained))
    return dataclasses.replace(
        state,
        step=whole,
        nonfinite_in_a_row=whole,
        trained=trained,
        frozen=sharding.named(mesh, sharding.parameter_specs(state.frozen)),
        optimizer_state=sharding.named(mesh, optimizer_state),
        averaged=trained if state.averaged else {},
    )


def make_train_step(
    *,
    config: T5Config,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    settings: StepSettings,
    mesh: Mesh,
    shardings: TrainState,
    task_count: int = 0,
) -> stages.Wrapped:
    """The jitted step: (state, global batch) -> (state, figures). The old state is donated.

    Figures (float32 scalars): loss, loss_per_token, loss_per_sequence, accuracy, target_tokens,
    input_tokens, sequences, gradient_norm, update_norm, learning_rate, applied (1, or 0 where a
    non-finite loss, gradient or update left parameters, optimizer and average as they were),
    nonfinite_in_a_row, stop_votes. With a `task_count`, where batches have `decoder_task_ids`, also
    task_nll, task_tokens and task_sequences, float32 [task_count].
    """
    whole = NamedSharding(mesh, P())
    function = partial(
        _train_step,
        model=T5(config),
        optimizer=optimizer,
        schedule=schedule,
        settings=settings,
        mesh=mesh,
        task_count=task_count,
    )
    return jax.jit(
        function,
        in_shardings=(shardings, sharding.batch_sharding(mesh)),
        out_shardings=(shardings, whole),
        donate_argnums=0,
    )


def make_evaluation_step(
    *,
    config: T5Config,
    settings: StepSettings,
    mesh: Mesh,
    shardings: TrainState,
    task_count: int = 0,
) -> Callable[[Any, dict[str, Array]], dict[str, Array]]:
    """The jitted (parameters, global batch) -> the sums of `summed_nll`."""
    model = T5(config)
    plain = dataclasses.replace(settings, label_smoothing=0.0, z_loss=0.0)

    def function(parameters: Any, batch: Batch) -> dict[str, Array]:
        _, sums = summed_loss(
            parameters,
            {},
            batch,
            model=model,
            settings=plain,
            dropout_key=None,
            task_count=task_count,
        )
        return sums

    return jax.jit(
        function,
        in_shardings=(shardings.parameters, sharding.batch_sharding(mesh)),
        out_shardings=NamedSharding(mesh, P()),
    )


def summed_loss(
    trained: Any,
    frozen: Any,
    batch: Batch,
    *,
    model: T5,
    settings: StepSettings,
    dropout_key: Array | None,
    task_count: int,
) -> tuple[Array, dict[str, Array]]:
    """Summed loss and sums of a batch, see `loss.summed_nll`; dropout where there is a key."""
    # Linen's `apply` is typed for methods that also return changed variables.
    apply: Any = partial(model.apply, {"params": joined(trained, frozen)})
    hidden = apply(
        batch,
        deterministic=dropout_key is None,
        rngs={} if dropout_key is None else {"dropout": dropout_key},
        method="hidden",
    )
    return summed_nll(
        partial(apply, method="logits"),
        hidden,
        batch,
        label_smoothing=settings.label_smoothing,
        z_loss=settings.z_loss,
        chunk=settings.loss_chunk,
        task_count=task_count,
    )


def _train_step(
    state: TrainState,
    batch: dict[str, Array],
    *,
    model: T5,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    settings: StepSettings,
    mesh: Mesh,
    task_count: int,
) -> tuple[TrainState, dict[str, Array]]:
    stop_votes = batch.pop("stop_votes")
    input_tokens = jnp.sum(batch["encoder_segment_ids"] > 0, dtype=jnp.float32)
    key = jax.random.fold_in(jax.random.key(settings.seed), state.step)
    loss, sums, gradients = _accumulated(
        state.trained,
        state.frozen,
        batch,
        key,
        model=model,
        settings=settings,
        mesh=mesh,
        task_count=task_count,
    )
    # One division over the whole batch: the mean over micro-batches of their means would weigh
    # short micro-batches too much.
    divisor = normaliser(sums, settings.objective)
    loss = loss / divisor
    gradients = jax.tree.map(lambda gradient: gradient / divisor, gradients)
    norm = optax.tree.norm(gradients)
    updates, optimizer_state = optimizer.update(gradients, state.optimizer_state, state.trained)
    trained = optax.apply_updates(state.trained, updates)

    # An update can overflow where its gradient did not.
    update_norm = optax.tree.norm(updates)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm) & jnp.isfinite(update_norm)
    kept = partial(jax.tree.map, lambda new, old: jnp.where(finite, new, old))
    nonfinite_in_a_row = jnp.where(finite, 0, state.nonfinite_in_a_row + 1)
    new_state = TrainState(
        step=state.step + 1,
        nonfinite_in_a_row=nonfinite_in_a_row,
        trained=kept(trained, state.trained),
        frozen=state.frozen,
        optimizer_state=kept(optimizer_state, state.optimizer_state),
        averaged=kept(_averaged(state, trained, settings.ema_decay), state.averaged),
    )
    figures = {
        "loss": loss,
        **_figures_of(sums),
        "input_tokens": input_tokens,
        "gradient_norm": norm,
        "update_norm": update_norm,
        "learning_rate": jnp.asarray(
            schedule(_updates_made(state.optimizer_state, state.step)), jnp.float32
        ),
        "applied": finite.astype(jnp.float32),
        "nonfinite_in_a_row": nonfinite_in_a_row,
        "stop_votes": stop_votes.sum(),
    }
    return new_state, figures


def _figures_of(sums: Mapping[str, Array]) -> dict[str, Array]:
    """Means and counts of the sums of `summed_nll`, and those by task as they are."""
    tokens = jnp.maximum(sums["tokens"], 1.0)
    return {
        "loss_per_token": sums["nll"] / tokens,
        "loss_per_sequence": sums["nll"] / jnp.maximum(sums["sequences"], 1.0),
        "accuracy": sums["correct"] / tokens,
        "target_tokens": sums["tokens"],
        "sequences": sums["sequences"],
        **{name: of_tasks for name, of_tasks in sums.items() if name.startswith("task_")},
    }


def _updates_made(optimizer_state: Any, step: Array) -> Array:
    """The optimizer's own count, which its schedule follows: skipped steps are not in it."""
    leaves = jax.tree_util.tree_leaves_with_path(optimizer_state)
    counts = [leaf for path, leaf in leaves if sharding.path_name(path).endswith("count")]
    # One for each layer where the optimizer is mapped over the stacked layers.
    return jnp.max(counts[0]) if counts else step


def _averaged(state: TrainState, trained: Any, decay: float) -> Any:
    """The moving average of the trained parameters after a step.

    Its first value is the parameters' first, which is no bias where they were given. So that drawn
    ones are forgotten, the decay grows with the steps t taken before: min(decay, (1 + t) / (10 +
    t)), as TensorFlow's ExponentialMovingAverage has it.
    """
    if not state.averaged:
        return {}
    steps = state.step.astype(jnp.float32)
    decay_now = jnp.minimum(decay, (1.0 + steps) / (10.0 + steps))
    return optax.incremental_update(trained, state.averaged, 1.0 - decay_now)


def _accumulated(
    trained: Any,
    frozen: Any,
    batch: Batch,
    key: Array,
    *,
    model: T5,
    settings: StepSettings,
    mesh: Mesh,
    task_count: int,
) -> tuple[Array, dict[str, Array], Any]:
    """Summed loss, its sums and the gradient of the trained parameters, over all micro-batches."""
    count = settings.accumulation_steps
    with_gradient = jax.value_and_grad(summed_loss, has_aux=True)

    def of_part(part: Batch, index: Array | int) -> tuple[Array, dict[str, Array], Any]:
        dropout = jax.random.fold_in(key, index) if model.config.has_dropout else None
        (loss, sums), gradients = with_gradient(
            trained,
            frozen,
            part,
            model=model,
            settings=settings,
            dropout_key=dropout,
            task_count=task_count,
        )
        return loss, sums, gradients

    if count == 1:
        return of_part(batch, 0)

    def split(rows: Array) -> Array:
        # Every device cuts its own rows, so none moves: micro-batch i holds rows i, i + count, ...
        parts = jnp.swapaxes(rows.reshape(-1, count, *rows.shape[1:]), 0, 1)
        return jax.lax.with_sharding_constraint(
            parts, NamedSharding(mesh, P(None, sharding.BATCH_AXES))
        )

    parts = jax.tree.map(split, dict(batch))
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(of_part, jax.tree.map(lambda rows: rows[0], parts), 0),
    )

    def add(total: Any, indexed: tuple[Array, Batch]) -> tuple[Any, None]:
        index, part = indexed
        return jax.tree.map(jnp.add, total, of_part(part, index)), None

    totals, _ = jax.lax.scan(add, zeros, (jnp.arange(count), parts))
    return totals
