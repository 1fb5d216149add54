"""How often each task is drawn: exact quotas an epoch.

Rates are met by counts (largest remainder), not by chance. Which examples fill them is told by
order.py.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

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

    Args:
        sizes: examples that each task has.
        mixture, cap, temperature, rates, max_examples: see `epoch_counts`.
        schedule: (first epoch, rates) pairs in the order of epochs: from that epoch on, the mixture
            is "explicit" with these rates.

    Raises:
        ConfigError: as `epoch_counts`; or a schedule whose epochs do not rise from 1 or more.
    """
    phases = []
    key, epoch = "data.mixture_rates", 0
    settings = {"mixture": mixture, "temperature": temperature, "rates": rates}
    for number in range(len(schedule) + 1):
        if number:
            first, scheduled = schedule[number - 1]
            key = f"data.mixture_schedule, epoch {first}"
            if first <= epoch:
                raise ConfigError(
                    f"data.mixture_schedule: epoch {first} after {epoch}: first epochs must rise, "
                    "from 1 on (data.mixture tells of epoch 0)"
                )
            epoch, settings = first, {"mixture": "explicit", "rates": scheduled}
        counts = epoch_counts(sizes, cap=cap, max_examples=max_examples, key=key, **settings)
        weights = _weights(sizes, cap=cap, **settings)
        total = sum(weights.values())
        asked = {task: weight / total for task, weight in weights.items()}
        phases.append(Phase(epoch, asked, counts))
    return tuple(phases)


def epoch_counts(
    sizes: Mapping[str, int],
    *,
    mixture: str,
    cap: int = 0,
    temperature: float = 1.0,
    rates: Rates = (),
    max_examples: int = 0,
    key: str = "data.mixture_rates",
) -> dict[str, int]:
    """Examples of each task in an epoch.

    Args:
        sizes: examples that each task has.
        mixture: "proportional": each example once, but at most `cap` of a task; "temperature":
            rates proportional to min(size, cap) ** (1 / temperature); "explicit": `rates`, and
            nothing of tasks that they do not name.
        cap: 0 = none (T5's examples-proportional mixing, Raffel et al., 2020, section 3.5.2).
        temperature: at 1 as "proportional", towards infinity equal rates.
        rates: (task, rate) pairs; they need not add up to 1.
        max_examples: bound on the sum, 0 = none.
        key: what errors call the rates.

    Returns:
        Counts in the order of `sizes`. They add up to the sum of min(size, cap) over the tasks
        that take part, or to `max_examples` where that is less.

    Raises:
        ConfigError: unknown mixture or task, or a rate, cap or temperature that makes no sense.
    """
    _check(sizes, mixture=mixture, cap=cap, temperature=temperature, rates=rates, key=key)
    weights = _weights(sizes, mixture=mixture, cap=cap, temperature=temperature, rates=rates)
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
            raise ConfigError(
                f"{key}: {task!r} is not in the dataset, which has the tasks {', '.join(sizes)}"
                f"{nearest(task, sizes)}"
            )
        if not (math.isfinite(rate) and rate >= 0):
            raise ConfigError(f"{key}: {task!r} has the rate {rate}: must be >= 0")
        if names.count(task) > 1:
            raise ConfigError(f"{key} names the task {task!r} twice")
    if not any(rate > 0 for _, rate in rates):
        raise ConfigError(f"{key}: an explicit mixture needs a rate above 0")
