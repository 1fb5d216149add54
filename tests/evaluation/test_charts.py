"""Chart geometry."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instructrec_jax.evaluation.charts import (
    MAX_POINTS,
    Series,
    average_groups,
    line_chart,
    nice_ticks,
    number_label,
)


def test_nice_ticks_by_hand():
    assert nice_ticks(0, 10, 5) == [0, 5, 10]
    assert nice_ticks(1.7, 8.2, 5) == [0, 2, 4, 6, 8, 10]
    assert nice_ticks(0, 0.001, 5) == [0, 0.0005, 0.001]
    assert nice_ticks(3, 3, 5)[0] < 3 < nice_ticks(3, 3, 5)[-1]


@settings(max_examples=200, deadline=None)
@given(low=st.floats(-1e6, 1e6), width=st.floats(1e-3, 1e6), count=st.integers(2, 8))
def test_ticks_surround_the_data_in_equal_steps(low, width, count):
    high = low + width
    ticks = nice_ticks(low, high, count)
    assert 2 <= len(ticks) <= 2 * count + 2
    slack = 1e-6 * max(abs(low), abs(high), width)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack
    steps = [b - a for a, b in zip(ticks, ticks[1:], strict=False)]
    assert max(steps) - min(steps) <= slack + 1e-9


def test_number_labels():
    assert [number_label(x) for x in (0, 1234567, 1000.4, 12.3456, 0.05, 0.001, 5e-4)] == [
        "0",
        "1,234,567",
        "1,000",
        "12.35",
        "0.05",
        "1e-3",
        "5e-4",
    ]


def test_lines_are_placed_in_percent_of_the_box():
    chart = line_chart(
        name="loss",
        title="Loss",
        series=[
            Series("a", "first", [(0, 10), (50, 5), (100, 0)]),
            Series("b", "second", [(50, 2.5)]),
        ],
    )
    assert chart.lines[0].points == ((0, 100), (50, 50), (100, 0))
    assert chart.lines[0].path == "M0.00,0.00 L50.00,50.00 L100.00,100.00"
    assert chart.lines[1].points == ((50, 25),)
    assert [tick.label for tick in chart.y_ticks] == ["0", "5", "10"]
    assert [tick.position for tick in chart.x_ticks] == [0, 20, 40, 60, 80, 100]
    assert chart.hover["lines"][0]["points"][1] == ["50", "5", 50, 50]


def test_charts_of_nothing_of_one_point_and_of_a_flat_line():
    assert line_chart(name="x", title="x", series=[Series("a", "first", [])]) is None
    for points in ([(10, 3.0)], [(1, 3.0), (2, 3.0)], [(5, 0.0)]):
        chart = line_chart(name="x", title="x", series=[Series("a", "first", points)])
        for x, y in chart.lines[0].points:
            assert 0 <= x <= 100
            assert 0 <= y <= 100


def test_many_points_are_averaged():
    points = [(float(i), float(i % 2)) for i in range(10 * MAX_POINTS)]
    averaged = average_groups(points)
    assert len(averaged) == MAX_POINTS
    assert averaged[0] == (9.0, 0.5)
    assert math.fsum(y for _, y in averaged) == pytest.approx(MAX_POINTS / 2)
    assert average_groups(points[:MAX_POINTS]) == points[:MAX_POINTS]
