"""Every problem of a training configuration at once, before anything is built or compiled."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import optax
from jax.tree_util import tree_leaves_with_path
from ml_collections import ConfigDict

from instructrec_jax.data.mixture import MIXTURES, mixture_phases, schedule_of
from instructrec_jax.data.token_cache_writer import POLICIES
from instructrec_jax.errors import ConfigError, nearest
from instructrec_jax.instructions.building import TOKENIZER_KINDS
from instructrec_jax.model.config import ACTIVATION_DTYPES, T5Config, t5_config
from instructrec_jax.model.lora import LoraConfig
from instructrec_jax.model.t5 import init_parameters
from instructrec_jax.training import sharding
from instructrec_jax.training.freezing import Freezing, freezing_problems, pattern_problems
from instructrec_jax.training.keeping import METRICS
from instructrec_jax.training.loss import OBJECTIVES
from instructrec_jax.training.optimizer import FALLING, SCHEDULES, make_optimizer, make_schedule
from instructrec_jax.training.trackers import TRACKERS, tracker_problem

# (key, least value): whole numbers and rates that must not be smaller.
_LEAST: tuple[tuple[str, float], ...] = (
    ("train.steps", 1),
    ("train.batch_size", 1),
    ("train.accumulation_steps", 1),
    ("train.log_every", 1),
    ("train.max_nonfinite_steps", 1),
    ("train.loss_chunk", 0),
    ("train.z_loss", 0),
    ("train.label_smoothing", 0),
    ("train.spike_deviations", 0),
    ("train.profile_steps", 0),
    ("train.profile_start", 1),
    ("train.hung_step_seconds", 0),
    ("checkpoint.every", 1),
    ("checkpoint.keep", 1),
    ("checkpoint.keep_best", 0),
    ("evaluate.every", 0),
    ("evaluate.examples", 0),
    ("evaluate.samples", 0),
    ("evaluate.max_new_tokens", 1),
    ("optimizer.learning_rate", 0),
    ("optimizer.warmup_steps", 0),
    ("optimizer.cooldown_steps", 0),
    ("optimizer.final_fraction", 0),
    ("optimizer.clip_norm", 0),
    ("optimizer.weight_decay", 0),
    ("optimizer.ema_decay", 0),
    ("data.encoder_length", 1),
    ("data.decoder_length", 1),
    ("data.open_bins", 1),
    ("data.max_segments", 0),
    ("data.mixture_cap", 0),
    ("data.mixture_temperature", 1e-6),
    ("data.validation_fraction", 0),
    ("data.demonstrations", 0),
    ("data.most_demonstrations", 1),
    ("lora.rank", 0),
    ("tokenizer.vocabulary_size", 1),
    ("tokenizer.sentinels", 0),
)

_DECAYS_OF_MOMENTS = ("b1", "b2", "adam_b1", "adam_b2", "momentum", "beta")


def model_config(config: ConfigDict, *, vocabulary_size: int) -> T5Config:
    """The T5Config of a run that names its architecture.

    Raises:
      ConfigError: an unknown name or an impossible value.
    """
    return t5_config(config.model.name, vocabulary_size=vocabulary_size, **_computed_fields(config))


def with_computed_fields(config: ConfigDict, model: T5Config) -> T5Config:
    """A T5Config that came with a checkpoint, computed as the run's config says.

    Raises:
      ConfigError: an impossible value.
    """
    try:
        return dataclasses.replace(model, **_computed_fields(config))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _computed_fields(config: ConfigDict) -> dict[str, Any]:
    model = config.model
    names = ("dropout_rate", "activation_dtype", "remat", "attention")
    return {name: model[name] for name in names} | {"lora": _lora_config(config)}


def _lora_config(config: ConfigDict) -> LoraConfig | None:
    # A rank below 0 is told of by `check`.
    if config.lora.rank <= 0:
        return None
    try:
        return LoraConfig(**config.lora.to_dict())
    except ValueError as error:
        raise ConfigError(str(error)) from error


def freezing_of(config: ConfigDict) -> Freezing:
    """What a run does not train."""
    return Freezing(
        patterns=tuple(config.optimizer.freeze),
        adapters_only=config.lora.rank > 0,
        dtype=config.model.frozen_dtype,
    )


def optimizer_and_schedule(
    config: ConfigDict,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer of a run, and its learning rate as a function of the step.

    Raises:
      ConfigError: an unknown name or option.
    """
    schedule = make_schedule(
        name=config.optimizer.schedule,
        learning_rate=config.optimizer.learning_rate,
        warmup_steps=config.optimizer.warmup_steps,
        steps=config.train.steps,
        final_fraction=config.optimizer.final_fraction,
        cooldown_steps=config.optimizer.cooldown_steps,
    )
    optimizer = make_optimizer(
        name=config.optimizer.name,
        options=config.optimizer.options.to_dict(),
        schedule=schedule,
        clip_norm=config.optimizer.clip_norm,
        weight_decay=config.optimizer.weight_decay,
        decay=tuple(config.optimizer.decay),
    )
    return optimizer, schedule


