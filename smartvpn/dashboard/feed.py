"""What the page shows, second by second: one watcher of the hub for however many browsers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from typing import Any

from attrs import define, field, frozen

from smartvpn._json import to_json
from smartvpn.config import ClientEntry
from smartvpn.dashboard.rates import Rates
from smartvpn.errors import NotFoundError, SmartVpnError, UnreachableError
from smartvpn.server import VpnServer
from smartvpn.types import ClientInfo, ClientTelemetry, ServerStatistics, Status

MAX_WATCHERS = 16
PAGE = 50
HISTORY_SECS = 300

_TICK_SECS = 1.0
_RETRY_SECS = 2.0
_TELEMETRY_SECS = 2.0
_REGISTRY_SECS = 10.0
_ENTRIES_A_SECOND = 1000  # a long registry is read less often

log = logging.getLogger(__name__)


@frozen(kw_only=True)
class View:
    """A browser's clients: those that match `search`, of `show` all, online or disabled, from `offset`."""

    search: str = ""
    show: str = "all"
    offset: int = 0


@define
class _Seen:
    """The hub as it was last seen."""

    status: Status | None = None
    statistics: ServerStatistics | None = None
    sessions: dict[str, list[ClientInfo]] = field(factory=dict)
    entries: list[ClientEntry] = field(factory=list)
    entries_at: float = 0.0
    entries_known: bool = False
    telemetry: dict[str, tuple[float, ClientTelemetry]] = field(factory=dict)
    error: str | None = "not connected yet"


