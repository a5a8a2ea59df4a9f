"""The tunnel between real machines: packets cross, both ways, in both families, and nothing gets lost."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from typing import Any

import pytest

from smartvpn.client import VpnClient
from smartvpn.errors import UnauthorizedError, UnreachableError
from smartvpn.server import VpnServer
from smartvpn.types import LinkHealth, TunnelState
from tests.netns.topology import INTERNET, INTERNET6, Topology
from tests.netns.tunnel import (
    GATEWAY,
    GATEWAY6,
    TUN,
    answers,
    client_on,
    cpu_seconds,
    daemon,
    eventually,
    hub_config,
    hub_on,
    iperf,
    ping_loss,
    serve_iperf,
    state_is,
    tunnel_on,
    udp_loss,
)

FLOOD = ("ping", "-n", "-q", "-f", "-c", "2000")


async def test_pings_cross_both_ways(topology: Topology) -> None:
    """Pings of all sizes are answered, from the client and from the hub, in IPv4 and IPv6."""
    async with tunnel_on(topology) as (server, _):
        [session] = await server.list_clients()
        for gateway, address in ((GATEWAY, session.assigned_ip), (GATEWAY6, str(session.assigned_ip6))):
            for size in ("0", "56", "1372", "4000", "20000"):
                assert await answers(topology, gateway, "client", "-s", size), size
                assert await answers(topology, address, "hub", "-s", size), size


async def test_the_interface_is_deleted(topology: Topology) -> None:
    """A client whose interface somebody deletes goes on answering commands, and does not spin."""
    async with tunnel_on(topology) as (_, client):
        topology.run("client", "ip", "link", "delete", TUN)
        await asyncio.sleep(0.2)
        before = cpu_seconds(client.bridge.pid)
        await asyncio.sleep(1)
        assert cpu_seconds(client.bridge.pid) - before < 0.3
        assert (await client.get_status()).state is TunnelState.CONNECTED


async def test_no_ping_is_lost_in_a_flood(topology: Topology) -> None:
    """Thousands of small packets, as fast as they are answered: none is lost."""
    async with tunnel_on(topology):
        assert await ping_loss(topology, "client", *FLOOD, GATEWAY) == 0.0
        assert await ping_loss(topology, "client", *FLOOD, GATEWAY6) == 0.0


@pytest.mark.parametrize("gateway", [GATEWAY, GATEWAY6])
async def test_tcp_crosses(topology: Topology, gateway: str) -> None:
    """TCP flows up, down, both at once, several, with small segments; iperf3 leaves buffers half full."""
    async with tunnel_on(topology) as (_, client):
        serve_iperf(topology, "hub")
        for options in ((), ("-R",), ("--bidir",), ("-P", "4"), ("-M", "500")):
            before = await moved(client)
            end = await iperf(topology, gateway, "-n", "40M", *options)
            backwards = end.get("sum_received_bidir_reverse", {"bytes": 0})
            assert end["sum_received"]["bytes"] + backwards["bytes"] > 18e6, options
            assert await moved(client) - before > 18e6, options


async def moved(client: VpnClient) -> int:
    """The bytes that the client has counted."""
    counters = await client.get_statistics()
    return counters.bytes_sent + counters.bytes_received


SINK = """
import hashlib, socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
listener = socket.create_server((sys.argv[1], 9), family=family)
print("ready", flush=True)
connection, _ = listener.accept()
digest = hashlib.sha256()
while data := connection.recv(1 << 20):
    digest.update(data)
print(digest.hexdigest())
"""
SOURCE = """
import hashlib, random, socket, sys
generator, digest = random.Random(1), hashlib.sha256()
with socket.create_connection((sys.argv[1], 9), 5) as connection:
    for _ in range(int(sys.argv[2])):
        data = generator.randbytes(generator.randrange(1, 2 << 20))
        digest.update(data)
        connection.sendall(data)