def check(config: ConfigDict, *, device_count: int) -> None:
    """Raises one ConfigError that lists everything that is wrong with a configuration.

    Args:
      config: with the keys of configs/base.py.
      device_count: devices of all processes.
    """
    problems: list[str] = []
    for key, least in _LEAST:
        value = _get(config, key)
        if not math.isfinite(value):
            problems.append(f"{key}={value}: must be a finite number")
        elif value < least:
            problems.append(f"{key}={value}: must be at least {least:g}")
    for key in ("train.label_smoothing", "optimizer.ema_decay", "data.validation_fraction"):
        if _get(config, key) >= 1:
            problems.append(f"{key}={_get(config, key)}: must be below 1")
    if not -(2**63) <= config.seed < 2**63:
        problems.append(f"seed={config.seed}: must fit 64 bits")
    problems.extend(_choice_problems(config))
    problems.extend(_source_problems(config))
    problems.extend(_data_problems(config))
    problems.extend(_schedule_problems(config))
    problems.extend(_checkpoint_problems(config))
    _collect(problems, lambda: _check_optimizer(config))
    _collect(problems, lambda: _check_mesh(config, device_count))
    if config.model.name:
        # Any vocabulary will do: it is rounded up to a multiple of 128 later.
        _collect(
            problems,
            lambda: check_model(
                config, model_config(config, vocabulary_size=1024), device_count=device_count
            ),
        )
    if problems:
        raise ConfigError("\n  ".join(["the configuration cannot be used:", *problems]))


def _choice_problems(config: ConfigDict) -> list[str]:
    problems: list[str] = []
    _choice(problems, "train.objective", config.train.objective, OBJECTIVES)
    _choice(problems, "optimizer.schedule", config.optimizer.schedule, SCHEDULES)
    _choice(problems, "data.over_length", config.data.over_length, POLICIES)
    _choice(problems, "data.mixture", config.data.mixture, MIXTURES)
    _choice(problems, "tokenizer.kind", config.tokenizer.kind, TOKENIZER_KINDS)
    _choice(problems, "model.frozen_dtype", config.model.frozen_dtype, ACTIVATION_DTYPES)
    for name in config.train.trackers:
        _choice(problems, "train.trackers", name, TRACKERS)
        if name in TRACKERS and (problem := tracker_problem(name)):
            problems.append(problem)
    return problems


