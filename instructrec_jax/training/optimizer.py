"""Learning-rate schedules, and any optax optimizer by name, applied to each layer's matrices.

The model stacks the parameters of all layers on a leading axis. Optimizers that look at a whole
matrix (Adafactor's factored moments, its RMS clipping and parameter scale; Muon; LAMB) must see the
layers one by one, as they do where layers are separate: the optimizer is mapped over that axis.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from instructrec_jax.errors import ConfigError, nearest
from instructrec_jax.training.sharding import path_name

SCHEDULES = ("constant", "linear", "cosine", "rsqrt")
# Schedules that fall from the warm-up to the last step by themselves.
FALLING = ("linear", "cosine")
# Parts of optimizers, and optimizers that evaluate with other parameters than those they train or
# want a gradient of each example.
_REFUSED = ("_", "scale_by_", "schedule_free", "dpsgd")


def make_schedule(
    *,
    name: str,
    learning_rate: float,
    warmup_steps: int,
    steps: int,
    final_fraction: float = 0.0,
    cooldown_steps: int = 0,
) -> optax.Schedule:
    """A warm-up from 0 over `warmup_steps`, then the named schedule, as a function of the step.

    "rsqrt" is T5's: learning_rate * sqrt(w / max(step, w)) with w = max(warmup_steps, 1), so the
    peak is reached at the end of the warm-up. "linear" and "cosine" end after `steps` at
    final_fraction * learning_rate. The others fall over the last `cooldown_steps`, linearly, to
    final_fraction of what they would be (warm-up, stable, decay; Hu et al. 2024, arXiv 2404.06395).

    Raises:
      ConfigError: an unknown name.
    """
    after = max(steps - warmup_steps, 1)
    if name == "constant":
        schedule = optax.constant_schedule(learning_rate)
    elif name == "linear":
        schedule = optax.linear_schedule(learning_rate, final_fraction * learning_rate, after)
    elif name == "cosine":
        schedule = optax.cosine_decay_schedule(learning_rate, after, alpha=final_fraction)
    elif name == "rsqrt":
        start = max(warmup_steps, 1)

        def schedule(count: jax.typing.ArrayLike) -> jax.Array:
            return learning_rate * jnp.sqrt(start / jnp.maximum(count + warmup_steps, start))
    else:
        raise ConfigError(f"optimizer.schedule={name}: unknown{nearest(name, SCHEDULES)}")
    if warmup_steps:
        warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
        schedule = optax.join_schedules([warmup, schedule], [warmup_steps])
    if name in FALLING or not cooldown_steps:
        return schedule
    falls = optax.linear_schedule(1.0, final_fraction, cooldown_steps, steps - cooldown_steps)
    return lambda count: schedule(count) * falls(count)


def adamw_rms(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    min_scale: float = 1e-3,
) -> optax.GradientTransformation:
    """Adam with each matrix's step times the matrix's root mean square, as Adafactor has it.

    With the decoupled decay of `make_optimizer`, nanoT5's optimizer (Nawrot 2023, arXiv
    2309.02373): p <- p - learning_rate * max(min_scale, rms(p)) * m / (sqrt(v) + eps), the moments
    m and v with their bias corrected.
    """
    return optax.chain(
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
        optax.scale_by_param_block_rms(min_scale),
        optax.scale_by_learning_rate(learning_rate),
    )


def _matrices_of_layers(params: Any) -> Any:
    """Muon's: matrices that map activations to activations, of one layer; AdamW has the rest."""

    def dimensions(path: tuple[Any, ...], leaf: Any) -> optax.contrib.MuonDimensionNumbers | None:
        is_map = "/layers/" in path_name(path) and not path_name(path).endswith("embedding")
        return optax.contrib.MuonDimensionNumbers() if is_map and leaf.ndim == 2 else None

    return jax.tree_util.tree_map_with_path(dimensions, params)


# What an optimizer of optax gets where the options say nothing else.
_PRESET: dict[str, dict[str, Any]] = {
    "muon": {"muon_weight_dimension_numbers": _matrices_of_layers},
}


