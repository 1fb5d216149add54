import numpy as np

from instructrec_jax.data.shuffling import shuffled


def test_is_a_permutation_that_depends_on_the_key():
    orders = [shuffled(1_000, "epoch", seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    for order in orders:
        assert order.dtype == np.int64
        np.testing.assert_array_equal(np.sort(order), np.arange(1_000))
    assert len({tuple(order) for order in orders}) == 4
    np.testing.assert_array_equal(orders[0], shuffled(1_000, "epoch", 0, 0))


def test_order_is_the_same_for_good():
    # A change here changes every run's data order: raise PLAN_VERSION with it.
    assert shuffled(10, "epoch", 0, 0).tolist() == [6, 3, 8, 4, 2, 1, 9, 7, 5, 0]
    assert shuffled(0, "epoch").tolist() == []