def _source_problems(config: ConfigDict) -> list[str]:
    """Where a run's model and tokenizer come from, and its folders."""
    problems = []
    if config.tokenizer.path and config.tokenizer.kind != TOKENIZER_KINDS[0]:
        problems.append(
            f"tokenizer.kind={config.tokenizer.kind} needs no tokenizer.path; leave one of them"
        )
    if config.tokenizer.path and config.init:
        problems.append(
            "tokenizer.path and init exclude each other: a run keeps the tokenizer of the model "
            "that it starts from"
        )
    if config.lora.rank > 0:
        if not config.init:
            problems.append("lora.rank needs a model to adapt: give --init=DIR")
        if config.optimizer.freeze:
            problems.append(
                "optimizer.freeze and lora.rank exclude each other: with LoRA all but the adapters "
                "is frozen; lora.targets chooses where they are"
            )
    if not config.model.name and not config.init:
        problems.append("model.name is empty: name an architecture, or give --init=DIR")
    for key in ("workdir", "dataset", "init"):
        if "://" in config[key]:
            problems.append(f"{key}={config[key]}: give a folder; mount the bucket as one first")
        if not config[key].strip() and key != "init":
            problems.append(f"{key} is empty: give a folder")
    return problems


def _data_problems(config: ConfigDict) -> list[str]:
    problems = []
    if config.data.demonstrations > 1:
        problems.append(f"data.demonstrations={config.data.demonstrations}: above 1, all examples")
    for task, rate in config.data.mixture_rates.items():
        if not isinstance(rate, int | float) or not math.isfinite(rate) or rate < 0:
            problems.append(f"data.mixture_rates.{task}={rate}: must be a number of 0 or more")
    # What no dataset makes right: each task that is named stands for one of one example.
    try:
        schedule = schedule_of(config.data.mixture_schedule)
    except ConfigError as error:
        return [*problems, str(error)]
    rates = () if problems else tuple(config.data.mixture_rates.items())
    named = [task for _, pairs in [(0, rates), *schedule] for task, _ in pairs]
    if config.data.mixture in MIXTURES and not problems:
        sizes = dict.fromkeys(named, 1) or {"": 1}
        mixture = partial(mixture_phases, mixture=config.data.mixture, rates=rates)
        _collect(problems, lambda: mixture(sizes, schedule=schedule))
    return problems


def _schedule_problems(config: ConfigDict) -> list[str]:
    optimizer = config.optimizer
    problems = []
    if optimizer.final_fraction > 1:
        problems.append(f"optimizer.final_fraction={optimizer.final_fraction}: must be at most 1")
    cooldown, between = optimizer.cooldown_steps, config.train.steps - optimizer.warmup_steps
    if cooldown > 0 and optimizer.schedule in FALLING:
        problems.append(
            f"optimizer.cooldown_steps={cooldown}: optimizer.schedule={optimizer.schedule} falls "
            "until the last step by itself"
        )
    elif cooldown > max(between, 0):
        problems.append(
            f"optimizer.cooldown_steps={cooldown}: more than the {max(between, 0)} steps after the "
            "warm-up"
        )
    return problems


def notices(config: ConfigDict) -> list[str]:
    """What a configuration can do, but hardly means: a line each."""
    steps, warmup = config.train.steps, config.optimizer.warmup_steps
    lines = []
    if warmup >= steps:
        lines.append(
            f"optimizer.warmup_steps={warmup}: not over within train.steps={steps}; the learning "
            "rate only rises"
        )
    first, profiled = config.train.profile_start, config.train.profile_steps
    if profiled > 0 and first + profiled - 1 > steps:
        lines.append(
            f"train.profile_start={first}, train.profile_steps={profiled}: the window does not end "
            f"within train.steps={steps}"
        )
    return lines


def _checkpoint_problems(config: ConfigDict) -> list[str]:
    checkpoint = config.checkpoint
    problems: list[str] = []
    if checkpoint.best_metric:
        _choice(problems, "checkpoint.best_metric", checkpoint.best_metric, METRICS)
        saves, looks = checkpoint.every, config.evaluate.every
        if looks <= 0:
            problems.append("checkpoint.best_metric needs validation: evaluate.every=0 has none")
        elif saves > 0 and saves % looks and looks % saves:
            problems.append(
                f"checkpoint.best_metric needs checkpoints that were validated: "
                f"checkpoint.every={saves} and evaluate.every={looks} rarely meet; make one a "
                "multiple of the other"
            )
    elif checkpoint.keep_best > 0:
        problems.append(
            f"checkpoint.keep_best={checkpoint.keep_best}: give checkpoint.best_metric, one of "
            + ", ".join(METRICS)
        )
    return problems


