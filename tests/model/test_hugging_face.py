import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import CONFIGS, fixed_parameters, torch_names

from instructrec_jax.errors import CheckpointError
from instructrec_jax.model.hugging_face import entries
from instructrec_jax.model.hugging_face_config import (
    check_architecture,
    config_from_json,
    config_to_json,
    export_remarks,
    foreign_fields,
    scales_decoder_output,
)
from instructrec_jax.model.layers import ACTIVATIONS
from instructrec_jax.model.weight_files import TYPES, TensorInfo, WeightFiles, WeightWriter


@pytest.mark.parametrize("name", CONFIGS)
def test_tensors_are_those_of_the_reference_and_come_back(name):
    config = CONFIGS[name]
    params = fixed_parameters(config)
    expected = dict(torch_names(config, params))
    found: dict[str, np.ndarray] = {}
    shapes = jax.tree.map(np.shape, params)
    for entry in entries(config):
        parameter, shape = params, shapes
        for part in entry.path:
            parameter, shape = parameter[part], shape[part]
        assert entry.parameter_shape == shape
        tensors = dict(zip(entry.names, entry.tensors(parameter), strict=True))
        assert {tensor.shape for tensor in tensors.values()} == {entry.shape}
        np.testing.assert_array_equal(
            entry.parameter(tensors.__getitem__, np.dtype(np.float32)), parameter
        )
        found |= tensors
    assert found.keys() == expected.keys()
    for key, tensor in found.items():
        np.testing.assert_array_equal(tensor, expected[key])


@pytest.mark.parametrize("name", CONFIGS)
def test_config_comes_back(name):
    config = CONFIGS[name]
    came_as = "mt5" if name == "mt5" else "umt5" if name == "umt5" else "t5"
    fields = config_to_json(config, foreign={"model_type": came_as, "n_positions": 512})
    assert (fields["model_type"], fields["n_positions"]) == (came_as, 512)
    assert foreign_fields(fields).keys() == {"model_type", "architectures", "n_positions"}
    check_architecture(fields)
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
        ({"model_type": "longt5"}, "model_type 'longt5' is not supported; t5, mt5 and umt5 are"),
        ({"model_type": "switch_transformers"}, "'switch_transformers' is not supported"),
        ({"model_type": None}, "model_type None"),
        ({"is_encoder_decoder": False}, "is_encoder_decoder is not true"),
        ({"feed_forward_proj": "gated-mish"}, "'mish'"),
        ({"feed_forward_proj": "double-gelu"}, "is not supported"),
        ({"feed_forward_proj": ["gated-gelu"]}, "is not supported"),
        ({"d_model": "48"}, "d_model must be a whole number"),
        ({"num_heads": 0}, "num_heads must be at least 1"),
        ({"relative_attention_num_buckets": 2}, "relative_attention_buckets must be at least 4"),
        ({"layer_norm_epsilon": "small"}, "layer_norm_epsilon"),
        ({"layer_norm_epsilon": -1.0}, r"layer_norm_epsilon must lie in \(0, 1\), not -1.0"),
        ({"decoder_start_token_id": 2}, "decoder_start_token_id is 2; T5's is 0"),
        ({"eos_token_id": [1, 2]}, r"eos_token_id is \[1, 2\]"),
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


@pytest.mark.parametrize(
    ("fields", "scales"),
    [
        # As published: T5 1.0 says nothing; 1.1, Flan-T5, mT5 and umT5 say false.
        ({"model_type": "t5"}, True),
        ({"model_type": "t5", "tie_word_embeddings": False}, False),
        ({"model_type": "mt5", "tie_word_embeddings": False}, False),
        ({"model_type": "umt5", "tie_word_embeddings": False}, False),
        # As transformers 5 saves them.
        ({"model_type": "t5", "tie_word_embeddings": True, "scale_decoder_outputs": False}, False),
        ({"model_type": "t5", "tie_word_embeddings": True, "scale_decoder_outputs": True}, True),
        (
            {"model_type": "mt5", "tie_word_embeddings": True, "transformers_version": "5.23.0"},
            False,
        ),
        (
            {"model_type": "mt5", "tie_word_embeddings": True, "transformers_version": "4.57.1"},
            True,
        ),
        ({"model_type": "mt5"}, False),
        ({"model_type": "umt5", "tie_word_embeddings": True}, True),
    ],
    ids=str,
)
def test_scaling(fields, scales):
    assert scales_decoder_output(fields) == scales


