"""Building blocks of the model, and the one place where activations are laid out on devices.

Shape letters, here and in every einsum: B batch, T target length (of queries), S source length
(of keys), D model, H heads, K head size, F feed-forward, V vocabulary, L layers.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec

from instructrec_jax.model.lora import LoraConfig
from instructrec_jax.model.quantised import quantised_product, scale_name

Initializer = Callable[..., Array]

# T5's gelu is the tanh form; gelu_exact is x times the normal distribution function.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_exact": lambda x: jax.nn.gelu(x, approximate=False),
    "silu": jax.nn.silu,
}

# What the backward pass finds saved, by name; None saves all and recomputes nothing.
REMAT_POLICIES: dict[str, Callable[..., bool] | None] = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_saveable,
    "projections": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}

# Mesh axes that split an axis of an activation. Axes without an entry stay whole. The last two are
# of embeddings just looked up, which lie as the table's columns do.
ACTIVATION_AXES: dict[str, tuple[str, ...]] = {
    "batch": ("slice", "data", "fsdp"),
    "heads": ("tensor",),
    "feed_forward": ("tensor",),
    "vocabulary": ("tensor",),
    "looked_up_batch": ("slice", "data"),
    "looked_up_features": ("fsdp",),
}


def constrain(x: Array, *axes: str | None) -> Array:
    """Lay `x` out over the devices of the mesh that `jax.set_mesh` has set; without one, `x`.

    `axes` names the axes of `x` by `ACTIVATION_AXES`, None for one that stays whole. The names are
    about layout alone: an axis that its devices do not divide (a batch of one) stays whole too.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    spec = []
    for axis, size in zip(axes, x.shape, strict=True):
        devices = tuple(n for n in ACTIVATION_AXES.get(axis or "", ()) if mesh.shape.get(n, 1) > 1)
        count = 1
        for name in devices:
            count *= mesh.shape[name]
        spec.append(devices if devices and size % count == 0 else None)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


class Norm(nn.Module):
    """Root-mean-square norm without mean or bias (T5's layer norm), computed in float32."""

    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., D] in `dtype`."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        x = x.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        return (x * jax.lax.rsqrt(mean_square + self.epsilon) * scale).astype(self.dtype)


class Projection(nn.Module):
    """A linear map without bias: x @ kernel in `dtype`, the kernel kept in float32.

    For decoding the kernel may be one of 8 bits, see quantised.py.

    The kernel is a matrix, heads and head size joined as in T5's checkpoints, so that optimizers
    that factor second moments see one. Where `lora` adapts the module's path, a low-rank product
    is added.
    """

    shape: tuple[int, int]
    initializer: Initializer
    dtype: jnp.dtype
    lora: LoraConfig | None = None

    @nn.compact
    def __call__(self, x: Array, *, deterministic: bool) -> Array:
        """[..., out] from [..., in], in `dtype`."""
        kernel = self.param("kernel", self.initializer, self.shape, jnp.float32)
        scales: Array | None = self.get_variable("params", scale_name("kernel"))
        if scales is not None:
            return quantised_product(x, kernel, scales).astype(self.dtype)
        y = x @ kernel.astype(self.dtype)
        if self.lora is None or not self.lora.adapts("/".join(self.path)):
            return y
        into, out = self.shape
        rank = self.lora.rank
        # As in the paper A is normal, here of the spread that keeps a normed input's size.
        a = self.param("lora_a", nn.initializers.normal(into**-0.5), (into, rank), jnp.float32)
        b = self.param("lora_b", nn.initializers.zeros, (rank, out), jnp.float32)
        dropout = nn.Dropout(self.lora.dropout, broadcast_dims=(-2,))
        x = dropout(x, deterministic=deterministic)
        low_rank = (x @ a.astype(self.dtype)) * self.lora.scale
        return y + low_rank @ b.astype(self.dtype)


class TokenEmbedder(nn.Module):
    """Token ids to vectors [V, D]; the transposed table is the head of a tied model."""

    vocabulary_size: int
    d_model: int
    dtype: jnp.dtype

    def setup(self) -> None:
        """The table, unit normal as in T5X."""
        self.embedding = self.param(
            "embedding",
            nn.initializers.normal(1.0),
            (self.vocabulary_size, self.d_model),
            jnp.float32,
        )

    def __call__(self, tokens: Array) -> Array:
        """int32 [...] to [..., D] in `dtype`.

        Looked up before the cast: the gradient then adds up in float32 however often a token comes.
        Each device looks up its own columns for the rows of all devices that have other columns;
        then rows go to their devices. So vectors travel, which are few, and never the table.
        """
        middle = (None,) * (tokens.ndim - 1)
        tokens = constrain(tokens, "looked_up_batch", *middle)
        x = jnp.take(self.embedding, tokens, axis=0).astype(self.dtype)
        scales: Array | None = self.get_variable("params", scale_name("embedding"))
        if scales is not None:
            x *= jnp.take(scales, tokens, axis=0).astype(self.dtype)
        return constrain(x, "looked_up_batch", *middle, "looked_up_features")

    def attend(self, x: Array) -> Array:
        """Logits, float32 [..., V], from [..., D]."""
        scales: Array | None = self.get_variable("params", scale_name("embedding"))
        if scales is not None:
            return quantised_product(x, self.embedding.T, scales.T)
        table = self.embedding.astype(self.dtype)
        return jnp.einsum("...D,VD->...V", x, table, preferred_element_type=jnp.float32)


class Head(nn.Module):
    """Vectors to logits, with a kernel [D, V] of its own."""

    vocabulary_size: int
    d_model: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Logits, float32 [..., V], from [..., D]."""
        kernel = self.param(
            "kernel",
            nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal"),
            (self.d_model, self.vocabulary_size),
            jnp.float32,
        )
        scales: Array | None = self.get_variable("params", scale_name("kernel"))
        if scales is not None:
            return quantised_product(x, kernel, scales)
        table = kernel.astype(self.dtype)
        return jnp.einsum("...D,DV->...V", x, table, preferred_element_type=jnp.float32)
