"""Counts and smallest records, added up in any order: what the parts of a build tell the whole."""

import bisect
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

# The first part is the name of what is counted, the rest says of what.
Key = tuple[Any, ...]


@dataclass
class Tally:
    """Counts by key, and the records of each key that come first in an order.

    Adding tallies up gives the same in any order and grouping, as long as no two records of a key
    have the same place in the order.
    """

    counts: Counter[Any] = field(default_factory=Counter)
    first: dict[Key, list[tuple[str, Any]]] = field(default_factory=dict)
    bounds: dict[Key, int] = field(default_factory=dict)

    def count(self, *key: Any, by: int = 1) -> None:
        """Add `by` to the count of the key."""
        self.counts[key] += by

    def admits(self, *key: Any, order: str, most: int) -> bool:
        """Whether a record at this place of the order would be among the first `most`."""
        held = self.first.get(key, [])
        return len(held) < most or order < held[-1][0]

    def keep(self, *key: Any, order: str, value: Any, most: int) -> None:
        """Keep the record if it is among the key's first `most`."""
        if self.admits(*key, order=order, most=most):
            held = self.first.setdefault(key, [])
            self.bounds[key] = most
            bisect.insort(held, (order, value), key=lambda item: item[0])
            del held[most:]

    def add(self, other: "Tally") -> None:
        """Add another tally to this one."""
        self.counts.update(other.counts)
        for key, records in other.first.items():
            for order, value in records:
                self.keep(*key, order=order, value=value, most=other.bounds[key])

    def of(self, name: str) -> Iterator[tuple[Key, int]]:
        """The counts of a name as (rest of the key, count), sorted by key."""
        found = ((key[1:], count) for key, count in self.counts.items() if key[0] == name)
        return iter(sorted(found))

    def counter(self, name: str, *parts: Any) -> Counter[Any]:
        """The counts whose key begins with a name and parts, by the one part that follows them."""
        length = len(parts) + 1
        found = (
            (key[length], count)
            for key, count in self.counts.items()
            if key[0] == name and key[:length] == (name, *parts) and len(key) == length + 1
        )
        return Counter(dict(sorted(found)))

    def records(self, name: str) -> Iterator[tuple[Key, Any]]:
        """The first records of a name as (rest of the key, record), by key, then in order."""
        for key in sorted(key for key in self.first if key[0] == name):
            for _, value in self.first[key]:
                yield key[1:], value
