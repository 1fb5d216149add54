import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instructrec_jax.data.mixture import epoch_counts, epoch_examples, largest_remainder
from instructrec_jax.errors import ConfigError

SIZES = {"summarise": 600, "translate": 300, "classify": 100}


def test_proportional_is_every_example_once():
    assert epoch_counts(SIZES, mixture="proportional") == SIZES


def test_cap_limits_the_large_tasks():
    counts = epoch_counts(SIZES, mixture="proportional", cap=200)
    assert counts == {"summarise": 200, "translate": 200, "classify": 100}


def test_temperature_flattens_the_rates():
    assert epoch_counts(SIZES, mixture="temperature", temperature=1.0) == SIZES
    # Square roots 24.49, 17.32 and 10 of 51.82: of 1,000 examples 472.7, 334.3 and 193.0.
    counts = epoch_counts(SIZES, mixture="temperature", temperature=2.0)
    assert counts == {"summarise": 473, "translate": 334, "classify": 193}
    equal = epoch_counts(SIZES, mixture="temperature", temperature=1e6)
    assert max(equal.values()) - min(equal.values()) <= 1


def test_explicit_rates_are_met_and_the_rest_left_out():
    counts = epoch_counts(
        SIZES, mixture="explicit", rates=(("classify", 0.75), ("summarise", 0.25))
    )
    assert counts == {"summarise": 175, "translate": 0, "classify": 525}


def test_max_examples_keeps_the_rates():
    counts = epoch_counts(SIZES, mixture="proportional", max_examples=10)
    assert counts == {"summarise": 6, "translate": 3, "classify": 1}
    assert epoch_counts(SIZES, mixture="proportional", max_examples=10**6) == SIZES


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=12), st.integers(0, 10_000))
@settings(deadline=None)
def test_largest_remainder_rounds_each_share_up_or_down(weights, total):
    counts = largest_remainder(weights, total)
    assert sum(counts) == total
    shares = np.array(weights) / np.sum(weights) * total
    assert (np.abs(np.array(counts) - shares) < 1 + 1e-6 * total).all()


def test_largest_remainder_ties_go_to_the_first():
    assert largest_remainder([1, 1, 1], 4) == [2, 1, 1]
    assert largest_remainder([1e-9, 3e-9], 8) == [2, 6]


@given(
    size=st.integers(1, 30),
    quota=st.integers(1, 70),
    epochs=st.integers(1, 6),
    shuffle=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_examples_of_a_task_are_used_equally_often(size, quota, epochs, shuffle):
    members = {"a": np.arange(100, 100 + size), "b": np.arange(5)}
    drawn = [
        epoch_examples(members, {"a": quota, "b": 5}, epoch=epoch, seed=3, shuffle=shuffle)
        for epoch in range(epochs)
    ]
    uses = np.bincount(np.concatenate(drawn), minlength=100 + size)
    assert uses[:5].tolist() == [epochs] * 5
    assert uses[100:].max() - uses[100:].min() <= 1
    assert uses[100:].sum() == epochs * quota


def test_epochs_differ_and_repeat_by_seed():
    members, counts = {"a": np.arange(50)}, {"a": 50}

    def epoch(number, seed):
        return epoch_examples(members, counts, epoch=number, seed=seed, shuffle=True).tolist()

    assert epoch(0, 1) == epoch(0, 1)
    assert len({tuple(epoch(0, 1)), tuple(epoch(1, 1)), tuple(epoch(0, 2))}) == 3
    plain = epoch_examples(members, counts, epoch=4, seed=1, shuffle=False)
    np.testing.assert_array_equal(plain, np.arange(50))


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"mixture": "propotional"}, "did you mean 'proportional'"),
        ({"mixture": "proportional", "cap": -1}, "mixture_cap is -1"),
        ({"mixture": "temperature", "temperature": 0.0}, "mixture_temperature is 0.0"),
        ({"mixture": "temperature", "temperature": float("nan")}, "mixture_temperature is nan"),
        ({"mixture": "proportional", "rates": (("translate", 1.0),)}, 'set data.mixture to "expl'),
        ({"mixture": "explicit"}, "needs a rate above 0"),
        ({"mixture": "explicit", "rates": (("translate", 0.0),)}, "needs a rate above 0"),
        ({"mixture": "explicit", "rates": (("translate", -1.0),)}, "has the rate -1.0"),
        ({"mixture": "explicit", "rates": (("tranlate", 1.0),)}, "did you mean 'translate'"),
        ({"mixture": "explicit", "rates": (("translate", 1.0),) * 2}, "twice"),
    ],
)
def test_settings_without_meaning_are_refused(settings_, message):
    with pytest.raises(ConfigError, match=message):
        epoch_counts(SIZES, **settings_)


@pytest.mark.parametrize("temperature", [1e-300, 1e-3, 1e300])
def test_extreme_temperatures_do_not_overflow(temperature):
    sizes = {"small": 10, "large": 1_000_000, "none": 0}
    counts = epoch_counts(sizes, mixture="temperature", temperature=temperature)
    expected = (500_005, 500_005) if temperature > 1 else (0, 1_000_000)
    assert (counts["small"], counts["large"]) == expected
    assert counts["none"] == 0
