import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from instructrec_jax.errors import ConfigError
from instructrec_jax.training.optimizer import make_optimizer, make_schedule


def schedule(**changes):
    return make_schedule(
        **{"name": "constant", "learning_rate": 0.5, "warmup_steps": 0, "steps": 100, **changes}
    )


def optimizer(**changes):
    return make_optimizer(
        **{
            "name": "sgd",
            "options": {},
            "schedule": schedule(),
            "clip_norm": 0.0,
            "weight_decay": 0.0,
            "decay": (".*/(kernel|lora_a|lora_b)", "token_embedder/embedding"),
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("name", "step", "expected"),
    [
        ("constant", 0, 0.0),
        ("constant", 5, 0.25),
        ("constant", 50, 0.5),
        ("linear", 10, 0.5),
        ("linear", 55, 0.25),
        ("linear", 100, 0.0),
        ("cosine", 55, 0.25),
        ("rsqrt", 10, 0.5),
        ("rsqrt", 40, 0.25),
    ],
)
def test_schedules_by_hand(name, step, expected):
    np.testing.assert_allclose(schedule(name=name, warmup_steps=10)(step), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "cooldown", "step", "expected"),
    [
        # Peak 0.5, final 0.05.
        ("linear", 0, 55, 0.275),
        ("linear", 0, 100, 0.05),
        ("cosine", 0, 55, 0.275),
        ("cosine", 0, 100, 0.05),
        ("constant", 20, 5, 0.25),
        ("constant", 20, 80, 0.5),
        ("constant", 20, 90, 0.5 * 0.55),
        ("constant", 20, 100, 0.05),
        ("rsqrt", 20, 40, 0.25),
        ("rsqrt", 20, 90, 0.5 / 3 * 0.55),
        ("rsqrt", 20, 100, 0.05 * 0.1**0.5),
    ],
)
def test_where_schedules_end_by_hand(name, cooldown, step, expected):
    falling = schedule(name=name, warmup_steps=10, final_fraction=0.1, cooldown_steps=cooldown)
    np.testing.assert_allclose(falling(step), expected, rtol=1e-5)


def test_rsqrt_without_warmup_begins_at_the_peak():
    without = schedule(name="rsqrt")
    np.testing.assert_allclose([without(0), without(1), without(4)], [0.5, 0.5, 0.25])


def parameters(layers: int = 3):
    random = np.random.default_rng(1)
    matrix = {"kernel": random.normal(size=(layers, 130, 140)).astype(np.float32)}
    return {
        "encoder": {"layers": {"out": matrix}, "final_norm": {"scale": np.ones(4, np.float32)}},
        "decoder": {"layers": {"out": {"kernel": matrix["kernel"][:2] * 3}}},
        "lm_head": {"kernel": np.ones((4, 4), np.float32)},
    }


def test_adafactor_treats_stacked_layers_as_separate_matrices():
    stacked = parameters()
    gradients = jax.tree.map(lambda leaf: leaf * 0.1 + 0.01, stacked)
    tx = optimizer(name="adafactor")
    updates, state = jax.jit(tx.update)(gradients, tx.init(stacked), stacked)
    alone = optax.adafactor(0.5)
    for stack in ("encoder", "decoder"):
        kernels = stacked[stack]["layers"]["out"]["kernel"]
        for layer in range(kernels.shape[0]):
            kernel = kernels[layer]
            gradient = gradients[stack]["layers"]["out"]["kernel"][layer]
            expected, _ = alone.update(gradient, alone.init(kernel), kernel)
            found = updates[stack]["layers"]["out"]["kernel"][layer]
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    # Factored: no moment is as large as its matrix.
    assert max(leaf.size for leaf in jax.tree.leaves(state)) < 130 * 140


def test_clipping_is_over_all_parameters():
    gradients = {
        "lm_head": {"kernel": jnp.asarray([3.0, 0.0])},
        "encoder": {"layers": {"k": jnp.asarray([[0.0], [4.0]])}},
        "decoder": {"layers": {"k": jnp.asarray([[0.0]])}},
    }
    params = jax.tree.map(jnp.zeros_like, gradients)
    tx = optimizer(clip_norm=1.0)
    updates, _ = tx.update(gradients, tx.init(params), params)
    np.testing.assert_allclose(updates["lm_head"]["kernel"], [-0.5 * 3 / 5, 0.0], rtol=1e-6)
    np.testing.assert_allclose(updates["encoder"]["layers"]["k"], [[0], [-0.5 * 4 / 5]], rtol=1e-6)


def test_adamw_rms_by_hand():
    # Two layers in a stack: rms 2 and, below min_scale, 0.
    params = {"encoder": {"layers": {"k": {"kernel": np.asarray([[[2.0, -2.0]], [[0.0, 0.0]]])}}}}
    gradients = [
        {"encoder": {"layers": {"k": {"kernel": np.asarray([[[0.3, -4.0]], [[5.0, 0.1]]])}}}},
        {"encoder": {"layers": {"k": {"kernel": np.asarray([[[0.6, 4.0]], [[5.0, 0.1]]])}}}},
    ]
    tx = optimizer(name="adamw_rms", options={"b1": 0.5, "b2": 0.75}, weight_decay=0.1)
    first, state = tx.update(gradients[0], tx.init(params), params)
    # Corrected, the first moments are g and g squared: a step of the sign, times rms and rate; the
    # decay, 0.5 * 0.1 * p, comes on top.
    np.testing.assert_allclose(
        jax.tree.leaves(first)[0], [[[-1.1, 1.1]], [[-5e-4, -5e-4]]], rtol=1e-5
    )
    second, _ = tx.update(gradients[1], state, params)
    # m = (.25 g1 + .5 g2) / .75, v = (.1875 g1^2 + .25 g2^2) / .4375.
    ratio = (0.25 * 0.3 + 0.5 * 0.6) / 0.75 / ((0.1875 * 0.09 + 0.25 * 0.36) / 0.4375) ** 0.5
    other = (0.25 * -4 + 0.5 * 4) / 0.75 / 4
    np.testing.assert_allclose(
        jax.tree.leaves(second)[0],
        [[[-ratio - 0.1, -other + 0.1]], [[-5e-4, -5e-4]]],
        rtol=1e-5,
    )


