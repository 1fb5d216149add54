"""Learning-rate schedules, and any optax optimizer by name, applied to each layer's matrices.

The model stacks the parameters of all layers on a leading axis. Optimizers that look at a whole
matrix (Adafactor's factored moments, its RMS clipping and parameter scale; LAMB) must see the
layers one by one, as they do where layers are separate: the optimizer is mapped over that axis.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from instructrec_jax.errors import ConfigError, nearest
from instructrec_jax.training.sharding import path_name

SCHEDULES = ("constant", "linear", "cosine", "rsqrt")
# Decay moves a matrix, not a scale or a position bias. Adapters are matrices too, and Hu et al.
# (2021) train them with decay, which draws the model back to its base.
_DECAYED = ("kernel", "token_embedder/embedding", "lora_a", "lora_b")


def make_schedule(
    *, name: str, learning_rate: float, warmup_steps: int, steps: int
) -> optax.Schedule:
    """A warm-up from 0 over `warmup_steps`, then the named schedule, as a function of the step.

    "rsqrt" is T5's: learning_rate * sqrt(w / max(step, w)) with w = max(warmup_steps, 1), so the
    peak is reached at the end of the warm-up. "linear" and "cosine" end at 0 after `steps`.

    Raises:
      ConfigError: an unknown name.
    """
    after = max(steps - warmup_steps, 1)
    if name == "constant":
        schedule = optax.constant_schedule(learning_rate)
    elif name == "linear":
        schedule = optax.linear_schedule(learning_rate, 0.0, after)
    elif name == "cosine":
        schedule = optax.cosine_decay_schedule(learning_rate, after)
    elif name == "rsqrt":
        start = max(warmup_steps, 1)

        def schedule(count: jax.typing.ArrayLike) -> jax.Array:
            return learning_rate * jnp.sqrt(start / jnp.maximum(count + warmup_steps, start))
    else:
        raise ConfigError(f"optimizer.schedule={name}: unknown{nearest(name, SCHEDULES)}")
    if not warmup_steps:
        return schedule
    warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
    return optax.join_schedules([warmup, schedule], [warmup_steps])


def make_optimizer(
    *,
    name: str,
    options: Mapping[str, Any],
    schedule: optax.Schedule,
    clip_norm: float,
    weight_decay: float,
) -> optax.GradientTransformation:
    """The chain: clip by global norm, then the optimizer, each layer by itself, then decay.

    Args:
      name: an optax function that takes `learning_rate`, e.g. "adafactor", whose optax defaults are
        T5's settings (Shazeer and Stern 2018; decay exponent 0.8, update clipped to RMS 1, step
        relative to the parameter's RMS, no momentum, moments factored from size 128 on).
      options: its other keyword arguments.
      schedule: learning rate as a function of the step.
      clip_norm: largest global norm of the gradient; 0 = not clipped.
      weight_decay: decoupled decay, times the learning rate, of kernels and token embeddings.

    Raises:
      ConfigError: an unknown optimizer or option.
    """
    function: Any = getattr(optax, name, None)
    if not _is_optimizer(function):
        known = [key for key in dir(optax) if _is_optimizer(getattr(optax, key))]
        raise ConfigError(f"optimizer.name={name}: not an optimizer of optax{nearest(name, known)}")
    accepted = inspect.signature(function).parameters
    for option in options:
        if option not in accepted:
            hint = nearest(option, accepted)
            raise ConfigError(f"optimizer.options.{option}: optax.{name} does not take it{hint}")
    # Their own decay would also move norms, and come on top of `weight_decay` below.
    own_decay = {"weight_decay": 0.0} if "weight_decay" in accepted else {}
    options = {**own_decay, **options}
    try:
        transformation = function(learning_rate=schedule, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optimizer.options: optax.{name} refuses them: {error}") from error
    chain = [each_layer(transformation)]
    if clip_norm:
        chain.insert(0, optax.clip_by_global_norm(clip_norm))
    if weight_decay:
        chain.append(_decay(weight_decay, schedule))
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


def _is_optimizer(function: Any) -> bool:
    return (
        inspect.isfunction(function) and "learning_rate" in inspect.signature(function).parameters
    )


def _decay(weight_decay: float, schedule: optax.Schedule) -> optax.GradientTransformation:
    def mask(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: path_name(path).endswith(_DECAYED), params
        )

    # It follows the optimizer, whose updates already bear the sign and the learning rate.
    return optax.add_decayed_weights(lambda step: -weight_decay * schedule(step), mask)