class HubFeed:
    """Follows a hub through its socket. `run` goes on until it is cancelled, whatever becomes of the hub."""

    def __init__(self, socket_path: str) -> None:
        self._path = socket_path
        self._server: VpnServer | None = None
        self._seen = _Seen()
        self._totals = Rates()
        self._clients = Rates()
        self._views: dict[object, View] = {}
        self._history: deque[tuple[float, float, float]] = deque(maxlen=HISTORY_SECS)
        self._tick = asyncio.Condition()

    @property
    def server(self) -> VpnServer:
        """The hub. Raises UnreachableError while it cannot be reached."""
        if self._server is None:
            raise UnreachableError(f"the hub cannot be reached: {self._seen.error}")
        return self._server

    async def run(self) -> None:
        """Attach, look once a second, and attach again after a loss."""
        while True:
            try:
                async with VpnServer({"transport": "socket", "socketPath": self._path}) as server:
                    self._server = server
                    self._seen.error = None
                    await self._follow(server)
            except (SmartVpnError, OSError) as error:
                if self._seen.error != str(error):
                    log.warning("the hub cannot be reached: %s", error)
                self._seen = _Seen(error=str(error))
            except Exception:
                log.exception("the hub's answer cannot be understood")
                self._seen = _Seen(error="its answer cannot be understood: see the dashboard's log")
            finally:
                self._server = None
            await self._announce()
            await asyncio.sleep(_RETRY_SECS)

    async def _follow(self, server: VpnServer) -> None:
        while True:
            began = time.monotonic()
            await self._look(server)
            await self._announce()
            await asyncio.sleep(max(0.1, _TICK_SECS - (time.monotonic() - began)))

    async def _look(self, server: VpnServer) -> None:
        seen = self._seen
        seen.status = await server.get_status()
        if seen.status.connected_since is None:
            seen.statistics, seen.sessions = None, {}
            return
        seen.statistics = await server.get_statistics()
        now = time.monotonic()
        self._totals.update({"": (seen.statistics.bytes_sent, seen.statistics.bytes_received)}, now)
        total = self._totals.of("")
        self._history.append((time.time(), total.sent, total.received))
        if self._views:
            await self._look_at_clients(server, now)

    async def _look_at_clients(self, server: VpnServer, now: float) -> None:
        seen = self._seen
        sessions: dict[str, list[ClientInfo]] = {}
        for info in await server.list_clients():
            sessions.setdefault(info.client_id, []).append(info)
        seen.sessions = sessions
        every = (info for infos in sessions.values() for info in infos)
        self._clients.update({i.session_id: (i.bytes_sent, i.bytes_received) for i in every}, now)
        if now - seen.entries_at > max(_REGISTRY_SECS, len(seen.entries) / _ENTRIES_A_SECOND):
            seen.entries = await server.list_registered_clients()
            seen.entries_at, seen.entries_known = now, True
        shown = {entry.client_id for view in self._views.values() for entry in self._page(view)[0]}
        await self._measure(server, (name for name in shown if name in sessions), now)
        seen.telemetry = {name: known for name, known in seen.telemetry.items() if name in sessions}

    async def _measure(self, server: VpnServer, names: Iterable[str], now: float) -> None:
        """Link quality costs a request each: only for clients on somebody's screen, every other second."""
        old = [n for n in names if now - self._seen.telemetry.get(n, (0.0, None))[0] >= _TELEMETRY_SECS]

        async def one(name: str) -> None:
            with contextlib.suppress(NotFoundError):  # it may have left meanwhile
                self._seen.telemetry[name] = now, await server.get_client_telemetry(name)

        await asyncio.gather(*(one(name) for name in old))

    async def _announce(self) -> None:
        async with self._tick:
            self._tick.notify_all()

    def changed(self) -> None:
        """Read the registry again at the next look."""
        self._seen.entries_at = 0.0

    # what browsers get

    async def watch(self, view: View) -> AsyncIterator[dict[str, Any]]:
        """A picture for each look, the first with the history. Raises UnreachableError for one too many."""
        if len(self._views) >= MAX_WATCHERS:
            raise UnreachableError(f"{MAX_WATCHERS} pages are open already")
        key = object()
        self._views[key] = view
        try:
            yield self._picture(view) | {"history": list(self._history)}
            while True:
                async with self._tick:
                    await self._tick.wait()
                yield self._picture(view)
        finally:
            del self._views[key]

    def _page(self, view: View) -> tuple[list[ClientEntry], int]:
        wanted = view.search.casefold()
        found = [
            entry
            for entry in self._seen.entries
            if self._is_shown(entry, view.show) and (not wanted or wanted in _text_of(entry))
        ]
        found.sort(key=lambda entry: (entry.client_id not in self._seen.sessions, entry.client_id.casefold()))
        return found[view.offset : view.offset + PAGE], len(found)

    def _is_shown(self, entry: ClientEntry, show: str) -> bool:
        if show == "online":
            return entry.client_id in self._seen.sessions
        return show != "disabled" or not entry.enabled

    def _picture(self, view: View) -> dict[str, Any]:
        seen = self._seen
        entries, found = self._page(view)
        total = self._totals.of("")
        return {
            "error": seen.error,
            "hub": None if seen.status is None else to_json(seen.status),
            "statistics": None if seen.statistics is None else to_json(seen.statistics),
            "now": time.time(),
            "sent": total.sent,
            "received": total.received,
            "online": len(seen.sessions),
            "registered": len(seen.entries) if seen.entries_known else None,
            "found": found,
            "offset": view.offset,
            "page": PAGE,
            "rows": [self._row(entry) for entry in entries],
        }

    def _row(self, entry: ClientEntry) -> dict[str, Any]:
        sessions = self._seen.sessions.get(entry.client_id, [])
        rates = [self._clients.of(info.session_id) for info in sessions]
        telemetry = self._seen.telemetry.get(entry.client_id, (0.0, None))[1]
        return {
            "entry": to_json(entry),
            "expired": entry.expired(datetime.now(UTC)),
            "sessions": [to_json(info) for info in sessions],
            "sent": sum(rate.sent for rate in rates),
            "received": sum(rate.received for rate in rates),
            "telemetry": None if telemetry is None else to_json(telemetry),
        }


def _text_of(entry: ClientEntry) -> str:
    parts = (entry.client_id, entry.assigned_ip, entry.assigned_ip6, entry.description, *entry.tags)
    return "\n".join(part for part in parts if part).casefold()
