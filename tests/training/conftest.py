import numpy as np
import pytest

from instructrec_jax.model.config import T5Config

ROWS, ENCODER_LENGTH, DECODER_LENGTH, VOCABULARY = 16, 12, 8, 128


@pytest.fixture(scope="session")
def tiny_config() -> T5Config:
    """Sizes that 2, 4 and 8 devices divide along every split axis."""
    return T5Config(
        vocabulary_size=VOCABULARY,
        d_model=16,
        head_size=4,
        num_heads=4,
        d_ff=32,
        num_encoder_layers=2,
        num_decoder_layers=2,
        activation_dtype="float32",
    )


@pytest.fixture(scope="session")
def packed_batch() -> dict[str, np.ndarray]:
    """Rows of two or three sequences of different lengths, and one row of padding alone."""
    random = np.random.default_rng(7)
    names = ("encoder_input_tokens", "encoder_segment_ids", "encoder_positions")
    batch = {name: np.zeros((ROWS, ENCODER_LENGTH), np.int32) for name in names}
    for name in ("input_tokens", "target_tokens", "segment_ids", "positions"):
        batch[f"decoder_{name}"] = np.zeros((ROWS, DECODER_LENGTH), np.int32)
    for row in range(ROWS - 1):
        encoder_place = decoder_place = 0
        for segment in range(1, 2 + row % 3):
            inputs = random.integers(3, VOCABULARY, random.integers(1, 6))
            targets = random.integers(3, VOCABULARY, random.integers(1, 4))
            if encoder_place + len(inputs) > ENCODER_LENGTH:
                break
            here = slice(encoder_place, encoder_place + len(inputs))
            batch["encoder_input_tokens"][row, here] = inputs
            batch["encoder_segment_ids"][row, here] = segment
            batch["encoder_positions"][row, here] = np.arange(len(inputs))
            there = slice(decoder_place, decoder_place + len(targets))
            batch["decoder_target_tokens"][row, there] = targets
            batch["decoder_input_tokens"][row, there] = np.concatenate([[0], targets[:-1]])
            batch["decoder_segment_ids"][row, there] = segment
            batch["decoder_positions"][row, there] = np.arange(len(targets))
            encoder_place, decoder_place = here.stop, there.stop
            if decoder_place + 3 > DECODER_LENGTH:
                break
    batch["decoder_task_ids"] = batch["decoder_segment_ids"] % 2 + (batch["decoder_positions"] > 0)
    batch["decoder_loss_weights"] = (batch["decoder_segment_ids"] > 0).astype(np.float32)
    return batch
