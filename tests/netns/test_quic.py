"""The tunnel over QUIC between real machines: what goes as datagrams arrives, both ways, in both families."""

from __future__ import annotations

import asyncio
import base64

import pytest
from attrs import evolve

from smartvpn.config import Transport
from smartvpn.errors import UnauthorizedError
from smartvpn.types import TunnelState
from tests.netns.topology import HUB_OUTER, Topology
from tests.netns.tunnel import (
    GATEWAY,
    GATEWAY6,
    answers,
    client_on,
    hub_on,
    iperf,
    ping_loss,
    serve_iperf,
    tunnel_on,
    udp_loss,
)

FLOOD = ("ping", "-n", "-q", "-f", "-c", "2000")


async def test_pings_cross_both_ways(topology: Topology) -> None:
    """Pings of all sizes are answered, both ways, in IPv4 and IPv6: as datagrams, and what does not fit."""
    async with tunnel_on(topology, transportMode="quic") as (server, client):
        [session] = await server.list_clients()
        assert session.transport == "quic"
        assert (await client.get_status()).transport == "quic"
        for gateway, address in ((GATEWAY, session.assigned_ip), (GATEWAY6, str(session.assigned_ip6))):
            for size in ("0", "56", "1100", "1300", "1372", "4000", "20000"):
                assert await answers(topology, gateway, "client", "-s", size), size
                assert await answers(topology, address, "hub", "-s", size), size


@pytest.mark.parametrize("gateway", [GATEWAY, GATEWAY6])
async def test_tcp_crosses(topology: Topology, gateway: str) -> None:
    """TCP flows up, down, both at once, several, with small segments; iperf3 leaves buffers half full."""
    async with tunnel_on(topology, transportMode="quic"):
        serve_iperf(topology, "hub")
        for options in ((), ("-R",), ("--bidir",), ("-P", "4"), ("-M", "500")):
            end = await iperf(topology, gateway, "-n", "40M", *options)
            backwards = end.get("sum_received_bidir_reverse", {"bytes": 0})
            assert end["sum_received"]["bytes"] + backwards["bytes"] > 18e6, options


async def test_no_ping_is_lost_in_a_flood(topology: Topology) -> None:
    """Thousands of small packets, as fast as they are answered: none is lost."""
    async with tunnel_on(topology, transportMode="quic"):
        assert await ping_loss(topology, "client", *FLOOD, GATEWAY) == 0.0
        assert await ping_loss(topology, "client", *FLOOD, GATEWAY6) == 0.0


@pytest.mark.parametrize("direction", [(), ("-R",)])
async def test_udp_crosses(topology: Topology, direction: tuple[str, ...]) -> None:
    """A moderate UDP flow loses next to nothing."""
    async with tunnel_on(topology, transportMode="quic"):
        serve_iperf(topology, "hub")
        assert await udp_loss(topology, GATEWAY, "-b", "20M", "-t", "2", "-l", "1200", *direction) < 0.02


async def test_the_certificate_is_kept(topology: Topology, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The self-signed certificate is made once: one hash, in results, bundles and the next start."""
    registry = str(tmp_path_factory.mktemp("hub") / "registry.db")
    hashes = []
    for name in ("alice", "bob"):
        server = hub_on(topology, transportMode="both", registry=registry)
        result = await server.start()
        try:
            bundle = await server.create_client(name)
            assert bundle.smartvpn_config.server_cert_hash == result.quic_cert_hash
            assert bundle.smartvpn_config.transport is Transport.AUTO
            assert result.listen.quic == f"{HUB_OUTER}:7443"
            hashes.append(result.quic_cert_hash)
        finally:
            await server.stop()
    assert hashes[0] == hashes[1]
    assert len(base64.b64decode(str(hashes[0]))) == 32


async def test_a_wrong_pin_is_refused_in_words(topology: Topology) -> None:
    """A certificate that is not the pinned one: no session, and the client says why."""
    async with hub_on(topology, transportMode="quic") as server:
        bundle = await server.create_client("alice")
        config = evolve(bundle.smartvpn_config, server_cert_hash=base64.b64encode(bytes(32)).decode())
        async with client_on(topology, config) as client:
            with pytest.raises(UnauthorizedError, match="serverCertHash"):
                await client.connect()
            assert (await client.get_status()).state is TunnelState.ERROR
        async with client_on(topology, evolve(bundle.smartvpn_config, server_cert_hash=None)) as client:
            assert (await client.connect()).transport is Transport.QUIC


async def test_an_unknown_key_is_refused_in_words(topology: Topology) -> None:
    """The hub closes without a byte, and the client says what that may mean."""
    async with hub_on(topology, transportMode="quic") as server:
        bundle = await server.create_client("alice")
        await server.remove_client("alice")
        async with client_on(topology, bundle.smartvpn_config) as client:
            with pytest.raises(UnauthorizedError, match="does not know this client's key"):
                await client.connect()


async def test_effective_mtu(topology: Topology) -> None:
    """getMtuInfo over QUIC: the path that PMTU discovery has found, less 86 bytes."""
    async with tunnel_on(topology, transportMode="quic") as (_, client):
        async with asyncio.timeout(20):
            while (await client.get_mtu_info()).link_mtu != 1500:
                await answers(topology, GATEWAY)
        info = await client.get_mtu_info()
        assert (info.overhead_bytes, info.effective_mtu, info.tun_mtu) == (86, 1414, 1420)
