"""Waiting: a bounded queue by urgency; when it is full the least urgent gives way.

The order is priority, then first attempts before retries, then deadline: so retries are shed
before first attempts of their class, and what can still be in time is served first.

Never here: a clock, who is told.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

Item = TypeVar("Item")

Rank: TypeAlias = tuple[int, bool, float, int]  # priority, a retry, deadline, number


def rank(prio: int, attempt: int, deadline: float, number: int) -> Rank:
    """Return where a request stands; the lowest is served first."""
    return prio, attempt > 1, deadline, number


@dataclass(slots=True)
class Waiting(Generic[Item]):
    """Keep at most size_max items, each by the number at the end of its rank."""

    size_max: int
    _order: list[Rank] = field(default_factory=list)
    _items: dict[int, tuple[Rank, Item]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, number: int) -> bool:
        return number in self._items

    def __iter__(self) -> Iterator[Item]:
        return (self._items[place[-1]][1] for place in self._order)

    def add(self, place: Rank, item: Item) -> Item | None:
        """Let *item* wait; return who gives way for it, perhaps itself, None if there is room."""
        if len(self._order) >= self.size_max:
            last = self._order[-1]
            if place >= last:
                return item
            victim = self.take(last[-1])
            self._put(place, item)
            return victim
        self._put(place, item)
        return None

    def first(self) -> Item | None:
        """Return the most urgent item and leave it, None if nothing waits."""
        return self._items[self._order[0][-1]][1] if self._order else None

    def get(self, number: int) -> Item | None:
        """Return an item and leave it, None if it does not wait."""
        return self._items[number][1] if number in self._items else None

    def take(self, number: int) -> Item | None:
        """Return and forget an item, None if it does not wait."""
        place, item = self._items.pop(number, (None, None))
        if place is not None:
            del self._order[bisect_left(self._order, place)]
        return item

    def check(self) -> None:
        """Assert every invariant."""
        assert len(self._order) <= self.size_max
        assert self._order == sorted(place for place, _ in self._items.values())
        assert all(place[-1] == number for number, (place, _) in self._items.items())

    def _put(self, place: Rank, item: Item) -> None:
        assert place[-1] not in self._items, "waits already"
        insort(self._order, place)
        self._items[place[-1]] = place, item
