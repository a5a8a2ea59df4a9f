"""Paths that carry less than an Ethernet frame and say nothing about it: no black holes."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from smartvpn.client import VpnClient
from smartvpn.server import VpnServer
from smartvpn.types import ClientInfo
from tests.netns.talk import DRINK, ECHO, POUR, TALK, Talk
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


def narrow(machine: Topology, mtu: int) -> None:
    """Client and hub are joined by a router whose links carry `mtu` bytes, who is silent when more comes."""
    for kind in ("ipv4.ip_forward", "ipv6.conf.all.forwarding"):
        machine.run("hub", "sysctl", "-qw", f"net.{kind}=1")
    machine.run("internet", "ip", "route", "add", "10.99.0.0/24", "via", "10.99.1.1")
    machine.run("internet", "ip", "-6", "route", "add", "fd99::/64", "via", "fd99:1::1")
    machine.run("hub", "nft", SILENCE)
    narrow_links(machine, mtu)


def narrow_links(machine: Topology, mtu: int) -> None:
    """The ends believe in 1500; the router alone knows better, towards both of them."""
    for device in ("outer", "internet"):
        machine.run("hub", "ip", "link", "set", device, "mtu", str(mtu))


@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("mode", ["quic", "websocket"])
async def test_no_black_hole(topology: Topology, mode: str, outer: int) -> None:
    """Whole files cross in both directions, in both families inside, whatever the path carries."""
    narrow(topology, 1280)
    config = hub_config(listenAddr=f"{OUTER[outer][0]}:7443", transportMode=mode)
    command = daemon_on(topology, "internet", "server")
    async with VpnServer({"transport": "stdio"}, config, command=command) as server:
        bundle = await server.create_client("alice")
        async with client_on(topology, bundle.smartvpn_config) as client:
            for mtu in (1280, 1300, 1400, 1500):
                narrow_links(topology, mtu)
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


@pytest.mark.parametrize("programs", [(ECHO, TALK), (POUR, DRINK)], ids=["conversation", "download"])
@pytest.mark.parametrize("mode", ["quic", "websocket"])
async def test_a_path_that_shrinks(topology: Topology, mode: str, programs: tuple[str, str]) -> None:
    """The path of a live transfer falls from 1500 bytes to 1300, silently: the transfer goes on."""
    narrow(topology, 1500)
    config = hub_config(listenAddr=f"{OUTER[4][0]}:7443", transportMode=mode)
    command = daemon_on(topology, "internet", "server")
    async with VpnServer({"transport": "stdio"}, config, command=command) as server:
        bundle = await server.create_client("alice")
        async with client_on(topology, bundle.smartvpn_config) as client:
            await client.connect()
            talk = Talk(topology, role="internet", programs=programs)
            await talk.goes_on()
            if mode == "quic":

                async def wide() -> bool:
                    return (await client.get_mtu_info()).link_mtu == 1500

                await eventually(wide)
            await talk.goes_on()
            narrow_links(topology, 1300)
            paused = await talk.standstill(90)
            info = await client.get_mtu_info()
            print(f"{mode}, from 1500 to 1300: a pause of {paused:.2f} s, then {info}")
            assert await answers(topology, GATEWAY, "client", "-s", "1372", "-M", "dont")


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
