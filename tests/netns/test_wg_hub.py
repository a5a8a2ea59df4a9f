"""A hub that serves WireGuard: stock clients come in with the bundle's text, under the entry's rules."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest

from smartvpn import (
    ConfigError,
    ConflictError,
    InvalidStateError,
    Keypair,
    NotFoundError,
    TunnelState,
    VpnTimeoutError,
)
from smartvpn.server import VpnServer
from smartvpn.types import ConfigBundle
from tests.netns.topology import HUB_INTERNET, HUB_OUTER, INTERNET, Topology
from tests.netns.tunnel import (
    GATEWAY,
    GATEWAY6,
    TUN,
    answers,
    client_on,
    eventually,
    hub_on,
    impatient_client_on,
    iperf,
    ping_loss,
    serve_iperf,
    within_5_percent,
)
from tests.netns.wg import OURS, STOCK, Device, until

WG_PORT = 51820


@asynccontextmanager
async def wg_hub(machine: Topology, mode: str = "wireguard", **changes: Any) -> AsyncIterator[VpnServer]:
    """A hub in mode `wireguard` (without a listener of its own for WebSocket) or `all`."""
    endpoint = {"serverEndpoint": HUB_OUTER} if mode == "wireguard" else {}
    async with hub_on(machine, transportMode=mode, **endpoint, **changes) as server:
        yield server


@asynccontextmanager
async def quick(
    machine: Topology, bundle: ConfigBundle, role: str = "client", program: str = OURS
) -> AsyncIterator[Device]:
    """`wg-quick up` with the bundle's text as it is."""
    device = Device(machine, role, program)
    path = machine.state_dir(role) / f"{device.name}.conf"
    path.write_text(bundle.wireguard_config)
    path.chmod(0o600)
    if role == "internet":
        machine.run(role, "ip", "route", "replace", "10.99.0.0/24", "via", HUB_INTERNET)
    env = ("env", f"WG_QUICK_USERSPACE_IMPLEMENTATION={program}")
    await asyncio.to_thread(machine.run, role, *env, "wg-quick", "up", str(path))
    try:
        yield device
    finally:
        await asyncio.to_thread(machine.run, role, *env, "wg-quick", "down", str(path), check=False)
        device.end()


@pytest.mark.parametrize("program", [STOCK, OURS])
async def test_the_bundle_connects(topology: Topology, program: str) -> None:
    """`wg-quick up` with the text of `createClient`: both families, and the client is listed."""
    async with wg_hub(topology) as server:
        bundle = await server.create_client("alice")
        assert await server.list_clients() == []
        async with quick(topology, bundle, program=program):
            assert await answers(topology, GATEWAY)
            assert await answers(topology, GATEWAY6)
            [info] = await server.list_clients()
            assert (info.client_id, info.transport) == ("alice", "wireguard")
            assert info.assigned_ip == bundle.entry.assigned_ip
            assert info.remote_addr.startswith("10.99.0.2:")
            assert abs(info.connected_since - datetime.now(UTC)) < timedelta(seconds=20)
            telemetry = await server.get_client_telemetry("alice")
            assert telemetry.bytes_received >= 6 * 84
            [peer] = await server.list_wg_peers()
            assert peer.public_key == bundle.entry.wg_public_key
            assert peer.packets_received >= 6
            assert peer.last_handshake_time is not None
            statistics = await server.get_statistics()
            assert (statistics.active_clients, statistics.total_connections) == (1, 1)
            assert statistics.bytes_received >= 6 * 84


async def test_the_exported_text_is_accepted(topology: Topology) -> None:
    """Without its secret the text is one that `wg setconf` takes."""
    async with wg_hub(topology) as server:
        await server.create_client("alice")
        text = await server.export_client_config("alice", "wireguard")
        assert isinstance(text, str)
        assert "# PrivateKey =" in text
        device = Device(topology, "client", OURS)
        device.start()
        try:
            path = topology.state_dir("client") / "wg.conf"
            path.write_text(text)
            stripped = topology.run("client", "wg-quick", "strip", str(path)).stdout
            path.write_text(stripped)
            topology.run("client", "wg", "setconf", device.name, str(path))
            assert len(device.show("allowed-ips")) == 1
        finally:
            device.end()


