import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instructrec_jax.data.mixture import Phase
from instructrec_jax.data.order import ExampleOrder


def an_order(task_ids, *quotas, seed=3, shuffle=True):
    """The order of examples of these tasks; quotas are (first epoch, counts of each task)."""
    phases = [Phase(first, {}, dict(enumerate(counts))) for first, counts in quotas]
    task_ids = np.array(task_ids, np.int32)
    sizes = np.bincount(task_ids, minlength=len(quotas[0][1]))
    return ExampleOrder(task_ids, sizes, phases, seed=seed, shuffle=shuffle)


def epoch(order, number):
    return order.examples(number, 0, order.size(number)).tolist()


@given(
    sizes=st.lists(st.integers(1, 30), min_size=2, max_size=3),
    quotas=st.lists(st.lists(st.integers(0, 70), min_size=3, max_size=3), min_size=1, max_size=3),
    shuffle=st.booleans(),
)
@settings(deadline=None, max_examples=40)
def test_quotas_are_met_and_examples_of_a_task_used_equally_often(sizes, quotas, shuffle):
    task_ids = np.repeat(np.arange(len(sizes)), sizes)[::-1]
    # A phase each two epochs.
    quotas = [[count + 1 for count in counts[: len(sizes)]] for counts in quotas]
    order = an_order(
        task_ids, *((2 * n, counts) for n, counts in enumerate(quotas)), shuffle=shuffle
    )
    uses = np.zeros(len(task_ids), int)
    for number in range(2 * len(quotas) + 1):
        drawn = epoch(order, number)
        asked = quotas[min(number // 2, len(quotas) - 1)]
        assert order.size(number) == len(drawn) == sum(asked)
        assert np.bincount(task_ids[drawn], minlength=len(sizes)).tolist() == asked
        np.add.at(uses, drawn, 1)
        for task in range(len(sizes)):
            assert np.ptp(uses[task_ids == task]) <= 1


def test_any_part_of_an_epoch_is_made_alone():
    order = an_order([0] * 50 + [1] * 7, (0, [50, 21]))
    whole = epoch(order, 5)
    parts = [order.examples(5, *part).tolist() for part in ((0, 13), (13, 14), (14, 71))]
    assert [example for part in parts for example in part] == whole


def test_epochs_differ_and_repeat_by_seed():
    def made(number, seed):
        return tuple(epoch(an_order([0] * 50, (0, [50]), seed=seed), number))

    assert made(0, 1) == made(0, 1)
    assert len({made(0, 1), made(1, 1), made(0, 2)}) == 3


def test_without_shuffling_tasks_follow_one_another():
    order = an_order([1, 0, 1, 0], (0, [3, 1]), shuffle=False)
    assert epoch(order, 0) == [1, 3, 1, 0]
    # Each goes on where it stopped.
    assert epoch(order, 1) == [3, 1, 3, 2]


def test_a_task_without_examples_is_never_drawn():
    order = an_order([0, 2, 2], (0, [1, 0, 2]))
    assert sorted(epoch(order, 0)) == sorted(epoch(order, 7)) == [0, 1, 2]


def test_tasks_are_mixed_all_over_an_epoch():
    order = an_order([0] * 9_000 + [1] * 1_000, (0, [9_000, 1_000]))
    rare = np.array(epoch(order, 0)) >= 9_000
    shares = rare.reshape(10, 1_000).mean(axis=1)
    # Four standard deviations of 1,000 draws.
    assert np.abs(shares - 0.1).max() < 0.04


@pytest.mark.parametrize("chunk", [3, 100])
def test_members_are_sorted_by_task_in_chunks(monkeypatch, chunk):
    monkeypatch.setattr("instructrec_jax.data.order._CHUNK", chunk)
    task_ids = np.arange(50) * 7 % 5
    order = an_order(task_ids, (0, [10] * 5), shuffle=False)
    assert epoch(order, 0) == np.argsort(task_ids, kind="stable").tolist()