def test_an_export_as_another_type_is_said():
    scaled = CONFIGS["tied_silu"]
    fields = config_to_json(scaled, foreign={"model_type": "mt5", "architectures": ["MT5"]})
    assert fields["model_type"] == "t5"
    assert fields["architectures"] == ["T5ForConditionalGeneration"]
    assert "exported as t5, not mt5" in export_remarks(scaled, {"model_type": "mt5"})[0]
    assert "scale the logits" in export_remarks(CONFIGS["umt5"], {})[-1]
    assert export_remarks(CONFIGS["v1_1"], {}) == []


FEED_FORWARDS = [
    "relu", "gelu", "gelu_new", "silu", "swish", "gated-relu", "gated-gelu", "gated-silu",
    "gated-gelu_new", "gated-gelu_python", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate",
]  # fmt: skip


@pytest.mark.parametrize("name", FEED_FORWARDS)
@pytest.mark.parametrize("model_type", ["T5", "UMT5"])
def test_activations_are_those_of_transformers(name, model_type):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    theirs = getattr(transformers, f"{model_type}Config")(feed_forward_proj=name)
    fields = {"model_type": model_type.lower(), "feed_forward_proj": name}
    x = np.linspace(-6, 6, 400).astype(np.float32)
    expected = transformers.activations.ACT2FN[theirs.dense_act_fn](torch.from_numpy(x)).numpy()
    # With and without the two fields that transformers writes beside `feed_forward_proj`.
    for given_fields in (fields, theirs.to_dict()):
        config = config_from_json(
            config_to_json(CONFIGS["v1_1"]) | given_fields,
            vocabulary_size=8,
            tied=False,
            activation_dtype="float32",
        )
        assert config.gated_feed_forward == theirs.is_gated_act
        np.testing.assert_allclose(ACTIVATIONS[config.activation](x), expected, atol=2e-6)
        again = getattr(transformers, f"{model_type}Config")(
            feed_forward_proj=config_to_json(config)["feed_forward_proj"]
        )
        assert again.is_gated_act == theirs.is_gated_act
        exported = transformers.activations.ACT2FN[again.dense_act_fn](torch.from_numpy(x))
        np.testing.assert_allclose(exported.numpy(), expected, atol=2e-6)


def test_a_default_is_that_of_the_model_type():
    fields = config_to_json(CONFIGS["v1_1"])
    del fields["feed_forward_proj"]
    for model_type, expected in (("t5", ("relu", False)), ("mt5", ("gelu", True))):
        config = config_from_json(
            fields | {"model_type": model_type},
            vocabulary_size=8,
            tied=False,
            activation_dtype="float32",
        )
        assert (config.activation, config.gated_feed_forward) == expected


@settings(max_examples=25, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=3).map(tuple), min_size=1, max_size=6),
    types=st.lists(st.sampled_from(list(TYPES.values())), min_size=6, max_size=6),
    max_shard_size=st.integers(1, 300),
    seed=st.integers(0, 2**32 - 1),
)
def test_tensors_of_any_bits_come_back(tmp_path_factory, shapes, types, max_shard_size, seed):
    folder = tmp_path_factory.mktemp("weights")
    random = np.random.default_rng(seed)
    tensors = [
        TensorInfo(f"t{n}", shape, dtype)
        for n, (shape, dtype) in enumerate(zip(shapes, types, strict=False))
    ]
    tensors.sort(key=lambda tensor: -tensor.dtype.itemsize)
    arrays = {
        tensor.name: np.frombuffer(random.bytes(tensor.size_bytes), tensor.dtype).reshape(
            tensor.shape
        )
        for tensor in tensors
    }
    with WeightWriter(folder, tensors, max_shard_size=max_shard_size) as writer:
        for tensor in tensors:
            writer.write(arrays[tensor.name])
        writer.finish()
    files = WeightFiles(folder)
    assert files.shapes == {name: array.shape for name, array in arrays.items()}
    for name, array in arrays.items():
        found = files.read(name)
        assert (found.dtype, found.tobytes()) == (array.dtype, array.tobytes())
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
    total = sum(tensor.size_bytes for tensor in tensors)
    assert len(sizes) >= total / max(max_shard_size, *(t.size_bytes for t in tensors))


def test_what_was_announced_must_be_written(tmp_path):
    info = TensorInfo("t", (2,), np.dtype(np.float32))
    with (
        pytest.raises(ValueError, match="not written"),
        WeightWriter(tmp_path, [info], max_shard_size=9) as writer,
    ):
        writer.finish()
    with (
        pytest.raises(ValueError, match="announced"),
        WeightWriter(tmp_path, [info], max_shard_size=9) as writer,
    ):
        writer.write(np.zeros(3, np.float32))