@pytest.mark.parametrize("transport", ["websocket", "quic"])
async def test_native_and_wireguard_meet(topology: Topology, transport: str) -> None:
    """Mode `all`: one native client, one by WireGuard, and packets between them both ways."""
    serve_iperf(topology, "internet")
    async with wg_hub(topology, "all", enableNat=True) as server:
        native, stock = await server.create_client("native"), await server.create_client("stock")
        config = attrs.evolve(native.smartvpn_config, transport=transport)
        async with client_on(topology, config) as client:
            await client.connect()
            async with quick(topology, stock, "internet") as device:
                assert device.pid
                for _ in range(2):
                    assert await answers(topology, native.entry.assigned_ip, "internet")
                    assert await answers(topology, stock.entry.assigned_ip, "client")
                end = await iperf(topology, stock.entry.assigned_ip, "-n", "20M")
                assert end["sum_received"]["bytes"] > 1e6
                end = await iperf(topology, stock.entry.assigned_ip, "-n", "20M", "-R")
                assert end["sum_received"]["bytes"] > 1e6
                assert {item.transport for item in await server.list_clients()} == {transport, "wireguard"}


async def test_two_stock_clients_meet(topology: Topology) -> None:
    """From WireGuard to WireGuard through the hub, without its TUN."""
    serve_iperf(topology, "internet")
    async with wg_hub(topology) as server:
        one, other = await server.create_client("one"), await server.create_client("other")
        async with quick(topology, one), quick(topology, other, "internet"):
            assert await answers(topology, one.entry.assigned_ip, "internet")
            assert await answers(topology, other.entry.assigned_ip, "client")
            for options in ((), ("-R",), ("-M", "500")):
                end = await iperf(topology, other.entry.assigned_ip, "-n", "20M", *options)
                assert end["sum_received"]["bytes"] > 1e6


async def test_the_same_client_on_both(topology: Topology) -> None:
    """Its address leads to the path that last delivered a packet of it."""
    async with wg_hub(topology, "all") as server:
        bundle = await server.create_client("alice")
        address = bundle.entry.assigned_ip
        async with client_on(topology, bundle.smartvpn_config) as client:
            await client.connect()
            assert await answers(topology, address, "hub")
            async with quick(topology, bundle, "internet"):
                assert await answers(topology, GATEWAY, "internet")
                assert await answers(topology, address, "hub")
                await client.disconnect()
                assert await answers(topology, address, "hub")


async def test_nat(topology: Topology) -> None:
    """A full tunnel: the internet is reached through the hub."""
    async with wg_hub(topology, enableNat=True) as server:
        bundle = await server.create_client("alice")
        assert "AllowedIPs = 0.0.0.0/0, ::/0" in bundle.wireguard_config
        device = Device(topology, "client", OURS)
        device.start()
        try:
            path = topology.state_dir("client") / "wg.conf"
            path.write_text(bundle.wireguard_config)
            path.write_text(topology.run("client", "wg-quick", "strip", str(path)).stdout)
            topology.run("client", "wg", "setconf", device.name, str(path))
            device.up(f"{bundle.entry.assigned_ip}/24")
            topology.run("client", "ip", "route", "add", INTERNET, "dev", device.name)
            assert await answers(topology, INTERNET)
        finally:
            device.end()


# rules


@pytest.mark.long(20)
async def test_access_lists(topology: Topology) -> None:
    """Destinations on every packet, changed live; sources at the handshake and at a change of path."""
    async with wg_hub(topology) as server:
        bundle = await server.create_client("alice")
        async with quick(topology, bundle):
            assert await answers(topology, GATEWAY)
            await server.update_client("alice", {"security": {"destinationBlockList": [f"{GATEWAY}/32"]}})
            assert not await answers(topology, GATEWAY)
            assert await answers(topology, GATEWAY6)
            telemetry = await server.get_client_telemetry("alice")
            assert telemetry.drops.acl >= 3
            await server.update_client("alice", {"security": {"ipBlockList": ["10.99.0.2"]}})
            assert not await answers(topology, GATEWAY6)
            assert await server.list_clients() == []
            await server.update_client("alice", {"security": {"ipBlockList": ["10.99.0.3"]}})
            await eventually(lambda: answers(topology, GATEWAY6))


