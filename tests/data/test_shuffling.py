import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instructrec_jax.data.shuffling import permuted, shuffle_key, shuffled


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
    assert permuted(np.arange(10), 10, shuffle_key("epoch", 0, 0)).tolist() == [
        6,
        2,
        0,
        9,
        4,
        5,
        8,
        1,
        7,
        3,
    ]
    large = permuted(np.array([0, 10**12 - 1]), 10**12, shuffle_key("a"))
    assert large.tolist() == [227857738047, 385714275923]


@given(st.integers(1, 20_000), st.integers(0, 2**64 - 1))
@settings(deadline=None, max_examples=50)
def test_permuted_takes_each_place_once(count, key):
    taken = permuted(np.arange(count), count, np.uint64(key))
    assert taken.dtype == np.int64
    np.testing.assert_array_equal(np.sort(taken), np.arange(count))


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 9)), min_size=1, max_size=9))
@settings(deadline=None, max_examples=30)
def test_many_permutations_at_once_are_each_alone(permutations):
    places = np.concatenate([np.arange(count) for count, _ in permutations])
    counts = np.concatenate([np.full(count, count) for count, _ in permutations])
    keys = np.concatenate([np.full(count, key, np.uint64) for count, key in permutations])
    together = permuted(places, counts, keys)
    alone = [permuted(np.arange(count), count, np.uint64(key)) for count, key in permutations]
    np.testing.assert_array_equal(together, np.concatenate(alone))


@pytest.mark.parametrize("count", [2, 3, 4])
def test_every_permutation_of_a_few_is_equally_likely(count):
    draws = 200 * math.factorial(count)
    keys = np.repeat(np.array([shuffle_key("draw", draw) for draw in range(draws)]), count)
    taken = permuted(np.tile(np.arange(count), draws), count, keys).reshape(draws, count)
    _, seen = np.unique(taken, axis=0, return_counts=True)
    assert len(seen) == math.factorial(count)
    freedom = len(seen) - 1
    chi_square = ((seen - 200) ** 2 / 200).sum()
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("count", [8, 37, 100])
def test_neighbours_go_anywhere(count):
    draws = 2_000
    keys = np.repeat(np.array([shuffle_key("draw", draw) for draw in range(draws)]), count)
    taken = permuted(np.tile(np.arange(count), draws), count, keys).reshape(draws, count)
    where = np.bincount((np.arange(count) * count + taken).reshape(-1), minlength=count**2)
    apart = np.bincount((np.diff(taken) % count).reshape(-1), minlength=count)[1:]
    for seen, freedom in ((where, (count - 1) ** 2), (apart, count - 2)):
        expected = seen.mean()
        chi_square = ((seen - expected) ** 2 / expected).sum()
        assert chi_square < freedom + 4 * math.sqrt(2 * freedom)
