"""T5 1.1 in Hugging Face's names: which tensor holds which parameter, and config.json.

Kernels are matrices [in, out] here and [out, in] there, both with the heads joined. Here the
parameters of all layers are stacked on a leading L axis; there every layer has tensors of its own.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from instructrec_jax.data.tokenizer import EOS_ID, PAD_ID
from instructrec_jax.errors import CheckpointError
from instructrec_jax.model.config import T5Config

EMBEDDING = "shared.weight"
HEAD = "lm_head.weight"
# Names under which a folder may hold the embedding, once or several times.
EMBEDDING_NAMES = (EMBEDDING, "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
# Old folders hold it; no version of T5 reads it.
UNUSED_NAMES = ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)

_FEED_FORWARDS = {"gated-gelu": "gelu", "gated-silu": "silu"}
# Ours and theirs; the numbers that a config.json must state, and those with a default.
_SIZE_FIELDS = {
    "d_model": "d_model",
    "head_size": "d_kv",
    "num_heads": "num_heads",
    "d_ff": "d_ff",
    "num_encoder_layers": "num_layers",
}
_OPTIONAL_FIELDS: dict[str, tuple[str, int | float]] = {
    "relative_attention_buckets": ("relative_attention_num_buckets", 32),
    "relative_attention_max_distance": ("relative_attention_max_distance", 128),
    "layer_norm_epsilon": ("layer_norm_epsilon", 1e-6),
    "dropout_rate": ("dropout_rate", 0.1),
}


@dataclass(frozen=True)
class Entry:
    """One parameter and the tensors that hold it."""

    path: tuple[str, ...]  # of the parameter in our tree
    names: tuple[str, ...]  # of the tensors: one a layer, or a single one
    shape: tuple[int, ...]  # of each tensor
    transposed: bool  # [out, in] there, [in, out] here
    stacked: bool  # the parameter has a leading L axis

    def ours(self, tensor: np.ndarray) -> np.ndarray:
        """A tensor as the parameter, or as one layer of it."""
        return tensor.T if self.transposed else tensor

    def theirs(self, parameter: np.ndarray) -> list[np.ndarray]:
        """The tensors that hold the parameter, in the order of `names`."""
        layers = parameter if self.stacked else [parameter]
        return [np.ascontiguousarray(layer.T if self.transposed else layer) for layer in layers]


def entries(config: T5Config) -> list[Entry]:
    """The name table: every parameter of a model once."""
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
    table = [
        _single(
            (side, "relative_bias", "embedding"),
            f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            (config.relative_attention_buckets, config.num_heads),
        ),
        _single(
            (side, "final_norm", "scale"), f"{side}.final_layer_norm.weight", (config.d_model,)
        ),
    ]
    for path, name, shape in _layer(config, is_decoder=is_decoder):
        names = tuple(f"{side}.block.{number}.layer.{name}" for number in range(depth))
        table.append(Entry((side, "layers", *path), names, shape, len(shape) == 2, stacked=True))
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
    for kernel, name, shape in (
        ("gate", "wi_0", (d_ff, d_model)),
        ("up", "wi_1", (d_ff, d_model)),
        ("down", "wo", (d_model, d_ff)),
    ):
        path = ("feed_forward", kernel, "kernel")
        rows.append((path, f"{last}.DenseReluDense.{name}.weight", shape))
    rows.append((("feed_forward_norm", "scale"), f"{last}.layer_norm.weight", (d_model,)))
    return rows


def parameters_from_tensors(
    table: Iterable[Entry], read: Callable[[str], np.ndarray]
) -> dict[str, Any]:
    """The float32 parameter tree; one tensor is held at a time beside it.

    Args:
      table: of `entries`.
      read: gives the tensor of a name, of the table's shape.
    """
    params: dict[str, Any] = {}
    for entry in table:
        shape = entry.shape[::-1] if entry.transposed else entry.shape
        parameter = np.empty((len(entry.names), *shape), np.float32)
        for number, name in enumerate(entry.names):
            parameter[number] = entry.ours(read(name))
        module = params
        for part in entry.path[:-1]:
            module = module.setdefault(part, {})
        module[entry.path[-1]] = parameter if entry.stacked else parameter[0]
    return params


def tensors_from_parameters(config: T5Config, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Every tensor of a Hugging Face folder by name, float32."""
    tensors: dict[str, np.ndarray] = {}
    for entry in entries(config):
        parameter: Any = params
        for part in entry.path:
            parameter = parameter[part]
        tensors |= zip(entry.names, entry.theirs(np.asarray(parameter)), strict=True)
    return tensors


