"""Train a T5 on an instruction dataset by sequence NLL.

    python -m instructrec_jax.train --config=configs/t5_base.py

The banners of `train` name the stages in the order in which they happen.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict

from instructrec_jax.command_line import loaded_config, run, say
from instructrec_jax.configuration import COMMAND_LINE, config_record
from instructrec_jax.errors import CheckpointError, ConfigError
from instructrec_jax.evaluation.report import write_report
from instructrec_jax.model.config import COMPUTED_FIELDS, T5Config, padded_vocabulary_size
from instructrec_jax.training import sharding
from instructrec_jax.training.checks import check, check_model, model_config, with_computed_fields
from instructrec_jax.training.environment import environment_record, join_processes
from instructrec_jax.training.freezing import joined, split
from instructrec_jax.training.interruption import StopRequest
from instructrec_jax.training.loop import (
    Loop,
    Run,
    checkpoint_items,
    identity,
    make_run,
)
from instructrec_jax.training.model_folder import (
    ModelFolder,
    base_record,
    check_base,
    open_model,
    read_parameters,
)
from instructrec_jax.training.preparation import RunData, prepare_data
from instructrec_jax.training.reporting import Clock, Reporter, write_json
from instructrec_jax.training.run_checkpoints import RunCheckpoints
from instructrec_jax.training.run_folder import claimed_run_folder
from instructrec_jax.training.step import TrainState
from instructrec_jax.training.summary import parameter_table, run_summary

_WORKDIR = flags.DEFINE_string("workdir", None, "Run folder; the config has a default.")
_DATASET = flags.DEFINE_string("dataset", None, "Dataset folder, or file of JSON lines.")
_INIT = flags.DEFINE_string("init", None, "Run or model folder whose parameters to start from.")
_DRY_RUN = flags.DEFINE_boolean("dry_run", False, "Check and describe the run; take no step.")
_DISTRIBUTED = flags.DEFINE_boolean(
    "distributed",
    False,
    "This is one of several processes: of a TPU pod, of SLURM, or of those that the variables "
    "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID describe.",
)


def main() -> None:
    """Reads the command line and trains."""
    config, origins = loaded_config(
        workdir=_WORKDIR.value, dataset=_DATASET.value, init=_INIT.value
    )
    if _DISTRIBUTED.value:
        join_processes()
    check(config, device_count=jax.device_count())
    stop = StopRequest()
    with stop.listening(), claimed_run_folder(Path(config.workdir)):
        train(config, origins=origins, dry_run=_DRY_RUN.value, stop=stop)


def train(config: ConfigDict, *, origins: dict[str, str], dry_run: bool, stop: StopRequest) -> None:
    """The whole run, from its data to its report; goes on from its newest good checkpoint.

    Args:
      config: with the keys of configs/base.py, checked.
      origins: where each value comes from, for the run folder's config.json.
      dry_run: describe the run and stop before anything is allocated.
      stop: asks the run to save and end.

    Raises:
      ConfigError, DataError, CheckpointError: something is wrong with what was given.
      DivergedError: too many steps in a row gave non-finite losses.
      Preempted: SIGTERM or SIGINT came; the state is saved.
    """
    is_main = jax.process_index() == 0
    tell = say if is_main else _nothing
    workdir = Path(config.workdir)
    clock = Clock()

    # ---------------------------------------------------------------- data
    initial = open_model(config.init) if config.init else None
    with clock.measure("data"):
        data = prepare_data(
            config,
            # A folder that was named on the command line and is missing is likely mistyped.
            may_build=origins["dataset"] != COMMAND_LINE,
            initial=initial.tokenizer if initial else None,
            say=tell,
        )

    # ---------------------------------------------------------------- model
    model = _model_config(config, data, initial)
    check_model(config, model, device_count=jax.device_count())
    mesh = sharding.make_mesh(config.mesh.to_dict())
    parts = make_run(
        config,
        model=model,
        data=data,
        mesh=mesh,
        foreign_config=initial.foreign_config if initial else {},
    )
    name = config.model.name or f"of {config.init}"
    tell(run_summary(parts.shapes, name=name, model=model, mesh=mesh, data=data))
    if dry_run:
        tell(parameter_table(parts.shapes))
        return

    # ---------------------------------------------------------------- state
    checkpoints = RunCheckpoints(
        workdir / "checkpoints",
        keep=config.checkpoint.keep,
        keep_best=config.checkpoint.keep_best,
        best_metric=config.checkpoint.best_metric,
        warn=tell,
    )
    state = _restored(parts, checkpoints, initial, tell) or _new_state(parts, initial)
    base = _base(parts, state, initial)
    first_step = int(state.step)
    if is_main:
        write_json(workdir / "config.json", config_record(config, origins))
        write_json(workdir / "environment.json", environment_record(mesh))

    # ---------------------------------------------------------------- steps
    _take_steps(parts, checkpoints, state, base, clock, stop)

    # ---------------------------------------------------------------- report
    if is_main:
        report = workdir / "report.html"
        write_report(run_folder=workdir, metrics=None, predictions=[], output=report)
        last = max(first_step, config.train.steps)
        tell(f"trained to step {last}; run folder {workdir}, report {report}")


def _take_steps(
    parts: Run,
    checkpoints: RunCheckpoints,
    state: TrainState,
    base: dict[str, Any] | None,
    clock: Clock,
    stop: StopRequest,
) -> None:
    config, data, first_step = parts.config, parts.data, int(state.step)
    reporter = Reporter(
        Path(config.workdir),
        steps=config.train.steps,
        first_step=first_step,
        tensorboard=config.train.tensorboard,
        is_main=jax.process_index() == 0,
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
        reporter.close()
        checkpoints.close()


def _nothing(text: str = "") -> None:
    """What the processes after the first say."""


def _model_config(config: ConfigDict, data: RunData, initial: ModelFolder | None) -> T5Config:
    """The architecture of the config, or of the model that the run starts from."""
    if initial is None:
        vocabulary_size = padded_vocabulary_size(data.tokenizer.vocabulary_size)
        return model_config(config, vocabulary_size=vocabulary_size)
    if not config.model.name:
        return with_computed_fields(config, initial.config)
    asked = model_config(config, vocabulary_size=initial.config.vocabulary_size)
    computed = {name: getattr(asked, name) for name in COMPUTED_FIELDS}
    model = dataclasses.replace(initial.config, **computed)
    differing = _differences(model.to_dict(), dataclasses.replace(asked, lora=None).to_dict())
    if differing:
        raise ConfigError(
            f"model.name={config.model.name} is not the model of {config.init}: "
            + ", ".join(f"{key} {theirs} there, {ours} here" for key, theirs, ours in differing)
        )
    return dataclasses.replace(model, lora=asked.lora)


def _differences(left: dict[str, Any], right: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    keys = sorted(left.keys() | right.keys())
    return [(key, left.get(key), right.get(key)) for key in keys if left.get(key) != right.get(key)]


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
        return None
    _check_same_run(parts, newest)
    shapes, base = parts.shapes, {}
    if parts.model.lora is not None and initial is not None:
        base = read_parameters(initial, shapes.frozen)
        check_base(newest["base"], base, given=f"init={parts.config.init}")
    restored = checkpoints.restore_newest(checkpoint_items(shapes, parts.model))
    if restored is None:
        return None
    step, arrays, _ = restored
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


def _check_same_run(parts: Run, metadata: dict[str, Any]) -> None:
    config = parts.config
    # How a model is computed may change between two parts of a run; its shapes may not.
    # Adapters are compared below, with all else that is trained.
    left_out = (*COMPUTED_FIELDS, "lora")
    models = (T5Config.from_dict(metadata["model"]), parts.model)
    theirs, ours = (
        {key: value for key, value in model.to_dict().items() if key not in left_out}
        for model in models
    )
    differing = _differences(theirs, ours)
    if metadata["tokenizer"]["sha256"] != parts.data.tokenizer.sha256:
        differing.append(("tokenizer", metadata["tokenizer"]["sha256"][:12], "another one"))
    if differing:
        raise CheckpointError(
            f"the checkpoints in {config.workdir} are of another model: "
            + ", ".join(f"{key} {there} there, {here} here" for key, there, here in differing)
            + "; give another --workdir"
        )
    theirs = {key: value for key, value in metadata["identity"].items() if key != "position"}
    differing = _differences(theirs, identity(parts))
    of_data = {key for key, _, _ in differing} <= parts.data.identity(config).keys()
    if differing and not (of_data and config.data.allow_data_change):
        way_out = ", or --config.data.allow_data_change=true to go on" if of_data else ""
        raise ConfigError(
            f"this is not the run that {config.workdir} holds: "
            + ", ".join(f"{key} was {_word(old)}, is {_word(new)}" for key, old, new in differing)
            + f"; give another --workdir{way_out}"
        )


def _word(value: Any) -> Any:
    return "off" if value is None else value


if __name__ == "__main__":
    run(main, needs_config=True)