def make_optimizer(
    *,
    name: str,
    options: Mapping[str, Any],
    schedule: optax.Schedule,
    clip_norm: float,
    weight_decay: float,
    decay: Sequence[str],
) -> optax.GradientTransformation:
    """The chain: clip by global norm, then the optimizer, each layer by itself, then decay.

    Args:
      name: "adamw_rms" above, or a function of optax or optax.contrib that takes `learning_rate`;
        e.g. "adafactor", whose optax defaults are T5's settings (Shazeer and Stern 2018; decay
        exponent 0.8, update clipped to RMS 1, step relative to the parameter's RMS, no momentum,
        moments factored from size 128 on).
      options: its other keyword arguments.
      schedule: learning rate as a function of the step.
      clip_norm: largest global norm of the gradient; 0 = not clipped.
      weight_decay: decoupled decay, times the learning rate.
      decay: regexes; a parameter whose whole path matches one of them decays.

    Raises:
      ConfigError: an unknown optimizer or option.
    """
    known = _optimizers()
    if name not in known:
        raise ConfigError(f"optimizer.name={name}: not an optimizer of optax{nearest(name, known)}")
    function = known[name]
    accepted = inspect.signature(function).parameters
    for option in options:
        if option == "learning_rate":
            raise ConfigError("optimizer.options.learning_rate: set optimizer.learning_rate")
        if option not in accepted:
            hint = nearest(option, accepted)
            raise ConfigError(f"optimizer.options.{option}: optax.{name} does not take it{hint}")
    # Their own decay would also move norms, and come on top of `weight_decay` below.
    own_decay = {"weight_decay": 0.0} if "weight_decay" in accepted else {}
    options = {**own_decay, **_PRESET.get(name, {}), **options}
    try:
        transformation = function(learning_rate=schedule, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optimizer.options: optax.{name} refuses them: {error}") from error
    chain = [each_layer(transformation)]
    if clip_norm:
        chain.insert(0, optax.clip_by_global_norm(clip_norm))
    if weight_decay:
        chain.append(_decay(weight_decay, schedule, decay))
    return optax.chain(*chain)


def each_layer(transformation: optax.GradientTransformation) -> optax.GradientTransformation:
    """Maps a transformation over the stacked layer axis of the encoder and of the decoder."""

    def mapped_init(params: Any) -> Any:
        # A stack of which nothing is trained has no axis to map over.
        init = jax.vmap(transformation.init) if jax.tree.leaves(params) else transformation.init
        return init(params)

    def mapped_update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        update = transformation.update
        return (jax.vmap(update) if jax.tree.leaves(updates) else update)(updates, state, params)

    mapped = optax.GradientTransformation(mapped_init, mapped_update)

    def group(path: tuple[Any, ...], _: Any) -> str:
        name = path_name(path)
        for stack in ("encoder", "decoder"):
            # The two stacks may differ in depth, so each is mapped by itself.
            if name.startswith(f"{stack}/layers/"):
                return stack
        return "single"

    return optax.partition(
        {"encoder": mapped, "decoder": mapped, "single": transformation},
        lambda params: jax.tree_util.tree_map_with_path(group, params),
    )


def _optimizers() -> dict[str, Callable[..., optax.GradientTransformation]]:
    found = {"adamw_rms": adamw_rms}
    for module in (optax.contrib, optax):
        for name, function in vars(module).items():
            is_known = inspect.isfunction(function) and not name.startswith(_REFUSED)
            if is_known and "learning_rate" in inspect.signature(function).parameters:
                found[name] = function
    return found


def _decay(
    weight_decay: float, schedule: optax.Schedule, patterns: Sequence[str]
) -> optax.GradientTransformation:
    def mask(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: any(re.fullmatch(pattern, path_name(path)) for pattern in patterns),
            params,
        )

    # It follows the optimizer, whose updates already bear the sign and the learning rate.
    return optax.add_decayed_weights(lambda step: -weight_decay * schedule(step), mask)
