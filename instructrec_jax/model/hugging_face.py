"""The T5 family in Hugging Face's names: which tensor holds which parameter.

Kernels are matrices [in, out] here and [out, in] there, both with the heads joined. Here the
parameters of all layers are stacked on a leading L axis; there every layer has tensors of its own.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from instructrec_jax.model.config import T5Config

EMBEDDING = "shared.weight"
HEAD = "lm_head.weight"
# Names under which a folder may hold the embedding, once or several times.
EMBEDDING_NAMES = (EMBEDDING, "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
# Old folders hold it; no version of T5 reads it.
UNUSED_NAMES = ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)

_BIAS = "0.SelfAttention.relative_attention_bias.weight"


@dataclass(frozen=True)
class Entry:
    """One parameter and the tensors that hold it."""

    path: tuple[str, ...]  # of the parameter in our tree
    names: tuple[str, ...]  # of the tensors: one a layer, or a single one
    shape: tuple[int, ...]  # of each tensor
    transposed: bool  # [out, in] there, [in, out] here
    stacked: bool  # the parameter has a leading L axis

    @property
    def name(self) -> str:
        """`encoder/layers/self_attention/query/kernel`."""
        return "/".join(self.path)

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """The shape of the parameter."""
        shape = self.shape[::-1] if self.transposed else self.shape
        return (len(self.names), *shape) if self.stacked else shape

    def place(self, number: int) -> str:
        """Where tensor `number` is in our tree: the path, and its layer."""
        return f"{self.name}[{number}]" if self.stacked else self.name

    def parameter(self, read: Callable[[str], np.ndarray], dtype: np.dtype) -> np.ndarray:
        """The parameter from its tensors, of which one is held at a time."""
        parameter = np.empty((len(self.names), *self.parameter_shape[self.stacked :]), dtype)
        for number, name in enumerate(self.names):
            tensor = read(name)
            parameter[number] = tensor.T if self.transposed else tensor
        return parameter if self.stacked else parameter[0]

    def tensors(self, parameter: np.ndarray) -> Iterator[np.ndarray]:
        """The tensors that hold the parameter, in the order of `names`."""
        for layer in parameter if self.stacked else [parameter]:
            yield np.ascontiguousarray(layer.T if self.transposed else layer)


def entries(config: T5Config) -> list[Entry]:
    """The name table: every parameter of a model without adapters once."""
    vocabulary = (config.vocabulary_size, config.d_model)
    table = [_single(("token_embedder", "embedding"), EMBEDDING, vocabulary)]
    if not config.tied_embeddings:
        table.append(_single(("lm_head", "kernel"), HEAD, vocabulary, transposed=True))
    return [*table, *_stack(config, "encoder"), *_stack(config, "decoder")]


def _single(
    path: tuple[str, ...], name: str, shape: tuple[int, ...], *, transposed: bool = False
) -> Entry:
    return Entry(path, (name,), shape, transposed, stacked=False)


def _stack(config: T5Config, side: str) -> list[Entry]:
    """The entries of the encoder or of the decoder."""
    is_decoder = side == "decoder"
    depth = config.num_decoder_layers if is_decoder else config.num_encoder_layers
    norm = f"{side}.final_layer_norm.weight"
    table = [_single((side, "final_norm", "scale"), norm, (config.d_model,))]
    bias = ("relative_bias", "embedding")
    buckets = (config.relative_attention_buckets, config.num_heads)
    rows = _layer(config, is_decoder=is_decoder)
    if config.shared_relative_bias:
        table.append(_single((side, *bias), f"{side}.block.0.layer.{_BIAS}", buckets))
    else:
        rows.append((bias, _BIAS, buckets))
    for path, name, shape in rows:
        names = tuple(f"{side}.block.{number}.layer.{name}" for number in range(depth))
        transposed = path[-1] == "kernel"
        table.append(Entry((side, "layers", *path), names, shape, transposed, stacked=True))
    return table


def _layer(
    config: T5Config, *, is_decoder: bool
) -> list[tuple[tuple[str, ...], str, tuple[int, ...]]]:
    """Path, name and the tensor's shape of each parameter of one layer."""
    d_model, d_ff = config.d_model, config.d_ff
    heads = config.num_heads * config.head_size
    parts = [("self_attention", "SelfAttention"), ("cross_attention", "EncDecAttention")]
    parts = parts[: 1 + is_decoder]
    rows: list[tuple[tuple[str, ...], str, tuple[int, ...]]] = []
    for place, (ours, theirs) in enumerate(parts):
        for kernel, letter in (("query", "q"), ("key", "k"), ("value", "v")):
            name = f"{place}.{theirs}.{letter}.weight"
            rows.append(((ours, kernel, "kernel"), name, (heads, d_model)))
        rows.append(((ours, "out", "kernel"), f"{place}.{theirs}.o.weight", (d_model, heads)))
        rows.append(((f"{ours}_norm", "scale"), f"{place}.layer_norm.weight", (d_model,)))
    last = len(parts)
    into = (("gate", "wi_0"), ("up", "wi_1")) if config.gated_feed_forward else (("up", "wi"),)
    for kernel, name in (*into, ("down", "wo")):
        shape = (d_model, d_ff) if kernel == "down" else (d_ff, d_model)
        path = ("feed_forward", kernel, "kernel")
        rows.append((path, f"{last}.DenseReluDense.{name}.weight", shape))
    rows.append((("feed_forward_norm", "scale"), f"{last}.layer_norm.weight", (d_model,)))
    return rows
