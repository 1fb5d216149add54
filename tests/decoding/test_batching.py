import numpy as np
import pytest

from instructrec_jax.decoding.batching import (
    cut,
    grouped_by_shape,
    length_bucket,
    padded,
    rows_in_batch,
)


@pytest.mark.parametrize(
    ("length", "bucket"), [(1, 16), (16, 16), (17, 32), (64, 64), (65, 96), (96, 96)]
)
def test_buckets_are_powers_of_two_up_to_the_longest(length, bucket):
    assert length_bucket(length, longest=96) == bucket


def test_buckets_without_an_end():
    assert length_bucket(1000) == 1024


def test_groups_keep_every_place_once():
    groups = list(grouped_by_shape([(32,), (16,), (32,), (16,), (16,)], batch_size=2))
    assert groups == [((16,), [1, 3]), ((16,), [4]), ((32,), [0, 2])]


@pytest.mark.parametrize(("examples", "rows"), [(0, 1), (1, 1), (3, 4), (32, 32), (500, 32)])
def test_rows_of_a_batch(examples, rows):
    assert rows_in_batch(32, examples) == rows
    assert rows_in_batch(24, 500) == 24


def test_padding():
    tokens, mask = padded([[5, 6], [7]], (3, 3))
    np.testing.assert_array_equal(tokens, [[5, 6, 0], [7, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(mask, [[1, 1, 0], [1, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize(
    ("tokens", "kept"),
    [([5, 6, 1], [5, 6, 1]), ([5, 6, 7, 1], [5, 6, 1]), ([5, 6, 7, 8], [5, 6, 7]), ([], [])],
)
def test_cutting_keeps_the_eos_at_the_end(tokens, kept):
    assert cut(tokens, max_length=3, eos_id=1) == kept
