"""A client's outer address changes all the time: its session stays, and nothing is lost but by the path."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from attrs import evolve

from smartvpn.client import VpnClient
from smartvpn.server import VpnServer
from tests.netns.stream import stream, until_monotonic
from tests.netns.topology import HUB_OUTER, Topology
from tests.netns.tunnel import GATEWAY, client_on, eventually, hub_on
from tests.raw import environment

OWN_FROM, REBINDS = 12, 24
RELAY = f"{HUB_OUTER}:7444"
ADDRESSES = ("10.99.0.3", "10.99.0.2")  # the client's own
NAT = ("10.99.1.1", "10.99.1.3")  # what the hub sees
# With its headers more than goes as a datagram before the path's MTU is found, and alone in its packet.
PAYLOAD = 1340
ON_THE_WIRE = 1423


class Relay:
    """`udp_relay` on the hub's machine."""

    def __init__(self, machine: Topology, one_way: float) -> None:
        program = (sys.executable, "-P", "-m", "tests.netns.udp_relay", RELAY, f"{HUB_OUTER}:7443")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = machine.popen("hub", *program, str(one_way), **pipes, env=environment(), text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def __call__(self, command: str) -> Any:
        """What it answers."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(command + "\n")
        stdin.flush()
        return json.loads(stdout.readline())


@asynccontextmanager
async def relayed(machine: Topology, one_way: float) -> AsyncIterator[tuple[VpnServer, VpnClient, Relay]]:
    """A tunnel over QUIC through a relay."""
    relay = Relay(machine, one_way)
    async with hub_on(machine, transportMode="quic") as server:
        bundle = await server.create_client("alice")
        config = evolve(bundle.smartvpn_config, quic_server_url=RELAY)
        async with client_on(machine, config) as client:
            await client.connect()
            await eventually(server.list_clients)
            yield server, client, relay


def rebind(machine: Topology, relay: Relay, number: int) -> None:
    """A NAT that forgets the old port or address; one that remembers it; another address of the client's."""
    if number < OWN_FROM:
        how = "forget" if number < OWN_FROM // 2 else "move"
        relay(f"{how} {NAT[number // 2 % 2]}")
    else:
        route = ("route", "replace", HUB_OUTER, "dev", "outer", "src", ADDRESSES[number % 2])
        machine.run("client", "ip", *route)


async def moved(relay: Relay, before: object) -> object:
    """Which way the packets take, once that is another one and they take no other."""
    async with asyncio.timeout(40):
        while True:
            way: object = relay("used")
            if way and way != before:
                return way
            await asyncio.sleep(0.005)


async def test_24_rebinds_in_a_row(topology: Topology) -> None:
    """Numbered datagrams both ways all the time, 10 ms there and back."""
    topology.run("client", "ip", "address", "add", f"{ADDRESSES[0]}/24", "dev", "outer")
    topology.run("hub", "ip", "address", "add", f"{NAT[1]}/24", "dev", "internet")
    async with relayed(topology, 0.005) as (server, _, relay):
        begun = time.monotonic()
        [before] = await server.list_clients()
        async with (
            stream(topology, "client", "hub", GATEWAY, size=PAYLOAD) as up,
            stream(topology, "hub", "client", str(before.assigned_ip), size=PAYLOAD, port=9998) as down,
        ):
            way = await moved(relay, None)
            for number in range(REBINDS):
                if number == OWN_FROM:
                    await until_monotonic(begun + 1.6)  # a link holds larger packets back when it is new
                rebind(topology, relay, number)
                way = await moved(relay, way)
            await asyncio.gather(up.stop(), down.stop())
        [after] = await server.list_clients()
        lost = [each.sent - len(each.arrived) for each in (up, down)]
        dropped = relay(f"dropped {ON_THE_WIRE}")
        print(f"lost of {up.sent} up and {down.sent} down: {lost}; the path dropped {dropped} to the client")
        assert (after.session_id, after.assigned_ip) == (before.session_id, before.assigned_ip)
        assert lost == [0, dropped]
        assert dropped > 0
