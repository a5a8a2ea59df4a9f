"""What the hub enforces, measured between real machines: ACLs, rate limits, host access, ends of entries."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from smartvpn.errors import UnauthorizedError
from smartvpn.types import TunnelState
from tests.netns.topology import CLIENT_OUTER, HUB_INTERNET, INTERNET, INTERNET6, Topology
from tests.netns.tunnel import (
    GATEWAY,
    GATEWAY6,
    TUN,
    answers,
    client_on,
    eventually,
    hub_on,
    iperf,
    ping_loss,
    serve_iperf,
    state_is,
    tunnel_on,
    within_5_percent,
)

MBIT = 1_000_000 // 8  # bytes per second
BURST = 50_000  # bytes
natively = pytest.mark.parametrize("mode", ["websocket", "quic"])  # transportMode of hub and client

by_family = pytest.mark.parametrize(
    ("patterns", "internet", "gateway"),
    [
        (["10.99.1.2", "10.99.1.0/24", "10.99.1.*", "10.99.1.1-10.99.1.3"], INTERNET, GATEWAY),
        (["fd99:1::2", "fd99:1::/64", "fd99:1::1-fd99:1::3"], INTERNET6, GATEWAY6),
    ],
    ids=["IPv4", "IPv6"],
)


@by_family
@pytest.mark.long(12)
async def test_a_destination_is_denied(
    topology: Topology, patterns: list[str], internet: str, gateway: str
) -> None:
    """What a deny pattern names is not reached, all else is, and the drops are counted."""
    async with tunnel_on(topology, {"destinationBlockList": patterns[:1]}, enableNat=True) as (server, _):
        for count, pattern in enumerate(patterns, 1):
            await server.update_client("alice", {"security": {"destinationBlockList": [pattern]}})
            assert await answers(topology, gateway), pattern
            assert not await answers(topology, internet), pattern
            assert (await server.get_client_telemetry("alice")).drops.acl == 3 * count


@by_family
@pytest.mark.long(12)
async def test_only_what_is_allowed_is_reached(
    topology: Topology, patterns: list[str], internet: str, gateway: str
) -> None:
    """With an allow list everything else is denied."""
    async with tunnel_on(topology, {"destinationAllowList": patterns[:1]}, enableNat=True) as (server, _):
        for pattern in patterns:
            await server.update_client("alice", {"security": {"destinationAllowList": [pattern]}})
            assert await answers(topology, internet), pattern
            assert not await answers(topology, gateway), pattern


@natively
async def test_deny_overrides_allow(topology: Topology, mode: str) -> None:
    """An address on both lists is denied."""
    security = {"destinationAllowList": ["10.99.1.0/24"], "destinationBlockList": ["10.99.1.2"]}
    async with tunnel_on(topology, security, enableNat=True, transportMode=mode):
        assert await answers(topology, HUB_INTERNET)
        assert not await answers(topology, INTERNET)


@natively
async def test_an_acl_changes_under_a_live_session(topology: Topology, mode: str) -> None:
    """updateClient takes effect at once, on the same session; a TCP flow to what stays allowed lives on."""
    async with tunnel_on(topology, enableNat=True, transportMode=mode) as (server, _):
        [before] = await server.list_clients()
        serve_iperf(topology, "hub")
        flow = asyncio.create_task(iperf(topology, GATEWAY, "-t", "5", "-b", "50M"))
        assert await answers(topology, INTERNET)
        await server.update_client("alice", {"security": {"destinationBlockList": [INTERNET]}})
        assert not await answers(topology, INTERNET)
        await server.update_client("alice", {"security": None})
        assert await answers(topology, INTERNET)
        assert (await flow)["sum_received"]["bits_per_second"] > 45e6
        [after] = await server.list_clients()
        assert after.session_id == before.session_id


@natively
async def test_some_hosts_are_never_reached(topology: Topology, mode: str) -> None:
    """Loopback, link-local addresses with cloud metadata, and multicast, whatever the lists say."""
    topology.run("internet", "ip", "address", "add", "169.254.169.254/32", "dev", "outer")
    topology.run("hub", "ip", "route", "add", "169.254.169.254", "dev", "internet")
    assert await answers(topology, "169.254.169.254", "hub")
    security = {"destinationAllowList": ["0.0.0.0/0", "::/0"]}
    async with tunnel_on(topology, security, enableNat=True, transportMode=mode) as (server, _):
        topology.run("client", "ip", "route", "add", "169.254.169.254", "dev", TUN)
        assert not await answers(topology, "169.254.169.254")
        assert not await answers(topology, "239.1.1.1", "client", "-I", TUN)
        assert (await server.get_client_telemetry("alice")).drops.acl >= 6


SOURCES: list[tuple[dict[str, list[str]], bool]] = [
    ({"ipAllowList": [], "ipBlockList": [CLIENT_OUTER]}, False),
    ({"ipAllowList": [CLIENT_OUTER], "ipBlockList": ["10.99.0.*"]}, False),
    ({"ipAllowList": ["192.0.2.0/24"], "ipBlockList": []}, False),
    ({"ipAllowList": ["10.99.0.0-10.99.0.9"], "ipBlockList": []}, True),
]


@natively
async def test_sources_are_checked(topology: Topology, mode: str) -> None:
    """A client comes from where its lists allow it, and is told when not."""
    async with hub_on(topology, transportMode=mode) as server:
        bundle = await server.create_client("alice", security=SOURCES[0][0])
        async with client_on(topology, bundle.smartvpn_config) as client:
            for security, let_in in SOURCES:
                await server.update_client("alice", {"security": security})
                if let_in:
                    await client.connect()
                    assert await answers(topology, GATEWAY)
                else:
                    with pytest.raises(UnauthorizedError, match="source address denied"):
                        await client.connect()
                await client.disconnect()


@natively
@pytest.mark.long(12)
async def test_the_host_itself_is_closed(topology: Topology, mode: str) -> None:
    """Without allowHostAccess clients reach ICMP and DNS on the gateway, and nothing else on the hub."""
    async with tunnel_on(topology, allowHostAccess=False, enableNat=True, transportMode=mode):
        assert await answers(topology, GATEWAY)
        assert await answers(topology, INTERNET)
        for address in (GATEWAY, HUB_INTERNET, GATEWAY6):
            assert not await _connects(topology, address, 5201)
        assert await _connects(topology, GATEWAY, 53)
        assert not await _connects(topology, HUB_INTERNET, 53)


CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)"
LISTEN = """
import socket, sys
listener = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
print("ready", flush=True)
while True:
    listener.accept()[0].close()
