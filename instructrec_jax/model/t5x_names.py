"""T5 in T5X's names: which array holds which parameter, and in what shape.

Kernels are [in, out] in both. T5X may keep the heads apart, [D, H, K] and [H, K, D], where here
they are joined, [D, H*K] and [H*K, D]; its tables of relative bias are [H, buckets], here
[buckets, H]. Layers are numbered, `encoder/layers_0/...`, or scanned: one array for all layers,
with the L axis second, under `encoder/layers/...` (scalable_t5) or `encoder/encoder/...` (umT5).
"""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

EMBEDDING = "token_embedder/embedding"
HEAD = "decoder/logits_dense/kernel"
# Names of a table of relative bias, within a stack or within a layer.
_BIASES = ("relpos_bias/rel_embedding", "relative_posemb/rel_embedding")


@dataclass(frozen=True)
class Entry:
    """One parameter and the arrays that hold it."""

    path: str  # of the parameter in our tree
    names: tuple[str, ...]  # of the arrays: one a layer, or one of all layers
    axes: str  # of an array: V, D, H, K, F as in layers.py, B for buckets; not L
    stacked: bool  # the parameter has a leading L axis
    scanned: bool = False  # the array has the L axis, second

    def shapes(self, sizes: Mapping[str, int]) -> list[tuple[int, ...]]:
        """The shapes that each array may have; `sizes` are those of the axes, and L."""
        apart = [sizes[axis] for axis in self.axes]
        possible = [apart]
        if "HK" in self.axes:
            place = self.axes.index("H")
            possible.append(
                [*apart[:place], math.prod(apart[place : place + 2]), *apart[place + 2 :]]
            )
        layers = [sizes["L"]] if self.scanned else []
        return [(shape[0], *layers, *shape[1:]) for shape in map(tuple, possible[::-1])]

    def ours(self, array: np.ndarray) -> np.ndarray:
        """An array as the parameter, or as one layer of it."""
        if self.scanned:
            array = np.moveaxis(array, 1, 0)
        if self.axes == "HB":
            return array.swapaxes(-1, -2)
        lead = array.shape[: int(self.scanned)]
        ends = {"DHK": (array.shape[len(lead)], -1), "HKD": (-1, array.shape[-1])}
        return array.reshape(*lead, *ends[self.axes]) if self.axes in ends else array


@dataclass(frozen=True)
class Stack:
    """How a checkpoint lays out its encoder or its decoder."""

    side: str  # "encoder" or "decoder"
    layers: tuple[str, ...]  # what the names of a layer's arrays begin with, each or all layers
    scanned: bool
    bias: str  # name of the relative bias; within a layer where each has its own
    shared_bias: bool

    @property
    def self_attention(self) -> str:
        """T5X's name of it, which differs between encoder and decoder."""
        return "attention" if self.side == "encoder" else "self_attention"

    def first(self, name: str) -> str:
        """The array of the first layer, or of all layers, within which it is called `name`."""
        return self.layers[0] + name


def find_stack(names: Collection[str], side: str) -> Stack | None:
    """The layout of one side of the model; None where it has no layers 0, 1, 2, ..."""
    scanned = True
    for prefix in (f"{side}/layers/", f"{side}/{side}/"):
        if any(name.startswith(prefix) for name in names):
            layers: tuple[str, ...] = (prefix,)
            break
    else:
        pattern = re.compile(rf"{side}/layers_(\d+)/")
        numbers = sorted({int(match[1]) for match in map(pattern.match, names) if match})
        if not numbers or numbers != list(range(len(numbers))):
            return None
        layers, scanned = tuple(f"{side}/layers_{number}/" for number in numbers), False
    for bias in _BIASES:
        if layers[0] + bias in names:
            return Stack(side, layers, scanned, bias, shared_bias=False)
    return Stack(side, layers, scanned, f"{side}/{_BIASES[0]}", shared_bias=True)


def entries(stacks: Collection[Stack], *, gated: bool, tied: bool) -> list[Entry]:
    """The name table: every parameter of a model once."""
    table = [Entry("token_embedder/embedding", (EMBEDDING,), "VD", stacked=False)]
    if not tied:
        table.append(Entry("lm_head/kernel", (HEAD,), "DV", stacked=False))
    for stack in stacks:
        side = stack.side
        norm = f"{side}/{side}_norm/scale"
        table.append(Entry(f"{side}/final_norm/scale", (norm,), "D", stacked=False))
        if stack.shared_bias:
            table.append(
                Entry(f"{side}/relative_bias/embedding", (stack.bias,), "HB", stacked=False)
            )
        for path, name, axes in _layer(stack, gated=gated):
            names = tuple(prefix + name for prefix in stack.layers)
            table.append(Entry(f"{side}/layers/{path}", names, axes, True, stack.scanned))
    return table


def _layer(stack: Stack, *, gated: bool) -> list[tuple[str, str, str]]:
    """Path, name and axes of each parameter of one layer."""
    attentions = [("self_attention", stack.self_attention)]
    if stack.side == "decoder":
        attentions.append(("cross_attention", "encoder_decoder_attention"))
    rows = [] if stack.shared_bias else [("relative_bias/embedding", stack.bias, "HB")]
    for ours, theirs in attentions:
        norm = "pre_cross_attention" if ours == "cross_attention" else f"pre_{theirs}"
        rows.append((f"{ours}_norm/scale", f"{norm}_layer_norm/scale", "D"))
        for kernel, axes in (("query", "DHK"), ("key", "DHK"), ("value", "DHK"), ("out", "HKD")):
            rows.append((f"{ours}/{kernel}/kernel", f"{theirs}/{kernel}/kernel", axes))
    rows.append(("feed_forward_norm/scale", "pre_mlp_layer_norm/scale", "D"))
    ups = [("gate", "wi_0"), ("up", "wi_1")] if gated else [("up", "wi")]
    rows += [(f"feed_forward/{ours}/kernel", f"mlp/{theirs}/kernel", "DF") for ours, theirs in ups]
    rows.append(("feed_forward/down/kernel", "mlp/wo/kernel", "FD"))
    return rows