@pytest.mark.long(55)
async def test_an_entry_that_may_not_come(topology: Topology) -> None:
    """Disabled, enabled, kicked, expired, with another key, removed: on the live session, at once."""
    async with wg_hub(topology) as server:
        bundle = await server.create_client("alice")
        async with quick(topology, bundle):
            assert await answers(topology, GATEWAY)
            await server.disable_client("alice")
            assert await server.list_clients() == []
            assert not await answers(topology, GATEWAY)
            await server.enable_client("alice")
            await eventually(lambda: answers(topology, GATEWAY))
            await server.disconnect_client("alice")
            assert await server.list_clients() == []
            await eventually(lambda: answers(topology, GATEWAY))
            soon = datetime.now(UTC) + timedelta(seconds=3)
            await server.update_client("alice", {"expiresAt": soon.isoformat()})
            assert await answers(topology, GATEWAY)
            await asyncio.sleep(3)
            assert not await answers(topology, GATEWAY)
            await server.update_client("alice", {"expiresAt": None})
            await eventually(lambda: answers(topology, GATEWAY))
            fresh = await server.rotate_client_key("alice")
            assert not await answers(topology, GATEWAY)
            assert [peer.public_key for peer in await server.list_wg_peers()] == [fresh.entry.wg_public_key]
            await server.remove_client("alice")
            assert await server.list_wg_peers() == []


async def test_others_are_not_disturbed(topology: Topology) -> None:
    """While entries and peers come and go, a client's pings lose nothing."""
    async with wg_hub(topology) as server:
        bundle = await server.create_client("alice")
        async with quick(topology, bundle):
            assert await answers(topology, GATEWAY)
            flood = ("ping", "-n", "-q", "-i", "0.002", "-c", "1000", GATEWAY)
            running = asyncio.create_task(ping_loss(topology, "client", *flood))
            for number in range(30):
                key = Keypair.generate().public_key
                await server.create_client(f"c{number}")
                await server.add_wg_peer({"publicKey": key, "allowedIps": [f"10.50.{number}.0/24"]})
                await server.update_client(f"c{number}", {"tags": ["x"]})
                await server.remove_client(f"c{number}")
                await server.remove_wg_peer(key)
            assert await running == 0


@pytest.mark.calm
@pytest.mark.parametrize("reverse", [False, True])
async def test_rate_limit(topology: Topology, reverse: bool) -> None:
    """What a limited client moves is within 5 % of its limit, either way."""
    rate = 2_500_000
    serve_iperf(topology, "hub")
    async with wg_hub(topology) as server:
        limit = {"rateLimit": {"bytesPerSec": rate, "burstBytes": 100_000}}
        bundle = await server.create_client("alice", security=limit)
        async with quick(topology, bundle):
            assert await answers(topology, GATEWAY)

            async def measured() -> float:
                end = await iperf(topology, GATEWAY, "-t", "3", "-O", "1", *(["-R"] if reverse else []))
                return float(end["sum_received"]["bits_per_second"] / 8 * 1420 / 1368)

            assert await within_5_percent(measured, rate)
            telemetry = await server.get_client_telemetry("alice")
            assert telemetry.drops.rate_limit > 0


# peers that are no clients


async def test_a_router_behind_a_peer(topology: Topology) -> None:
    """`addWgPeer`: its networks are routed, its counters told; removed, it is gone at once."""
    async with wg_hub(topology) as server:
        [] = await server.list_wg_peers()
        bundle = await server.create_client("alice")
        router = Device(topology, "internet", OURS)
        router.start()
        try:
            router.set("private-key", f"key:{router.private}", "listen-port", "51900")
            key = re.search("PublicKey = (.*)", bundle.wireguard_config)
            assert key
            router.set("peer", key[1], "allowed-ips", "10.8.0.0/24", "endpoint", f"10.99.1.1:{WG_PORT}")
            router.up("10.60.0.1/24")
            topology.run("internet", "ip", "route", "add", "10.8.0.0/24", "dev", router.name)
            peer = {"publicKey": router.public, "allowedIps": ["10.60.0.0/24"], "persistentKeepalive": 5}
            await server.add_wg_peer({**peer, "endpoint": "10.99.1.2:51900"})
            assert await answers(topology, "10.60.0.1", "hub")
            async with quick(topology, bundle) as device:
                until(lambda: device.pid)
                topology.run("client", "ip", "route", "add", "10.60.0.0/24", "dev", device.name)
                hub_key = next(iter(device.show("allowed-ips")))
                device.set("peer", hub_key, "allowed-ips", "10.8.0.0/24,10.60.0.0/24")
                assert await answers(topology, "10.60.0.1", "client")
            info = {item.public_key: item for item in await server.list_wg_peers()}[router.public]
            assert info.allowed_ips == ("10.60.0.0/24",)
            assert info.persistent_keepalive == 5
            assert info.endpoint == "10.99.1.2:51900"
            assert info.packets_sent >= 6
            assert abs(time.time() - (info.last_handshake_time or datetime.now(UTC)).timestamp()) < 60
            await server.remove_wg_peer(router.public)
            assert not await answers(topology, "10.60.0.1", "hub")
        finally:
            router.end()


