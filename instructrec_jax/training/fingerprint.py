"""Checksums of arrays that do not depend on how they are sharded."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def fingerprint(tree: Any) -> dict[str, int]:
    """A checksum of each leaf that does not depend on how the leaf is sharded.

    The sum, modulo 2^32, of a leaf's words times odd weights that grow with the position. A single
    flipped bit always changes it.

    Args:
      tree: arrays of a type of 1, 2 or 4 bytes.

    Returns:
      {leaf path: checksum}.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    sums = _checksums([leaf for _, leaf in leaves])
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    return {name: int(value) for name, value in zip(names, jax.device_get(sums), strict=True)}


@jax.jit
def _checksums(leaves: list[Array]) -> list[Array]:
    def checksum(leaf: Array) -> Array:
        if leaf.dtype == jnp.bool_:
            leaf = leaf.astype(jnp.uint8)
        word = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
        words = jax.lax.bitcast_convert_type(leaf, word).astype(jnp.uint32)
        position = jnp.zeros(leaf.shape, jnp.uint32)
        stride = 1
        for axis in reversed(range(leaf.ndim)):
            index = jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
            position = position + index * jnp.uint32(stride % 2**32)
            stride *= leaf.shape[axis]
        return jnp.sum(words * (2 * position + 1), dtype=jnp.uint32)

    return [checksum(leaf) for leaf in leaves]
