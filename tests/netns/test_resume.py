"""A dropped link on a path with delay: one round trip after the transport is up, the session goes on."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

from attrs import evolve

from smartvpn.types import TunnelState
from tests.netns.stream import stream
from tests.netns.test_rebinding import moved, relayed
from tests.netns.topology import HUB_OUTER, Topology
from tests.netns.tunnel import GATEWAY, answers, client_on, eventually, hub_on, sessions_of

ONE_WAY = 0.25
ROUND_TRIP = 2 * ONE_WAY
HANDSHAKE_RESP, SESSION_RESUME_OK = 0x02, 0x31

# Every byte takes that long; a line on stdin ends all connections. It tells when the client gets the
# answer to its upgrade and the first message behind that, and the message's type.
RELAY = """
import asyncio, sys, time
hub, delay = sys.argv[1], float(sys.argv[2])
writers, opened = [], {}
def deliver(writer, data):
    if not writer.is_closing():
        writer.write(data)
        if data.startswith(b"HTTP/1.1 101"):
            opened[writer] = time.monotonic()
        elif writer in opened:
            print(opened.pop(writer), time.monotonic(), data[4 if data[1] == 126 else 2], flush=True)
async def carry(reader, writer):
    while data := await reader.read(1 << 20):
        asyncio.get_running_loop().call_later(delay, deliver, writer, data)
async def serve(reader, writer):
    far_reader, far_writer = await asyncio.open_connection(hub, 7443)
    writers.extend((writer, far_writer))
    try:
        await asyncio.gather(carry(reader, far_writer), carry(far_reader, writer))
    except OSError:
        pass
def drop():
    sys.stdin.readline()
    while writers:
        writers.pop().transport.abort()
async def main():
    await asyncio.start_server(serve, "127.0.0.1", 7443)
    asyncio.get_running_loop().add_reader(sys.stdin, drop)
    print("ready", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


def say(transport: str, seconds: float) -> None:
    """For bench/quic.py as well."""
    print(f"resumed over {transport}: {seconds / ROUND_TRIP:.2f} round trips after it was up")


async def test_resume_takes_one_round_trip(topology: Topology) -> None:
    """From the upgrade's answer at the client to a tunnel that is up again, by resuming."""
    relay = topology.popen(
        "client",
        sys.executable,
        "-c",
        RELAY,
        HUB_OUTER,
        str(ONE_WAY),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert relay.stdin is not None
    assert relay.stdout is not None
    assert relay.stdout.readline() == "ready\n"
    async with hub_on(topology, transportMode="websocket") as server:
        bundle = await server.create_client("alice")
        config = evolve(bundle.smartvpn_config, server_url="ws://127.0.0.1:7443/")
        async with client_on(topology, config) as client:
            await client.connect()
            assert relay.stdout.readline().split()[2] == str(HANDSHAKE_RESP)
            assert await answers(topology, GATEWAY)
            [before] = await server.list_clients()
            relay.stdin.write("\n")
            relay.stdin.flush()

            async def down() -> bool:
                return (await client.get_status()).state is not TunnelState.CONNECTED

            async def up() -> bool:
                return not await down()

            await eventually(down)
            await eventually(up)
            resumed = time.monotonic()
            line = await asyncio.to_thread(relay.stdout.readline)
            opened, answered, kind = (float(each) for each in line.split())
            [after] = await sessions_of(server)
            say("WebSocket", resumed - opened)
            assert answered - opened > ROUND_TRIP - 0.05
            assert kind == SESSION_RESUME_OK
            assert after.assigned_ip == before.assigned_ip
            assert resumed - opened < 2 * ROUND_TRIP - 0.05
            assert await answers(topology, GATEWAY)


async def test_resume_takes_one_round_trip_over_quic(topology: Topology) -> None:
    """From the client's answer in QUIC's handshake until the first packet leaves that reaches the hub."""
    async with relayed(topology, ONE_WAY) as (server, client, relay):
        [before] = await server.list_clients()
        async with stream(topology, "client", "hub", GATEWAY) as up:
            await moved(relay, None)
            relay("cut")

            async def resumed() -> bool:
                sessions = await server.list_clients()
                return [one.session_id for one in sessions] not in ([], [before.session_id])

            await eventually(resumed)
            [after] = await server.list_clients()
            await up.stop()
        shaken = relay("shaken")
        took = min(one.at for one in up.arrived if one.at > shaken) - ONE_WAY - shaken
        say("QUIC", took)
        assert (after.assigned_ip, after.transport) == (before.assigned_ip, "quic")
        assert (await client.get_status()).state is TunnelState.CONNECTED
        assert ROUND_TRIP - 0.05 < took < 2 * ROUND_TRIP - 0.05
