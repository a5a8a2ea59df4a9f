"""Counters of clients out of counters of sessions, for a bounded number of clients.

A session's counters begin at zero and vanish with it; a time series must only grow. So the ledger adds up
what is new since the last look. A client keeps its own account as long as it is connected; accounts are given
to the busiest that have none, and everybody else's traffic goes to the account OTHER.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import define, field

OTHER = "_other"

Counts = dict[str, int]


@define
class Reading:
    """What one source (a session, a peer) of `owner` counts at this moment."""

    owner: str
    source: str
    counts: Counts


@define
class Account:
    """The sums of one owner; `live` tells how many sources it has now."""

    totals: Counts = field(factory=dict)
    live: int = 0

    def add(self, counts: Counts) -> None:
        """Add what is new."""
        for name, count in counts.items():
            self.totals[name] = self.totals.get(name, 0) + count


class Ledger:
    """At most `most` accounts of their own, and OTHER."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen: dict[str, Counts] = {}
        self.accounts: dict[str, Account] = {}
        self.other = Account()
        self.folded = 0

    def update(self, readings: Iterable[Reading]) -> None:
        """Take all of this moment's readings; a source that is not among them has ended."""
        present = list(readings)
        self._open_accounts(present)
        for account in (*self.accounts.values(), self.other):
            account.live = 0
        seen: dict[str, Counts] = {}
        for reading in present:
            account = self.account_of(reading.owner)
            account.live += 1
            account.add(_growth(self._seen.get(reading.source, {}), reading.counts))
            seen[reading.source] = reading.counts
        self._seen = seen
        self.folded = len({r.owner for r in present if r.owner not in self.accounts})

    def account_of(self, owner: str) -> Account:
        """The owner's account, or that of all others."""
        return self.accounts.get(owner, self.other)

    def _open_accounts(self, present: list[Reading]) -> None:
        """Who is gone makes room when somebody needs it, the longest-known first."""
        weights: dict[str, int] = {}
        for reading in present:
            weights[reading.owner] = weights.get(reading.owner, 0) + sum(reading.counts.values())
        waiting = sorted(
            (owner for owner in weights if owner not in self.accounts and owner != OTHER),
            key=lambda owner: weights[owner],
            reverse=True,
        )
        gone = [owner for owner in self.accounts if owner not in weights]
        for owner in waiting[: self._most]:
            if len(self.accounts) >= self._most:
                if not gone:
                    return
                del self.accounts[gone.pop(0)]
            self.accounts[owner] = Account()


def _growth(before: Counts, now: Counts) -> Counts:
    """What came since; a source that counts less than before has begun anew."""
    if any(now[name] < count for name, count in before.items() if name in now):
        return now
    return {name: count - before.get(name, 0) for name, count in now.items()}
