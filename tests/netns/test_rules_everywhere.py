"""Rules that hold on every transport: hosts never reached, host access, who meets whom, moved sources."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from smartvpn import Keypair
from smartvpn.types import ConfigBundle
from tests.netns import packets
from tests.netns.hub import hub_at, pings
from tests.netns.independent import hello
from tests.netns.test_independent import EVERYTHING, UDP_ANY
from tests.netns.test_wg_hub import WG_PORT, quick, wg_hub
from tests.netns.topology import CLIENT_OUTER, HUB_OUTER, Topology
from tests.netns.tunnel import GATEWAY, GATEWAY6, TUN, answers, client_on, eventually
from tests.netns.wg import OURS, Device

NEVER = [
    "127.0.0.1",
    "127.9.9.9",
    "169.254.169.254",
    "224.0.0.1",
    "239.255.255.250",
    "255.255.255.255",
    "0.0.0.0",
]
NEVER6 = ["::1", "::", "fe80::1", "febf::1", "ff02::1", "ff0e::1234"]
TCP_V4, TCP_V6 = 1, 2


def _super_packets(source: str, target: str) -> list[tuple[int, bytes]]:
    """One of UDP and one of TCP, of ten segments each."""
    tcp = packets.tcp(source, target, (4000, 443), (1, 1), packets.ACK, bytes(10_000))
    udp = packets.udp(source, target, (4000, 443), bytes(10_000))
    return [(TCP_V6 if ":" in source else TCP_V4, tcp), (UDP_ANY, udp)]


async def test_some_hosts_are_never_reached_by_frames(topology: Topology) -> None:
    """Whatever the frame: a packet, a TCP or a UDP super-packet, and though the lists allow all."""
    async with hub_at(topology) as hub:
        security = {"destinationAllowList": ["0.0.0.0/0", "::/0"]}
        key = await hub.register("alice", security=security)
        async with hub.session(key, hello(EVERYTHING)) as session:
            sent = 0
            for target in NEVER + NEVER6:
                source = session.given.ip6 if ":" in target else session.given.ip
                await session.packet(packets.udp(source, target, (4000, 80), b"x"))
                for kind, whole in _super_packets(source, target):
                    await session.super_packet(kind, 1000, whole)
                sent += 3
            await pings(session)
            assert (await hub.server.get_client_telemetry("alice")).drops.acl == sent


async def test_no_address_without_ipv6(topology: Topology) -> None:
    """A hub without IPv6 gives none, and takes no IPv6 packet, from the unspecified address neither."""
    async with (
        hub_at(topology, subnet6=None) as hub,
        hub.session(await hub.register("alice"), hello(EVERYTHING)) as session,
    ):
        for source in ("::", "fd08::2"):
            await session.packet(packets.udp(source, "fd08::1", (4000, 80), b"x"))
        await session.packet(packets.echo(session.given.ip, GATEWAY))
        await session.receive()
        assert await hub.drops("alice") == 2


@asynccontextmanager
async def wide_open(machine: Topology, bundle: ConfigBundle, role: str = "client") -> AsyncIterator[Device]:
    """A WireGuard client whose own allowed IPs stop nothing."""
    async with quick(machine, bundle, role) as device:
        [hub_key] = device.show("allowed-ips")
        device.set("peer", hub_key, "allowed-ips", "0.0.0.0/0,::/0")
        yield device


async def _is_silent(machine: Topology, device: Device, *targets: str) -> None:
    for target in targets:
        if target.startswith("169."):
            machine.run(device.role, "ip", "route", "replace", target, "dev", device.name)
        assert not await answers(machine, target, device.role, "-I", device.name)


async def test_some_hosts_are_never_reached_by_wireguard(topology: Topology) -> None:
    """The same for a client by WireGuard."""
    async with wg_hub(topology, enableNat=False) as server:
        bundle = await server.create_client("alice")
        async with wide_open(topology, bundle) as device:
            await eventually(lambda: answers(topology, GATEWAY))
            await _is_silent(topology, device, "169.254.169.254", "239.1.1.1", "ff0e::5")
            assert (await server.get_client_telemetry("alice")).drops.acl >= 9


@asynccontextmanager
async def router(machine: Topology, key: str) -> AsyncIterator[Device]:
    """A WireGuard peer that is no client: 10.60.0.1 on the machine `client`."""
    device = Device(machine, "client", OURS)
    device.start()
    try:
        device.set("private-key", f"key:{device.private}")
        device.set("peer", key, "allowed-ips", "0.0.0.0/0", "endpoint", f"{HUB_OUTER}:{WG_PORT}")
        device.up("10.60.0.1/24")
        machine.run("client", "ip", "route", "add", "10.8.0.0/24", "dev", device.name)
        yield device
    finally:
        device.end()


async def test_rules_for_all_hold_for_peers_that_are_no_clients(topology: Topology) -> None:
    """Hosts that are never reached, and the hub itself where it is closed."""
    keys = Keypair.generate()
    pair = {"privateKey": keys.private_key, "publicKey": keys.public_key}
    async with (
        wg_hub(topology, allowHostAccess=False, **pair) as server,
        router(topology, keys.public_key) as device,
    ):
        await server.add_wg_peer({"publicKey": device.public, "allowedIps": ["10.60.0.0/24"]})
        await eventually(lambda: answers(topology, GATEWAY))
        before = _out_of_the_tunnel(topology)
        await _is_silent(topology, device, "169.254.169.254")
        assert not await _connects(topology, GATEWAY, 5201)
        assert _out_of_the_tunnel(topology) == before
        assert await _connects(topology, GATEWAY, 53)


def _out_of_the_tunnel(machine: Topology) -> int:
    """Packets that the hub's kernel got from clients and peers."""
    return int(machine.run("hub", "cat", f"/sys/class/net/{TUN}/statistics/rx_packets").stdout)


CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)"
LISTEN = """
import socket, sys
listener = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
print("ready", flush=True)
while True:
    listener.accept()[0].close()
"""


async def _connects(machine: Topology, address: str, port: int) -> bool:
    listener = machine.popen("hub", "python3", "-c", LISTEN, str(port), stdout=-1)
    assert listener.stdout is not None
    assert listener.stdout.readline()
    tried = await asyncio.to_thread(
        machine.run, "client", "python3", "-c", CONNECT, address, str(port), check=False
    )
    listener.kill()
    listener.wait()
    return tried.returncode == 0


async def test_the_host_is_closed_to_wireguard(topology: Topology) -> None:
    """Without allowHostAccess a client by WireGuard reaches ICMP and DNS on the gateway, nothing else."""
    async with (
        wg_hub(topology, allowHostAccess=False) as server,
        quick(topology, await server.create_client("alice")),
    ):
        await eventually(lambda: answers(topology, GATEWAY))
        for address in (GATEWAY, GATEWAY6):
            assert not await _connects(topology, address, 5201)
            assert await _connects(topology, address, 53)


@pytest.mark.parametrize("denied", ["native", "stock"])
async def test_lists_hold_between_transports(topology: Topology, denied: str) -> None:
    """A client that may not reach another does not, by whatever transport either comes; live both ways."""
    async with wg_hub(topology, "all") as server:
        native, stock = await server.create_client("native"), await server.create_client("stock")
        ends = {"native": ("client", stock), "stock": ("internet", native)}
        role, other = ends[denied]
        async with client_on(topology, native.smartvpn_config) as client:
            await client.connect()
            async with quick(topology, stock, "internet"):
                target = other.entry.assigned_ip
                await eventually(lambda: answers(topology, target, role))
                await server.update_client(denied, {"security": {"destinationBlockList": [target]}})
                assert not await answers(topology, target, role)
                assert (await server.get_client_telemetry(denied)).drops.acl == 3
                assert await answers(topology, GATEWAY, role)
                await server.update_client(denied, {"security": None})
                assert await answers(topology, target, role)


def _renumber(machine: Topology, old: str, new: str) -> None:
    machine.run("client", "sysctl", "-qw", "net.ipv4.conf.outer.promote_secondaries=1")
    machine.run("client", "ip", "address", "add", f"{new}/24", "dev", "outer")
    machine.run("client", "ip", "address", "delete", f"{old}/24", "dev", "outer")


async def test_a_wireguard_client_moves_to_where_it_may_not_be(topology: Topology) -> None:
    """Source rules hold again when a packet comes from another address; back, it is served again."""
    away = "10.99.0.7"
    async with wg_hub(topology) as server:
        bundle = await server.create_client("alice", security={"ipBlockList": [away]})
        async with quick(topology, bundle):
            await eventually(lambda: answers(topology, GATEWAY))
            _renumber(topology, CLIENT_OUTER, away)
            assert not await answers(topology, GATEWAY)
            _renumber(topology, away, CLIENT_OUTER)
            await eventually(lambda: answers(topology, GATEWAY))
