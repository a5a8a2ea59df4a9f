"""A hub that keeps 1,000 clients: made, listed, limited, rotated, disabled, removed.

    sudo .venv/bin/python -m examples.thousand_clients [COUNT]

It listens on loopback and keeps its registry in memory; nothing stays behind. What it shows is how a program
manages many clients at once: commands are answered out of order, so it gives many without waiting for each.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from smartvpn import ClientUpdate, ConfigBundle, Keypair, RateLimit, SecurityUpdate, VpnServer

AT_ONCE = 64
TEAMS = ("berlin", "lisbon", "osaka", "quito")

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def timed(what: str, count: int) -> Iterator[None]:
    """Says how long something took, and how many a second that is."""
    began = time.monotonic()
    yield
    seconds = time.monotonic() - began
    print(f"  {what:<34} {count:>6} in {seconds:6.2f} s   {count / seconds:8.0f} a second")


async def for_each(items: Iterable[T], action: Callable[[T], Awaitable[R]]) -> list[R]:
    """The results in order; AT_ONCE are under way at a time."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(item: T) -> R:
        async with slots:
            return await action(item)

    return await asyncio.gather(*(one(item) for item in items))


@asynccontextmanager
async def hub() -> AsyncIterator[VpnServer]:
    """A hub with room for 65,000 clients."""
    keys = Keypair.generate()
    config = {
        "listenAddr": "127.0.0.1:0",
        "privateKey": keys.private_key,
        "publicKey": keys.public_key,
        "subnet": "10.64.0.0/16",
        "registry": ":memory:",
        "serverEndpoint": "vpn.example.org",
    }
    async with VpnServer({"transport": "stdio"}, config) as server:
        yield server


async def manage(server: VpnServer, count: int) -> None:
    """A year of a hub's life, in seconds."""
    names = [f"client-{number:05}" for number in range(count)]

    async def create(name: str) -> ConfigBundle:
        return await server.create_client(name, tags=[TEAMS[int(name[-1]) % len(TEAMS)]])

    with timed("created, keys and configs", count):
        bundles = await for_each(names, create)
    assert len({bundle.entry.assigned_ip for bundle in bundles}) == count

    with timed("listed", count):
        everybody = await server.list_registered_clients()
    assert everybody.total == len(everybody) == count

    limited = ClientUpdate(security=SecurityUpdate(rate_limit=RateLimit.of(1_250_000)))
    with timed("limited to 10 Mbit/s", count):
        await for_each(names, lambda name: server.update_client(name, limited))

    leavers = names[: count // 10]
    soon = ClientUpdate(expires_at=datetime.now(UTC) + timedelta(days=30))
    with timed("given 30 days", len(leavers)):
        await for_each(leavers, lambda name: server.update_client(name, soon))

    with timed("given fresh keys", len(leavers)):
        fresh = await for_each(leavers, server.rotate_client_key)
    assert {bundle.entry.public_key for bundle in fresh}.isdisjoint(
        {bundle.entry.public_key for bundle in bundles}
    )

    with timed("disabled", len(leavers)):
        await for_each(leavers, server.disable_client)
    assert (await server.list_registered_clients(enabled=False)).total == len(leavers)

    with timed("removed", len(leavers)):
        await for_each(leavers, server.remove_client)
    assert (await server.list_registered_clients(limit=0)).total == count - len(leavers)


async def run(count: int) -> None:
    """From the first client to the last."""
    print(f"a hub with {count} clients\n")
    async with hub() as server:
        await manage(server, count)


if __name__ == "__main__":
    asyncio.run(run(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
