"""A hub known by name: the tunnel follows it to the other address family, and to other addresses."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from attrs import frozen

from smartvpn.client import VpnClient
from smartvpn.server import VpnServer
from smartvpn.types import TunnelState
from tests.netns.names import NameServer
from tests.netns.test_auto import Talk
from tests.netns.topology import (
    CLIENT_OUTER,
    CLIENT_OUTER6,
    HUB_INTERNET,
    HUB_INTERNET6,
    HUB_OUTER,
    HUB_OUTER6,
    Topology,
)
from tests.netns.tunnel import GATEWAY, TUN, answers, client_on, eventually, hub_on

# Hub and name servers lie behind the client's default routes: a full tunnel swallows them.
WG_PORT = 51820
NAME, ELSEWHERE = "hub.example", "10.99.1.7"
NAME_SERVERS = ("10.99.1.53", "fd99:1::53")
WITHIN = 15

FULL = {"routes": ["0.0.0.0/0", "::/0"]}
MODES = pytest.mark.parametrize("mode", ["quic", "websocket", "both"], ids=["quic", "websocket", "auto"])
ALL_MODES = pytest.mark.parametrize(
    "mode", ["quic", "websocket", "both", "wireguard"], ids=["quic", "websocket", "auto", "wireguard"]
)
SPLIT_OR_FULL = pytest.mark.parametrize(
    "pushed", [{}, FULL | {"dns": [GATEWAY]}], ids=["split", "full with names"]
)
ANY_ROUTES = pytest.mark.parametrize(
    "pushed", [{}, FULL, FULL | {"dns": [GATEWAY]}], ids=["split", "full", "full with names"]
)

DEAF = "add table inet deaf; add chain inet deaf in {{ type filter hook input priority -300; }}; {rule}"


def have(machine: Topology, version: int) -> None:
    """The client's machine gets its address of a family, and a default route."""
    if version == 4:
        machine.run("client", "ip", "address", "add", f"{CLIENT_OUTER}/24", "dev", "outer")
        machine.run("client", "ip", "route", "add", "default", "via", HUB_OUTER)
    else:
        machine.run("client", "ip", "address", "add", f"{CLIENT_OUTER6}/64", "dev", "outer", "nodad")
        machine.run("client", "ip", "-6", "route", "add", "default", "via", HUB_OUTER6)


def lose(machine: Topology, version: int) -> None:
    """They go; the kernel drops IPv4's routes by itself."""
    if version == 4:
        machine.run("client", "ip", "address", "del", f"{CLIENT_OUTER}/24", "dev", "outer")
    else:
        machine.run("client", "ip", "address", "del", f"{CLIENT_OUTER6}/64", "dev", "outer")
        machine.run("client", "ip", "-6", "route", "del", "default", "dev", "outer", check=False)


def deafen(machine: Topology, match: str) -> None:
    """The hub's machine is deaf to that, instead of what it was deaf to before."""
    machine.run("hub", "nft", "add table inet deaf; delete table inet deaf")
    machine.run("hub", "nft", DEAF.format(rule=f"add rule inet deaf in {match} counter drop"))


@frozen
class Scene:
    """A hub, its client alice, who knows it by name, and the name server."""

    machine: Topology
    names: NameServer
    server: VpnServer
    client: VpnClient

    async def connect(self) -> str:
        """The address inside the tunnel."""
        return (await self.client.connect()).assigned_ip

    async def is_reached_from(self, address: str) -> bool:
        """Whether the hub sees its client there, and the client says that it is connected."""
        sessions = await self.server.list_clients()
        seen = [session.remote_addr.rpartition(":")[0].strip("[]") for session in sessions]
        return seen == [address] and (await self.client.get_status()).state is TunnelState.CONNECTED

    async def goes_on(self, talk: Talk, inside: str, begin: float) -> None:
        """The same connection over the same address, soon."""
        await talk.goes_on(WITHIN)
        print(f"traffic flows after {time.monotonic() - begin:.2f} s")
        assert (await self.client.get_status()).assigned_ip == inside

    async def leads_around(self, *addresses: str) -> None:
        """Those have a route outside of a full tunnel, and no others."""

        def led() -> set[str]:
            lines = [
                line.split()
                for family in ("-4", "-6")
                for line in self.machine.run(
                    "client", "ip", family, "route", "show", "proto", "83"
                ).stdout.splitlines()
            ]
            return {line[0] for line in lines if "outer" in line}

        async def right() -> bool:
            return led() == set(addresses)

        await eventually(right, WITHIN)


@asynccontextmanager
async def scene(machine: Topology, mode: str, pushed: dict[str, Any]) -> AsyncIterator[Scene]:
    """Not connected yet."""
    for address, length in ((ELSEWHERE, 24), (NAME_SERVERS[0], 24), (NAME_SERVERS[1], 64)):
        options = ["nodad"] if ":" in address else []
        machine.run("hub", "ip", "address", "add", f"{address}/{length}", "dev", "internet", *options)
    machine.resolv_conf("client").write_text("".join(f"nameserver {server}\n" for server in NAME_SERVERS))
    names = NameServer(machine, "hub")
    names.knows(NAME, [HUB_INTERNET, HUB_INTERNET6])
    port = WG_PORT if mode == "wireguard" else 7443
    where = {"listenAddr": "[::]:7443", "serverEndpoint": f"{NAME}:{port}"}
    async with hub_on(machine, transportMode=mode, **where, **pushed) as server:
        bundle = await server.create_client("alice")
        async with client_on(machine, bundle.smartvpn_config) as client:
            yield Scene(machine, names, server, client)


