"""VpnClient, and the events of both ends, with a tunnel between real machines."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from smartvpn import (
    ConfigError,
    InvalidStateError,
    Keypair,
    TunnelState,
    UnauthorizedError,
    VpnClient,
)
from smartvpn.events import ClientConnected, ClientDisconnected, ErrorReported, StatusChanged
from tests.netns.topology import Topology
from tests.netns.tunnel import STDIO, client_on, daemon, hub_on, sessions_of, tunnel_on


async def _next(events: Any, kind: type, seconds: float = 20) -> Any:
    """The next event of that kind; others are passed over."""
    async with asyncio.timeout(seconds):
        async for event in events:
            if isinstance(event, kind):
                return event
    raise AssertionError("the events ended")


async def test_a_tunnel_is_opened_and_closed(topology: Topology) -> None:
    """connect's result, the status while it is up, and disconnect, twice in a row."""
    async with hub_on(topology, dns=["10.8.0.1"]) as server:
        bundle = await server.create_client("alice")
        async with client_on(topology, bundle.smartvpn_config) as client:
            assert (await client.get_status()).state is TunnelState.DISCONNECTED
            for _ in range(2):
                result = await client.connect()
                assert (result.assigned_ip, result.assigned_ip6) == ("10.8.0.2", "fd08::2")
                assert (result.transport, result.mtu) == ("websocket", 1420)
                status = await client.get_status()
                assert (status.state, status.assigned_ip) == (TunnelState.CONNECTED, "10.8.0.2")
                assert (status.server_addr, status.last_error) == ("10.99.0.1:7443", None)
                assert status.connected_since is not None
                with pytest.raises(InvalidStateError, match="connected already"):
                    await client.connect()
                await client.disconnect()
                assert (await client.get_status()).state is TunnelState.DISCONNECTED
                await client.disconnect()


async def test_commands_need_a_tunnel(topology: Topology) -> None:
    """Without a tunnel there is nothing to measure, and the answer says so; keys can be made."""
    async with VpnClient(STDIO, command=daemon(topology, "client", "client")) as client:
        for method in (client.get_statistics, client.get_connection_quality, client.get_mtu_info):
            with pytest.raises(InvalidStateError, match="not connected"):
                await method()
        assert isinstance(await client.generate_keypair(), Keypair)
        with pytest.raises(ConfigError, match="config"):
            await client.connect()


async def test_events_of_a_tunnel(topology: Topology) -> None:
    """The hub tells of sessions that come and go and why; the client of its states."""
    async with hub_on(topology) as server:
        hub_events = server.events()
        bundle = await server.create_client("alice")
        async with client_on(topology, bundle.smartvpn_config) as client:
            states: list[TunnelState] = []
            client.on("status", lambda event: states.append(event.status.state))
            await client.connect()
            connected = await _next(hub_events, ClientConnected)
            assert (connected.client.client_id, connected.client.assigned_ip) == ("alice", "10.8.0.2")
            assert connected.client.remote_addr.startswith("10.99.0.2")
            assert connected.client.authenticated_key == bundle.entry.public_key
            await server.disconnect_client("alice", connected.client.session_id)
            ended = await _next(hub_events, ClientDisconnected)
            assert (ended.client_id, ended.session_id) == ("alice", connected.client.session_id)
            assert ended.reason == "kicked"
            again = await _next(hub_events, ClientConnected)
            assert again.client.session_id != connected.client.session_id
            await client.disconnect()
            assert (await _next(hub_events, ClientDisconnected)).reason == "normal"
        # A loaded machine may take more than one attempt: each says that it goes on.
        assert [state for state, _ in itertools.groupby(states)] == [
            TunnelState.CONNECTING,
            TunnelState.HANDSHAKING,
            TunnelState.CONNECTED,
            TunnelState.RECONNECTING,
            TunnelState.HANDSHAKING,
            TunnelState.CONNECTED,
            TunnelState.DISCONNECTED,
        ]


async def test_a_refused_tunnel_ends_and_says_why(topology: Topology) -> None:
    """A final Disconnect: state error, an error event, the reason in words; connect later works again."""
    async with tunnel_on(topology) as (server, client):
        events = client.events()
        await server.disable_client("alice")
        while (status := (await _next(events, StatusChanged)).status).state is not TunnelState.ERROR:
            pass
        assert status.last_error == "disabled"
        assert (await _next(events, ErrorReported)).message == "disabled"
        await client.disconnect()
        with pytest.raises(UnauthorizedError, match="disabled"):
            await client.connect()
        await server.enable_client("alice")
        await client.connect()
        assert (await client.get_status()).state is TunnelState.CONNECTED


async def test_a_second_installation_takes_over(topology: Topology) -> None:
    """With maxConnections 1 the newest session wins and the older one is told; it does not fight back."""
    topology.run("internet", "ip", "route", "add", "default", "via", "10.99.1.1")
    async with hub_on(topology) as server:
        config = (await server.create_client("alice")).smartvpn_config
        async with client_on(topology, config) as old, client_on(topology, config, "internet") as new:
            events = old.events()
            await old.connect()
            assert (await new.connect()).assigned_ip == "10.8.0.2"
            while (status := (await _next(events, StatusChanged)).status).state is not TunnelState.ERROR:
                pass
            assert status.last_error == "superseded"
            [session] = await sessions_of(server)
            assert session.remote_addr.startswith("10.99.1.2")


async def test_two_installations_share_an_entry(topology: Topology) -> None:
    """With maxConnections 2 both are in, with different addresses, under one client id."""
    topology.run("internet", "ip", "route", "add", "default", "via", "10.99.1.1")
    async with hub_on(topology) as server:
        bundle = await server.create_client("alice", security={"maxConnections": 2})
        config = bundle.smartvpn_config
        async with client_on(topology, config) as one, client_on(topology, config, "internet") as two:
            first = (await one.connect()).assigned_ip
            await sessions_of(server)
            addresses = {first, (await two.connect()).assigned_ip}
            assert len(addresses) == 2
            sessions = await sessions_of(server, 2)
            assert {session.assigned_ip for session in sessions} == addresses
            assert {session.client_id for session in sessions} == {"alice"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"serverUrl": "http://x/"}, "serverUrl"),
        ({"serverUrl": "ws://x:99999/"}, "serverUrl"),
        ({"serverPublicKey": "AAAA"}, "serverPublicKey"),
        ({"clientPrivateKey": "x" * 44}, "clientPrivateKey"),
        ({"transport": "pigeon"}, "transport"),
        ({"routes": ["10.0.0.0/33"]}, "routes"),
        ({"dns": ["one"]}, "dns"),
        ({"mtu": 1}, "mtu"),
        ({"serverCertHash": "abc"}, "serverCertHash"),
        ({"keepaliveIntervalSecs": 0}, "keepaliveIntervalSecs"),
    ],
)
async def test_a_wrong_config_is_named(change: dict[str, Any], field: str) -> None:
    """ConfigError naming the JSON field, before any daemon is asked."""
    good = {
        "serverUrl": "ws://10.99.0.1:7443/",
        "serverPublicKey": Keypair.generate().public_key,
        "clientPrivateKey": (pair := Keypair.generate()).private_key,
        "clientPublicKey": pair.public_key,
        "transport": "websocket",
    }
    assert VpnClient(STDIO, good).running is False
    with pytest.raises(ConfigError, match=field):
        VpnClient(STDIO, good | change)