"""


async def _connects(topology: Topology, address: str, port: int) -> bool:
    listener = topology.popen("hub", "python3", "-c", LISTEN, str(port), stdout=-1)
    assert listener.stdout is not None
    assert listener.stdout.readline()
    tried = await asyncio.to_thread(
        topology.run, "client", "python3", "-c", CONNECT, address, str(port), check=False
    )
    listener.kill()
    listener.wait()
    return tried.returncode == 0


# rate limits


def _inside_rate(end: dict[str, Any], payload: int, headers: int) -> float:
    """The rate of IP bytes per second that carried what was received."""
    received = end["sum_received"] if "sum_received" in end else end["sum"]
    seconds = received["seconds"]
    return float(received["bytes"] / seconds * (payload + headers) / payload)


async def _interface_bytes(topology: Topology, role: str) -> int:
    """The bytes that have come out of a machine's tunnel interface."""
    command = ("cat", f"/sys/class/net/{TUN}/statistics/rx_bytes")
    return int((await asyncio.to_thread(topology.run, role, *command)).stdout)


async def _interface_rate(topology: Topology, role: str, seconds: float) -> float:
    """The bytes per second that come out of it, once the limit's burst did."""
    begin = await _interface_bytes(topology, role)

    async def burst_is_over() -> bool:
        return await _interface_bytes(topology, role) > begin + 2 * BURST

    await eventually(burst_is_over)
    before, started = await _interface_bytes(topology, role), time.monotonic()
    await asyncio.sleep(seconds)
    after, ended = await _interface_bytes(topology, role), time.monotonic()
    return (after - before) / (ended - started)


def rates(*calm: int, alone: int) -> pytest.MarkDecorator:
    """Limits in Mbit/s; the last keeps a processor busy."""
    marked = [pytest.param(rate, marks=pytest.mark.calm) for rate in calm]
    return pytest.mark.parametrize("mbit", [*marked, pytest.param(alone, marks=pytest.mark.alone)])


