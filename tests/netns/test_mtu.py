"""Paths that carry less than an Ethernet frame and say nothing about it: no black holes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from smartvpn.client import VpnClient
from smartvpn.server import VpnServer
from smartvpn.types import ClientInfo
from tests.netns.capture import UDP, captured
from tests.netns.talk import DRINK, ECHO, GULP, POUR, SHOUT, TALK, Talk
from tests.netns.test_tunnel import SINK, SOURCE
from tests.netns.topology import Topology
from tests.netns.tunnel import (
    GATEWAY,
    GATEWAY6,
    answers,
    client_on,
    daemon as daemon_on,
    eventually,
    hub_config,
    sessions_of,
)

OUTER = {4: ("10.99.1.2", "10.99.1.0/24"), 6: ("[fd99:1::2]", "fd99:1::/64")}
SILENCE = """
add table inet silent
add chain inet silent in { type filter hook input priority -300; }
add chain inet silent out { type filter hook output priority -300; }
add rule inet silent out icmp type destination-unreachable counter drop
add rule inet silent out icmpv6 type packet-too-big counter drop
"""


WAYS = {"up": ("internet", "10.99.1.0/24", "fd99:1::/64"), "down": ("outer", "10.99.0.0/24", "fd99::/64")}


def narrow(machine: Topology, mtu: int) -> None:
    """Client and hub are joined by a router that carries `mtu` bytes, and is silent when more comes."""
    for kind in ("ipv4.ip_forward", "ipv6.conf.all.forwarding"):
        machine.run("hub", "sysctl", "-qw", f"net.{kind}=1")
    machine.run("internet", "ip", "route", "add", "10.99.0.0/24", "via", "10.99.1.1")
    machine.run("internet", "ip", "-6", "route", "add", "fd99::/64", "via", "fd99:1::1")
    machine.run("hub", "nft", SILENCE)
    narrow_ways(machine, mtu)


def narrow_ways(machine: Topology, mtu: int, *ways: str) -> None:
    """The ends believe in 1500; the router knows better, by its routes: its devices take all that comes."""
    for way in ways or WAYS:
        device, network, network6 = WAYS[way]
        leads = ("dev", device, "mtu", "lock", str(mtu))
        machine.run("hub", "ip", "route", "replace", network, *leads)
        machine.run("hub", "ip", "-6", "route", "del", network6, "dev", device)
        machine.run("hub", "ip", "-6", "route", "add", network6, *leads)


@pytest.mark.parametrize(
    ("mode", "outer"),
    [("quic", 4), ("quic", 6), ("websocket", 4), ("websocket", 6), ("wireguard", 4)],
)
async def test_no_black_hole(topology: Topology, mode: str, outer: int) -> None:
    """Whole files cross in both directions, in both families inside, whatever the path carries.

    But for WireGuard over IPv6, whose packets nobody may cut on the way.
    """
    narrow(topology, 1280)
    config = hub_config(listenAddr=f"{OUTER[outer][0]}:7443", transportMode=mode)
    command = daemon_on(topology, "internet", "server")
    async with VpnServer({"transport": "stdio"}, config, command=command) as server:
        bundle = await server.create_client("alice")
        async with client_on(topology, bundle.smartvpn_config) as client:
            for mtu in (1280, 1300, 1400, 1500):
                narrow_ways(topology, mtu)
                await client.connect()
                await send_files(topology, await sessions_of(server))
                assert await answers(topology, GATEWAY, "client", "-s", "1372", "-M", "dont")
                print(f"{mode}, path {mtu}, IPv{outer}: {await client.get_mtu_info()}")
                if mode == "quic":
                    await eventually(lambda mtu=mtu: link_is_known(client, mtu))  # type: ignore[misc]
                await client.disconnect()


async def link_is_known(client: VpnClient, most: int) -> bool:
    """Whether the client knows what the path carries, as far as it does."""
    return 1200 <= (await client.get_mtu_info()).link_mtu <= most


@asynccontextmanager
async def wide_tunnel(machine: Topology, mode: str, outer: int, **settings: Any) -> AsyncIterator[VpnClient]:
    """A tunnel on a path of 1500 bytes that has found out what it carries."""
    narrow(machine, 1500)
    config = hub_config(listenAddr=f"{OUTER[outer][0]}:7443", transportMode=mode, **settings)
    command = daemon_on(machine, "internet", "server")
    async with VpnServer({"transport": "stdio"}, config, command=command) as server:
        bundle = await server.create_client("alice")
        async with client_on(machine, bundle.smartvpn_config) as client:
            await client.connect()

            async def wide() -> bool:
                await answers(machine, GATEWAY)
                return (await client.get_mtu_info()).link_mtu == 1500

            await eventually(wide)
            yield client


OVERHEAD = {
    ("websocket", 4): 79,
    ("websocket", 6): 99,
    ("quic", 4): 86,
    ("quic", 6): 106,
    ("wireguard", 4): 60,
    ("wireguard", 6): 80,
}


LEAST_SHARE = 3  # bytes of a QUIC packet's number that it may do without


@pytest.mark.parametrize(("mode", "outer"), OVERHEAD)
async def test_mtu_info_is_exact(topology: Topology, mode: str, outer: int) -> None:
    """As computed; where packets go as datagrams the largest that fits makes a whole frame, and no more."""
    effective = 1500 - OVERHEAD[mode, outer]
    async with wide_tunnel(topology, mode, outer, mtu=effective) as client:
        info = await client.get_mtu_info()
        assert (info.overhead_bytes, info.effective_mtu) == (OVERHEAD[mode, outer], effective)
        assert info.tun_mtu == effective
        for target, headers in ((GATEWAY, 28), (GATEWAY6, 48)):
            with captured(topology, "client") as seen:
                size = str(effective - headers)
                assert await answers(topology, target, "client", "-s", size, "-M", "do")
                frames = [packet for packet in seen.packets() if packet.protocol == UDP]
            for outgoing in (True, False) if mode != "websocket" else ():
                longest = max(frame.length for frame in frames if frame.outgoing is outgoing)
                assert 1500 - LEAST_SHARE <= longest <= 1500


async def large_ones_pass(machine: Topology) -> bool:
    """Pings and answers that a path of less than 1400 bytes does not carry whole."""
    return await answers(machine, GATEWAY, "client", "-s", "1372", "-M", "dont")


@pytest.mark.parametrize("programs", [(ECHO, TALK), (POUR, DRINK)], ids=["conversation", "download"])
@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("mode", ["quic", "websocket"])
async def test_a_path_that_shrinks(
    topology: Topology, mode: str, outer: int, programs: tuple[str, str]
) -> None:
    """The path of a live transfer falls from 1500 bytes to 1300, silently: the transfer goes on."""
    async with wide_tunnel(topology, mode, outer) as client:
        talk = Talk(topology, role="internet", programs=programs)
        await talk.goes_on()
        narrow_ways(topology, 1300)
        paused = await talk.standstill(90)
        info = await client.get_mtu_info()
        print(f"{mode}, IPv{outer}, from 1500 to 1300: a pause of {paused:.2f} s, then {info}")
        await eventually(lambda: large_ones_pass(topology))
        await eventually(lambda: link_is_known(client, 1300))


# What goes the other way keeps the link alive, and is no reason to look.
OTHER_WAY = {"up": (POUR, DRINK), "down": (GULP, SHOUT)}


@pytest.mark.parametrize("way", OTHER_WAY)
@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("mode", ["quic", "websocket"])
async def test_a_way_that_shrinks_beside_a_transfer(
    topology: Topology, mode: str, outer: int, way: str
) -> None:
    """One way alone falls to 1280 while a transfer goes the other: large packets get there all the same."""
    async with wide_tunnel(topology, mode, outer):
        talk = Talk(topology, role="internet", programs=OTHER_WAY[way])
        await talk.goes_on()
        narrow_ways(topology, 1280, way)
        await eventually(lambda: large_ones_pass(topology), 20)
        await talk.goes_on()


async def send_files(machine: Topology, sessions: list[ClientInfo]) -> None:
    """Up and down, in both families."""
    [session] = sessions
    for target in (GATEWAY, GATEWAY6):
        await send_file(machine, "client", "internet", target)
    for target in (session.assigned_ip, str(session.assigned_ip6)):
        await send_file(machine, "internet", "client", target)


async def send_file(machine: Topology, source: str, sink: str, target: str) -> None:
    """Some 8 MB that arrive byte for byte."""
    listener = machine.popen(sink, sys.executable, "-c", SINK, target, stdout=subprocess.PIPE, text=True)
    assert listener.stdout is not None
    assert listener.stdout.readline() == "ready\n"
    command = (sys.executable, "-c", SOURCE, target, "8")
    sent = await asyncio.to_thread(machine.run, source, *command, timeout=90)
    assert listener.stdout.readline() == sent.stdout
    listener.wait(10)
