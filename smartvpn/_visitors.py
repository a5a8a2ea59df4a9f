"""What strangers' connections may cost an endpoint, and by which names it may be called."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Collection
from urllib.parse import urlsplit

from attrs import frozen


@frozen
class _Guest:
    leave: Callable[[], object]
    timer: asyncio.TimerHandle


class Patience:
    """Connections that keep us waiting: `most` at a time, none for more than `seconds`.

    One too many ends the one that has kept us waiting longest, so that those who dawdle are in nobody's way.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._guests: dict[object, _Guest] = {}

    def begin(self, key: object, leave: Callable[[], object]) -> None:
        """From now on we wait for `key`; `leave` ends it. Who is waited for already gets no more time."""
        if key in self._guests:
            return
        timer = asyncio.get_running_loop().call_later(self._seconds, self._dismiss, key)
        self._guests[key] = _Guest(leave, timer)
        if len(self._guests) > self._most:
            self._dismiss(next(iter(self._guests)))

    def end(self, key: object) -> None:
        """It came, or it is gone."""
        guest = self._guests.pop(key, None)
        if guest is not None:
            guest.timer.cancel()

    def _dismiss(self, key: object) -> None:
        guest = self._guests[key]
        self.end(key)
        guest.leave()


def host_name(host: str) -> str | None:
    """The name in a Host header, in lower case and without the port; None for what is none."""
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        return None
    return None if name is None else name.lower()


def is_own_host(host: str, names: Collection[str]) -> bool:
    """Whether a Host header names us: by one of `names`, or by an address.

    A name that an attacker lets point here (DNS rebinding) is none of them; an address needs no lookup.
    """
    name = host_name(host)
    if name is None:
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name in names
    return True