@natively
@pytest.mark.parametrize(("direction", "receiver"), [((), "hub"), (("-R",), "client")])
@rates(1, 10, alone=100)
async def test_a_udp_flood_gets_the_limit(
    topology: Topology, mbit: int, direction: tuple[str, ...], receiver: str, mode: str
) -> None:
    """Twice the limit is offered, within 5 % of the limit arrives, in either direction."""
    limit = {"bytesPerSec": mbit * MBIT, "burstBytes": BURST}
    async with tunnel_on(topology, {"rateLimit": limit}, transportMode=mode) as (server, _):
        serve_iperf(topology, "hub")
        offered = ("-u", "-b", f"{2 * mbit}M", "-l", "1300", "-t", "4", *direction)

        async def measured() -> float:
            flood = asyncio.create_task(iperf(topology, GATEWAY, *offered))
            rate = await _interface_rate(topology, receiver, 2)
            await flood
            return rate

        assert await within_5_percent(measured, mbit * MBIT)
        assert (await server.get_client_telemetry("alice")).drops.rate_limit > 0


@natively
@pytest.mark.parametrize("direction", [(), ("-R",)])
@rates(10, alone=200)
async def test_a_tcp_flow_gets_the_limit(
    topology: Topology, mbit: int, direction: tuple[str, ...], mode: str
) -> None:
    """One TCP flow fills the limit within 5 %, headers counted, and does not collapse under it."""
    limit = {"bytesPerSec": mbit * MBIT, "burstBytes": BURST}
    async with tunnel_on(topology, {"rateLimit": limit}, transportMode=mode) as (_, client):
        serve_iperf(topology, "hub")

        async def measured() -> float:
            end = await iperf(topology, GATEWAY, "-t", "3", "-O", "1", *direction)
            mtu = min(1420, (await client.get_mtu_info()).effective_mtu)
            return _inside_rate(end, mtu - 52, 52)

        assert await within_5_percent(measured, mbit * MBIT)


@pytest.mark.calm
async def test_a_limit_changes_under_a_live_session(topology: Topology) -> None:
    """set, change and remove a limit: each holds at once, without a reconnect."""
    async with tunnel_on(topology, defaultRateLimitBytesPerSec=5 * MBIT) as (server, _):
        serve_iperf(topology, "hub")

        async def rate(*options: str) -> float:
            end = await iperf(topology, GATEWAY, "-t", "3", "-O", "1", *options)
            return _inside_rate(end, 1368, 52)

        assert await within_5_percent(rate, 5 * MBIT)
        await server.set_client_rate_limit("alice", 20 * MBIT, BURST)
        assert await within_5_percent(rate, 20 * MBIT)
        await server.remove_client_rate_limit("alice")
        assert await rate("-b", "80M") > 60 * MBIT
        await server.update_client("alice", {"security": {"rateLimit": None}})
        assert await within_5_percent(rate, 5 * MBIT)


@pytest.mark.calm
@natively
async def test_pings_pass_a_saturating_flow(topology: Topology, mode: str) -> None:
    """Under a limit that a TCP flow saturates, small packets go first: none is lost."""
    limit = {"bytesPerSec": 20 * MBIT, "burstBytes": BURST}
    async with tunnel_on(topology, {"rateLimit": limit}, transportMode=mode):
        serve_iperf(topology, "hub")
        flow = asyncio.create_task(iperf(topology, GATEWAY, "-t", "5"))
        await asyncio.sleep(1)
        assert await ping_loss(topology, "client", "ping", "-q", "-c", "150", "-i", "0.02", GATEWAY) < 0.02
        await flow


# entries


@natively
@pytest.mark.parametrize(
    ("method", "reason"),
    [("disable_client", "disabled"), ("remove_client", "removed"), ("rotate_client_key", "key rotated")],
)
async def test_a_session_ends_at_once(topology: Topology, method: str, reason: str, mode: str) -> None:
    """Disable, remove and rotate end the live session, tell the client why, and refuse the next."""
    async with tunnel_on(topology, transportMode=mode) as (server, client):
        await getattr(server, method)("alice")

        async def told() -> bool:
            return reason in ((await client.get_status()).last_error or "")

        await eventually(told, 5)
        assert not await answers(topology, GATEWAY)
        assert await server.list_clients() == []


async def test_an_entry_expires(topology: Topology) -> None:
    """At expiresAt the session ends, and the next is refused, with the reason."""
    async with hub_on(topology) as server:
        bundle = await server.create_client("alice", expires_at=datetime.now(UTC) + timedelta(seconds=3))
        async with client_on(topology, bundle.smartvpn_config) as client:
            await client.connect()
            assert await answers(topology, GATEWAY)
            await state_is(client, TunnelState.ERROR, 10)
            assert "expired" in ((await client.get_status()).last_error or "")
            await client.disconnect()
            with pytest.raises(UnauthorizedError, match="expired"):
                await client.connect()
