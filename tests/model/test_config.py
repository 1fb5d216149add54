import json

import pytest

from instructrec_jax.errors import ConfigError
from instructrec_jax.model.config import T5Config, padded_vocabulary_size, t5_config
from instructrec_jax.model.t5 import parameter_count

# The released T5 1.1 checkpoints, 32,128 rows of vocabulary.
PUBLISHED_PARAMETERS = {
    "t5_1_1_small": 76_961_152,
    "t5_1_1_base": 247_577_856,
    "t5_1_1_large": 783_150_080,
    "t5_1_1_xl": 2_849_757_184,
    "t5_1_1_xxl": 11_135_332_352,
}


@pytest.mark.parametrize("name", ["tiny", *sorted(PUBLISHED_PARAMETERS)])
def test_parameter_count(name):
    config = t5_config(name, vocabulary_size=32_128)
    count = parameter_count(config)
    assert count == PUBLISHED_PARAMETERS.get(name, count)
    attention = 4 * config.d_model * config.num_heads * config.head_size
    feed_forward = 3 * config.d_model * config.d_ff
    assert count == (
        2 * 32_128 * config.d_model
        + 2 * 32 * config.num_heads
        + config.num_encoder_layers * (attention + feed_forward + 2 * config.d_model)
        + config.num_decoder_layers * (2 * attention + feed_forward + 3 * config.d_model)
        + 2 * config.d_model
    )


def test_tied_embeddings_save_the_head():
    untied = t5_config("tiny", vocabulary_size=256)
    tied = t5_config("tiny", vocabulary_size=256, tied_embeddings=True)
    assert parameter_count(untied) - parameter_count(tied) == 256 * untied.d_model


def test_dictionary_round_trip_through_json():
    config = t5_config("tiny", vocabulary_size=256, dropout_rate=0.1, remat="dots")
    assert T5Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_dictionary_with_unknown_or_missing_fields():
    fields = t5_config("tiny", vocabulary_size=256).to_dict()
    with pytest.raises(ValueError, match="'d_modl'; did you mean 'd_model'"):
        T5Config.from_dict({**fields, "d_modl": 3})
    del fields["d_ff"]
    with pytest.raises(ValueError, match="lacks d_ff"):
        T5Config.from_dict(fields)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"remat": "dotz"}, "unknown model remat 'dotz'; did you mean 'dots'"),
        ({"attention": "einsumm"}, "did you mean 'einsum'"),
        ({"activation": "gelo"}, "did you mean 'gelu'"),
        ({"activation_dtype": "float16"}, "known: bfloat16, float32"),
        ({"dropout_rate": 1.0}, r"dropout_rate must lie in \[0, 1\)"),
        ({"num_heads": 0}, "num_heads must be at least 1"),
        ({"relative_attention_buckets": 3}, "at least 4"),
        ({"relative_attention_max_distance": 16}, "must exceed half of the 32 buckets"),
        ({"heads": 4}, "unknown field of the model config 'heads'; did you mean 'num_heads'"),
    ],
)
def test_bad_value(overrides, message):
    with pytest.raises(ConfigError, match=message):
        t5_config("tiny", vocabulary_size=256, **overrides)


def test_unknown_size():
    with pytest.raises(ConfigError, match="did you mean 't5_1_1_base'"):
        t5_config("t5_1_1_bas", vocabulary_size=256)


def test_padded_vocabulary_size():
    assert padded_vocabulary_size(32_100) == 32_128
    assert padded_vocabulary_size(256) == 256
