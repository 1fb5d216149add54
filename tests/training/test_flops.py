"""The FLOPs formula against hand and against XLA's own count."""

import jax
import jax.numpy as jnp
import pytest

from instructrec_jax.model.config import T5Config
from instructrec_jax.model.t5 import T5, init_parameters
from instructrec_jax.training.flops import PEAKS, peak_flops, step_flops
from instructrec_jax.training.freezing import Freezing, joined, split

ROWS, SOURCE, TARGET = 2, 48, 32
MODEL = T5Config(
    vocabulary_size=512,
    d_model=64,
    head_size=16,
    num_heads=4,
    d_ff=256,
    num_encoder_layers=1,
    num_decoder_layers=1,
    activation_dtype="float32",
)


def shapes_of(config: T5Config, *patterns: str):
    def make(key):
        return split(init_parameters(config, key), Freezing(patterns=patterns))

    return jax.eval_shape(make, jax.random.key(0))


def counted(config: T5Config, *patterns: str) -> float:
    trained, frozen = shapes_of(config, *patterns)
    return step_flops(
        config,
        rows=ROWS,
        encoder_length=SOURCE,
        decoder_length=TARGET,
        trained=trained,
        frozen=frozen,
    )


def by_hand(config: T5Config) -> float:
    """Forward operations, written out."""
    n, m = ROWS * SOURCE, ROWS * TARGET
    d, joined_heads, f = config.d_model, config.num_heads * config.head_size, config.d_ff
    encoder = 2 * n * (4 * d * joined_heads + 3 * d * f) + 4 * n * SOURCE * joined_heads
    decoder = 2 * m * (6 * d * joined_heads + 3 * d * f) + 4 * m * (TARGET + SOURCE) * joined_heads
    decoder += 2 * n * 2 * d * joined_heads
    head = 2 * m * d * config.vocabulary_size
    return encoder * config.num_encoder_layers + decoder * config.num_decoder_layers + head


def test_a_step_with_all_parameters_costs_three_times_forward():
    assert counted(MODEL) == 3 * by_hand(MODEL)


def test_deeper_models_and_frozen_parts():
    head = 2 * ROWS * TARGET * MODEL.d_model * MODEL.vocabulary_size
    # Only the head is trained: its own gradient is all that is computed backward.
    only_head = counted(MODEL, "encoder/.*", "decoder/.*", "token_embedder/.*")
    assert only_head == by_hand(MODEL) + head
    # A frozen embedding has no matrix gradient, and never was a product.
    assert counted(MODEL, "token_embedder/.*") == counted(MODEL)
    assert counted(MODEL, "lm_head/.*") == counted(MODEL) - head


@pytest.mark.parametrize("patterns", [(), ("encoder/.*", "token_embedder/.*")], ids=str)
def test_xla_counts_the_same(patterns):
    """XLA adds softmax, norms and activations, which are no matrix products: some percent."""
    shapes = shapes_of(MODEL, *patterns)
    batch = {
        f"{side}_{name}": jax.ShapeDtypeStruct((ROWS, length), jnp.int32)
        for side, length in (("encoder", SOURCE), ("decoder", TARGET))
        for name in ("input_tokens", "segment_ids")
    }

    def loss(trained, frozen, batch):
        logits = T5(MODEL).apply({"params": joined(trained, frozen)}, batch)
        return jnp.sum(jax.nn.logsumexp(logits, axis=-1))

    compiled = jax.jit(jax.value_and_grad(loss)).lower(*shapes, batch).compile()
    ours, theirs = counted(MODEL, *patterns), compiled.cost_analysis()["flops"]
    assert ours <= theirs <= 1.1 * ours


def test_peaks_are_found_by_the_name_that_devices_give():
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flops("NVIDIA L40S") == 362e12
    assert peak_flops("TPU v5 lite") == 197e12
    assert peak_flops("TPU v5p") == 459e12
    assert peak_flops("TPU v6 lite") == 918e12
    assert peak_flops("cpu") is None
    # A name never hides behind a shorter one that stands before it.
    for place, (kind, peak) in enumerate(PEAKS):
        assert peak_flops(kind) == peak, PEAKS[place]
