import jax
import numpy as np
import pytest
from reference import CONFIGS, fixed_parameters, torch_names

from instructrec_jax.errors import CheckpointError
from instructrec_jax.model.hugging_face import (
    check_architecture,
    config_from_json,
    config_to_json,
    entries,
    parameters_from_tensors,
    scales_decoder_output,
    tensors_from_parameters,
)


@pytest.mark.parametrize("name", CONFIGS)
def test_tensors_are_those_of_the_reference_and_come_back(name):
    config = CONFIGS[name]
    params = fixed_parameters(config)
    tensors = tensors_from_parameters(config, params)
    expected = dict(torch_names(config, params))
    assert tensors.keys() == expected.keys()
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, expected[key])
    back = parameters_from_tensors(entries(config), tensors.__getitem__)
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)


@pytest.mark.parametrize("name", CONFIGS)
def test_config_comes_back(name):
    config = CONFIGS[name]
    fields = config_to_json(config)
    check_architecture(fields)
    assert scales_decoder_output(fields) == config.tied_embeddings
    back = config_from_json(
        fields,
        vocabulary_size=config.vocabulary_size,
        tied=config.tied_embeddings,
        activation_dtype=config.activation_dtype,
    )
    assert back == config


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "mt5"}, "model_type 'mt5'"),
        ({"feed_forward_proj": "relu"}, "'relu' is not supported"),
        ({"feed_forward_proj": ["gated-gelu"]}, "is not supported"),
        ({"d_model": "48"}, "d_model must be a whole number"),
        ({"num_heads": 0}, "num_heads must be at least 1"),
        ({"layer_norm_epsilon": "small"}, "layer_norm_epsilon"),
    ],
)
def test_bad_config(changes, words):
    fields = config_to_json(CONFIGS["v1_1"]) | changes
    with pytest.raises(CheckpointError, match=words):
        check_architecture(fields)
        config_from_json(fields, vocabulary_size=8, tied=False, activation_dtype="float32")


def test_decoder_is_as_deep_as_the_encoder_where_nothing_else_is_said():
    fields = config_to_json(CONFIGS["v1_1"]) | {"num_decoder_layers": None}
    config = config_from_json(fields, vocabulary_size=8, tied=False, activation_dtype="float32")
    assert config.num_decoder_layers == config.num_encoder_layers
