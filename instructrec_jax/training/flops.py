"""Floating point operations of a train step, and what a device can do at most.

Counted are the matrix products of a packed batch, padding included, at two operations a
multiply-add, forward and backward; what rematerialisation computes again is not. With the letters
of model/layers.py, B rows of S encoder and T decoder places, a product costs forward

    encoder projections and feed-forward     2 B S x (numbers in the matrix), each layer
    decoder projections and feed-forward     2 B T x (numbers in the matrix), each layer
    keys and values of cross-attention       2 B S x (numbers in the matrix), each layer
    head                                     2 B T D V
    encoder attention, decoder attention     4 B S S H K and 4 B T T H K, each layer
    cross-attention                          4 B T S H K, each decoder layer

(causal attention is computed whole, so it counts whole; a looked-up embedding costs nothing) and
backward the same again for the gradient of what it multiplies and, where the matrix is trained,
once more for the matrix's. Nothing is computed backward below the lowest trained parameter.

Model-FLOP use, MFU (Chowdhery et al. 2022, arXiv 2204.02311, appendix B), is these operations a
second divided by the peak of all devices.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax

from instructrec_jax.model.config import T5Config
from instructrec_jax.training.sharding import path_name

# (how the device's kind begins, dense bfloat16 FLOP/s). Makers' data sheets; NVIDIA's figures "with
# sparsity" are halved. Cloud TPU's are those of its system architecture pages, a chip; v2 and v3
# show one device for each of the two cores of a chip.
PEAKS: tuple[tuple[str, float], ...] = (
    ("NVIDIA B200", 2250e12),
    ("NVIDIA GB200", 2500e12),
    ("NVIDIA H200", 989e12),
    ("NVIDIA GH200", 989e12),
    ("NVIDIA H100 PCIe", 756e12),
    ("NVIDIA H100 NVL", 835e12),
    ("NVIDIA H100", 989e12),
    ("NVIDIA A100", 312e12),
    ("NVIDIA A10G", 70e12),
    ("NVIDIA A10", 125e12),
    ("NVIDIA A30", 165e12),
    ("NVIDIA L40S", 362e12),
    ("NVIDIA L40", 181e12),
    ("NVIDIA L4", 121e12),
    ("NVIDIA RTX A6000", 155e12),
    ("NVIDIA GeForce RTX 3090", 71e12),
    ("NVIDIA GeForce RTX 4090", 165e12),
    ("TPU v2", 22.5e12),
    ("TPU v3", 61.5e12),
    ("TPU v4", 275e12),
    ("TPU v5 lite", 197e12),
    ("TPU v5e", 197e12),
    ("TPU v5", 459e12),
    ("TPU v6", 918e12),
    ("TPU7x", 1153e12),
)


def peak_flops(device_kind: str) -> float | None:
    """Dense bfloat16 FLOP/s of a device by `jax.Device.device_kind`; None for an unknown one."""
    return next((peak for kind, peak in PEAKS if device_kind.startswith(kind)), None)


def step_flops(
    config: T5Config,
    *,
    rows: int,
    encoder_length: int,
    decoder_length: int,
    trained: Mapping[str, Any],
    frozen: Mapping[str, Any],
) -> float:
    """Operations of a train step by the formula above.

    Args:
      config: the model's.
      rows: rows of the global batch, all micro-batches together.
      encoder_length, decoder_length: places of a row.
      trained, frozen: the model's parameters, nested dicts of arrays or ShapeDtypeStructs.
    """
    backward = _stacks_with_backward(trained)
    places = {"encoder": rows * encoder_length, "decoder": rows * decoder_length}
    total = 0.0
    for tree, is_trained in ((trained, True), (frozen, False)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            name = path_name(path)
            source = _source(name, config)
            if source is None:
                continue
            forward = 2.0 * places[_places_of(name)] * math.prod(leaf.shape)
            total += forward * (1 + (source in backward) + is_trained)
    total += _attention_flops(config, rows, encoder_length, decoder_length, backward)
    return total


def _stacks_with_backward(trained: Mapping[str, Any]) -> frozenset[str]:
    """The stacks through which gradients of activations flow."""
    encoder = ("encoder", "token_embedder")
    below = {"encoder": encoder, "decoder": (*encoder, "decoder")}
    return frozenset(
        stack
        for stack, parts in below.items()
        if any(jax.tree.leaves(trained.get(part, {})) for part in parts)
    )


def _source(name: str, config: T5Config) -> str | None:
    """The stack whose states a matrix multiplies; None for what is no matrix product."""
    if name.startswith("token_embedder/"):
        return "decoder" if config.tied_embeddings else None
    if name.endswith("/scale") or "/relative_bias/" in name:
        return None
    if name.startswith("lm_head/"):
        return "decoder"
    return _places_of(name)


def _places_of(name: str) -> str:
    """The side whose places a matrix is applied to."""
    if "/cross_attention/key/" in name or "/cross_attention/value/" in name:
        return "encoder"
    return "encoder" if name.startswith("encoder/") else "decoder"


def _attention_flops(
    config: T5Config, rows: int, source: int, target: int, backward: frozenset[str]
) -> float:
    """Scores and weighted sums of all layers: two products, each with two operands."""
    joined = config.num_heads * config.head_size
    each = 4.0 * rows * joined
    encoder = each * source * source * config.num_encoder_layers
    decoder = each * target * (target + source) * config.num_decoder_layers
    return encoder * (3 if "encoder" in backward else 1) + decoder * (
        3 if "decoder" in backward else 1
    )