def test_muon_makes_each_layers_matrix_orthogonal_and_leaves_the_rest_to_adamw():
    random = np.random.default_rng(0)

    def normal(*shape):
        return random.normal(size=shape).astype(np.float32)

    params = {
        "encoder": {
            "layers": {"out": {"kernel": normal(3, 4, 8)}, "norm": {"scale": normal(3, 4)}},
            "relative_bias": {"embedding": normal(8, 2)},
        },
        "decoder": {"layers": {"relative_bias": {"embedding": normal(2, 8, 2)}}},
        "token_embedder": {"embedding": normal(6, 4)},
        "lm_head": {"kernel": normal(4, 6)},
    }
    options = {"ns_steps": 12, "ns_coeffs": (1.5, -0.5, 0.0), "nesterov": False}
    tx = optimizer(name="muon", options=options)
    updates, state = tx.update(params, tx.init(params), params)
    kernels = updates["encoder"]["layers"]["out"].pop("kernel")
    for gradient, update in zip(params["encoder"]["layers"]["out"]["kernel"], kernels, strict=True):
        # The step is rate * sqrt(fan out / fan in) * U V^T of the gradient's singular vectors.
        left, _, right = np.linalg.svd(gradient, full_matrices=False)
        np.testing.assert_allclose(update, -0.5 * 2**0.5 * left @ right, atol=1e-3)
    # One moment a matrix for Muon, two for AdamW, whose first step is the sign.
    slots = jax.tree_util.tree_leaves_with_path(state)
    moments = [leaf.size for path, leaf in slots if {".mu", ".nu"} & set(map(str, path))]
    assert sum(moments) == 96 + 2 * (12 + 16 + 32 + 24 + 24)
    for update in jax.tree.leaves(updates):
        np.testing.assert_allclose(np.abs(update), 0.5, rtol=1e-4)


def test_what_decays_is_what_a_pattern_matches():
    params = jax.tree.map(jnp.ones_like, parameters())
    zeros = jax.tree.map(jnp.zeros_like, params)
    tx = optimizer(weight_decay=0.1, decay=("encoder/.*norm/scale", "lm_head"))
    updates, _ = tx.update(zeros, tx.init(params), params)
    np.testing.assert_allclose(updates["encoder"]["final_norm"]["scale"], -0.05 * np.ones(4))
    for part in ("layers", "lm_head"):
        rest = updates["encoder"].get(part) or updates.get(part)
        assert not any(leaf.any() for leaf in jax.tree.leaves(rest))


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_a_stack_that_is_frozen_has_no_state(name):
    params = {"decoder": parameters()["decoder"]}
    tx = optimizer(name=name, weight_decay=0.1, clip_norm=1.0)
    updates, state = tx.update(params, tx.init(params), params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    names = [str(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    assert any("kernel" in name for name in names)
    assert not any("'encoder'" in name and "kernel" in name for name in names)


def test_decay_draws_adapters_to_zero():
    params = {"encoder": {"layers": {"query": {"lora_a": np.ones((2, 3, 1), np.float32)}}}}
    tx = optimizer(name="adamw", weight_decay=0.1)
    updates, _ = tx.update(jax.tree.map(np.zeros_like, params), tx.init(params), params)
    np.testing.assert_allclose(jax.tree.leaves(updates)[0], -0.05 * np.ones((2, 3, 1)), rtol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "lion"])
def test_decay_is_decoupled_and_spares_norms(name):
    params = parameters()
    zeros = jax.tree.map(jnp.zeros_like, params)
    tx = optimizer(name=name, weight_decay=0.1)
    updates, _ = tx.update(zeros, tx.init(params), params)
    np.testing.assert_allclose(updates["lm_head"]["kernel"], -0.5 * 0.1 * np.ones((4, 4)))
    np.testing.assert_allclose(
        updates["encoder"]["layers"]["out"]["kernel"],
        -0.05 * params["encoder"]["layers"]["out"]["kernel"],
        rtol=1e-6,
    )
    np.testing.assert_array_equal(updates["encoder"]["final_norm"]["scale"], np.zeros(4))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "adafctor"}, "did you mean 'adafactor'"),
        ({"name": "optax"}, "not an optimizer"),
        ({"name": "schedule_free_adamw"}, "not an optimizer"),
        ({"name": "adam_rms"}, "did you mean 'adamw_rms'"),
        ({"name": "adamw", "options": {"beta1": 0.9}}, "options.beta1: optax.adamw"),
    ],
)
def test_unknown_names_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        optimizer(**changes)
    with pytest.raises(ConfigError, match="did you mean 'cosine'"):
        schedule(name="cosin")
