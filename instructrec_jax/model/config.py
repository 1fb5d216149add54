"""Model configuration: one frozen dataclass, and architectures by name."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from instructrec_jax.errors import ConfigError, nearest
from instructrec_jax.model.attention import ATTENTION_BACKENDS
from instructrec_jax.model.families import ARCHITECTURES
from instructrec_jax.model.layers import ACTIVATIONS, REMAT_POLICIES
from instructrec_jax.model.lora import LoraConfig, projection_paths

ACTIVATION_DTYPES = ("bfloat16", "float32")


# Fields that say how a model is computed, not what it is: a checkpoint serves any of their values.
COMPUTED_FIELDS = ("dropout_rate", "activation_dtype", "remat", "scan_unroll", "attention")


@dataclass(frozen=True)
class T5Config:
    """Everything that decides the parameter shapes of a T5 and how it is computed.

    The defaults are T5 1.1's. Hashable, so it can be a static argument of `jax.jit`. Invalid values
    raise ValueError.
    """

    vocabulary_size: int  # rows of the embedding: the tokenizer's size, rounded up
    d_model: int
    head_size: int
    num_heads: int
    d_ff: int
    num_encoder_layers: int
    num_decoder_layers: int
    relative_attention_buckets: int = 32  # at least 4
    relative_attention_max_distance: int = 128  # tokens; beyond it all distances share a bucket
    shared_relative_bias: bool = True  # one bias table a stack; False: one a layer (umT5)
    gated_feed_forward: bool = True  # activation(x gate) * (x up); False: activation(x up) (T5 1.0)
    activation: str = "gelu"  # of the feed-forward layer: a name in layers.ACTIVATIONS
    tied_embeddings: bool = False  # the head is the embedding, transposed
    # Whether the decoder's states are scaled by d_model^-0.5 before the head. None: as
    # `tied_embeddings`, as in T5 itself; becomes that bool.
    scale_decoder_output: bool | None = None
    layer_norm_epsilon: float = 1e-6
    dropout_rate: float = 0.0
    activation_dtype: str = "bfloat16"
    remat: str = "none"  # a name in layers.REMAT_POLICIES
    # Layers in one turn of the loop over layers. All of them at once saves copies, a fifth of the
    # time of a small model on a CPU; the compiled program grows with it.
    scan_unroll: int = 1
    attention: str = "einsum"  # a name in attention.ATTENTION_BACKENDS
    lora: LoraConfig | None = None  # adapters beside the kernels of projections

    def __post_init__(self) -> None:
        if self.scale_decoder_output is None:
            object.__setattr__(self, "scale_decoder_output", self.tied_embeddings)
        for name in _POSITIVE_FIELDS:
            if getattr(self, name) < 1:
                raise ValueError(f"model {name} must be at least 1, not {getattr(self, name)}")
        if self.relative_attention_buckets < 4:
            raise ValueError(
                "model relative_attention_buckets must be at least 4 (two directions, each with "
                f"near and far), not {self.relative_attention_buckets}"
            )
        if self.relative_attention_max_distance <= self.relative_attention_buckets // 2:
            raise ValueError(
                "model relative_attention_max_distance must exceed half of the "
                f"{self.relative_attention_buckets} buckets, "
                f"not {self.relative_attention_max_distance}"
            )
        if not 0.0 < self.layer_norm_epsilon < 1.0:
            raise ValueError(
                f"model layer_norm_epsilon must lie in (0, 1), not {self.layer_norm_epsilon}"
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
        if self.lora is not None and not self.adapted_projections():
            paths = projection_paths(gated_feed_forward=self.gated_feed_forward)
            raise ValueError(
                f"lora targets '{self.lora.targets}' match no projection of the model "
                f"(known: {', '.join(paths)})"
            )

    @property
    def has_dropout(self) -> bool:
        """Whether training draws any dropout."""
        return self.dropout_rate > 0 or (self.lora is not None and self.lora.dropout > 0)

    def adapted_projections(self) -> tuple[str, ...]:
        """Paths of the projections that have adapters, "encoder/layers/self_attention/query"."""
        known = projection_paths(gated_feed_forward=self.gated_feed_forward)
        lora = self.lora
        return () if lora is None else tuple(path for path in known if lora.adapts(path))

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "T5Config":
        """The inverse of `to_dict`; unknown or missing fields raise ValueError.

        `lora` may be a `LoraConfig`, a mapping of its fields, or None.
        """
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
        lora = fields.get("lora")
        if isinstance(lora, Mapping):
            try:
                lora = LoraConfig(**lora)
            except TypeError as error:
                raise ValueError(f"the model config's lora: {error}") from error
        return cls(**{**fields, "lora": lora})


_POSITIVE_FIELDS = (
    "vocabulary_size",
    "d_model",
    "head_size",
    "num_heads",
    "d_ff",
    "num_encoder_layers",
    "num_decoder_layers",
    "scan_unroll",
)


def t5_config(name: str, *, vocabulary_size: int, **overrides: Any) -> T5Config:
    """The configuration of an architecture by name, with any field of `T5Config` overridden.

    `vocabulary_size` is the model's; see `padded_vocabulary_size`. ConfigError: unknown name or
    field, or an invalid value.
    """
    if name not in ARCHITECTURES:
        raise ConfigError(unknown_name("model name", name, ARCHITECTURES))
    fields = {**ARCHITECTURES[name].fields, **overrides}
    try:
        return T5Config.from_dict({"vocabulary_size": vocabulary_size, **fields})
    except ValueError as error:
        raise ConfigError(str(error)) from error


def padded_vocabulary_size(tokenizer_size: int) -> int:
    """The next multiple of 128, as T5's 32,100 tokens live in 32,128 rows: divides over devices."""
    return -(-tokenizer_size // 128) * 128


def unknown_name(kind: str, name: object, known: Iterable[str]) -> str:
    """An error line: what is unknown, the nearest known name, all known names."""
    names = list(known)
    return f"unknown {kind} '{name}'{nearest(str(name), names)} (known: {', '.join(names)})"
