import json
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
from flax.serialization import msgpack_restore, msgpack_serialize
from reference import fixed_parameters, padded_batch, transformers_model
from t5x_layout import nested, published_arrays, write_checkpoint, write_zarr

from instructrec_jax.errors import CheckpointError, ConfigError
from instructrec_jax.model.config import T5Config
from instructrec_jax.model.families import ARCHITECTURES, ENGLISH, Architecture
from instructrec_jax.model.t5 import T5
from instructrec_jax.model.t5x_arrays import is_t5x_folder
from instructrec_jax.model.t5x_folder import T5XFolder

# Odd head counts; no two sizes are alike but for the layers'.
SHAPE = {
    "vocabulary_size": 40,
    "d_model": 24,
    "head_size": 4,
    "num_heads": 3,
    "d_ff": 20,
    "num_encoder_layers": 2,
    "num_decoder_layers": 3,
    "relative_attention_buckets": 8,
    "activation_dtype": "float32",
}
V1_1 = T5Config(**SHAPE)
V1_0 = T5Config(
    **SHAPE | {"activation_dtype": "bfloat16"},
    gated_feed_forward=False,
    activation="relu",
    tied_embeddings=True,
)
UMT5 = T5Config(**SHAPE, shared_relative_bias=False)
FLOAT32, BFLOAT16 = np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)


