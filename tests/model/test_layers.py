import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from instructrec_jax.model.layers import TokenEmbedder, constrain


def make_mesh(data, fsdp, tensor):
    return jax.make_mesh(
        (data, fsdp, tensor), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3
    )


def test_constrain_without_a_mesh_does_nothing():
    x = jnp.ones((3, 5))
    assert constrain(x, "batch", None) is x


def test_constrain_lays_out_batch_and_heads_and_skips_what_does_not_divide():
    mesh = make_mesh(2, 2, 2)
    layout = jax.jit(lambda x: constrain(x, "batch", "heads", None))
    with jax.set_mesh(mesh):
        even = layout(jnp.ones((4, 6, 3)))
        odd = layout(jnp.ones((3, 6, 3)))
    expected = NamedSharding(mesh, P(("data", "fsdp"), "tensor", None))
    assert even.sharding.is_equivalent_to(expected, 3)
    assert odd.sharding.is_equivalent_to(NamedSharding(mesh, P(None, "tensor", None)), 3)


def test_embedding_of_a_table_split_both_ways():
    mesh = make_mesh(2, 2, 2)
    random = np.random.RandomState(0)
    table = random.standard_normal((64, 16)).astype(np.float32)
    tokens = random.randint(0, 64, (8, 5))
    weights = random.standard_normal((8, 5, 16)).astype(np.float32)
    embedder = TokenEmbedder(64, 16, jnp.dtype("float32"))

    @jax.jit
    def embedded(table):
        def total(table):
            x = embedder.apply({"params": {"embedding": table}}, tokens)
            x = constrain(x, "batch", None, None)
            return (x * weights).sum(), x

        return jax.grad(total, has_aux=True)(table)

    expected_gradient = np.zeros_like(table)
    np.add.at(expected_gradient, tokens, weights)
    split = NamedSharding(mesh, P("tensor", "fsdp"))
    with jax.set_mesh(mesh):
        gradient, x = embedded(jax.device_put(table, split))
    np.testing.assert_array_equal(x, table[tokens])
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-6)
