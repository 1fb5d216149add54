"""How often each task is drawn: exact quotas an epoch.

Rates are met by counts (largest remainder), not by chance. Which examples fill them is told by
order.py.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from instructrec_jax.errors import ConfigError, nearest

MIXTURES = ("proportional", "temperature", "explicit")
Rates = Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Phase:
    """A mixture and the epochs that it is drawn in, up to those of the next phase.

    Attributes:
        first_epoch: from 0.
        rates: asked share of each task, all tasks together 1.
        counts: examples of each task in an epoch.
    """

    first_epoch: int
    rates: dict[str, float]
    counts: dict[str, int]


def mixture_phases(
    sizes: Mapping[str, int],
    *,
    mixture: str,
    cap: int = 0,
    temperature: float = 1.0,
    rates: Rates = (),
    schedule: Sequence[tuple[int, Rates]] = (),
    max_examples: int = 0,
) -> tuple[Phase, ...]:
    """The mixture of every epoch: the one of the settings, then those of the schedule.

    An epoch has the sum of min(size, cap) over the tasks that take part, or `max_examples` where
    that is less.

    Args:
        sizes: examples that each task has.
        mixture: "proportional": each example once, but at most `cap` of a task; "temperature":
            rates proportional to min(size, cap) ** (1 / temperature); "explicit": `rates`, and
            nothing of tasks that they do not name.
        cap: 0 = none (T5's examples-proportional mixing, Raffel et al., 2020, section 3.5.2).
        temperature: at 1 as "proportional", towards infinity equal rates.
        rates: (task, rate) pairs; they need not add up to 1.
        max_examples: bound on the examples of an epoch, 0 = none.
        schedule: (first epoch, rates) pairs in the order of epochs: from that epoch on, the mixture
            is "explicit" with these rates.

    Raises:
        ConfigError: unknown mixture or task, a rate, cap or temperature that makes no sense, or a
            schedule whose epochs do not rise from 1 or more.
    """
    _check_epochs([first for first, _ in schedule])
    settings = [(0, mixture, rates, "data.mixture_rates")]
    settings += [(e, "explicit", r, f"data.mixture_schedule, epoch {e}") for e, r in schedule]
    phases = []
    for first, name, own, key in settings:
        _check(sizes, mixture=name, cap=cap, temperature=temperature, rates=own, key=key)
        weights = _weights(sizes, mixture=name, cap=cap, temperature=temperature, rates=own)
        counts = _counts(sizes, weights, cap=cap, max_examples=max_examples)
        total = sum(weights.values())
        asked = {task: weight / total for task, weight in weights.items()}
        phases.append(Phase(first, asked, counts))
    return tuple(phases)


def _check_epochs(firsts: Sequence[int]) -> None:
    for before, first in itertools.pairwise([0, *firsts]):
        if first <= before:
            raise ConfigError(
                f"data.mixture_schedule: epoch {first} after {before}: first epochs must rise, "
                "from 1 on (data.mixture tells of epoch 0)"
            )


def schedule_of(value: Any) -> tuple[tuple[int, tuple[tuple[str, float], ...]], ...]:
    """The schedule of `mixture_phases` from what a config holds: (first epoch, {task: rate}) pairs.

    Raises:
        ConfigError: anything else.
    """
    form = "must be like ((2, {'task': 1.0}), (5, {'task': 2.0})), with a comma after a lone pair"
    phases = []
    for entry in value:
        match entry:
            case (int(first), dict(rates)) if not isinstance(first, bool):
                phases.append((first, rates))
            case _:
                raise ConfigError(f"data.mixture_schedule={value}: {form}")
    for first, rates in phases:
        for task, rate in rates.items():
            if (
                isinstance(rate, bool)
                or not isinstance(rate, int | float)
                or not 0 <= rate < math.inf
            ):
                raise ConfigError(
                    f"data.mixture_schedule, epoch {first}: {task}={rate}: must be a number of 0 "
                    "or more"
                )
    return tuple((first, tuple(sorted(rates.items()))) for first, rates in phases)


def _counts(
    sizes: Mapping[str, int], weights: Mapping[str, float], *, cap: int, max_examples: int
) -> dict[str, int]:
    """Examples of each task in an epoch, in the order of `sizes`."""
    capped = _capped(sizes, cap)
    total = sum(size for task, size in capped.items() if weights[task] > 0)
    if max_examples:
        total = min(total, max_examples)
    return dict(zip(sizes, largest_remainder(list(weights.values()), total), strict=True))


def _capped(sizes: Mapping[str, int], cap: int) -> dict[str, int]:
    return {task: min(size, cap) if cap else size for task, size in sizes.items()}


def _weights(
    sizes: Mapping[str, int],
    *,
    mixture: str,
    cap: int,
    temperature: float = 1.0,
    rates: Rates = (),
) -> dict[str, float]:
    """What the rate of each task is proportional to."""
    capped = _capped(sizes, cap)
    if mixture == "explicit":
        named = dict(rates)
        return {task: float(named.get(task, 0.0)) for task in sizes}
    if mixture == "temperature":
        # Relative to the largest task, since the power itself overflows at a low temperature.
        largest = max(capped.values(), default=1)
        return {
            task: math.exp(math.log(size / largest) / temperature) if size else 0.0
            for task, size in capped.items()
        }
    return {task: float(size) for task, size in capped.items()}


def unknown_task(task: str, tasks: Iterable[str], *, key: str) -> str:
    """What is told of a task that a mixture names and the dataset has not."""
    tasks = tuple(tasks)
    return (
        f"{key}: {task!r} is not in the dataset, which has the tasks {', '.join(tasks)}"
        f"{nearest(task, tasks)}"
    )


def largest_remainder(weights: Sequence[float], total: int) -> list[int]:
    """Whole numbers proportional to `weights` that add up to `total` (Hamilton's method).

    Each is its exact share rounded down or up; ties go to the first.
    """
    # Fractions are exact; floats would decide ties by their rounding.
    whole = sum(Fraction(weight) for weight in weights)
    shares = [Fraction(weight) * total / whole for weight in weights]
    counts = [math.floor(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda index: counts[index] - shares[index])
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    return counts


def _check(
    sizes: Mapping[str, int],
    *,
    mixture: str,
    cap: int,
    temperature: float,
    rates: Rates,
    key: str,
) -> None:
    """Refuse settings that name or mean nothing."""
    if mixture not in MIXTURES:
        raise ConfigError(
            f"data.mixture={mixture}: not one of {', '.join(MIXTURES)}{nearest(mixture, MIXTURES)}"
        )
    if cap < 0:
        raise ConfigError(f"data.mixture_cap is {cap}: it must be 0 (no cap) or more")
    if not (math.isfinite(temperature) and temperature > 0):
        raise ConfigError(f"data.mixture_temperature is {temperature}: it must be above 0")
    if mixture != "explicit":
        if rates:
            raise ConfigError(
                f"data.mixture_rates is set but data.mixture is {mixture!r}: "
                'set data.mixture to "explicit" or remove the rates'
            )
        return
    names = [task for task, _ in rates]
    for task, rate in rates:
        if task not in sizes:
            raise ConfigError(unknown_task(task, sizes, key=key))
        if not (math.isfinite(rate) and rate >= 0):
            raise ConfigError(f"{key}: {task!r} has the rate {rate}: must be >= 0")
        if rate > 0 and not sizes[task]:
            raise ConfigError(f"{key}: no example of {task!r} fits a row, so none can be drawn")
        if names.count(task) > 1:
            raise ConfigError(f"{key} names the task {task!r} twice")
    if not any(rate > 0 for _, rate in rates):
        raise ConfigError(f"{key}: an explicit mixture needs a rate above 0")
