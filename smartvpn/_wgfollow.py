"""Where a WireGuard hub is: WireGuard itself asks for a name once, and a machine moves between networks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Collection, Sequence

from smartvpn import _names
from smartvpn._address import parse_address, parse_endpoint
from smartvpn._control import to_the_end
from smartvpn.errors import SmartVpnError, UnreachableError
from smartvpn.network import Network

log = logging.getLogger(__name__)


async def look_up(endpoint: str) -> list[str]:
    """The addresses of a hub's `host:port`. Raises UnreachableError."""
    host, _ = parse_endpoint(endpoint)
    try:
        found = await _names.by_system(host)
    except OSError as error:
        raise UnreachableError(f"'{host}' has no address: {error.strerror}") from None
    if not found:
        raise UnreachableError(f"'{host}' has no address that can be reached")
    return found


def _is_numeric(host: str) -> bool:
    try:
        parse_address(host)
    except ValueError:
        return False
    return True


class HubFollower:
    """Finds the hub anew when the way to it has changed, or when it has not answered.

    `go_to` is called with each new address; `known` are those of the name, the first one in use. `inner`
    are ours inside the tunnel.
    """

    def __init__(
        self,
        endpoint: str,
        known: Sequence[str],
        inner: Collection[str | None],
        network: Network,
        go_to: Callable[[str], None],
    ) -> None:
        self._host, self._port = parse_endpoint(endpoint)
        self._known = list(known)
        self._address = self._known[0]
        self._inner = inner
        self._network = network
        self._go_to = go_to
        self._source = self._way_to(self._address)
        self._news = asyncio.Event()
        self._silent = False
        self._asked: asyncio.Task[list[str]] | None = None
        self._task = asyncio.create_task(self._run())

    def on_network(self) -> None:
        """The machine's addresses or routes have changed."""
        self._news.set()

    def on_silence(self) -> None:
        """The hub has not answered a handshake."""
        self._silent = True
        self._news.set()

    async def close(self) -> None:
        """No changes any more."""
        tasks = [self._task, *([self._asked] if self._asked else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def addresses(self) -> list[str]:
        """Where the hub is or may be: all of it has to stay outside of the tunnel."""
        return list(dict.fromkeys([*self._known, self._address]))

    async def _run(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            silent, self._silent = self._silent, False
            try:
                await self._look(silent)
            except SmartVpnError as error:
                log.error("the way to the hub cannot be set: %s", error)

    async def _look(self, silent: bool) -> None:
        """By what is known at once, and then by what the name servers say."""
        if await self._settle() or silent:
            self._known = await self._look_up() or self._known
            await self._settle(silent)

    async def _settle(self, silent: bool = False) -> bool:
        """Keep to the address as long as it is the name's, there is a way to it, and it is not silent.

        Whether the way to the hub is another one now.
        """
        before = self._address, self._source
        await to_the_end(self._network.refresh, self.addresses)
        if silent or self._address not in self._known or self._way_to(self._address) is None:
            self._leave()
        self._source = self._way_to(self._address)
        if (self._address, self._source) != before or silent:
            self._go_to(self._address)
        return self._source is None or (self._address, self._source) != before

    def _leave(self) -> None:
        """For the next address that there is a way to."""
        usable = [address for address in self.addresses if self._way_to(address) is not None]
        here = usable.index(self._address) if self._address in usable else -1
        if usable and usable[(here + 1) % len(usable)] != self._address:
            self._address = usable[(here + 1) % len(usable)]
            log.info("the hub is looked for at %s", self._address)

    async def _look_up(self) -> list[str]:
        """By name servers outside of the tunnel, else by the system's resolver as far as it is quick."""
        if _is_numeric(self._host):
            return []
        servers = await asyncio.to_thread(self._network.name_servers_outside)
        return await _names.look_up(self._host, servers) or await self._ask_system()

    async def _ask_system(self) -> list[str]:
        if self._asked is None:
            self._asked = asyncio.create_task(_names.by_system(self._host))
        done, _ = await asyncio.wait([self._asked], timeout=_names.ANSWER_SECS)
        if not done:
            return []
        asked, self._asked = self._asked, None
        return [] if asked.exception() else asked.result()

    def _way_to(self, address: str) -> str | None:
        """Our address on the way there, around the tunnel; None: there is no way. Nothing is sent."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, self._port))
            source = str(probe.getsockname()[0])
            return None if source in self._inner else source
        return None
