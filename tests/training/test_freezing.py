import jax
import numpy as np
import pytest

from instructrec_jax.training.freezing import (
    ADAPTERS_ONLY,
    Freezing,
    freezing_problems,
    joined,
    split,
)

PARAMETERS = {
    "encoder": {"layers": {"query": {"kernel": np.ones((2, 3)), "lora_a": np.zeros(3)}}},
    "decoder": {"final_norm": {"scale": np.full(3, 1 + 2**-20, np.float32)}},
}


@pytest.mark.parametrize(
    ("freezing", "trained"),
    [
        (Freezing(), ["decoder/final_norm/scale", "kernel", "lora_a"]),
        (Freezing(patterns=("encoder/.*",)), ["decoder/final_norm/scale"]),
        # A pattern matches a whole path.
        (
            Freezing(patterns=("encoder", "kernel")),
            ["decoder/final_norm/scale", "kernel", "lora_a"],
        ),
        (ADAPTERS_ONLY, ["encoder/layers/query/lora_a"]),
    ],
)
def test_the_two_parts_make_the_whole(freezing, trained):
    parts = split(PARAMETERS, freezing)
    names = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(parts[0])
    ]
    assert len(names) == len(trained)
    assert all(name.endswith(ending) for name, ending in zip(names, trained, strict=True))
    jax.tree.map(np.testing.assert_allclose, joined(*parts), PARAMETERS)


def test_frozen_parameters_alone_take_the_smaller_type():
    trained, frozen = split(PARAMETERS, Freezing(patterns=("decoder/.*",), dtype="bfloat16"))
    assert frozen["decoder"]["final_norm"]["scale"].tolist() == [1, 1, 1]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(trained)} == {"float64"}


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        (("encoder/.*", "decoder/final_norm/scales"), "did you mean 'decoder/final_norm/scale'"),
        (("encoder/(.*",), "is not a regex"),
        ((".*",), "leaves no parameter to train"),
    ],
)
def test_patterns_that_cannot_be_meant_are_named(patterns, words):
    [problem] = freezing_problems(Freezing(patterns=patterns), PARAMETERS)
    assert words in problem


def test_a_joined_tree_prefers_the_right_side():
    assert joined({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"c": 4}}) == {
        "a": {"b": 1, "c": 4},
        "d": 3,
    }
