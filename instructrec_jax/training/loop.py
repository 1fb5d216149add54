"""The loop of training: steps, figures one step late, evaluation, checkpoints, interruption."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax
from jax import Array, stages
from jax.sharding import Mesh
from ml_collections import ConfigDict

from instructrec_jax.data.pipeline import training_batches
from instructrec_jax.errors import DivergedError, Preempted
from instructrec_jax.model.config import T5Config
from instructrec_jax.training import sharding
from instructrec_jax.training.checks import freezing_of, optimizer_and_schedule
from instructrec_jax.training.freezing import Freezing
from instructrec_jax.training.interruption import StopRequest
from instructrec_jax.training.preparation import RunData
from instructrec_jax.training.reporting import Clock, Reporter
from instructrec_jax.training.run_checkpoints import RunCheckpoints
from instructrec_jax.training.step import (
    StepSettings,
    TrainState,
    initial_state,
    make_evaluation_step,
    make_train_step,
    state_shardings,
)
from instructrec_jax.training.validation import decode_samples, validation_figures

# What does not count as training time when tokens a second are computed.
_NOT_TRAINING = ("data", "compile", "evaluate", "save")
# A large model on a slow device: a line now and then says that it goes on.
_SILENCE_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Run:
    """The fixed parts of a run."""

    config: ConfigDict
    model: T5Config
    data: RunData
    mesh: Mesh
    shapes: TrainState  # ShapeDtypeStructs with their shardings
    freezing: Freezing
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
        new_state=new_state,
        step=make_train_step(
            config=model,
            optimizer=optimizer,
            schedule=schedule,
            settings=settings,
            mesh=mesh,
            shardings=shardings,
        ),
        evaluate=make_evaluation_step(
            config=model, settings=settings, mesh=mesh, shardings=shardings
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


class Loop:
    """Takes the steps of a run from a state to the last one."""

    def __init__(
        self,
        run: Run,
        *,
        checkpoints: RunCheckpoints,
        reporter: Reporter,
        clock: Clock,
        stop: StopRequest,
        base: Mapping[str, Any] | None,
    ) -> None:
        """Keeps what the loop writes to, and what checkpoints say of the base of adapters."""
        self._run = run
        self._base = base
        self._checkpoints = checkpoints
        self._reporter = reporter
        self._clock = clock
        self._stop = stop
        self._window = _Window(clock)
        self._last_line = clock.elapsed()

    def go(self, state: TrainState) -> None:
        """Trains to the last step; call it under `jax.set_mesh(run.mesh)`.

        Raises:
          DivergedError: too many non-finite steps in a row.
          Preempted: a signal asked to stop; the state is saved.
        """
        config = self._run.config
        first, last = int(state.step) + 1, config.train.steps
        index, count = sharding.host_rows(self._run.mesh, config.train.batch_size)
        batches = training_batches(
            self._run.data.training,
            start_step=first - 1,
            stop_step=last,
            process_index=index,
            process_count=count,
        )
        step_function: Any = None
        pending: tuple[int, dict[str, Array]] | None = None
        self._reporter.begin()
        for step in range(first, last + 1):
            with self._clock.measure("data_wait"):
                batch = self._global_batch(next(batches))
            if step_function is None:
                with self._clock.measure("compile"):
                    step_function = self._run.step.lower(state, batch).compile()
                self._window.restart()
            state, figures = step_function(state, batch)
            self._stop.has_state = True
            # The figures of the step before are read while this one runs.
            stopped = self._read(pending)
            if jax.process_count() == 1:
                stopped |= bool(self._stop.received)
            pending = (step, figures)
            looks = self._is_due(step, config.evaluate.every)
            saves = self._is_due(step, config.checkpoint.every)
            if looks or saves or stopped or step == first:
                stopped |= self._read(pending)
                pending = None
            if looks:
                self._evaluate(step, state)
            if saves or stopped:
                self._save(step, state)
            if stopped:
                self._checkpoints.wait()
                raise Preempted(
                    f"stopped by {self._stop.received or 'a signal'} after step {step}; the state "
                    "is saved: the same command goes on from there"
                )

    def _is_due(self, step: int, every: int) -> bool:
        return every > 0 and (step % every == 0 or step == self._run.config.train.steps)

    def _global_batch(self, rows: dict[str, np.ndarray]) -> dict[str, Array]:
        # Each row carries this process's wish to stop, so that all processes see it in the figures
        # of the same step.
        local = next(iter(rows.values())).shape[0]
        votes = np.full((local,), int(bool(self._stop.received)), np.int32)
        batch_size = self._run.config.train.batch_size
        return sharding.global_batch(self._run.mesh, {**rows, "stop_votes": votes}, batch_size)

    def _read(self, pending: tuple[int, dict[str, Array]] | None) -> bool:
        """Reports the figures of a step; returns whether a process wants to stop."""
        if pending is None:
            return False
        step, on_device = pending
        figures = {name: float(value) for name, value in jax.device_get(on_device).items()}
        config = self._run.config
        self._window.add(figures)
        self._reporter.advance(step)
        if not figures["applied"]:
            in_a_row = int(figures["nonfinite_in_a_row"])
            self._reporter.say(
                f"WARNING: step {step} gave a non-finite loss or gradient ({in_a_row} in a row); "
                "its update is not applied"
            )
            self._reporter.record("nonfinite", step, in_a_row=in_a_row)
            if in_a_row >= config.train.max_nonfinite_steps:
                raise DivergedError(
                    f"{in_a_row} steps in a row, up to step {step}, gave a non-finite loss or "
                    "gradient; lower optimizer.learning_rate or look at the data"
                )
        is_last = step == config.train.steps
        if step % config.train.log_every == 0 or step == 1 or is_last:
            self._log(step, figures)
        elif self._clock.elapsed() - self._last_line > _SILENCE_SECONDS:
            self._tell(step, figures, self._window.rates())
        return figures["stop_votes"] > 0

    def _log(self, step: int, figures: dict[str, float]) -> None:
        rates = self._window.rates()
        self._window.restart()
        named = ("loss", "loss_per_token", "loss_per_sequence", "accuracy")
        values = {name: figures[name] for name in (*named, "gradient_norm")}
        values["learning_rate"] = figures["learning_rate"]
        record = {**values, **rates, "seconds": round(self._clock.elapsed(), 3)}
        self._reporter.record("train", step, **record)
        self._tell(step, figures, rates)

    def _tell(self, step: int, figures: dict[str, float], rates: dict[str, float]) -> None:
        seconds_left = (self._run.config.train.steps - step) * rates["step_seconds"]
        self._reporter.step_line(step, {**figures, **rates}, seconds_left)
        self._last_line = self._clock.elapsed()

    def _evaluate(self, step: int, state: TrainState) -> None:
        if self._run.data.validation is None:
            return
        config = self._run.config
        with self._clock.measure("evaluate"):
            figures = validation_figures(
                self._run.data.validation,
                evaluate=lambda batch: self._run.evaluate(state.averaged_parameters, batch),
                mesh=self._run.mesh,
            )
            self._reporter.record("validation", step, **figures)
            self._checkpoints.note_figures(step, figures)
            self._reporter.say(
                f"validation at step {step}: loss a token {figures['loss_per_token']:.4f}, "
                f"a sequence {figures['loss_per_sequence']:.3f}, token accuracy "
                f"{figures['accuracy']:.1%} ({figures['sequences']} sequences)"
            )
            for sample in decode_samples(
                self._run.data.samples,
                parameters=state.averaged_parameters,
                model=self._run.model,
                tokenizer=self._run.data.tokenizer,
                max_new_tokens=config.evaluate.max_new_tokens,
                encoder_length=config.data.encoder_length,
                parse_sentinels=config.data.parse_sentinels,
            ):
                self._reporter.sample({"step": step, **sample})
                self._reporter.say(_sample_text(sample))

    def _save(self, step: int, state: TrainState) -> None:
        if step == self._checkpoints.latest_step():
            return
        config = self._run.config
        with self._clock.measure("save"):
            self._checkpoints.save(
                step,
                items=checkpoint_items(state, self._run.model),
                config=self._run.model,
                tokenizer=self._run.data.tokenizer,
                encoder_length=config.data.encoder_length,
                decoder_length=config.data.decoder_length,
                identity={"position": step, **identity(self._run)},
                foreign_config=self._run.foreign_config,
                base=self._base,
            )
        self._reporter.record("time", step, seconds=self._clock.split())


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


class _Window:
    """Sums over the steps since the last line of metrics."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.restart()

    def restart(self) -> None:
        self._steps = 0
        self._tokens = 0.0
        self._sequences = 0.0
        self._began = self._training_seconds()
        self._waited = self._clock.seconds["data_wait"]

    def _training_seconds(self) -> float:
        return self._clock.elapsed() - sum(self._clock.seconds[name] for name in _NOT_TRAINING)

    def add(self, figures: dict[str, float]) -> None:
        self._steps += 1
        self._tokens += figures["input_tokens"] + figures["target_tokens"]
        self._sequences += figures["sequences"]

    def rates(self) -> dict[str, float]:
        seconds = max(self._training_seconds() - self._began, 1e-9)
        steps = max(self._steps, 1)
        return {
            "tokens_per_second": round(self._tokens / seconds, 1),
            "sequences_per_second": round(self._sequences / seconds, 2),
            "step_seconds": round(seconds / steps, 5),
            "data_wait_seconds": round(
                (self._clock.seconds["data_wait"] - self._waited) / steps, 5
            ),
        }


def _sample_text(sample: dict[str, str]) -> str:
    lines = [f"  [{sample['task']}] {_short(sample['instruction'])}"]
    if sample["input"]:
        lines.append(f"    input   {_short(sample['input'])}")
    lines.append(f"    target  {_short(sample['target'])}")
    lines.append(f"    output  {_short(sample['output'])}")
    return "\n".join(lines)


def _short(text: str, length: int = 100) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"
