"""Low-rank adapters (LoRA; Hu et al. 2021, arXiv 2106.09685) of the model's projections.

An adapted projection computes x W + alpha / rank * (x A) B: W `kernel` [in, out] stays as it was,
A `lora_a` [in, rank] and B `lora_b` [rank, out] are trained. B starts at zero, and so the model at
the base model. Merged, W + alpha / rank * A B is an ordinary kernel again.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

# Names of an adapted projection's parameters beside its kernel.
ADAPTER_NAMES = ("lora_a", "lora_b")


@dataclass(frozen=True)
class LoraConfig:
    """Which projections are adapted, and how. Invalid values raise ValueError."""

    rank: int
    alpha: float  # the adapters' product is scaled by alpha / rank
    dropout: float = 0.0  # on the adapters' input, in training
    # A regex that matches the whole path of a projection, "encoder/layers/self_attention/query".
    targets: str = ".*"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"lora rank must be at least 1, not {self.rank}")
        if not 0 < self.alpha < float("inf"):
            raise ValueError(f"lora alpha must be positive and finite, not {self.alpha}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"lora dropout must lie in [0, 1), not {self.dropout}")
        try:
            re.compile(self.targets)
        except re.error as error:
            raise ValueError(f"lora targets '{self.targets}' is not a regex: {error}") from error

    @property
    def scale(self) -> float:
        """The factor of the adapters' product."""
        return self.alpha / self.rank

    def adapts(self, path: str) -> bool:
        """Whether the projection at `path` ("encoder/layers/self_attention/query") is adapted."""
        return re.fullmatch(self.targets, path) is not None


def projection_paths(*, gated_feed_forward: bool) -> tuple[str, ...]:
    """The paths of all projections of a model, which `LoraConfig.targets` chooses from."""
    attention = ("query", "key", "value", "out")
    feed_forward = ("gate", "up", "down") if gated_feed_forward else ("up", "down")
    return tuple(
        f"{side}/layers/{part}/{kernel}"
        for side, parts in (
            ("encoder", ("self_attention", "feed_forward")),
            ("decoder", ("self_attention", "cross_attention", "feed_forward")),
        )
        for part in parts
        for kernel in (feed_forward if part == "feed_forward" else attention)
    )


def is_adapter(path_name: str) -> bool:
    """Whether a parameter ("encoder/layers/self_attention/query/lora_a") is an adapter's."""
    return path_name.rpartition("/")[2] in ADAPTER_NAMES


def merge_adapters(params: Mapping[str, Any], lora: LoraConfig) -> dict[str, Any]:
    """The parameters of the base model that computes what `params` compute with their adapters.

    Each adapted kernel becomes kernel + scale * lora_a @ lora_b, added up in float32 and kept in
    the kernel's dtype; the adapters are gone. Takes and gives NumPy or JAX arrays; any leading axes
    [..., in, rank], so scanned and unrolled layers alike.
    """
    merged: dict[str, Any] = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            merged[name] = merge_adapters(value, lora)
        elif name not in ADAPTER_NAMES:
            merged[name] = value
    if all(name in params for name in ADAPTER_NAMES):
        kernel, a, b = params["kernel"], params["lora_a"], params["lora_b"]
        float32 = np.float32 if isinstance(kernel, np.ndarray) else jnp.float32
        product = a.astype(float32) @ b.astype(float32)
        total = kernel.astype(float32) + lora.scale * product
        merged["kernel"] = total.astype(kernel.dtype)
    return merged
