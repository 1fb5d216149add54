import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instructrec_jax.data.mixture import largest_remainder, mixture_phases, schedule_of
from instructrec_jax.errors import ConfigError

SIZES = {"summarise": 600, "translate": 300, "classify": 100}


def epoch_counts(sizes, **settings):
    [phase] = mixture_phases(sizes, **settings)
    return phase.counts


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


def test_schedule_replaces_the_mixture_from_its_epochs_on():
    even = (("translate", 1.0), ("classify", 1.0))
    phases = mixture_phases(
        SIZES, mixture="proportional", schedule=((2, even), (5, (("classify", 3.0),)))
    )
    assert [phase.first_epoch for phase in phases] == [0, 2, 5]
    assert phases[0].counts == SIZES
    assert phases[0].rates == {"summarise": 0.6, "translate": 0.3, "classify": 0.1}
    # An epoch has as many examples as the tasks that take part.
    assert phases[1].counts == {"summarise": 0, "translate": 200, "classify": 200}
    assert phases[1].rates == {"summarise": 0.0, "translate": 0.5, "classify": 0.5}
    assert phases[2].counts == {"summarise": 0, "translate": 0, "classify": 100}


@given(
    st.lists(st.integers(1, 10**6), min_size=1, max_size=9),
    st.sampled_from(["proportional", "temperature", "explicit"]),
    st.integers(0, 5_000),
    st.integers(0, 5_000),
)
@settings(deadline=None, max_examples=60)
def test_realised_rates_are_the_asked_ones(numbers, mixture, cap, max_examples):
    sizes = {str(place): number for place, number in enumerate(numbers)}
    rates = [(task, 1.0 + place) for place, task in enumerate(sizes)]
    [phase] = mixture_phases(
        sizes,
        mixture=mixture,
        cap=cap,
        temperature=2.0,
        rates=rates if mixture == "explicit" else (),
        max_examples=max_examples,
    )
    total = sum(phase.counts.values())
    assert total == min(
        sum(min(size, cap or size) for size in numbers), max_examples or sum(numbers)
    )
    assert sum(phase.rates.values()) == pytest.approx(1)
    for task, rate in phase.rates.items():
        assert abs(phase.counts[task] - rate * total) < 1 + 1e-9 * total


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (((0, (("translate", 1.0),)),), "epoch 0 after 0: first epochs must rise, from 1 on"),
        (((3, (("translate", 1.0),)), (3, (("classify", 1.0),))), "epoch 3 after 3"),
        (((3, (("tranlate", 1.0),)),), "mixture_schedule, epoch 3: .*did you mean 'translate'"),
        (((3, ()),), "mixture_schedule, epoch 3: .* needs a rate above 0"),
    ],
)
def test_schedules_without_meaning_are_refused(schedule, message):
    with pytest.raises(ConfigError, match=message):
        mixture_phases(SIZES, mixture="proportional", schedule=schedule)


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
        ({"mixture": "explicit", "rates": (("none", 1.0),)}, "no example of 'none' fits a row"),
    ],
)
def test_settings_without_meaning_are_refused(settings_, message):
    with pytest.raises(ConfigError, match=message):
        epoch_counts({**SIZES, "none": 0}, **settings_)


def test_a_schedule_of_a_config():
    given = ((2, {"b": 1, "a": 0.5}), [5, {"b": 2}])
    assert schedule_of(given) == ((2, (("a", 0.5), ("b", 1))), (5, (("b", 2),)))
    assert schedule_of(()) == ()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((2, {"a": 1.0}), "a comma after a lone pair"),
        ((("2", {"a": 1.0}),), "must be like"),
        (((2, 0.5),), "must be like"),
        (((2, {"a": "x"}),), "epoch 2: a=x: must be a number"),
        (((2, {"a": float("nan")}),), "a=nan: must be a number"),
        (((2, {"a": -1}),), "a=-1: must be a number"),
    ],
)
def test_a_schedule_that_is_none_is_told(given, message):
    with pytest.raises(ConfigError, match=message):
        schedule_of(given)


@pytest.mark.parametrize("temperature", [1e-300, 1e-3, 1e300])
def test_extreme_temperatures_do_not_overflow(temperature):
    sizes = {"small": 10, "large": 1_000_000, "none": 0}
    counts = epoch_counts(sizes, mixture="temperature", temperature=temperature)
    expected = (500_005, 500_005) if temperature > 1 else (0, 1_000_000)
    assert (counts["small"], counts["large"]) == expected
    assert counts["none"] == 0
