"""Layers stacked for the scan, or one by one: the same parameters in two layouts.

Scanned, as the model computes: `encoder/layers/self_attention/query/kernel` [L, in, out]. Unrolled,
as other programs store it: `encoder/layers_0/self_attention/query/kernel` [in, out] and so on.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_LAYER = re.compile(r"layers_(\d+)")


def relayered(params: Mapping[str, Any], *, scanned: bool) -> dict[str, Any]:
    """The parameters with the layers of encoder and decoder stacked (`scanned`) or one by one.

    `params` may be in either layout, of NumPy or JAX arrays, and each stays what it is; what is not
    in a layer is passed on. ValueError: layers whose numbers have gaps.
    """
    result: dict[str, Any] = dict(params)
    for side in ("encoder", "decoder"):
        if side not in params:
            continue
        stack = dict(params[side])
        if scanned:
            result[side] = _stacked(stack, side)
        elif "layers" in stack:
            layers = split_layers(stack.pop("layers"))
            result[side] = stack | {f"layers_{n}": layer for n, layer in enumerate(layers)}
    return result


def split_layers(stacked: Any) -> tuple[Any, ...]:
    """The parameters of each layer from those of a stack, whose leaves have a leading L axis."""
    depth = jax.tree.leaves(stacked)[0].shape[0]
    return tuple(jax.tree.map(lambda leaf, n=n: leaf[n], stacked) for n in range(depth))


def _stacked(stack: dict[str, Any], side: str) -> dict[str, Any]:
    """One side of the model with its numbered layers under `layers`."""
    numbers = sorted(int(match[1]) for match in map(_LAYER.fullmatch, stack) if match)
    if numbers != list(range(len(numbers))):
        raise ValueError(f"the layers of the {side} are numbered {numbers}, not 0, 1, 2, ...")
    if not numbers:
        return stack
    layers = [stack.pop(f"layers_{n}") for n in numbers]
    return stack | {"layers": jax.tree.map(lambda *leaves: _stack(leaves), *layers)}


def _stack(leaves: Sequence[Any]) -> Any:
    if all(isinstance(leaf, np.ndarray) for leaf in leaves):
        return np.stack(leaves)
    return jnp.stack(leaves)
