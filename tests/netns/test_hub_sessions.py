"""Sessions of the hub's clients on each transport: keys of one's own, several at once, drops by class."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import attrs
import pytest

from smartvpn.server import VpnServer
from smartvpn.types import BundleSecrets, ClientInfo, Keypair
from tests.netns.test_live_effect import TRANSPORTS, joined
from tests.netns.topology import HUB_INTERNET, HUB_OUTER, INTERNET, Topology
from tests.netns.tunnel import (
    GATEWAY,
    answers,
    client_on,
    eventually,
    hub_on,
    iperf,
    ping_loss,
    serve_iperf,
    sessions_of,
    tunnel_on,
)

natively = pytest.mark.parametrize("transport", ["websocket", "quic"])


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_key_of_ones_own(topology: Topology, transport: str) -> None:
    """A client whose private keys the hub never saw connects, and is known by its key."""
    noise, wireguard = Keypair.generate(), Keypair.generate()
    async with hub_on(topology, transportMode="all") as server:
        given = await server.create_client(
            "alice", public_key=noise.public_key, wg_public_key=wireguard.public_key
        )
        assert given.secrets == BundleSecrets()
        own = attrs.evolve(
            given,
            smartvpn_config=attrs.evolve(given.smartvpn_config, client_private_key=noise.private_key),
            wireguard_config=given.wireguard_config.replace(
                "# PrivateKey =", f"PrivateKey = {wireguard.private_key}"
            ),
        )
        async with joined(topology, transport, own):
            [session] = await server.list_clients()
            assert (session.client_id, session.transport) == ("alice", transport)
            assert session.assigned_ip == given.entry.assigned_ip


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(("routes", "reached"), [(["10.99.1.0/24", "10.8.0.0/24"], True), (None, False)])
async def test_routes(topology: Topology, transport: str, routes: list[str] | None, reached: bool) -> None:
    """What the hub is configured to carry is what clients send into the tunnel; else the subnet."""
    topology.run("internet", "ip", "route", "replace", "10.8.0.0/24", "via", HUB_INTERNET)
    topology.run("hub", "sysctl", "-qw", "net.ipv4.ip_forward=1")
    async with hub_on(topology, transportMode="all", enableNat=False, routes=routes) as server:
        bundle = await server.create_client("alice")
        async with joined(topology, transport, bundle):
            assert await answers(topology, INTERNET) == reached


@natively
async def test_one_connection_goes_to_the_newest(topology: Topology, transport: str) -> None:
    """With maxConnections 1 another machine's session takes the place of the first, which is told."""
    topology.run("internet", "ip", "route", "replace", f"{HUB_OUTER}/32", "via", HUB_INTERNET)
    async with hub_on(topology, transportMode="both") as server:
        bundle = await server.create_client("alice")
        config = attrs.evolve(bundle.smartvpn_config, transport=transport)
        async with client_on(topology, config) as old, client_on(topology, config, "internet") as new:
            await old.connect()
            [first] = await sessions_of(server)
            await new.connect()

            async def is_told() -> bool:
                return (await old.get_status()).last_error is not None

            await eventually(is_told)
            assert "superseded" in ((await old.get_status()).last_error or "")
            [second] = await sessions_of(server)
            assert second.session_id != first.session_id
            assert second.assigned_ip == first.assigned_ip
            assert await answers(topology, GATEWAY, "internet")


@natively
async def test_several_at_once(topology: Topology, transport: str) -> None:
    """With maxConnections 2 both machines are served, each at an address of its own; one can be ended."""
    topology.run("internet", "ip", "route", "replace", f"{HUB_OUTER}/32", "via", HUB_INTERNET)
    async with hub_on(topology, transportMode="both") as server:
        bundle = await server.create_client("alice", security={"maxConnections": 2})
        config = attrs.evolve(bundle.smartvpn_config, transport=transport)
        async with client_on(topology, config) as one, client_on(topology, config, "internet") as two:
            first = (await one.connect()).assigned_ip
            await sessions_of(server)
            addresses = {first, (await two.connect()).assigned_ip}
            assert len(addresses) == 2
            sessions = await sessions_of(server, 2)
            assert {session.assigned_ip for session in sessions} == addresses
            assert {session.transport for session in sessions} == {transport}
            for role in ("client", "internet"):
                assert await answers(topology, GATEWAY, role)
            ended = sessions[0].session_id
            await server.disconnect_client("alice", ended)

            async def is_gone() -> list[ClientInfo] | None:
                left = await server.list_clients()
                return left if ended not in {session.session_id for session in left} else None

            await eventually(is_gone)
            assert sessions[1].session_id in {each.session_id for each in await server.list_clients()}


