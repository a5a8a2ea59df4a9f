"""What a client's traffic counts up to, over sessions and restarts of the hub, on each transport."""

from __future__ import annotations

from pathlib import Path

import pytest

from smartvpn.errors import NotFoundError
from smartvpn.registry.sqlite import read_totals
from smartvpn.server import VpnServer
from smartvpn.types import ClientTelemetry
from tests.netns.topology import Topology
from tests.netns.tunnel import GATEWAY, answers, client_on, eventually, hub_config, hub_on

PING_BYTES = 3 * 84


async def total(server: VpnServer) -> ClientTelemetry:
    """Alice's, over everything."""
    return await server.get_client_telemetry("alice")


@pytest.mark.parametrize("mode", ["websocket", "wireguard"])
async def test_counters_outlive_sessions_and_restarts(topology: Topology, tmp_path: Path, mode: str) -> None:
    """Each session adds to what was; a session's own counters start at 0; a removed client's are gone."""
    path = tmp_path / "registry.db"
    config = hub_config(registry=str(path), transportMode=mode)
    async with hub_on(topology) as server:
        await server.stop_server()
        await server.start(config)
        client_config = (await server.create_client("alice")).smartvpn_config
        received = 0
        for _ in range(3):
            async with client_on(topology, client_config) as client:
                await client.connect()
                assert await answers(topology, GATEWAY)
                (session,) = await server.list_clients()
                own = await server.get_client_telemetry("alice", session.session_id)
                now = await total(server)
                assert now.bytes_received >= received + PING_BYTES
                assert own.bytes_received >= PING_BYTES
                if mode == "websocket":
                    assert now.bytes_received == received + own.bytes_received
                received = now.bytes_received
            if mode == "websocket":
                await eventually(lambda: nobody(server))
            before = await total(server)
            assert before.bytes_received >= received
            await server.stop_server()
            assert read_totals(path)["alice"].bytes_received == before.bytes_received
            await server.start(config)
            after = await total(server)
            assert (after.bytes_received, after.bytes_sent) == (before.bytes_received, before.bytes_sent)
            assert (after.drops, after.keepalives_received) == (before.drops, before.keepalives_received)
            received = after.bytes_received
        await server.remove_client("alice")
        await server.create_client("alice")
        assert (await total(server)).bytes_received == 0
        with pytest.raises(NotFoundError):
            await server.get_client_telemetry("bob")


async def nobody(server: VpnServer) -> bool:
    """Whether no session is left."""
    return not await server.list_clients()


async def test_a_session_that_was_removed_counts(topology: Topology) -> None:
    """What a session counted before a command ended it is kept, until its client is removed."""
    async with hub_on(topology) as server:
        config = (await server.create_client("alice")).smartvpn_config
        async with client_on(topology, config) as client:
            await client.connect()
            assert await answers(topology, GATEWAY)
            await server.disable_client("alice")

            async def kept() -> bool:
                return (await total(server)).bytes_received >= PING_BYTES

            await eventually(kept)
        await server.remove_client("alice")
        await server.create_client("alice")
        assert (await total(server)).bytes_received == 0