def _get(config: ConfigDict, key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config


def _choice(problems: list[str], key: str, value: str, known: Iterable[str]) -> None:
    known = tuple(known)
    if value not in known:
        problems.append(f"{key}={value}: not one of {', '.join(known)}{nearest(value, known)}")


def _collect(problems: list[str], check_part: Callable[[], Any]) -> None:
    try:
        check_part()
    except ConfigError as error:
        problems.extend(str(error).split("\n  "))


def _check_optimizer(config: ConfigDict) -> None:
    options = config.optimizer.options.to_dict()
    # That of adafactor is an exponent, and of another name.
    names = (*_DECAYS_OF_MOMENTS, *(["decay"] if config.optimizer.name == "rmsprop" else []))
    # optax takes any number, and the moments grow without end.
    wrong = [
        f"optimizer.options.{name}={options[name]}: must be at least 0 and below 1"
        for name in names
        if isinstance(options.get(name), int | float) and not 0 <= options[name] < 1
    ]
    if wrong:
        raise ConfigError("\n  ".join(wrong))
    # Under a constant learning rate: what is wrong with the schedule is told as such.
    optimizer = make_optimizer(
        name=config.optimizer.name,
        options=options,
        schedule=optax.constant_schedule(1.0),
        clip_norm=max(config.optimizer.clip_norm, 0.0),
        weight_decay=max(config.optimizer.weight_decay, 0.0),
        decay=tuple(config.optimizer.decay),
    )
    layers = {"layers": {"kernel": jax.ShapeDtypeStruct((2, 8, 8), "float32")}}
    shapes = {"encoder": layers, "decoder": layers, "lm_head": layers["layers"]}
    try:
        state = jax.eval_shape(optimizer.init, shapes)
        jax.eval_shape(optimizer.update, shapes, state, shapes)
    except Exception as error:
        # An optimizer meets its options only when it is traced, and says what it likes.
        raise ConfigError(
            f"optimizer.name={config.optimizer.name} cannot be used here, with options "
            f"{options}: {str(error).splitlines()[0]}"
        ) from error


def _check_mesh(config: ConfigDict, device_count: int) -> None:
    shape = sharding.mesh_shape(config.mesh.to_dict(), device_count)
    sizes = dict(zip(sharding.AXES, shape, strict=True))
    rows, parts = config.train.batch_size, max(config.train.accumulation_steps, 1)
    shards = math.prod(sizes[axis] for axis in sharding.BATCH_AXES)
    if rows % (parts * shards):
        factors = (f" x mesh.{axis} {sizes[axis]}" for axis in sharding.BATCH_AXES)
        raise ConfigError(
            f"train.batch_size={rows}: must be a multiple of {parts * shards} = "
            f"train.accumulation_steps {parts}{''.join(factors)}"
        )


def check_model(config: ConfigDict, model: T5Config, *, device_count: int) -> None:
    """Raises a ConfigError for each axis of the model that the mesh does not divide."""
    try:
        shape = sharding.mesh_shape(config.mesh.to_dict(), device_count)
    except ConfigError:
        return
    sizes = dict(zip(sharding.AXES, shape, strict=True))
    problems = []
    if model.num_heads % sizes["tensor"]:
        problems.append(
            f"mesh.tensor={sizes['tensor']}: does not divide the {model.num_heads} heads "
            f"of {config.model.name or config.init}"
        )
    parameters = jax.eval_shape(lambda: init_parameters(model, jax.random.key(0)))
    problems.extend(sharding.indivisible(parameters, sizes))
    problems.extend(freezing_problems(freezing_of(config), parameters))
    paths = [sharding.path_name(path) for path, _ in tree_leaves_with_path(parameters)]
    problems.extend(pattern_problems("optimizer.decay", config.optimizer.decay, paths))
    if problems:
        raise ConfigError("\n  ".join(problems))
