"""Model configuration: one frozen dataclass, and the table of known sizes."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from instructrec_jax.errors import ConfigError, nearest
from instructrec_jax.model.attention import ATTENTION_BACKENDS
from instructrec_jax.model.layers import ACTIVATIONS, REMAT_POLICIES

ACTIVATION_DTYPES = ("bfloat16", "float32")


# Fields that say how a model is computed, not what it is: a checkpoint serves any of their values.
COMPUTED_FIELDS = ("dropout_rate", "activation_dtype", "remat", "scan_unroll", "attention")


@dataclass(frozen=True)
class T5Config:
    """Everything that decides the parameter shapes of a T5 and how it is computed.

    Hashable, so it can be a static argument of `jax.jit`. Invalid values raise ValueError.
    """

    vocabulary_size: int  # rows of the embedding: the tokenizer's size, rounded up
    d_model: int
    head_size: int
    num_heads: int
    d_ff: int
    num_encoder_layers: int
    num_decoder_layers: int
    relative_attention_buckets: int = 32
    relative_attention_max_distance: int = 128  # tokens; beyond it all distances share a bucket
    activation: str = "gelu"  # of the gated feed-forward layer: a name in layers.ACTIVATIONS
    tied_embeddings: bool = False  # the head is the embedding, and its input scaled by d_model^-0.5
    layer_norm_epsilon: float = 1e-6
    dropout_rate: float = 0.0
    activation_dtype: str = "bfloat16"
    remat: str = "none"  # a name in layers.REMAT_POLICIES
    # Layers in one turn of the loop over layers. All of them at once saves copies, a fifth of the
    # time of a small model on a CPU; the compiled program grows with it.
    scan_unroll: int = 1
    attention: str = "einsum"  # a name in attention.ATTENTION_BACKENDS

    def __post_init__(self) -> None:
        for name in _POSITIVE_FIELDS:
            if getattr(self, name) < 1:
                raise ValueError(f"model {name} must be at least 1, not {getattr(self, name)}")
        if self.relative_attention_buckets % 4:
            raise ValueError(
                "model relative_attention_buckets must be a multiple of 4 (two directions, half "
                f"of each exact), not {self.relative_attention_buckets}"
            )
        if self.relative_attention_max_distance <= self.relative_attention_buckets // 2:
            raise ValueError(
                "model relative_attention_max_distance must exceed half of the "
                f"{self.relative_attention_buckets} buckets, "
                f"not {self.relative_attention_max_distance}"
            )
        if not 0.0 <= self.dropout_rate < 1.0:
            raise ValueError(f"model dropout_rate must lie in [0, 1), not {self.dropout_rate}")
        for name, known in (
            ("activation", ACTIVATIONS),
            ("activation_dtype", ACTIVATION_DTYPES),
            ("remat", REMAT_POLICIES),
            ("attention", ATTENTION_BACKENDS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(unknown_name(f"model {name}", getattr(self, name), known))

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "T5Config":
        """The inverse of `to_dict`; unknown or missing fields raise ValueError."""
        known = {field.name: field for field in dataclasses.fields(cls)}
        for name in fields:
            if name not in known:
                raise ValueError(unknown_name("field of the model config", name, known))
        missing = [
            name
            for name, field in known.items()
            if name not in fields and field.default is dataclasses.MISSING
        ]
        if missing:
            raise ValueError(f"the model config lacks {', '.join(missing)}")
        return cls(**fields)


_POSITIVE_FIELDS = (
    "vocabulary_size",
    "d_model",
    "head_size",
    "num_heads",
    "d_ff",
    "num_encoder_layers",
    "num_decoder_layers",
    "relative_attention_buckets",
    "scan_unroll",
)


def _t5_1_1(
    *, d_model: int, head_size: int, num_heads: int, d_ff: int, num_layers: int
) -> dict[str, Any]:
    return {
        "d_model": d_model,
        "head_size": head_size,
        "num_heads": num_heads,
        "d_ff": d_ff,
        "num_encoder_layers": num_layers,
        "num_decoder_layers": num_layers,
    }


# One line a size. T5 1.1: Raffel et al. 2020 (arXiv 1910.10683), the released 1.1 checkpoints.
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        **_t5_1_1(d_model=256, head_size=64, num_heads=4, d_ff=512, num_layers=2),
        "scan_unroll": 2,
    },
    "t5_1_1_small": _t5_1_1(d_model=512, head_size=64, num_heads=6, d_ff=1024, num_layers=8),
    "t5_1_1_base": _t5_1_1(d_model=768, head_size=64, num_heads=12, d_ff=2048, num_layers=12),
    "t5_1_1_large": _t5_1_1(d_model=1024, head_size=64, num_heads=16, d_ff=2816, num_layers=24),
    "t5_1_1_xl": _t5_1_1(d_model=2048, head_size=64, num_heads=32, d_ff=5120, num_layers=24),
    "t5_1_1_xxl": _t5_1_1(d_model=4096, head_size=64, num_heads=64, d_ff=10240, num_layers=24),
}


def t5_config(name: str, *, vocabulary_size: int, **overrides: Any) -> T5Config:
    """The configuration of a size in `SIZES`, with any field of `T5Config` overridden.

    `vocabulary_size` is the model's; see `padded_vocabulary_size`. ConfigError: unknown size or
    field, or an invalid value.
    """
    if name not in SIZES:
        raise ConfigError(unknown_name("model name", name, SIZES))
    try:
        return T5Config.from_dict({"vocabulary_size": vocabulary_size, **SIZES[name], **overrides})
    except ValueError as error:
        raise ConfigError(str(error)) from error


def padded_vocabulary_size(tokenizer_size: int) -> int:
    """The next multiple of 128, as T5's 32,100 tokens live in 32,128 rows: divides over devices."""
    return -(-tokenizer_size // 128) * 128


def unknown_name(kind: str, name: object, known: Iterable[str]) -> str:
    """An error line: what is unknown, the nearest known name, all known names."""
    names = list(known)
    return f"unknown {kind} '{name}'{nearest(str(name), names)} (known: {', '.join(names)})"