async def test_peers_that_cannot_be(topology: Topology) -> None:
    """A client's key, another's networks, a name without an address: refused in words, nothing changed."""
    key, other = Keypair.generate().public_key, Keypair.generate().public_key
    async with wg_hub(topology) as server:
        bundle = await server.create_client("alice")
        client_key = bundle.entry.wg_public_key
        with pytest.raises(ConflictError, match="alice"):
            await server.add_wg_peer({"publicKey": client_key, "allowedIps": []})
        with pytest.raises(ConflictError, match="allowedIps"):
            await server.add_wg_peer({"publicKey": key, "allowedIps": [bundle.entry.assigned_ip]})
        with pytest.raises(ConfigError, match="endpoint"):
            await server.add_wg_peer({"publicKey": key, "allowedIps": [], "endpoint": "no.such.invalid:1"})
        await server.add_wg_peer({"publicKey": key, "allowedIps": ["10.1.0.0/16"]})
        with pytest.raises(ConflictError, match=r"10\.1\.0\.0/16"):
            await server.add_wg_peer({"publicKey": other, "allowedIps": ["10.1.0.0/16"]})
        with pytest.raises(NotFoundError):
            await server.remove_wg_peer(other)
        with pytest.raises(InvalidStateError, match="client"):
            await server.remove_wg_peer(client_key)
        with pytest.raises(ConflictError):
            await server.create_client("bob", wg_public_key=key)
        assert len(await server.list_wg_peers()) == 2


async def test_peers_of_the_config(topology: Topology) -> None:
    """`wgPeers` are there from the start."""
    key = Keypair.generate().public_key
    async with wg_hub(topology, wgPeers=[{"publicKey": key, "allowedIps": ["10.70.0.0/16"]}]) as server:
        assert [peer.public_key for peer in await server.list_wg_peers()] == [key]
        assert "10.70.0.0/16" in topology.run("hub", "ip", "route").stdout


async def test_the_key_stays(topology: Topology, tmp_path: Path) -> None:
    """In mode `all` the WireGuard key is made once and kept sealed: texts are good after a restart."""
    registry = str(tmp_path / "r.sqlite")
    texts = []
    for name in ("a", "b"):
        async with wg_hub(topology, "all", registry=registry) as server:
            bundle = await server.create_client(name)
            texts.append(re.findall("PublicKey = (.*)", bundle.wireguard_config))
    assert texts[0] == texts[1]


async def test_a_port_that_is_taken(topology: Topology) -> None:
    """The hub says so and does not start."""
    topology.popen(
        "hub",
        "python3",
        "-c",
        f"import socket,time; s=socket.socket(2,2); s.bind(('',{WG_PORT})); time.sleep(60)",
    )
    await asyncio.sleep(0.3)
    with pytest.raises(Exception, match=str(WG_PORT)):
        async with wg_hub(topology):
            pass


def _kernel_has_wireguard(machine: Topology) -> bool:
    done = machine.run("internet", "ip", "link", "add", "wgprobe", "type", "wireguard", check=False)
    machine.run("internet", "ip", "link", "delete", "wgprobe", check=False)
    return done.returncode == 0


async def test_a_kernel_without_wireguard(topology: Topology) -> None:
    """`kernel` is refused in words and leaves nothing; `auto` carries the packets itself."""
    if _kernel_has_wireguard(topology):
        pytest.skip("this kernel has WireGuard: tests/kernel looks at that")
    with pytest.raises(ConfigError, match=r"wgBackend.*kernel has no WireGuard"):
        async with wg_hub(topology, wgBackend="kernel"):
            pass
    assert "svpn" not in topology.run("hub", "ip", "link").stdout
    async with wg_hub(topology, wgBackend="auto") as server:
        bundle = await server.create_client("alice", security={"ipBlockList": ["192.0.2.1"]})
        async with quick(topology, bundle):
            assert await answers(topology, GATEWAY)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"defaultRateLimitBytesPerSec": 1_000_000}, "defaultRateLimitBytesPerSec"),
        ({"mode": "all"}, "transportMode"),
    ],
)
async def test_what_the_kernel_cannot_hold(topology: Topology, changes: dict[str, Any], words: str) -> None:
    """`kernel` beside a rule about packets is refused by its name, whatever the kernel has."""
    with pytest.raises(ConfigError, match=f"wgBackend.*{words}"):
        async with wg_hub(topology, wgBackend="kernel", **changes):
            pass


