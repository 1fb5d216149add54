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
        ({"name": "adamw", "options": {"beta1": 0.9}}, "options.beta1: optax.adamw"),
    ],
)
def test_unknown_names_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        optimizer(**changes)
    with pytest.raises(ConfigError, match="did you mean 'cosine'"):
        schedule(name="cosin")
