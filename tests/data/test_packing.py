import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instructrec_jax.data.packing import Rows, join_rows, pack


def fills(rows, encoder, decoder):
    """Tokens of each row on both sides, int [2, rows]."""
    row_of = np.repeat(np.arange(len(rows)), np.diff(rows.offsets))
    return np.stack(
        [
            np.bincount(row_of, side[rows.examples], minlength=len(rows))
            for side in (encoder, decoder)
        ]
    )


@given(
    lengths=st.lists(st.tuples(st.integers(0, 16), st.integers(0, 8)), max_size=400),
    open_bins=st.integers(1, 40),
    max_segments=st.sampled_from([0, 1, 2, 3, 7]),
)
@settings(deadline=None, max_examples=100)
def test_every_example_once_and_no_row_over_its_limits(lengths, open_bins, max_segments):
    encoder, decoder = np.array(lengths, np.int64).reshape(-1, 2).T
    limits = {"encoder_length": 16, "decoder_length": 8}
    limits |= {"open_bins": open_bins, "max_segments": max_segments}
    rows = pack(encoder, decoder, **limits)
    np.testing.assert_array_equal(np.sort(rows.examples), np.arange(len(lengths)))
    assert (np.diff(rows.offsets) >= 1).all() and rows.offsets[0] == 0
    encoder_tokens, decoder_tokens = fills(rows, encoder, decoder)
    assert (encoder_tokens <= 16).all() and (decoder_tokens <= 8).all()
    if max_segments and lengths:
        assert np.diff(rows.offsets).max() <= max_segments
    again = pack(encoder, decoder, **limits)
    np.testing.assert_array_equal(again.examples, rows.examples)
    np.testing.assert_array_equal(again.offsets, rows.offsets)


def test_best_fit_decreasing_by_hand():
    # By length: 7, 6, 5, 5, 4, 3 tokens. 7, 6 and 5 open rows; the second 5 fills the third to 10,
    # 4 fills the second and 3 the first. The decoder side has room enough.
    encoder, decoder = np.array([6, 5, 3, 5, 4, 7]), np.ones(6, int)
    rows = pack(encoder, decoder, encoder_length=10, decoder_length=9, open_bins=8)
    assert rows.offsets.tolist() == [0, 2, 4, 6]
    assert encoder[rows.examples].reshape(3, 2).tolist() == [[3, 7], [6, 4], [5, 5]]


def test_the_fuller_side_decides():
    # The decoder side binds: 4 examples of 3 decoder tokens need 2 rows of 6.
    rows = pack(np.full(4, 1), np.full(4, 3), encoder_length=100, decoder_length=6, open_bins=8)
    assert np.diff(rows.offsets).tolist() == [2, 2]


def test_capped_rows_are_as_few_as_the_cap_allows():
    # 100 examples of 1 token, 3 a row, though 16 would fit.
    ones = np.ones(100, int)
    rows = pack(ones, ones, encoder_length=16, decoder_length=16, open_bins=4, max_segments=3)
    assert len(rows) == 34
    # Seven of two tokens and seven of one: rows of two, the larger ones first.
    lengths = np.array([2] * 7 + [1] * 7)
    rows = pack(lengths, lengths, encoder_length=4, decoder_length=4, open_bins=8, max_segments=2)
    assert np.diff(rows.offsets).tolist() == [2] * 7


def test_instruction_like_lengths_fill_the_rows(instruction_lengths):
    encoder, decoder = instruction_lengths
    for decoder_length in (48, 32):
        rows = pack(
            encoder, decoder, encoder_length=128, decoder_length=decoder_length, open_bins=64
        )
        tokens = fills(rows, encoder, decoder).sum(axis=1) / len(rows)
        assert max(tokens / [128, decoder_length]) > 0.98


def test_more_open_bins_fill_better(instruction_lengths):
    encoder, decoder = instruction_lengths
    counts = [
        len(pack(encoder, decoder, encoder_length=64, decoder_length=24, open_bins=bins))
        for bins in (2, 8, 64)
    ]
    assert counts[0] > counts[1] > counts[2]


def test_too_long_an_example_is_refused():
    with pytest.raises(ValueError, match="longer than a row"):
        pack(np.array([11]), np.array([1]), encoder_length=10, decoder_length=5, open_bins=4)


def test_rows_select_and_join():
    rows = Rows(np.array([4, 5, 6, 7]), np.array([0, 1, 1, 4]))
    picked = rows.select(np.array([2, 0]))
    assert picked.examples.tolist() == [5, 6, 7, 4] and picked.offsets.tolist() == [0, 3, 4]
    joined = join_rows([picked, rows.select(np.array([1])), rows])
    assert joined.examples.tolist() == [5, 6, 7, 4, 4, 5, 6, 7]
    assert joined.offsets.tolist() == [0, 3, 4, 4, 5, 5, 8]
    assert len(rows.select(np.array([], int))) == 0