ADDRESSES = {4: CLIENT_OUTER, 6: CLIENT_OUTER6}
HUBS = {4: HUB_INTERNET, 6: HUB_INTERNET6}


@ALL_MODES
@SPLIT_OR_FULL
@pytest.mark.parametrize(("old", "new"), [(4, 6), (6, 4)], ids=["to IPv6", "to IPv4"])
async def test_a_family_goes(topology: Topology, mode: str, pushed: Any, old: int, new: int) -> None:
    """While the other one is there: the tunnel goes on over that, and connections inside with it."""
    lose(topology, new)
    async with scene(topology, mode, pushed) as where:
        inside = await where.connect()
        have(topology, new)
        talk = Talk(topology)
        await talk.goes_on()
        await asyncio.sleep(1)
        assert await where.is_reached_from(ADDRESSES[old])
        lose(topology, old)
        begin = time.monotonic()
        await eventually(lambda: where.is_reached_from(ADDRESSES[new]), WITHIN)
        await where.goes_on(talk, inside, begin)
        await where.leads_around(*([HUBS[new]] if pushed else []))


@pytest.mark.long(12)
@ALL_MODES
@SPLIT_OR_FULL
@pytest.mark.parametrize(("old", "new"), [(4, 6), (6, 4)], ids=["to IPv6", "to IPv4"])
async def test_another_network_of_the_other_family(
    topology: Topology, mode: str, pushed: Any, old: int, new: int
) -> None:
    """The one network goes; after some seconds without any the other one comes."""
    lose(topology, new)
    async with scene(topology, mode, pushed) as where:
        inside = await where.connect()
        talk = Talk(topology)
        await talk.goes_on()
        lose(topology, old)
        await asyncio.sleep(6)
        have(topology, new)
        begin = time.monotonic()
        await eventually(lambda: where.is_reached_from(ADDRESSES[new]), WITHIN)
        await where.goes_on(talk, inside, begin)


@MODES
@ANY_ROUTES
async def test_the_hub_moves(topology: Topology, mode: str, pushed: Any) -> None:
    """Its name gets another address, and the old one dies: the name servers from before the tunnel know."""
    async with scene(topology, mode, pushed) as where:
        where.names.knows(NAME, [HUB_INTERNET])
        inside = await where.connect()
        talk = Talk(topology)
        await talk.goes_on()
        asked = len(where.names.askers(NAME))
        where.names.knows(NAME, [ELSEWHERE])
        deafen(topology, f"ip daddr {HUB_INTERNET} meta l4proto {{ tcp, udp }} th dport 7443")
        await where.goes_on(talk, inside, time.monotonic())
        assert CLIENT_OUTER in where.names.askers(NAME)[asked:]
        await where.leads_around(*([ELSEWHERE] if pushed else []))


@pytest.mark.long(35)
@ANY_ROUTES
async def test_the_hub_moves_by_wireguard(topology: Topology, pushed: Any) -> None:
    """There silence is seen by WireGuard's own timers: by a handshake that is not answered."""
    async with scene(topology, "wireguard", pushed) as where:
        where.names.knows(NAME, [HUB_INTERNET])
        await where.connect()
        where.names.knows(NAME, [ELSEWHERE])
        deafen(topology, f"ip daddr {HUB_INTERNET} udp dport {WG_PORT}")
        topology.popen("client", "ping", "-n", "-q", "-i", "0.5", GATEWAY, stdout=subprocess.DEVNULL)

        async def moved() -> bool:
            return (await where.client.get_status()).server_addr == f"{ELSEWHERE}:{WG_PORT}"

        await eventually(moved, 60)
        await eventually(lambda: answers(topology, GATEWAY), WITHIN)
        await where.leads_around(*([ELSEWHERE] if pushed else []))


@MODES
@ANY_ROUTES
async def test_name_servers_that_are_silent(topology: Topology, mode: str, pushed: Any) -> None:
    """Nobody tells any more where the hub is: what was known before will do.

    And while names are asked for in vain, a client that is told to stop does not wait for them.
    """
    async with scene(topology, mode, pushed) as where:
        inside = await where.connect()
        talk = Talk(topology)
        await talk.goes_on()
        deafen(topology, "udp dport 53")
        lose(topology, 6)
        begin = time.monotonic()
        await eventually(lambda: where.is_reached_from(CLIENT_OUTER), WITHIN)
        await where.goes_on(talk, inside, begin)
        deafen(topology, "iifname outer")
        await asyncio.sleep(4)
        begin = time.monotonic()
        await where.client.disconnect()
        assert time.monotonic() - begin < 4
        assert TUN not in topology.run("client", "ip", "link").stdout


@ALL_MODES
async def test_a_family_goes_unnoticed(topology: Topology, mode: str) -> None:
    """Nobody sends anything, and still the link is left at once that has no way any more."""
    async with scene(topology, mode, {}) as where:
        await where.connect()
        await asyncio.sleep(3)
        # IPv6 has a short lead at first: where its answer is late, IPv4 wins.
        old, new = (6, 4) if await where.is_reached_from(CLIENT_OUTER6) else (4, 6)
        assert await where.is_reached_from(ADDRESSES[old])
        lose(topology, old)
        begin = time.monotonic()
        await eventually(lambda: where.is_reached_from(ADDRESSES[new]), WITHIN)
        print(f"back after {time.monotonic() - begin:.2f} s")
