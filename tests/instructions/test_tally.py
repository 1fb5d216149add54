import random

from hypothesis import given, settings
from hypothesis import strategies as st

from instructrec_jax.instructions.tally import Tally


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 99), unique=True), st.integers(1, 5), st.randoms())
def test_parts_add_up_in_any_order(numbers, most, chosen: random.Random):
    whole, parts = Tally(), [Tally() for _ in range(3)]
    for number in numbers:
        for tally in (whole, chosen.choice(parts)):
            tally.count("even", number % 2 == 0)
            tally.keep("small", order=f"{number:03d}", value=number, most=most)
    total = Tally()
    chosen.shuffle(parts)
    for part in parts:
        total.add(part)
    assert total.counts == whole.counts and total.first == whole.first
    assert [value for _, value in total.records("small")] == sorted(numbers)[:most]


def test_counts_are_read_by_name_and_parts():
    tally = Tally()
    for task, reason in (("a", "x"), ("a", "y"), ("a", "x"), ("b", "x")):
        tally.count("rejected", task, reason)
    assert tally.counter("rejected", "a") == {"x": 2, "y": 1}
    assert dict(tally.of("rejected")) == {("a", "x"): 2, ("a", "y"): 1, ("b", "x"): 1}
    assert tally.counter("none") == {}
    assert not tally.admits("k", order="b", most=1) or not tally.first
