import json

import pytest

from instructrec_jax.configuration import load_config
from instructrec_jax.errors import ConfigError
from instructrec_jax.model.config import T5Config, padded_vocabulary_size, t5_config
from instructrec_jax.model.families import ARCHITECTURES
from instructrec_jax.model.t5 import parameter_count

# Of the released checkpoints, with all rows of their vocabularies. T5 1.1's also stand for the
# models trained on from it. ByT5 beyond small and umT5: from their published shapes.
PUBLISHED_PARAMETERS = {
    "t5_small": 60_506_624,
    "t5_base": 222_903_552,
    "t5_large": 737_668_096,
    "t5_3b": 2_851_598_336,
    "t5_11b": 11_307_321_344,
    "t5_1_1_small": 76_961_152,
    "t5_1_1_base": 247_577_856,
    "t5_1_1_large": 783_150_080,
    "t5_1_1_xl": 2_849_757_184,
    "t5_1_1_xxl": 11_135_332_352,
    "mt5_small": 300_176_768,
    "mt5_base": 582_401_280,
    "mt5_large": 1_229_581_312,
    "mt5_xl": 3_742_619_648,
    "mt5_xxl": 12_921_057_280,
    "byt5_small": 299_637_760,
    "byt5_base": 581_653_248,
    "byt5_large": 1_228_183_552,
    "byt5_xl": 3_737_801_728,
    "byt5_xxl": 12_906_899_328,
    "ul2": 19_459_613_696,
    "umt5_small": 306_601_984,
    "umt5_base": 592_043_520,
    "umt5_xl": 3_768_356_864,
    "umt5_xxl": 12_972_531_712,
}
SAME_SHAPE = (("t5_lm_adapted_", "t5_1_1_"), ("flan_t5_", "t5_1_1_"), ("flan_ul2", "ul2"))


@pytest.mark.parametrize("name", sorted(ARCHITECTURES.keys() - {"tiny"}))
def test_parameter_count(name):
    base = name
    for prefix, other in SAME_SHAPE:
        base = base.replace(prefix, other)
    assert ARCHITECTURES[name].parameter_count == PUBLISHED_PARAMETERS[base]


@pytest.mark.parametrize("name", ["t5_3b", "t5_1_1_base", "byt5_small", "flan_ul2", "umt5_xl"])
def test_parameter_count_is_the_models(name):
    architecture = ARCHITECTURES[name]
    config = t5_config(name, vocabulary_size=architecture.vocabulary.rows)
    assert parameter_count(config) == architecture.parameter_count


def test_sizes_of_vocabularies():
    vocabularies = {a.vocabulary for a in ARCHITECTURES.values()}
    assert {(v.tokens, v.rows, v.sentinels) for v in vocabularies} == {
        (32_100, 32_128, 100),
        (250_100, 250_112, 100),
        (256_300, 256_384, 300),
        (384, 384, 125),
    }
    assert all(padded_vocabulary_size(v.tokens) == v.rows for v in vocabularies)


@pytest.mark.parametrize("name", ["", *ARCHITECTURES])
def test_fine_tuning_recipe(name):
    config, _ = load_config(f"configs/finetune.py:{name}", {})
    assert config.model.name == name
    assert config.optimizer.learning_rate == 1e-3 and config.optimizer.schedule == "constant"
    count = ARCHITECTURES[name].parameter_count if name else 10**10
    assert (config.mesh.fsdp == -1) == (count > 1.5e9)
    assert (config.model.remat == "none") == (count < 1e8)


def test_fine_tuning_recipe_of_an_unknown_name():
    with pytest.raises(ConfigError, match="finetune.py:flan_t5_x: .*did you mean 'flan_t5_xl'"):
        load_config("configs/finetune.py:flan_t5_x", {})


def test_tied_embeddings_save_the_head():
    untied = t5_config("tiny", vocabulary_size=256)
    tied = t5_config("tiny", vocabulary_size=256, tied_embeddings=True)
    assert parameter_count(untied) - parameter_count(tied) == 256 * untied.d_model


def test_dictionary_round_trip_through_json():
    config = t5_config("tiny", vocabulary_size=256, dropout_rate=0.1, remat="dots")
    assert T5Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("tied", [True, False])
def test_metadata_of_an_earlier_version(tied):
    """A model saved before the family was whole is T5 1.1, scaled where it is tied."""
    new = (
        "shared_relative_bias",
        "gated_feed_forward",
        "scale_decoder_output",
        "lora",
    )
    fields = t5_config("tiny", vocabulary_size=256, tied_embeddings=tied).to_dict()
    config = T5Config.from_dict({k: v for k, v in fields.items() if k not in new})
    assert config.scale_decoder_output is tied
    assert config.shared_relative_bias and config.gated_feed_forward and config.lora is None


def test_scaling_may_differ_from_tying():
    for tied in (True, False):
        for scaled in (True, False):
            config = t5_config(
                "tiny", vocabulary_size=256, tied_embeddings=tied, scale_decoder_output=scaled
            )
            assert (config.tied_embeddings, config.scale_decoder_output) == (tied, scaled)
            assert T5Config.from_dict(config.to_dict()) == config


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