# quality of service

SLOW = ("tc", "qdisc", "replace", "dev", "outer", "root", "tbf")
RATE = ("rate", "8mbit", "burst", "32kb", "latency", "5ms")
FLOODS: dict[str, tuple[str, ...]] = {
    "high": ("-b", "30M", "-l", "60", "-t", "2"),  # small packets
    "normal": ("-b", "3M", "-l", "1200", "-t", "2", "-P", "32"),  # flows of less than 1 MB
}


@natively
@pytest.mark.parametrize("flood", FLOODS)
async def test_drops_are_counted_by_class(topology: Topology, transport: str, flood: str) -> None:
    """What a full link drops is told by the class of what was dropped, for the client and its session."""
    async with tunnel_on(topology, transportMode=transport) as (server, _):
        serve_iperf(topology, "hub")
        flooding = asyncio.create_task(iperf(topology, GATEWAY, "-u", "-R", *FLOODS[flood]))
        topology.run("hub", *SLOW, *RATE)
        await flooding
        await assert_dropped(server, flood)


async def assert_dropped(server: VpnServer, most: str) -> None:
    """Of all packets to alice most were dropped in that class."""
    [session] = await server.list_clients()
    for telemetry in (
        await server.get_client_telemetry("alice"),
        await server.get_client_telemetry("alice", session.session_id),
    ):
        drops: dict[str, Any] = attrs.asdict(telemetry.drops)
        assert max(drops, key=lambda name: int(drops[name])) == most, drops
        assert drops[most] > 0
        assert (drops["acl"], drops["rate_limit"]) == (0, 0)
        assert telemetry.packets_dropped >= sum(drops.values())


DNS_SERVER = """
import socket
server, sink = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
server.bind(("0.0.0.0", 53))
sink.bind(("0.0.0.0", 5201))
print(flush=True)
while True:
    server.sendto(*server.recvfrom(2000))
"""
FLOOD = """
import socket, sys, time
client = sys.argv[1]
bulk, dns = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
bulk.connect((client, 5201))
dns.connect((client, 53))

def send(rate, seconds, queries):
    began, sent, asked = time.monotonic(), 0, 0
    while (now := time.monotonic() - began) < seconds:
        while sent < now * rate / 1200:
            bulk.send(bytes(1172))
            sent += 1
        while asked < now / seconds * queries:
            dns.send(bytes(300))
            asked += 1
        time.sleep(0.001)

def answers(seconds):
    dns.settimeout(seconds)
    try:
        return 1 + answers(seconds) if dns.recv(2000) else 0
    except TimeoutError:
        return 0

send(7e6, 0.2, 0)
print("past", flush=True)
sys.stdin.readline()
send(7.5e6, 1.5, 40)
print(answers(0.7), flush=True)
"""


@natively
async def test_a_flood_on_a_slow_path(topology: Topology, transport: str) -> None:
    """Of a flow past 1 MB the hub drops what the path does not carry; pings and DNS hardly lose a packet."""
    async with tunnel_on(topology, transportMode=transport) as (server, _):
        dns = topology.popen("client", sys.executable, "-c", DNS_SERVER, stdout=-1)
        assert dns.stdout is not None
        assert dns.stdout.readline() == b"\n"
        [session] = await server.list_clients()
        command = (sys.executable, "-c", FLOOD, session.assigned_ip)
        flood = topology.popen("hub", *command, stdin=-1, stdout=-1)
        assert flood.stdin is not None
        assert flood.stdout is not None
        assert flood.stdout.readline() == b"past\n"
        topology.run("hub", *SLOW, *RATE)
        flood.stdin.write(b"\n")
        flood.stdin.flush()
        pings = ("ping", "-n", "-q", "-c", "30", "-i", "0.04", "-W", "2", session.assigned_ip)
        assert await ping_loss(topology, "hub", *pings) < 0.2
        assert int(await asyncio.to_thread(flood.stdout.readline)) > 32  # of 40
        await assert_dropped(server, "low")
