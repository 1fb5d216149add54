"""Numbers as the report and the terminal write them."""

import math
from collections.abc import Mapping, Sequence

from instructrec_jax.evaluation.protocol import FEW


def percent(value: float) -> str:
    """A fraction as a figure from 0 to 100 with one digit."""
    return f"{100 * value:.1f}"


def loss_text(value: float | None) -> str:
    """A loss with three digits; a dash where it was not finite."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"


def interval_text(difference: Mapping[str, float]) -> str:
    """The interval of a difference of fractions, as "+1.2…+3.4" on a scale of 100."""
    return f"{100 * difference['low']:+.1f}…{100 * difference['high']:+.1f}"


def range_text(bounds: Sequence[float | None]) -> str:
    """An interval of fractions as "1.2–3.4" on a scale of 100; a dash where it is unknown."""
    low, high = bounds
    return "–" if low is None or high is None else f"{100 * low:.1f}–{100 * high:.1f}"


def few_text(count: int) -> str:
    """How many of the wins before rest on few examples; "" for none."""
    return f" ({count} of them on fewer than {FEW} examples)" if count else ""


def duration(seconds: float) -> str:
    """Seconds as "1 h 02 min", "4 min 05 s" or "3.2 s"."""
    if seconds >= 3600:
        return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"
    if seconds >= 60:
        return f"{seconds // 60:.0f} min {seconds % 60 // 1:02.0f} s"
    return f"{seconds:.1f} s"
