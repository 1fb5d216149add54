"""The T5 family by name: one line an architecture, and the conventions of its vocabulary.

Shapes are those of the released checkpoints. Every field that a line leaves out has the default of
`T5Config`, which is T5 1.1's.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Vocabulary:
    """What the released checkpoints of a family know of their tokens. pad is 0, eos 1."""

    kind: str  # of the tokenizer: "sentencepiece" or "bytes"
    tokens: int  # ids that the tokenizer gives, the sentinels included
    rows: int  # of the embedding: tokens rounded up for the devices it was trained on
    sentinels: int  # <extra_id_0> ...


ENGLISH = Vocabulary(kind="sentencepiece", tokens=32_100, rows=32_128, sentinels=100)
MT5 = Vocabulary(kind="sentencepiece", tokens=250_100, rows=250_112, sentinels=100)
UMT5 = Vocabulary(kind="sentencepiece", tokens=256_300, rows=256_384, sentinels=300)
BYTES = Vocabulary(kind="bytes", tokens=384, rows=384, sentinels=125)


@dataclass(frozen=True)
class Architecture:
    """A line of the table."""

    vocabulary: Vocabulary
    fields: dict[str, Any]  # of T5Config

    @property
    def parameter_count(self) -> int:
        """Numbers in the parameters with all rows of the vocabulary; by arithmetic, without JAX."""
        fields, buckets = self.fields, 32
        d_model, heads = fields["d_model"], fields["num_heads"]
        attention = 4 * d_model * heads * fields["head_size"] + d_model
        matrices = 3 if fields.get("gated_feed_forward", True) else 2
        feed_forward = matrices * d_model * fields["d_ff"] + d_model
        encoder, decoder = fields["num_encoder_layers"], fields["num_decoder_layers"]
        tables = 1 if fields.get("tied_embeddings") else 2
        biases = 2 if fields.get("shared_relative_bias", True) else encoder + decoder
        return (
            tables * self.vocabulary.rows * d_model
            + biases * buckets * heads
            + encoder * (attention + feed_forward)
            + decoder * (2 * attention + feed_forward)
            + 2 * d_model
        )


def _model(
    vocabulary: Vocabulary,
    layers: int | tuple[int, int],
    d_model: int,
    num_heads: int,
    d_ff: int,
    *,
    head_size: int = 64,
    **others: Any,
) -> Architecture:
    """`layers` of the encoder and of the decoder, or one number for both."""
    encoder, decoder = (layers, layers) if isinstance(layers, int) else layers
    return Architecture(
        vocabulary,
        {
            "d_model": d_model,
            "head_size": head_size,
            "num_heads": num_heads,
            "d_ff": d_ff,
            "num_encoder_layers": encoder,
            "num_decoder_layers": decoder,
            **others,
        },
    )


# The head is the embedding, its input scaled.
_TIED: dict[str, Any] = {"tied_embeddings": True, "scale_decoder_output": True}
_T5_1_0: dict[str, Any] = {"gated_feed_forward": False, "activation": "relu", **_TIED}
_UL2: dict[str, Any] = {"head_size": 256, "activation": "silu", **_TIED}
_PER_LAYER_BIAS: dict[str, Any] = {"shared_relative_bias": False}

# Columns: vocabulary, layers, d_model, heads, d_ff.
ARCHITECTURES: dict[str, Architecture] = {
    # For tests and first steps; never released.
    "tiny": _model(ENGLISH, 2, 256, 4, 512, scan_unroll=2),
    # T5 1.0: arXiv 1910.10683.
    "t5_small": _model(ENGLISH, 6, 512, 8, 2048, **_T5_1_0),
    "t5_base": _model(ENGLISH, 12, 768, 12, 3072, **_T5_1_0),
    "t5_large": _model(ENGLISH, 24, 1024, 16, 4096, **_T5_1_0),
    "t5_3b": _model(ENGLISH, 24, 1024, 32, 16384, head_size=128, **_T5_1_0),
    "t5_11b": _model(ENGLISH, 24, 1024, 128, 65536, head_size=128, **_T5_1_0),
    # T5 1.1: arXiv 2002.05202 and the released checkpoints.
    "t5_1_1_small": _model(ENGLISH, 8, 512, 6, 1024),
    "t5_1_1_base": _model(ENGLISH, 12, 768, 12, 2048),
    "t5_1_1_large": _model(ENGLISH, 24, 1024, 16, 2816),
    "t5_1_1_xl": _model(ENGLISH, 24, 2048, 32, 5120),
    "t5_1_1_xxl": _model(ENGLISH, 24, 4096, 64, 10240),
    # LM-adapted T5 1.1: arXiv 2104.08691.
    "t5_lm_adapted_small": _model(ENGLISH, 8, 512, 6, 1024),
    "t5_lm_adapted_base": _model(ENGLISH, 12, 768, 12, 2048),
    "t5_lm_adapted_large": _model(ENGLISH, 24, 1024, 16, 2816),
    "t5_lm_adapted_xl": _model(ENGLISH, 24, 2048, 32, 5120),
    "t5_lm_adapted_xxl": _model(ENGLISH, 24, 4096, 64, 10240),
    # Flan-T5: arXiv 2210.11416.
    "flan_t5_small": _model(ENGLISH, 8, 512, 6, 1024),
    "flan_t5_base": _model(ENGLISH, 12, 768, 12, 2048),
    "flan_t5_large": _model(ENGLISH, 24, 1024, 16, 2816),
    "flan_t5_xl": _model(ENGLISH, 24, 2048, 32, 5120),
    "flan_t5_xxl": _model(ENGLISH, 24, 4096, 64, 10240),
    # mT5: arXiv 2010.11934.
    "mt5_small": _model(MT5, 8, 512, 6, 1024),
    "mt5_base": _model(MT5, 12, 768, 12, 2048),
    "mt5_large": _model(MT5, 24, 1024, 16, 2816),
    "mt5_xl": _model(MT5, 24, 2048, 32, 5120),
    "mt5_xxl": _model(MT5, 24, 4096, 64, 10240),
    # ByT5: arXiv 2105.13626. The encoder is three times as deep as the decoder.
    "byt5_small": _model(BYTES, (12, 4), 1472, 6, 3584),
    "byt5_base": _model(BYTES, (18, 6), 1536, 12, 3968),
    "byt5_large": _model(BYTES, (36, 12), 1536, 16, 3840),
    "byt5_xl": _model(BYTES, (36, 12), 2560, 32, 6720),
    "byt5_xxl": _model(BYTES, (36, 12), 4672, 64, 12352),
    # UL2: arXiv 2205.05131. Flan-UL2 is the same model trained further.
    "ul2": _model(ENGLISH, 32, 4096, 16, 16384, **_UL2),
    "flan_ul2": _model(ENGLISH, 32, 4096, 16, 16384, **_UL2),
    # umT5: arXiv 2304.09151. Every layer has a relative bias of its own.
    "umt5_small": _model(UMT5, 8, 512, 6, 1024, **_PER_LAYER_BIAS),
    "umt5_base": _model(UMT5, 12, 768, 12, 2048, **_PER_LAYER_BIAS),
    "umt5_xl": _model(UMT5, 24, 2048, 32, 5120, **_PER_LAYER_BIAS),
    "umt5_xxl": _model(UMT5, 24, 4096, 64, 10240, **_PER_LAYER_BIAS),
}