async def test_an_entry_that_the_kernel_cannot_hold(topology: Topology, tmp_path: Path) -> None:
    """A registry with such a client: `kernel` names it and its rule; `auto` serves it here."""
    registry = str(tmp_path / "r.sqlite")
    async with wg_hub(topology, registry=registry) as server:
        await server.create_client("alice", security={"destinationBlockList": ["10.0.0.1"]})
    with pytest.raises(ConfigError, match=r"destinationBlockList of client 'alice'"):
        async with wg_hub(topology, registry=registry, wgBackend="kernel"):
            pass
    async with wg_hub(topology, registry=registry, wgBackend="auto") as server:
        assert [entry.client_id for entry in await server.list_registered_clients()] == ["alice"]


# our own client


@pytest.mark.parametrize("mode", ["wireguard", "all"])
async def test_our_client_by_wireguard(topology: Topology, mode: str) -> None:
    """`transport: 'wireguard'`: the bundle's config as it is, or its `wg*` fields beside a native hub."""
    async with wg_hub(topology, mode, enableNat=True) as server:
        bundle = await server.create_client("alice")
        config = bundle.smartvpn_config
        if mode == "all":
            assert bundle.secrets.wg_private_key is not None
            hub_key = re.findall("PublicKey = (.*)", bundle.wireguard_config)[-1]
            config = {
                "transport": "wireguard",
                "serverPublicKey": hub_key,
                "wgPrivateKey": bundle.secrets.wg_private_key,
                "wgAddress": bundle.entry.assigned_ip,
                "wgEndpoint": f"{HUB_OUTER}:{WG_PORT}",
                "wgAllowedIps": ["0.0.0.0/0"],
                "wgPersistentKeepalive": 1,
            }
        async with client_on(topology, config) as client:
            result = await client.connect()
            assert (result.transport, result.assigned_ip) == ("wireguard", bundle.entry.assigned_ip)
            status = await client.get_status()
            assert (status.state, status.server_addr) == (TunnelState.CONNECTED, f"{HUB_OUTER}:{WG_PORT}")
            assert await answers(topology, GATEWAY)
            assert await answers(topology, INTERNET)
            assert (await client.get_statistics()).packets_sent >= 6
            mtu = await client.get_mtu_info()
            assert (mtu.tun_mtu, mtu.effective_mtu, mtu.link_mtu, mtu.overhead_bytes) == (
                1420,
                1440,
                1500,
                60,
            )
            with pytest.raises(InvalidStateError, match="measured"):
                await client.get_connection_quality()
            await client.disconnect()
            assert TUN not in topology.run("client", "ip", "link").stdout
            await client.connect()
            assert await answers(topology, GATEWAY)


async def test_our_client_in_another_network(topology: Topology) -> None:
    """Everything goes into the tunnel but the hub's own address: also where its old way is gone for good."""
    async with wg_hub(topology, enableNat=True) as server:
        bundle = await server.create_client("alice")
        async with client_on(topology, bundle.smartvpn_config) as client:
            await client.connect()
            assert await answers(topology, INTERNET)
            topology.run("hub", "ip", "address", "add", "10.99.7.1/24", "dev", "outer")
            topology.run("client", "ip", "address", "flush", "dev", "outer")
            for change in ("down", "up"):
                topology.run("client", "ip", "link", "set", "outer", change)
            topology.run("client", "ip", "address", "add", "10.99.7.2/24", "dev", "outer")
            topology.run("client", "ip", "route", "add", "default", "via", "10.99.7.1")
            await eventually(lambda: answers(topology, INTERNET))
            [info] = await server.list_clients()
            assert info.remote_addr.startswith("10.99.7.2:")


async def test_our_client_and_a_hub_that_does_not_know_it(topology: Topology) -> None:
    """No answer is what WireGuard gives to strangers: the client says so, and leaves nothing behind."""
    async with wg_hub(topology) as server:
        bundle = await server.create_client("alice")
        await server.remove_client("alice")
        async with impatient_client_on(topology, bundle.smartvpn_config) as client:
            with pytest.raises(VpnTimeoutError, match="does not answer"):
                await client.connect()
            assert (await client.get_status()).state is TunnelState.ERROR
            assert TUN not in topology.run("client", "ip", "link").stdout
