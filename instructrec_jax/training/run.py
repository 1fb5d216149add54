"""The fixed parts of a run, what must stay the same when it goes on, and what it saves."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from jax import Array, stages
from jax.sharding import Mesh
from ml_collections import ConfigDict

from instructrec_jax.model.config import T5Config
from instructrec_jax.training.checks import freezing_of, optimizer_and_schedule
from instructrec_jax.training.freezing import Freezing
from instructrec_jax.training.preparation import RunData
from instructrec_jax.training.step import (
    StepSettings,
    TrainState,
    initial_state,
    make_evaluation_step,
    make_train_step,
    state_shardings,
)


@dataclasses.dataclass(frozen=True)
class Run:
    """The fixed parts of a run."""

    config: ConfigDict
    model: T5Config
    data: RunData
    mesh: Mesh
    shapes: TrainState  # ShapeDtypeStructs with their shardings
    freezing: Freezing
    settings: StepSettings
    new_state: Callable[[Any], TrainState]  # from the parameters that are given, {} for none
    step: stages.Wrapped  # see `make_train_step`
    evaluate: Callable[[Any, dict[str, Array]], dict[str, Array]]
    foreign_config: Mapping[str, Any]  # see `checkpoint.save_model`


def make_run(
    config: ConfigDict,
    *,
    model: T5Config,
    data: RunData,
    mesh: Mesh,
    foreign_config: Mapping[str, Any],
) -> Run:
    """Builds optimizer, shardings and jitted functions; nothing is allocated or compiled yet."""
    optimizer, schedule = optimizer_and_schedule(config)
    settings = StepSettings(
        objective=config.train.objective,
        accumulation_steps=config.train.accumulation_steps,
        label_smoothing=config.train.label_smoothing,
        z_loss=config.train.z_loss,
        loss_chunk=config.train.loss_chunk,
        seed=config.seed,
        ema_decay=config.optimizer.ema_decay,
    )
    freezing = freezing_of(config)
    shapes, shardings, new_state = _state_of(
        model,
        optimizer,
        freezing=freezing,
        seed=config.seed,
        mesh=mesh,
        ema=config.optimizer.ema_decay > 0,
    )
    return Run(
        config=config,
        model=model,
        data=data,
        mesh=mesh,
        shapes=shapes,
        freezing=freezing,
        settings=settings,
        new_state=new_state,
        step=make_train_step(
            config=model,
            optimizer=optimizer,
            schedule=schedule,
            settings=settings,
            mesh=mesh,
            shardings=shardings,
            task_count=len(data.training_cache.tasks),
        ),
        evaluate=make_evaluation_step(
            config=model,
            settings=settings,
            mesh=mesh,
            shardings=shardings,
            task_count=len(data.validation.cache.tasks) if data.validation is not None else 0,
        ),
        foreign_config=foreign_config,
    )


def _state_of(
    model: T5Config,
    optimizer: optax.GradientTransformation,
    *,
    freezing: Freezing,
    seed: int,
    mesh: Mesh,
    ema: bool,
) -> tuple[TrainState, TrainState, Callable[[Any], TrainState]]:
    """Shapes, shardings and a maker of the initial state, each parameter made where it lives."""

    def make(given: Any) -> TrainState:
        return initial_state(model, optimizer, seed=seed, freezing=freezing, given=given, ema=ema)

    shapes = jax.eval_shape(make, {})
    shardings = state_shardings(shapes, mesh)
    sharded_shapes = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        shardings,
    )
    # Given parameters become those of the state, without a second copy.
    return sharded_shapes, shardings, jax.jit(make, out_shardings=shardings, donate_argnums=0)


def identity(run: Run) -> dict[str, Any]:
    """What must be the same for a run to go on: its batches, what it trains, its optimizer states.

    None stands for what is off.
    """
    optimizer, lora, freezing = run.config.optimizer, run.model.lora, run.freezing
    return {
        **run.data.identity(run.config),
        "optimizer.name": optimizer.name,
        # As JSON gives it back: with lists for tuples.
        "optimizer.options": json.loads(optimizer.options.to_json_best_effort()),
        "optimizer.clip_norm": "on" if optimizer.clip_norm else "off",
        "optimizer.weight_decay": "on" if optimizer.weight_decay else "off",
        "optimizer.ema_decay": "on" if optimizer.ema_decay else None,
        "optimizer.freeze": list(freezing.patterns) or None,
        "model.frozen_dtype": freezing.dtype if run.shapes.frozen else None,
        "lora.rank": lora.rank if lora else None,
        "lora.alpha": lora.alpha if lora else None,
        "lora.targets": lora.targets if lora else None,
    }


def checkpoint_items(state: TrainState, model: T5Config) -> dict[str, Any]:
    """What a checkpoint holds of a state: `parameters`, `optimizer`, and `averaged` where it is on.

    Of LoRA the first and the last are the adapters alone, else all parameters of the model.
    """
    whole = model.lora is None
    items = {
        "parameters": state.parameters if whole else state.trained,
        "optimizer": {
            "optimizer_state": state.optimizer_state,
            "nonfinite_in_a_row": state.nonfinite_in_a_row,
        },
    }
    if state.averaged:
        items["averaged"] = state.averaged_parameters if whole else state.averaged
    return items
