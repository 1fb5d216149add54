"""How often each task is drawn: exact quotas an epoch, and which examples fill them.

Rates are met by counts (largest remainder), not by chance. A task whose quota differs from its size
is walked through cyclically, in a new order each time round: after any number of epochs, the uses
of two of its examples differ by one at most.
"""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from instructrec_jax.data.shuffling import shuffled
from instructrec_jax.errors import ConfigError, nearest

MIXTURES = ("proportional", "temperature", "explicit")


def epoch_counts(
    sizes: Mapping[str, int],
    *,
    mixture: str,
    cap: int = 0,
    temperature: float = 1.0,
    rates: Sequence[tuple[str, float]] = (),
    max_examples: int = 0,
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

    Returns:
        Counts in the order of `sizes`. They add up to the sum of min(size, cap) over the tasks
        that take part, or to `max_examples` where that is less.

    Raises:
        ConfigError: unknown mixture or task, or a rate, cap or temperature that makes no sense.
    """
    _check(sizes, mixture=mixture, cap=cap, temperature=temperature, rates=rates)
    capped = {task: min(size, cap) if cap else size for task, size in sizes.items()}
    if mixture == "explicit":
        named = dict(rates)
        weights = {task: float(named.get(task, 0.0)) for task in sizes}
    elif mixture == "temperature":
        # Relative to the largest task, since the power itself overflows at a low temperature.
        largest = max(capped.values(), default=1)
        weights = {
            task: math.exp(math.log(size / largest) / temperature) if size else 0.0
            for task, size in capped.items()
        }
    else:
        weights = {task: float(size) for task, size in capped.items()}
    total = sum(size for task, size in capped.items() if weights[task] > 0)
    if max_examples:
        total = min(total, max_examples)
    return dict(zip(sizes, largest_remainder(list(weights.values()), total), strict=True))


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


def epoch_examples(
    members: Mapping[str, np.ndarray],
    counts: Mapping[str, int],
    *,
    epoch: int,
    seed: int,
    shuffle: bool,
) -> np.ndarray:
    """Indices of an epoch's examples, int64 [sum of counts], in a random order if `shuffle`.

    Args:
        members: indices of each task's examples.
        counts: quota of each task, the same in every epoch.
        epoch: from 0.
        seed: of the order.
        shuffle: without, tasks follow one another and each keeps the order of `members`.
    """
    parts = []
    for task, count in counts.items():
        indices = members[task]
        place, end = epoch * count, (epoch + 1) * count
        while place < end:
            cycle, start = divmod(place, len(indices))
            taken = min(len(indices) - start, end - place)
            order = np.arange(len(indices))
            if shuffle:
                order = shuffled(len(indices), "task", seed, task, cycle)
            parts.append(indices[order[start : start + taken]])
            place += taken
    examples = np.concatenate(parts) if parts else np.zeros(0, np.int64)
    if shuffle:
        examples = examples[shuffled(len(examples), "epoch", seed, epoch)]
    return examples


def _check(
    sizes: Mapping[str, int],
    *,
    mixture: str,
    cap: int,
    temperature: float,
    rates: Sequence[tuple[str, float]],
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
                f"data.mixture_rates.{task}: the dataset has the tasks {', '.join(sizes)}"
                f"{nearest(task, sizes)}"
            )
        if not (math.isfinite(rate) and rate >= 0):
            raise ConfigError(f"data.mixture_rates: {task!r} has the rate {rate}: must be >= 0")
        if names.count(task) > 1:
            raise ConfigError(f"data.mixture_rates names the task {task!r} twice")
    if not any(rate > 0 for _, rate in rates):
        raise ConfigError('data.mixture is "explicit": data.mixture_rates needs a rate above 0')
