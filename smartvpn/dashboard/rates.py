"""Bytes a second out of counters that are looked at now and then."""

from __future__ import annotations

from attrs import frozen

Counts = tuple[int, int]


@frozen
class Rate:
    """Bytes a second, towards the clients and from them."""

    sent: float = 0.0
    received: float = 0.0


class Rates:
    """The rates of many sources; those that are gone are forgotten."""

    def __init__(self) -> None:
        self._at = 0.0
        self._counts: dict[str, Counts] = {}
        self._rates: dict[str, Rate] = {}

    def update(self, counts: dict[str, Counts], now: float) -> None:
        """Counters at `now`, seconds on any clock; a new source, or one that counts anew, is at rest."""
        elapsed = now - self._at
        self._rates = {
            name: self._rate(self._counts.get(name), count, elapsed) for name, count in counts.items()
        }
        self._counts, self._at = counts, now

    def of(self, name: str) -> Rate:
        """The rate of one source."""
        return self._rates.get(name, Rate())

    @staticmethod
    def _rate(before: Counts | None, now: Counts, elapsed: float) -> Rate:
        if before is None or elapsed <= 0 or now[0] < before[0] or now[1] < before[1]:
            return Rate()
        return Rate((now[0] - before[0]) / elapsed, (now[1] - before[1]) / elapsed)