print(digest.hexdigest())
"""


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(("source", "sink"), [("client", "hub"), ("hub", "client")])
async def test_what_arrives_is_what_was_sent(topology: Topology, source: str, sink: str, family: int) -> None:
    """Some 40 MB over TCP, written in pieces of all sizes, arrive byte for byte."""
    async with tunnel_on(topology) as (server, _):
        [session] = await server.list_clients()
        address, address6 = (
            (GATEWAY, GATEWAY6) if sink == "hub" else (session.assigned_ip, session.assigned_ip6)
        )
        target = str(address if family == 4 else address6)
        listener = topology.popen(sink, sys.executable, "-c", SINK, target, stdout=subprocess.PIPE, text=True)
        assert listener.stdout is not None
        assert listener.stdout.readline() == "ready\n"
        sent = await asyncio.to_thread(topology.run, source, sys.executable, "-c", SOURCE, target, "40")
        assert listener.stdout.readline() == sent.stdout


@pytest.mark.alone
async def test_udp_crosses(topology: Topology) -> None:
    """A moderate UDP flow of full packets loses next to nothing, either way, in IPv4 and IPv6."""
    async with tunnel_on(topology):
        serve_iperf(topology, "hub")
        for gateway, *direction in ((GATEWAY,), (GATEWAY, "-R"), (GATEWAY6,), (GATEWAY6, "-R")):
            assert await udp_loss(topology, gateway, "-b", "50M", "-t", "1", "-l", "1372", *direction) < 0.01


async def test_fragmented_datagrams_cross(topology: Topology) -> None:
    """A UDP datagram larger than the tunnel's MTU arrives, in fragments."""
    async with tunnel_on(topology):
        serve_iperf(topology, "hub")
        assert await udp_loss(topology, GATEWAY, "-b", "10M", "-t", "1", "-l", "9000") < 0.01


async def test_the_internet_is_reached_through_nat(topology: Topology) -> None:
    """With enableNat everything goes through the hub, TCP too, and the internet sees the hub's address."""
    async with tunnel_on(topology, enableNat=True):
        assert await answers(topology, INTERNET)
        assert await answers(topology, INTERNET6)
        serve_iperf(topology, "internet")
        end = await iperf(topology, INTERNET, "-n", "20M")
        assert end["sum_received"]["bytes"] > 15e6
        # The internet has no route to the tunnel's network, so an answer proves the hub's address in front.
        assert "10.8.0." not in topology.run("internet", "ip", "route").stdout


async def test_clients_reach_each_other(topology: Topology) -> None:
    """Two clients of one hub ping each other and send TCP through it."""
    async with hub_on(topology) as server:
        alice = await server.create_client("alice")
        bob = await server.create_client("bob")
        topology.run("internet", "ip", "route", "add", "default", "via", "10.99.1.1")
        async with (
            client_on(topology, alice.smartvpn_config) as a,
            client_on(topology, bob.smartvpn_config, "internet") as b,
        ):
            await a.connect()
            to = (await b.connect()).assigned_ip
            assert await answers(topology, to)
            serve_iperf(topology, "internet")
            end = await iperf(topology, to, "-n", "20M")
            assert end["sum_received"]["bytes"] > 15e6


async def test_quality_statistics_and_mtu_are_told(topology: Topology) -> None:
    """After traffic both ends can tell how much it was and how good the link is."""
    async with tunnel_on(topology) as (server, client):
        assert await answers(topology, GATEWAY)
        quality = await client.get_connection_quality()
        assert quality.link_health is LinkHealth.HEALTHY
        assert 0 < quality.min_rtt_ms <= quality.srtt_ms <= quality.max_rtt_ms < 1000
        counters = await client.get_statistics()
        assert counters.packets_sent >= 3
        assert counters.packets_received >= 3
        assert counters.keepalives_sent >= 1
        mtu = await client.get_mtu_info()
        assert (mtu.tun_mtu, mtu.overhead_bytes, mtu.link_mtu) == (1420, 79, 1500)
        assert mtu.effective_mtu == 1421
        telemetry = await server.get_client_telemetry("alice")
        assert telemetry.bytes_received >= 3 * 84
        assert telemetry.keepalives_received >= 1


