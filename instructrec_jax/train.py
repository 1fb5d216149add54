"""Train a T5 on an instruction dataset by sequence NLL.

    python -m instructrec_jax.train --config=configs/t5_base.py

The banners of `train` name the stages in the order in which they happen.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict

from instructrec_jax.command_line import loaded_config, run, say
from instructrec_jax.configuration import COMMAND_LINE, config_record, flatten
from instructrec_jax.data.preview import mixture_table, rows_text
from instructrec_jax.evaluation.report import write_report
from instructrec_jax.training import processes, sharding
from instructrec_jax.training.checkpoint import read_metadata
from instructrec_jax.training.checks import check_model, notices, optimizer_and_schedule
from instructrec_jax.training.compilation import use_compile_cache
from instructrec_jax.training.config_history import keep_config
from instructrec_jax.training.disk_room import check_room, full_disk_told
from instructrec_jax.training.doctor import check_everything, machine
from instructrec_jax.training.environment import environment_record, seconds_since_start
from instructrec_jax.training.freezing import joined, split
from instructrec_jax.training.interruption import StopRequest
from instructrec_jax.training.keeping import read_figures, step_folders
from instructrec_jax.training.loop import Loop
from instructrec_jax.training.memory import batch_shapes, planned_memory, predicted_memory
from instructrec_jax.training.model_folder import (
    ModelFolder,
    base_record,
    check_base,
    open_model,
    read_parameters,
)
from instructrec_jax.training.preparation import RunData, prepare_data
from instructrec_jax.training.reporting import Clock, Reporter, time_line, write_json
from instructrec_jax.training.run import Run, checkpoint_items, make_run
from instructrec_jax.training.run_checkpoints import RunCheckpoints
from instructrec_jax.training.run_folder import claimed_run_folder
from instructrec_jax.training.same_run import check_same_run, model_of_run
from instructrec_jax.training.step import TrainState
from instructrec_jax.training.summary import memory_summary, parameter_table, run_summary
from instructrec_jax.training.trackers import open_trackers

flags.adopt_module_key_flags(processes)  # so that --help lists them
_WORKDIR = flags.DEFINE_string("workdir", None, "Run folder; the config has a default.")
_DATASET = flags.DEFINE_string("dataset", None, "Dataset folder, or file of JSON lines.")
_INIT = flags.DEFINE_string("init", None, "Run or model folder whose parameters to start from.")
_DRY_RUN = flags.DEFINE_boolean("dry_run", False, "Check and describe the run; take no step.")
_PREVIEW = flags.DEFINE_integer(
    "preview", 0, "As --dry_run, and show so many packed rows of step 1.", lower_bound=0
)


def main() -> None:
    """Reads the command line and trains."""
    config, origins = loaded_config(
        workdir=_WORKDIR.value, dataset=_DATASET.value, init=_INIT.value
    )
    if processes.DISTRIBUTED.value:
        processes.join_processes()
    workdir = Path(config.workdir)
    dry_run = _DRY_RUN.value or _PREVIEW.value > 0
    if dry_run:
        say(machine(workdir))
    stop = StopRequest()
    with stop.listening(), full_disk_told(workdir):
        look = partial(
            check_everything,
            config,
            device_count=jax.device_count(),
            # A folder that was named on the command line and is missing is likely mistyped.
            may_build=origins["dataset"] != COMMAND_LINE,
            # Several processes prepare the data together, once all of them can.
            prepare=say if dry_run and jax.process_count() == 1 else None,
        )
        processes.check_all_processes(look)
        with claimed_run_folder(workdir):
            train(
                config,
                origins=origins,
                dry_run=dry_run,
                preview=max(_PREVIEW.value, 1),
                stop=stop,
            )


def train(
    config: ConfigDict,
    *,
    origins: dict[str, str],
    dry_run: bool,
    stop: StopRequest,
    preview: int = 1,
) -> None:
    """The whole run, from its data to its report; goes on from its newest good checkpoint.

    Args:
      config: with the keys of configs/base.py, checked.
      origins: where each value comes from, for the run folder's config.json.
      dry_run: describe the run and stop before anything is allocated.
      stop: asks the run to save and end.
      preview: packed rows that a dry run shows.

    Raises:
      ConfigError, DataError, CheckpointError: something is wrong with what was given.
      DivergedError: too many steps in a row gave non-finite losses.
      Preempted: SIGTERM or SIGINT came; the state is saved.
    """
    is_main = jax.process_index() == 0
    tell = say if is_main else _nothing
    workdir = Path(config.workdir)
    clock = Clock(seconds_since_start())
    use_compile_cache(config.train.compile_cache, workdir=workdir)

    for notice in notices(config):
        tell(f"NOTE: {notice}")

    # ---------------------------------------------------------------- data
    initial = open_model(config.init) if config.init else None
    tokenizer = initial.tokenizer if initial else None
    may_build = origins["dataset"] != COMMAND_LINE
    with clock.measure("data"):
        data = prepare_data(config, may_build=may_build, initial=tokenizer, say=tell)

    # ---------------------------------------------------------------- model
    parts = _parts(config, data, initial, tell)
    if dry_run:
        _describe(parts, preview, tell)
        return

    # ---------------------------------------------------------------- state
    checkpoints = _checkpoints(config, tell)
    with clock.measure("state"):
        state = _restored(parts, checkpoints, initial, tell) or _new_state(parts, initial)
        base = _base(parts, state, initial)
        first_step = int(state.step)
    if is_main:
        keep_config(workdir, config_record(config, origins), first_step=first_step, say=tell)
        write_json(workdir / "environment.json", environment_record(parts.mesh))

    # ---------------------------------------------------------------- steps
    if first_step == 0:
        tell(_preview(data, count=1, short=True))
    _take_steps(parts, checkpoints, state, base, clock, stop)

    # ---------------------------------------------------------------- report
    if is_main:
        report = workdir / "report.html"
        write_report(run_folder=workdir, metrics=None, predictions=[], output=report)
        tell(f"trained to step {max(first_step, config.train.steps)}; report {report}")


def _take_steps(
    parts: Run,
    checkpoints: RunCheckpoints,
    state: TrainState,
    base: dict[str, Any] | None,
    clock: Clock,
    stop: StopRequest,
) -> None:
    config, data, first_step = parts.config, parts.data, int(state.step)
    workdir, is_main = Path(config.workdir), jax.process_index() == 0
    trackers = open_trackers(
        config.train.trackers if is_main else (),
        workdir=workdir,
        config=flatten(config),
        first_step=first_step,
    )
    reporter = Reporter(
        workdir,
        steps=config.train.steps,
        first_step=first_step,
        trackers=trackers,
        is_main=is_main,
    )
    if first_step == 0:
        dropped = data.training_cache.dropped
        reporter.record("packing", 0, epoch=0, **data.training.statistics(0), dropped=dropped)
    loop = Loop(
        parts, checkpoints=checkpoints, reporter=reporter, clock=clock, stop=stop, base=base
    )
    try:
        with jax.set_mesh(parts.mesh):
            loop.go(state)
    finally:
        try:
            with clock.measure("save"):
                checkpoints.close()
        finally:
            reporter.say(time_line({**clock.split(), "lost": reporter.lost_seconds}))
            reporter.close()


def _parts(
    config: ConfigDict,
    data: RunData,
    initial: ModelFolder | None,
    tell: Callable[[str], None],
) -> Run:
    """Model, mesh, optimizer and jitted functions, in words too; nothing is allocated yet."""
    model = model_of_run(config, initial, vocabulary_size=data.tokenizer.vocabulary_size)
    check_model(config, model, device_count=jax.device_count())
    mesh = sharding.make_mesh(config.mesh.to_dict())
    foreign_config = initial.foreign_config if initial else {}
    parts = make_run(config, model=model, data=data, mesh=mesh, foreign_config=foreign_config)
    name = config.model.name or f"of {config.init}"
    tell(run_summary(parts.shapes, name=name, model=model, mesh=mesh, data=data))
    check_room(
        Path(config.workdir) / "checkpoints",
        checkpoint_items(parts.shapes, model),
        keep=config.checkpoint.keep + config.checkpoint.keep_best,
        last_step=config.train.steps,
        tell=tell,
    )
    return parts


def _describe(parts: Run, preview: int, tell: Callable[[str], None]) -> None:
    """What a dry run tells of parameters, memory, mixture, rows, and what it would go on from."""
    config, data = parts.config, parts.data
    tell(parameter_table(parts.shapes))
    tell(_memory(parts))
    tell(mixture_table(data.training, steps=config.train.steps))
    tell(_preview(data, count=preview, short=False))
    _check_resume(parts, Path(config.workdir) / "checkpoints", tell)


def _checkpoints(config: ConfigDict, tell: Callable[[str], None]) -> RunCheckpoints:
    return RunCheckpoints(
        Path(config.workdir) / "checkpoints",
        keep=config.checkpoint.keep,
        keep_best=config.checkpoint.keep_best,
        best_metric=config.checkpoint.best_metric,
        warn=tell,
    )


def _preview(data: RunData, *, count: int, short: bool) -> str:
    """Packed rows of step 1, in colour on a terminal."""
    return rows_text(
        data.training, data.tokenizer, count=count, colour=sys.stderr.isatty(), short=short
    )


def _memory(parts: Run) -> str:
    """What a step takes on each device, by formula and as XLA plans it; nothing is allocated."""
    config, mesh = parts.config, parts.mesh
    batch = batch_shapes(
        mesh,
        rows=config.train.batch_size,
        encoder_length=config.data.encoder_length,
        decoder_length=config.data.decoder_length,
        tasks=True,
    )
    predicted = predicted_memory(
        parts.shapes,
        batch,
        model=parts.model,
        optimizer=optimizer_and_schedule(config)[0],
        settings=parts.settings,
        freezing=parts.freezing,
        mesh=mesh,
    )
    return memory_summary(predicted, planned_memory(parts.step, parts.shapes, batch, mesh))


def _nothing(text: str = "") -> None:
    """What the processes after the first say."""


def _new_state(parts: Run, initial: ModelFolder | None) -> TrainState:
    if initial is None:
        return parts.new_state({})
    target = parts.shapes.parameters if parts.model.lora is None else parts.shapes.frozen
    return parts.new_state(read_parameters(initial, target))


def _base(parts: Run, state: TrainState, initial: ModelFolder | None) -> dict[str, Any] | None:
    """What checkpoints of adapters say of the model that they adapt."""
    if parts.model.lora is None or initial is None:
        return None
    return base_record(initial, state.frozen, dtype=parts.freezing.dtype)


def _check_resume(parts: Run, folder: Path, tell: Callable[[str], None]) -> None:
    """What a run would go on from, and whether it may; changes nothing."""
    read_figures(folder)  # which says so where they are damaged
    for step_folder in reversed(step_folders(folder).values()):
        check_same_run(parts, read_metadata(step_folder), tell=tell)
        tell(f"the run goes on from {step_folder}")
        return


def _restored(
    parts: Run,
    checkpoints: RunCheckpoints,
    initial: ModelFolder | None,
    tell: Callable[[str], None],
) -> TrainState | None:
    """The state of the newest good checkpoint, or None where there is none.

    Raises:
      CheckpointError: another model or tokenizer made it, its adapters are of another base, or none
        of them can be read.
      ConfigError: the data, or what is trained, is not the checkpoint's.
    """
    newest = checkpoints.newest_metadata()
    if newest is None:
        # Says so where there are checkpoints that cannot be read.
        checkpoints.restore_newest({})
        return None
    check_same_run(parts, newest, tell=tell)
    shapes, base = parts.shapes, {}
    if parts.model.lora is not None and initial is not None:
        base = read_parameters(initial, shapes.frozen)
        check_base(newest["base"], base, given=f"init={parts.config.init}")
    restored = checkpoints.restore_newest(checkpoint_items(shapes, parts.model))
    if restored is None:
        return None
    step, arrays, metadata = restored
    # Of other data, it is not taken.
    parts.data.training.open_at(metadata["identity"].get("bookmark"))
    tell(f"going on from step {step}, {checkpoints.folder / str(step)}")
    trained, frozen = split(joined(arrays["parameters"], base), parts.freezing)
    averaged, _ = split(arrays.get("averaged", {}), parts.freezing)
    return TrainState(
        step=jax.device_put(step, shapes.step.sharding),
        trained=trained,
        frozen=frozen,
        averaged=averaged,
        **arrays["optimizer"],
    )


if __name__ == "__main__":
    run(main, needs_config=True)
