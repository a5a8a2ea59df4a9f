"""A change of an entry holds within 100 ms on its live session, and nobody else loses a packet."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest

from smartvpn.server import VpnServer
from smartvpn.types import ConfigBundle
from tests.netns.stream import Stream, stream, until_monotonic
from tests.netns.test_wg_hub import quick
from tests.netns.topology import HUB_INTERNET, Topology
from tests.netns.tunnel import GATEWAY, answers, client_on, eventually, hub_on, iperf, serve_iperf

TRANSPORTS = ["websocket", "quic", "wireguard"]
WITHIN = 0.1
WATCHED = 0.6  # seconds after the change in which nothing more may arrive


@asynccontextmanager
async def joined(
    machine: Topology, transport: str, bundle: ConfigBundle, role: str = "client"
) -> AsyncIterator[None]:
    """The client's tunnel on one of the machines, seen to work."""
    if role == "internet":
        machine.run(role, "ip", "route", "replace", "10.99.0.0/24", "via", HUB_INTERNET)
    async with AsyncExitStack() as stack:
        if transport == "wireguard":
            await stack.enter_async_context(quick(machine, bundle, role))
        else:
            config = attrs.evolve(bundle.smartvpn_config, transport=transport)
            client = await stack.enter_async_context(client_on(machine, config, role))
            await client.connect()
        await eventually(lambda: answers(machine, GATEWAY, role))
        yield


def _updates(**security: Any) -> Callable[[VpnServer], Awaitable[object]]:
    return lambda server: server.update_client("alice", {"security": security})


async def _expire(server: VpnServer) -> None:
    """By the clock: until the second that the entry names is there."""
    at = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
    await server.update_client("alice", {"expiresAt": at.isoformat()})
    await asyncio.sleep((at - datetime.now(UTC)).total_seconds())


CHANGES: dict[str, Callable[[VpnServer], Awaitable[object]]] = {
    "destination denied": _updates(destinationBlockList=["10.8.0.0/28"]),
    "destination not allowed": _updates(destinationAllowList=["192.0.2.0/24"]),
    "source denied": _updates(ipBlockList=["10.99.0.0/24"]),
    "disabled": lambda server: server.disable_client("alice"),
    "removed": lambda server: server.remove_client("alice"),
    "rotated": lambda server: server.rotate_client_key("alice"),
    "expired": _expire,
}


@pytest.mark.calm
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("change", list(CHANGES))
async def test_a_change_holds_at_once(topology: Topology, transport: str, change: str) -> None:
    """From 100 ms after the change on nothing of the client's stream arrives."""
    async with hub_on(topology, transportMode="all") as server:
        bundle = await server.create_client("alice")
        async with (
            joined(topology, transport, bundle),
            stream(topology, "client", "hub", GATEWAY) as sent,
        ):
            await asyncio.sleep(0.5)
            await CHANGES[change](server)
            done = time.monotonic()
            await until_monotonic(done + WATCHED)
            await sent.stop()
            assert len(sent.arrived) > 50
            assert sent.after(done + WITHIN) == 0


@pytest.mark.calm
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("way", ["up", "down"])
async def test_a_limit_holds_at_once(topology: Topology, transport: str, way: str) -> None:
    """A limit set on a live session holds from 100 ms on; lifted, everything passes as soon."""
    async with hub_on(topology, transportMode="all") as server:
        bundle = await server.create_client("alice")
        ends = ("client", "hub", GATEWAY) if way == "up" else ("hub", "client", bundle.entry.assigned_ip)
        async with joined(topology, transport, bundle), stream(topology, *ends) as sent:
            await asyncio.sleep(0.5)
            await server.set_client_rate_limit("alice", 2000, 500)
            limited = time.monotonic()
            await until_monotonic(limited + 1)
            asked = time.monotonic()
            await server.remove_client_rate_limit("alice")
            lifted = time.monotonic()
            await until_monotonic(lifted + 1)
            await sent.stop()
            # 2000 bytes a second are 9 of these packets; 500 a second are sent.
            assert sent.after(limited + WITHIN) - sent.after(asked) < 15
            assert sent.after(lifted + WITHIN) > 300


async def _change_alice(server: VpnServer, turn: int) -> None:
    lists = [{}, {"destinationBlockList": [f"192.0.2.{turn}"]}, {"ipBlockList": ["192.0.2.0/24"]}]
    await server.update_client("alice", {"security": lists[turn % 3], "tags": [f"turn{turn}"]})
    await server.set_client_rate_limit("alice", 40_000_000 + turn, 1_000_000)
    await server.create_client(f"c{turn}")
    later = datetime.now(UTC) + timedelta(seconds=600 + turn)
    await server.update_client(f"c{turn}", {"expiresAt": later.isoformat()})
    if turn % 2:
        await server.rotate_client_key(f"c{turn}")
    else:
        await server.disable_client(f"c{turn}")
    await server.remove_client(f"c{turn}")


def _nothing_lost(one: Stream, least: int = 1000) -> None:
    assert one.sent > least
    assert one.numbers == list(range(one.sent))


@pytest.mark.calm
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_client_loses_nothing_by_its_own_update(topology: Topology, transport: str) -> None:
    """Rules that do not concern a client's packets come and go, and all of them arrive."""
    async with hub_on(topology, transportMode="all") as server:
        alice = await server.create_client("alice")
        async with (
            joined(topology, transport, alice),
            stream(topology, "client", "hub", GATEWAY, interval=0.001) as up,
            stream(topology, "hub", "client", alice.entry.assigned_ip, interval=0.001, port=9998) as down,
        ):
            turn, began = 0, time.monotonic()
            while turn < 100 or time.monotonic() < began + 1:
                turn += 1
                denied = {"destinationBlockList": [f"192.0.2.{turn % 250}"]}
                await server.update_client("alice", {"security": denied, "tags": [f"turn{turn}"]})
            for one in (up, down):
                await one.stop()
                _nothing_lost(one, 100)


@pytest.mark.alone
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_others_lose_nothing(topology: Topology, transport: str) -> None:
    """Under load, while entries change and the loaded client is thrown out: a bystander's stream is whole."""
    serve_iperf(topology, "hub")
    async with hub_on(topology, transportMode="all") as server:
        alice, bob = await server.create_client("alice"), await server.create_client("bob")
        async with (
            joined(topology, transport, alice),
            joined(topology, transport, bob, "internet"),
            stream(topology, "internet", "hub", GATEWAY) as up,
            stream(topology, "hub", "internet", bob.entry.assigned_ip, port=9998) as down,
        ):
            load = asyncio.create_task(iperf(topology, GATEWAY, "-t", "3", "-b", "200M"))
            for turn in range(40):
                await _change_alice(server, turn)
            assert (await load)["sum_received"]["bits_per_second"] > 50e6
            await server.rotate_client_key("alice")
            await server.disable_client("alice")
            await server.remove_client("alice")
            for bystander in (up, down):
                await bystander.stop()
                _nothing_lost(bystander)