def assert_holds(source, params, dtype):
    leaves = {
        "/".join(key.key for key in path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    assert source.dtypes == dict.fromkeys(leaves, dtype)
    for path, leaf in leaves.items():
        found = source.read(path)
        assert found.dtype == dtype and found.flags.c_contiguous
        np.testing.assert_array_equal(found, leaf.astype(dtype), err_msg=path)


VARIANTS = {
    "t5_1_1": (V1_1, FLOAT32, {}, {}),
    "t5_1_1_heads_apart": (V1_1, FLOAT32, {"joined": False}, {"inline": "scale"}),
    "t5_1_1_bfloat16": (V1_1, BFLOAT16, {}, {"inline": "embedding"}),
    "t5_1_0": (V1_0, BFLOAT16, {}, {"tree": "placeholders"}),
    "t5_1_0_folders_alone": (V1_0, BFLOAT16, {"joined": False}, {"tree": None}),
    "umt5": (UMT5, FLOAT32, {"layers": "doubled", "joined": False}, {}),
    "umt5_bfloat16": (UMT5, BFLOAT16, {"layers": "doubled"}, {"tree": "placeholders"}),
    "scalable_t5": (
        UMT5,
        FLOAT32,
        {"layers": "scanned", "joined": False, "bias": "relative_posemb"},
        {"tree": None},
    ),
    "scanned_with_one_bias": (V1_1, FLOAT32, {"layers": "doubled"}, {}),
    "numbered_with_own_biases": (UMT5, FLOAT32, {"bias": "relative_posemb"}, {}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_comes_back(variant, tmp_path):
    config, dtype, layout, container = VARIANTS[variant]
    params = fixed_parameters(config)
    arrays = published_arrays(config, params, **layout)
    stored = {name: array.astype(dtype) for name, array in arrays.items()}
    source = T5XFolder(write_checkpoint(tmp_path / "checkpoint_7", stored, **container))
    expected = config.to_dict() | {
        "activation_dtype": "float32" if dtype == FLOAT32 else "bfloat16"
    }
    assert source.config.to_dict() == expected
    assert_holds(source, params, dtype)
    assert sum(" -> " in line for line in source.plan) == len(arrays)
    shape, kind = list(arrays["token_embedder/embedding"].shape), dtype.name
    first = f"target.token_embedder.embedding {shape} {kind} -> token_embedder/embedding"
    assert source.plan[0] == first
    assert ("left out: 2 arrays of the optimizer's state" in source.plan) == (
        container.get("tree", "") is not None
    )


def test_layers_of_different_types_become_float32(tmp_path):
    params = fixed_parameters(V1_1)
    arrays = published_arrays(V1_1, params)
    name = "encoder/layers_1/mlp/wo/kernel"
    arrays[name] = arrays[name].astype(BFLOAT16)
    source = T5XFolder(write_checkpoint(tmp_path / "checkpoint_7", arrays))
    path = "encoder/layers/feed_forward/down/kernel"
    assert source.dtypes[path] == FLOAT32
    down = params["encoder"]["layers"]["feed_forward"]["down"]["kernel"]
    np.testing.assert_array_equal(source.read(path)[0], down[0])
    np.testing.assert_array_equal(source.read(path)[1], down[1].astype(BFLOAT16))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The arrays of a T5 1.1 and a folder with its checkpoint, not to be changed."""
    arrays = published_arrays(V1_1, fixed_parameters(V1_1))
    folder = tmp_path_factory.mktemp("t5x")
    write_checkpoint(folder / "checkpoint_1000", arrays)
    return arrays, folder


def test_logits_are_those_of_the_same_model_elsewhere(published):
    torch = pytest.importorskip("torch")
    source = T5XFolder(published[1])
    params = nested({path: source.read(path) for path in source.dtypes})
    batch = padded_batch(source.config)
    logits = jax.jit(T5(source.config).apply)({"params": params}, batch)
    model = transformers_model(V1_1, fixed_parameters(V1_1))
    with torch.no_grad():
        expected = model(
            input_ids=torch.tensor(batch["encoder_input_tokens"]).long(),
            attention_mask=torch.tensor(batch["encoder_segment_ids"]).long(),
            decoder_input_ids=torch.tensor(batch["decoder_input_tokens"]).long(),
        ).logits.numpy()
    real = batch["decoder_segment_ids"] > 0
    np.testing.assert_allclose(np.asarray(logits)[real], expected[real], atol=2e-4, rtol=1e-4)


def test_newest_finished_checkpoint_is_taken(published, tmp_path):
    arrays, folder = published
    shutil.copytree(folder / "checkpoint_1000", tmp_path / "checkpoint_999")
    changed = arrays | {"encoder/encoder_norm/scale": np.full(24, 3, np.float32)}
    write_checkpoint(tmp_path / "checkpoint_1000", changed)
    (tmp_path / "checkpoint_2000.tmp-17").mkdir()
    source = T5XFolder(tmp_path)
    assert "checkpoint_1000" in source.description
    assert (source.read("encoder/final_norm/scale") == 3).all()
    assert (T5XFolder(tmp_path / "checkpoint_999").read("encoder/final_norm/scale") != 3).all()


@pytest.mark.parametrize(
    "spec",
    [
        {"driver": "zarr", "kvstore": {"driver": "gcs", "bucket": "b"}, "path": "a/NAME/"},
        {"driver": "zarr", "kvstore": "file:///a/b/NAME/"},
        {"driver": "zarr", "kvstore": {"driver": "file", "path": "../../NAME"}},
        {
            "driver": "cast",
            "dtype": "bfloat16",
            "base": {"driver": "zarr", "kvstore": {"driver": "file", "path": "NAME"}},
        },
    ],
)
def test_specs_lead_nowhere_but_into_the_folder(spec, published, tmp_path):
    folder = tmp_path / "run" / "checkpoint_1000"
    shutil.copytree(published[1] / "checkpoint_1000", folder)
    name = "target.encoder.encoder_norm.scale"
    # What the path would lead to if it were followed.
    shutil.copytree(folder / name, tmp_path.parent / name, dirs_exist_ok=True)
    spec = json.loads(json.dumps(spec).replace("NAME", name))
    change_leaf(folder, "encoder/encoder_norm/scale", spec)
    scale = published[0]["encoder/encoder_norm/scale"]
    np.testing.assert_array_equal(T5XFolder(folder).read("encoder/final_norm/scale"), scale)
    shutil.rmtree(folder / name)
    with pytest.raises(CheckpointError, match=f"array {name} is missing"):
        T5XFolder(folder)


def change_leaf(folder, name, leaf):
    contents = msgpack_restore((folder / "checkpoint").read_bytes())
    *modules, last = name.split("/")
    place = contents["optimizer"]["target"]
    for module in modules:
        place = place.setdefault(module, {})
    if leaf is None:
        del place[last]
    else:
        place[last] = leaf
    (folder / "checkpoint").write_bytes(msgpack_serialize(contents))


def replace_array(folder, name, array):
    path = folder / f"target.{name.replace('/', '.')}"
    shutil.rmtree(path, ignore_errors=True)
    change_leaf(folder, name, write_zarr(path, array))


def change_bytes(path, change):
    path.write_bytes(bytes(change(bytearray(path.read_bytes()))))


def flipped(data):
    data[len(data) // 2] ^= 8
    return data


QUERY = "decoder/layers_1/self_attention/query/kernel"
QUERY_FOLDER = "target.decoder.layers_1.self_attention.query.kernel"
ZEROS = np.zeros((24, 12), np.float32)
# What is done to the folder, and words of the message.
DAMAGES = {
    "leaf missing": (lambda f: change_leaf(f, QUERY, None), f"array {QUERY_FOLDER} is missing"),
    "folder missing": (lambda f: shutil.rmtree(f / QUERY_FOLDER), f"array {QUERY_FOLDER} is miss"),
    "no .zarray": (lambda f: (f / QUERY_FOLDER / ".zarray").unlink(), f"{QUERY_FOLDER}/.zarray"),
    "bad .zarray": (
        lambda f: (f / QUERY_FOLDER / ".zarray").write_text("{}"),
        f"array {QUERY_FOLDER} is damaged",
    ),
    "chunk missing": (lambda f: (f / QUERY_FOLDER / "1.1").unlink(), f"{QUERY_FOLDER}/1.1 is miss"),
    "unknown entry": (
        lambda f: replace_array(f, "encoder/side_relpos_bias/rel_embedding", ZEROS),
        "array target.encoder.side_relpos_bias.rel_embedding belongs to no T5",
    ),
    "shape": (
        lambda f: replace_array(f, QUERY, ZEROS.T),
        rf"{QUERY_FOLDER} has shape \[12, 24\]; .* \[24, 12\] or \[24, 3, 4\]",
    ),
    "shape promised": (
        lambda f: shutil.copy(
            f / "target.decoder.layers_1.self_attention.out.kernel/.zarray", f / QUERY_FOLDER
        ),
        rf"{QUERY_FOLDER} has shape \[12, 24\], checkpoint promises \[24, 12\]",
    ),
    "heads": (
        lambda f: replace_array(
            f, "encoder/relpos_bias/rel_embedding", np.zeros((5, 8), np.float32)
        ),
        "is no multiple of the 5 heads of target.encoder.relpos_bias",
    ),
    "no embedding": (
        lambda f: change_leaf(f, "token_embedder/embedding", None),
        "array target.token_embedder.embedding is missing",
    ),
    "a layer lost": (
        lambda f: replace_array(f, "decoder/layers_5/mlp/wo/kernel", ZEROS),
        "the decoder has no layers 0, 1, 2",
    ),
    "uint16": (lambda f: replace_array(f, QUERY, ZEROS.astype(np.uint16)), "is uint16; supported"),
    "float64": (lambda f: change_leaf(f, QUERY, ZEROS.astype(np.float64)), "is float64; supported"),
    "driver": (lambda f: change_leaf(f, QUERY, {"driver": "n5"}), "has driver 'n5'"),
    "no path": (lambda f: change_leaf(f, QUERY, {"driver": "zarr"}), "neither an array nor"),
    "path upwards": (lambda f: change_leaf(f, QUERY, "PLACEHOLDER://.."), "neither an array nor"),
    "number": (lambda f: change_leaf(f, QUERY, 3), "neither an array nor"),
    "cut tree": (lambda f: change_bytes(f / "checkpoint", lambda d: d[:-9]), "damaged or cut"),
    "random tree": (lambda f: (f / "checkpoint").write_bytes(b"\x93\xc7\x01\x01\x00"), "damaged"),
    "tree of nothing": (lambda f: (f / "checkpoint").write_bytes(b"\x01"), "holds no tree"),
    "another tree": (lambda f: (f / "checkpoint").write_bytes(b"\x80"), "no optimizer/target"),
    "version": (
        lambda f: (f / "checkpoint").write_bytes(msgpack_serialize({"version": 1})),
        "is of version 1",
    ),
    "TensorFlow": (
        lambda f: (f / "checkpoint").write_bytes(b'model_checkpoint_path: "model.ckpt-1"'),
        "TensorFlow checkpoint",
    ),
    "OCDBT": (lambda f: (f / "manifest.ocdbt").write_bytes(b""), "OCDBT"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_before_anything_is_read(damage, published, tmp_path):
    folder = tmp_path / "checkpoint_1000"
    shutil.copytree(published[1] / "checkpoint_1000", folder)
    change, words = DAMAGES[damage]
    change(folder)
    with pytest.raises(CheckpointError, match=words) as caught:
        T5XFolder(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [flipped, lambda data: data[: len(data) // 2], lambda _: b""])
def test_damaged_chunk_is_named_when_it_is_read(change, published, tmp_path):
    shutil.copytree(published[1] / "checkpoint_1000", tmp_path / "checkpoint_1000")
    change_bytes(tmp_path / "checkpoint_1000" / QUERY_FOLDER / "0.1", change)
    source = T5XFolder(tmp_path)
    source.read("encoder/layers/self_attention/query/kernel")
    with pytest.raises(CheckpointError, match=f"array {QUERY_FOLDER} is damaged: ") as caught:
        source.read("decoder/layers/self_attention/query/kernel")
    assert "\n" not in str(caught.value)


def test_folders_are_told_apart(published, tmp_path):
    step = published[1] / "checkpoint_1000"
    assert is_t5x_folder(published[1]) and is_t5x_folder(step)
    shutil.copytree(step, tmp_path / "folders", ignore=shutil.ignore_patterns("checkpoint"))
    assert is_t5x_folder(tmp_path / "folders")
    (tmp_path / "checkpoints" / "1000").mkdir(parents=True)
    (tmp_path / "config.json").touch()
    assert not is_t5x_folder(tmp_path) and not is_t5x_folder(tmp_path / "config.json")


def test_folder_that_is_none(tmp_path):
    with pytest.raises(CheckpointError, match="neither a file checkpoint nor folders"):
        T5XFolder(tmp_path)
    with pytest.raises(CheckpointError, match="is not a folder"):
        T5XFolder(tmp_path / "missing")


def test_named_architecture_decides_what_shapes_do_not_show(published, monkeypatch, tmp_path):
    arrays, folder = published
    fields = {name: SHAPE[name] for name in SHAPE.keys() - {"vocabulary_size", "activation_dtype"}}
    fields |= {"activation": "silu", "relative_attention_max_distance": 50}
    monkeypatch.setitem(ARCHITECTURES, "ul2", Architecture(ENGLISH, fields))
    config = T5XFolder(folder, architecture="ul2").config
    assert (config.activation, config.relative_attention_max_distance) == ("silu", 50)
    assert config.vocabulary_size == 40 and not config.scale_decoder_output

    # As reported of UL2: the decoder's last norm has no scale. For any other that is damage.
    arrays = {name: array for name, array in arrays.items() if "decoder_norm" not in name}
    source = T5XFolder(write_checkpoint(tmp_path / "checkpoint_1", arrays), architecture="ul2")
    np.testing.assert_array_equal(source.read("decoder/final_norm/scale"), np.ones(24, np.float32))
    assert "ones [24] -> decoder/final_norm/scale" in source.plan
    with pytest.raises(CheckpointError, match="target.decoder.decoder_norm.scale is missing"):
        T5XFolder(tmp_path)


def test_other_architecture_names_every_difference(published):
    with pytest.raises(CheckpointError, match="is not of architecture t5_small") as caught:
        T5XFolder(published[1], architecture="t5_small")
    for words in (
        "d_model 512 (found 24)",
        "num_heads 8 (found 3)",
        "relative_attention_buckets 32 (found 8)",
        "gated_feed_forward False (found True)",
        "tied_embeddings True (found False)",
    ):
        assert words in str(caught.value)
    with pytest.raises(ConfigError, match="did you mean 'flan_t5_base'"):
        T5XFolder(published[1], architecture="flan_t5_bse")
