"""The loop of training: steps, figures one step late, evaluation, checkpoints, interruption."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.experimental import multihost_utils

from instructrec_jax.errors import DivergedError, Preempted
from instructrec_jax.evaluation.samples import sample_figures
from instructrec_jax.training import sharding
from instructrec_jax.training.compilation import compile_noticing_cache
from instructrec_jax.training.environment import memory_figures
from instructrec_jax.training.figures import SpikeDetector, Window
from instructrec_jax.training.flops import peak_flops, step_flops
from instructrec_jax.training.interruption import StopRequest
from instructrec_jax.training.profile import ProfileWindow
from instructrec_jax.training.reporting import Clock, Reporter
from instructrec_jax.training.run import Run, checkpoint_items, identity
from instructrec_jax.training.run_checkpoints import RunCheckpoints
from instructrec_jax.training.step import TrainState
from instructrec_jax.training.validation import (
    EvaluationStopped,
    decode_samples,
    sample_text,
    validation_figures,
)
from instructrec_jax.training.watchdog import Watchdog

# A large model on a slow device: a line now and then says that it goes on.
_SILENCE_SECONDS = 60.0


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
        self._window = _window(run, clock)
        self._spikes = SpikeDetector(run.config.train.spike_deviations)
        self._nonfinite_in_a_row = 0
        self._saved_step = 0
        self._last_line = clock.elapsed()
        train, workdir = run.config.train, Path(run.config.workdir)
        self._profile = ProfileWindow(
            workdir / "profile",
            start=train.profile_start,
            steps=train.profile_steps,
            clock=clock,
            say=reporter.say,
        )
        self._watchdog = Watchdog(
            workdir,
            seconds=train.hung_step_seconds,
            ends_run=train.hung_step_exit,
            process=jax.process_index(),
        )

    def go(self, state: TrainState) -> None:
        """Trains to the last step; call it under `jax.set_mesh(run.mesh)`.

        Raises:
          DivergedError: too many non-finite steps in a row.
          Preempted: a signal asked to stop; the state is saved.
        """
        self._clock.settle("start")
        self._reporter.begin()
        try:
            if self._owes_evaluation(int(state.step)) and not self._evaluate(
                int(state.step), state
            ):
                raise Preempted(self._words_of_stop(int(state.step)))
            self._take_steps(state)
        finally:
            self._watchdog.close()
            self._profile.close()

    def _take_steps(self, state: TrainState) -> None:
        with self._clock.measure("start"):
            # TensorFlow takes seconds to load: a mistake in the config is told before.
            from instructrec_jax.data.pipeline import training_batches

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
        for step in range(first, last + 1):
            self._profile.before_step(step)
            with self._clock.measure("data_wait"):
                batch = self._global_batch(next(batches))
            if step_function is None:
                step_function = self._compiled(state, batch)
            with jax.profiler.StepTraceAnnotation("train", step_num=step):
                state, figures = step_function(state, batch)
            self._stop.has_state = True
            # The figures of the step before are read while this one runs.
            stopped = self._read(pending)
            if jax.process_count() == 1:
                stopped |= bool(self._stop.received)
            pending = (step, figures)
            self._profile.after_step(step, figures)
            looks = self._is_due(step, config.evaluate.every)
            saves = self._is_due(step, config.checkpoint.every)
            if looks or saves or stopped or step == first:
                stopped |= self._read(pending)
                pending = None
            with self._watchdog.paused():
                if looks and not stopped:
                    stopped = not self._evaluate(step, state)
                # A state whose loss is not finite is no state to go on from.
                good = self._nonfinite_in_a_row == 0 or step == last
                if saves and good:
                    self._save(step, state, required=step == last)
                if looks or saves:
                    stopped |= self._asked_to_stop()
                if stopped:
                    self._save(step, state, required=True)
                    with self._clock.measure("save"):
                        self._checkpoints.wait()
                    raise Preempted(self._words_of_stop(step))

    def _compiled(self, state: TrainState, batch: dict[str, Array]) -> Any:
        with self._clock.measure("compile"):
            compiled, from_cache = compile_noticing_cache(self._run.step.lower(state, batch))
        how = "read from the compile cache" if from_cache else "compiled"
        self._reporter.say(f"train step {how} in {self._clock.seconds['compile']:.1f} s")
        self._window.restart()
        return compiled

    def _asked_to_stop(self) -> bool:
        """Whether any process was asked to; all processes come here at the same places."""
        asked = bool(self._stop.received)
        if jax.process_count() == 1:
            return asked
        return bool(multihost_utils.process_allgather(np.asarray(asked)).any())

    def _words_of_stop(self, step: int) -> str:
        return (
            f"stopped by {self._stop.received or 'a signal'} after step {step}; the state is "
            "saved: the same command goes on from there"
        )

    def _owes_evaluation(self, step: int) -> bool:
        """Whether a signal ended the run before in the middle of an evaluation."""
        owes = (
            step > 0
            and self._is_due(step, self._run.config.evaluate.every)
            and not self._reporter.has_validation(step)
        )
        if jax.process_count() == 1:
            return owes
        return bool(multihost_utils.broadcast_one_to_all(np.asarray(owes)))

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
        figures = {
            name: float(value) if value.ndim == 0 else value
            for name, value in jax.device_get(on_device).items()
        }
        self._watchdog.beat(step)
        self._window.add(figures)
        self._reporter.advance(step)
        self._nonfinite_in_a_row = int(figures["nonfinite_in_a_row"])
        if not figures["applied"]:
            self._on_nonfinite(step, figures)
        elif deviations := self._spikes.deviations(figures["loss"]):
            self._on_spike(step, figures, deviations)
        config = self._run.config
        is_last = step == config.train.steps
        if step % config.train.log_every == 0 or step == 1 or is_last:
            self._log(step, figures)
        elif self._clock.elapsed() - self._last_line > _SILENCE_SECONDS:
            self._tell(step, figures, self._window.rates())
        return figures["stop_votes"] > 0

    def _on_nonfinite(self, step: int, figures: dict[str, Any]) -> None:
        in_a_row, most = self._nonfinite_in_a_row, self._run.config.train.max_nonfinite_steps
        names = {"loss": "loss", "gradient_norm": "gradient norm", "update_norm": "update norm"}
        wrong = [word for name, word in names.items() if not math.isfinite(figures[name])]
        values = ", ".join(f"{word} {figures[name]:.4g}" for name, word in names.items())
        what = " and ".join(word.removesuffix(" norm") for word in wrong)
        self._reporter.say(
            f"WARNING: step {step} gave a non-finite {what} ({in_a_row} in a row): {values}; "
            "nothing of it is applied, its examples are named in nonfinite.jsonl"
        )
        self._event("nonfinite", step, figures, in_a_row=in_a_row)
        if in_a_row >= most:
            raise DivergedError(
                f"{in_a_row} steps in a row, up to step {step}, gave a non-finite {what} the last "
                "time; lower optimizer.learning_rate or look at the data, of which "
                f"{Path(self._run.config.workdir) / 'nonfinite.jsonl'} names the examples"
            )

    def _on_spike(self, step: int, figures: dict[str, Any], deviations: float) -> None:
        self._reporter.say(
            f"WARNING: the loss of step {step}, {figures['loss']:.4g}, lies {deviations:.1f} "
            "deviations above the median of the steps before; its examples are named in "
            "spikes.jsonl"
        )
        self._event("spikes", step, figures, deviations=round(deviations, 2))

    def _event(self, name: str, step: int, figures: dict[str, Any], **values: float) -> None:
        named = ("loss", "gradient_norm", "update_norm", "learning_rate")
        self._reporter.event(
            name,
            step,
            # Steps count from 1, batches from 0.
            example_ids=self._run.data.training.example_ids(step - 1),
            **{key: figures[key] for key in named},
            **values,
        )

    def _log(self, step: int, figures: dict[str, Any]) -> None:
        rates, tasks = self._window.rates(), self._window.task_losses()
        self._window.restart()
        named = ("loss", "loss_per_token", "loss_per_sequence", "accuracy", "gradient_norm")
        self._reporter.record(
            "train",
            step,
            **{name: figures[name] for name in (*named, "learning_rate")},
            **rates,
            tasks=tasks,
            **memory_figures(),
            seconds=round(self._clock.elapsed(), 3),
        )
        self._tell(step, figures, rates)

    def _tell(self, step: int, figures: dict[str, Any], rates: dict[str, float]) -> None:
        seconds_left = (self._run.config.train.steps - step) * rates["step_seconds"]
        self._reporter.step_line(step, {**figures, **rates}, seconds_left)
        self._last_line = self._clock.elapsed()

    def _evaluate(self, step: int, state: TrainState) -> bool:
        """Whether the evaluation came to its end; nothing is recorded of one that did not."""
        validation, config = self._run.data.validation, self._run.config
        if validation is None:
            return True
        with self._clock.measure("evaluate"):
            try:
                figures = validation_figures(
                    validation,
                    evaluate=lambda batch: self._run.evaluate(state.averaged_parameters, batch),
                    mesh=self._run.mesh,
                    should_stop=self._asked_to_stop,
                )
                samples = decode_samples(
                    self._run.data.samples,
                    parameters=state.averaged_parameters,
                    model=self._run.model,
                    tokenizer=self._run.data.tokenizer,
                    max_new_tokens=config.evaluate.max_new_tokens,
                    encoder_length=config.data.encoder_length,
                    parse_sentinels=config.data.parse_sentinels,
                    should_stop=self._asked_to_stop,
                )
            except EvaluationStopped:
                return False
        figures |= sample_figures(samples)
        self._reporter.record("validation", step, **figures)
        self._checkpoints.note_figures(step, figures)
        self._reporter.say(
            f"validation at step {step}: loss a token {figures['loss_per_token']:.4f}, "
            f"a sequence {figures['loss_per_sequence']:.3f}, token accuracy "
            f"{figures['accuracy']:.1%} ({figures['sequences']} sequences)"
        )
        for sample in samples:
            self._reporter.sample({"step": step, **sample})
            self._reporter.say(sample_text(sample))
        return True

    def _save(self, step: int, state: TrainState, *, required: bool) -> None:
        if step in (self._saved_step, self._checkpoints.latest_step()):
            return
        config = self._run.config
        with self._clock.measure("save"):
            begun = self._checkpoints.save(
                step,
                items=checkpoint_items(state, self._run.model),
                config=self._run.model,
                tokenizer=self._run.data.tokenizer,
                encoder_length=config.data.encoder_length,
                decoder_length=config.data.decoder_length,
                identity={
                    "position": step,
                    "bookmark": self._run.data.training.bookmark(step),
                    **identity(self._run),
                },
                foreign_config=self._run.foreign_config,
                base=self._base,
                required=required,
            )
        if begun:
            self._saved_step = step
        self._reporter.record("time", step, seconds=self._clock.split())


def _window(run: Run, clock: Clock) -> Window:
    config, devices = run.config, run.mesh.devices
    peak = peak_flops(devices.flat[0].device_kind)
    return Window(
        clock,
        tasks=run.data.training_cache.tasks,
        step_flops=step_flops(
            run.model,
            rows=config.train.batch_size,
            encoder_length=config.data.encoder_length,
            decoder_length=config.data.decoder_length,
            trained=run.shapes.trained,
            frozen=run.shapes.frozen,
        ),
        peak_flops=None if peak is None else peak * devices.size,
    )