async def test_an_oversized_packet_is_answered(topology: Topology) -> None:
    """A packet with DF that does not fit is answered into the TUN with the right MTU."""
    async with tunnel_on(topology, mtu=1300) as (_, client):
        command = ("ping", "-n", "-c", "2", "-M", "do", "-s", "1372", "-W", "1", GATEWAY)

        async def is_answered() -> bool:
            # The interface's MTU stops what is larger: it is set again when the tunnel's link was.
            topology.run("client", "ip", "link", "set", TUN, "mtu", "1500")
            topology.run("client", "ip", "route", "flush", "cache")
            return "mtu = 1300" in topology.run("client", *command, check=False).stdout

        await eventually(is_answered)
        info = await client.get_mtu_info()
        assert info.icmp_too_big_sent >= 1
        assert info.oversized_packets_dropped >= 1


@pytest.mark.long(50)
async def test_rekeys_under_load_lose_nothing(topology: Topology) -> None:
    """Keys change every 20 s, the least there is, under pings and a TCP flow, and no packet is lost.

    A hub ends a session that is not rekeyed by twice the interval: that it is still the same one
    after that shows that keys were changed.
    """
    async with tunnel_on(topology, rekeySecs=20) as (server, client):
        [before] = await server.list_clients()
        serve_iperf(topology, "hub")
        load = asyncio.create_task(iperf(topology, GATEWAY, "-t", "45", "-b", "50M"))
        pings = ("ping", "-n", "-q", "-i", "0.01", "-c", "2700", GATEWAY)
        assert await ping_loss(topology, "client", *pings) == 0.0
        end = await load
        assert end["sum_received"]["bytes"] >= 0.95 * end["sum_sent"]["bytes"]
        [session] = await server.list_clients()
        assert session.session_id == before.session_id
        assert session.bytes_received > 100e6
        assert (await client.get_status()).state is TunnelState.CONNECTED


async def test_the_client_is_killed_and_comes_back(topology: Topology) -> None:
    """kill -9 of the client's daemon: the next one restores the network and gets the same address."""
    async with hub_on(topology, enableNat=True) as server:
        bundle = await server.create_client("alice")
        before = topology.run("client", "ip", "route").stdout
        first = client_on(topology, bundle.smartvpn_config)
        await first.start()
        address = (await first.connect()).assigned_ip
        _kill(first)
        await first.stop()
        async with client_on(topology, bundle.smartvpn_config) as second:
            assert (await second.connect()).assigned_ip == address
            assert await answers(topology, GATEWAY)
            assert await answers(topology, INTERNET)
        assert topology.run("client", "ip", "route").stdout == before


async def test_the_hub_is_killed_and_comes_back(topology: Topology, tmp_path: Any) -> None:
    """kill -9 of the hub: the client tries on and has its address again as soon as the hub is back."""
    config = hub_config(registry=str(tmp_path / "registry.db"))
    command = daemon(topology, "hub", "server")
    first = VpnServer({"transport": "stdio"}, config, command=command)
    await first.start()
    bundle = await first.create_client("alice")
    async with client_on(topology, bundle.smartvpn_config) as client:
        address = (await client.connect()).assigned_ip
        _kill(first)
        await first.stop()
        await state_is(client, TunnelState.RECONNECTING)
        async with VpnServer({"transport": "stdio"}, config, command=command):
            await state_is(client, TunnelState.CONNECTED)
            assert (await client.get_status()).assigned_ip == address
            assert await answers(topology, GATEWAY)


def _kill(daemon: VpnServer | VpnClient) -> None:
    """kill -9 of the daemon, and of nothing else."""
    pid = daemon.bridge.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


async def test_an_unknown_key_is_refused_in_words(topology: Topology) -> None:
    """The hub closes without a byte, and the client says what that may mean."""
    async with hub_on(topology) as server:
        bundle = await server.create_client("alice")
        await server.remove_client("alice")
        async with client_on(topology, bundle.smartvpn_config) as client:
            with pytest.raises(UnauthorizedError):
                await client.connect()
            assert (await client.get_status()).state is TunnelState.ERROR


async def test_no_hub_is_told(topology: Topology) -> None:
    """No listener: the connect fails and names the hub's address."""
    async with hub_on(topology) as server:
        bundle = await server.create_client("alice")
    async with client_on(topology, bundle.smartvpn_config) as client:
        with pytest.raises(UnreachableError, match=re.escape("10.99.0.1:7443")):
            await client.connect()