def config_from_json(
    fields: Mapping[str, Any], *, vocabulary_size: int, tied: bool, activation_dtype: str
) -> T5Config:
    """The config of a config.json that `check_architecture` lets pass.

    Args:
      fields: the file's.
      vocabulary_size: rows of the embedding; config.json may say otherwise.
      tied: the head is the embedding; transformers 5 writes tie_word_embeddings for any model.
      activation_dtype: see `T5Config`.

    Raises:
      CheckpointError: a size is missing or impossible.
    """
    values: dict[str, Any] = {ours: fields.get(theirs) for ours, theirs in _SIZE_FIELDS.items()}
    decoder_layers = fields.get("num_decoder_layers")
    values["num_decoder_layers"] = (
        values["num_encoder_layers"] if decoder_layers is None else decoder_layers
    )
    for ours, value in values.items():
        if type(value) is not int:
            name = _SIZE_FIELDS.get(ours, ours)
            raise CheckpointError(f"config.json: {name} must be a whole number, not {value!r}")
    for ours, (theirs, default) in _OPTIONAL_FIELDS.items():
        values[ours] = fields.get(theirs, default)
        if type(values[ours]) not in (int, type(default)):
            raise CheckpointError(f"config.json: {theirs} is {values[ours]!r}")
    try:
        return T5Config(
            **values,
            vocabulary_size=vocabulary_size,
            activation=_FEED_FORWARDS[fields["feed_forward_proj"]],
            tied_embeddings=tied,
            activation_dtype=activation_dtype,
        )
    except ValueError as error:
        raise CheckpointError(f"config.json: {error}") from None


def check_architecture(fields: Mapping[str, Any]) -> None:
    """Refuses what is not a T5 1.1.

    Raises:
      CheckpointError: saying what is supported.
    """
    found = fields.get("model_type")
    if found != "t5":
        raise CheckpointError(f'config.json: model_type {found!r} is not supported, "t5" alone is')
    found = fields.get("feed_forward_proj", "relu")
    if not isinstance(found, str) or found not in _FEED_FORWARDS:
        raise CheckpointError(
            f"config.json: feed_forward_proj {found!r} is not supported (T5 1.0 is not): "
            f"{' and '.join(_FEED_FORWARDS)} are"
        )


def scales_decoder_output(fields: Mapping[str, Any]) -> bool:
    """Whether the head's input is scaled by d_model^-0.5.

    transformers up to 4 scales where the head is tied; 5 ties any T5 and keeps what was asked for
    under `scale_decoder_outputs`.
    """
    return bool(fields.get("scale_decoder_outputs", fields.get("tie_word_embeddings", True)))


def config_to_json(config: T5Config) -> dict[str, Any]:
    """The fields of config.json for transformers 4 and 5."""
    feed_forward = {ours: theirs for theirs, ours in _FEED_FORWARDS.items()}[config.activation]
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "is_encoder_decoder": True,
        "vocab_size": config.vocabulary_size,
        **{theirs: getattr(config, ours) for ours, theirs in _SIZE_FIELDS.items()},
        "num_decoder_layers": config.num_decoder_layers,
        **{theirs: getattr(config, ours) for ours, (theirs, _) in _OPTIONAL_FIELDS.items()},
        "feed_forward_proj": feed_forward,
        "tie_word_embeddings": config.tied_embeddings,
        "pad_token_id": PAD_ID,
        "eos_token_id": EOS_ID,
        "decoder_start_token_id": PAD_ID,
        "dtype": "float32",
        "torch_dtype": "float32",
    }
