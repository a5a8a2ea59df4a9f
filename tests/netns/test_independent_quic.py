"""An independent client over QUIC against the real hub: the stream and the datagrams."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Callable

import pytest

from tests.netns import packets
from tests.netns.hub import Hub, hub_at, unique
from tests.netns.independent import (
    DATAGRAM,
    DISCONNECT,
    HANDSHAKE_RESP,
    IP_PACKET,
    REKEY,
    RESUMABLE,
    SESSION_RESUME,
    SESSION_RESUME_OK,
    LinkEndedError,
    hello,
)
from tests.netns.independent_quic import QuicSession, quic_answered, quic_link, quic_session
from tests.netns.packets import Packet
from tests.netns.topology import Topology
from tests.netns.tunnel import GATEWAY, GATEWAY6, eventually

WITH_DATAGRAMS = RESUMABLE | REKEY | DATAGRAM


def requests(session: QuicSession, sequence: int, data: bytes = b"smartvpn" * 7) -> list[bytes]:
    """An echo request to each of the hub's gateway addresses."""
    given = session.given
    return [
        packets.echo(source, gateway, sequence, data)
        for source, gateway in ((given.ip, GATEWAY), (given.ip6, GATEWAY6))
    ]


def is_answer(reply: bytes, request: bytes) -> bool:
    """Whether a packet is the echo reply to a request."""
    asked, got = Packet.parse(request), Packet.parse(reply)
    ends = (got.source, got.destination) == (asked.destination, asked.source)
    return ends and got.body == packets.echo_reply_to(request)


async def pings_by_datagram(session: QuicSession, sequence: int = 1, epoch: int | None = None) -> list[int]:
    """Both gateways answer datagrams by datagrams; the counters of the answers."""
    counters = []
    for request in requests(session, sequence):
        session.packet_by_datagram(request)
        at, counter, reply = await session.datagram()
        assert at == (session.outbound.epoch if epoch is None else epoch)
        assert is_answer(reply, request)
        counters.append(counter)
    return counters


async def pings_by_stream(session: QuicSession, sequence: int = 1) -> None:
    """Both gateways answer frames by frames."""
    for request in requests(session, sequence):
        await session.packet(request)
        assert is_answer(await session.expect(IP_PACKET), request)


async def test_handshake_address_and_pings(topology: Topology) -> None:
    """The session opens on the stream; packets come back by datagram to who takes them, else by stream."""
    async with hub_at(topology, transportMode="quic") as hub:
        key = await hub.register("alice")
        async with quic_answered(hub, key, hello(WITH_DATAGRAMS)) as session:
            assert session.answer == HANDSHAKE_RESP
            assert session.given.capabilities & WITH_DATAGRAMS == WITH_DATAGRAMS
            assert (session.given.address, session.given.address6) == ("10.8.0.2/24", "fd08::2/64")
            await session.keepalive()
            assert await pings_by_datagram(session) == [0, 1]
            for request in requests(session, 2):  # by stream there, by datagram back
                await session.packet(request)
                assert is_answer((await session.datagram())[2], request)
            [info] = await hub.server.list_clients()
            assert (info.client_id, info.transport, info.assigned_ip) == ("alice", "quic", "10.8.0.2")
        async with quic_session(hub, key, hello(RESUMABLE | REKEY)) as session:
            await pings_by_stream(session)
            assert session.link.datagrams == []


async def test_a_datagram_makes_a_session_live(topology: Topology) -> None:
    """The first that opens; those before it that do not open do not."""
    async with (
        hub_at(topology, transportMode="quic") as hub,
        quic_answered(hub, await hub.register("alice"), hello(WITH_DATAGRAMS)) as session,
    ):
        session.link.send_datagram(os.urandom(64))
        await asyncio.sleep(0.2)
        assert await hub.server.list_clients() == []
        await pings_by_datagram(session)
        assert len(await hub.server.list_clients()) == 1


async def test_what_comes_twice_or_broken_is_dropped(topology: Topology) -> None:
    """By length, type, epoch, tag, counter: each is dropped and counted, and ends nothing."""
    async with (
        hub_at(topology, transportMode="quic") as hub,
        quic_session(hub, await hub.register("alice"), hello(WITH_DATAGRAMS)) as session,
    ):
        [request, _] = requests(session, 1)
        good = session.packet_by_datagram(request)
        assert is_answer((await session.datagram())[2], request)
        fresh = session.outbound.seal(request, counter=5)
        broken = [
            good,  # its counter was seen
            b"",
            fresh[:10],
            fresh[:25],
            b"\x11" + fresh[1:],
            fresh[:1] + b"\x01" + fresh[2:],
            fresh[:2] + struct.pack("<Q", 6) + fresh[10:],
            fresh[:-1] + bytes([fresh[-1] ^ 1]),
            struct.pack("<BBQ", IP_PACKET, 0, 2**64 - 1) + fresh[10:],
        ]
        before = await hub.drops("alice")
        for each in broken:
            session.link.send_datagram(each)

        async def all_counted() -> bool:
            return await hub.drops("alice") - before == len(broken)

        await eventually(all_counted)
        session.link.send_datagram(fresh)  # what was forged under its counter has not used it up
        assert is_answer((await session.datagram())[2], request)
        await pings_by_datagram(session, 2)


async def test_any_order_within_the_window(topology: Topology) -> None:
    """8192 counters; what is older is dropped."""
    async with (
        hub_at(topology, transportMode="quic") as hub,
        quic_session(hub, await hub.register("alice"), hello(WITH_DATAGRAMS)) as session,
    ):
        for sequence, counter in enumerate((9000, 8999, 9000 - 8191, 9001), 1):
            [request, _] = requests(session, sequence)
            session.packet_by_datagram(request, counter=counter)
            assert is_answer((await session.datagram())[2], request)
        before = await hub.drops("alice")
        session.packet_by_datagram(request, counter=9001 - 8192)

        async def counted() -> bool:
            return await hub.drops("alice") == before + 1

        await eventually(counted)


async def test_rekey_begins_an_epoch(topology: Topology) -> None:
    """The hub's datagrams change with SwitchKeys; the old epoch is received on, counters begin again."""
    async with (
        hub_at(topology, transportMode="quic") as hub,
        quic_session(hub, await hub.register("alice"), hello(WITH_DATAGRAMS)) as session,
    ):
        assert await pings_by_datagram(session) == [0, 1]
        await session.send_rekey_init()
        await session.take_rekey_answer()
        [request, _] = requests(session, 2)
        session.packet_by_datagram(request)  # the hub stays on the old epoch until the client leaves it
        epoch, counter, reply = await session.datagram()
        assert (epoch, counter, is_answer(reply, request)) == (0, 2, True)
        await session.switch_keys()
        await session.keepalive()
        assert await pings_by_datagram(session, 3) == [0, 1]
        assert session.outbound.epoch == 1
        [late, _] = requests(session, 4)
        session.packet_by_datagram(late, epoch=0, counter=7)
        epoch, _, reply = await session.datagram()
        assert (epoch, is_answer(reply, late)) == (1, True)


async def test_a_datagram_of_the_new_epoch_switches_the_hub(topology: Topology) -> None:
    """Where it overtakes SwitchKeys."""
    async with (
        hub_at(topology, transportMode="quic") as hub,
        quic_session(hub, await hub.register("alice"), hello(WITH_DATAGRAMS)) as session,
    ):
        await session.send_rekey_init()
        await session.take_rekey_answer()
        session.outbound.next_epoch(session._noise.noise_protocol.cipher_state_encrypt.k)
        assert await pings_by_datagram(session, epoch=1) == [0, 1]


async def test_large_packets_arrive_whole(topology: Topology) -> None:
    """By datagram or stream, as the path takes it by then; a peer without datagrams gets frames at once."""
    async with hub_at(topology, transportMode="quic") as hub:
        key = await hub.register("alice")
        async with quic_session(hub, key, hello(RESUMABLE)) as session:
            [request, _] = requests(session, 1, os.urandom(1300))
            await session.packet(request)
            assert is_answer(await session.expect(IP_PACKET), request)
        async with quic_session(hub, key, hello(WITH_DATAGRAMS)) as session:
            [request, _] = requests(session, 1, os.urandom(1300))
            await session.packet(request)
            by_stream = asyncio.create_task(session.expect(IP_PACKET))
            by_datagram = asyncio.create_task(session.datagram())
            await asyncio.wait({by_stream, by_datagram}, return_when=asyncio.FIRST_COMPLETED)
            reply = by_stream.result() if by_stream.done() else by_datagram.result()[2]
            by_stream.cancel()
            by_datagram.cancel()
            assert is_answer(reply, request)


async def test_a_session_moves_between_the_transports(topology: Topology) -> None:
    """From WebSocket to QUIC and back, each time with its addresses; the old link gets code 1."""
    async with hub_at(topology, transportMode="both") as hub:
        instance = unique()
        key = await hub.register("alice")
        async with hub.session(key, hello(instance=instance)) as first:

            def resume(session_id: bytes) -> bytes:
                return hello(WITH_DATAGRAMS, instance=instance, resume=session_id)

            async with quic_session(hub, key, resume(first.given.session_id), SESSION_RESUME) as second:
                assert second.answer == SESSION_RESUME_OK
                assert second.given.address == first.given.address
                assert await first.disconnected() == (1, "superseded")
                await pings_by_datagram(second)
                async with hub.session(key, resume(second.given.session_id), SESSION_RESUME) as third:
                    assert third.answer == SESSION_RESUME_OK
                    assert third.given.address == first.given.address
                    assert await second.disconnected() == (1, "superseded")


async def kicked(hub: Hub) -> None:
    """By command, while the session lives on as such."""
    await hub.server.disconnect_client("alice")


async def disabled(hub: Hub) -> None:
    """Until somebody enables it."""
    await hub.server.disable_client("alice")


@pytest.mark.parametrize(
    ("end", "code", "text"), [(kicked, 6, "kicked"), (disabled, 2, "disabled")], ids=["kicked", "disabled"]
)
async def test_a_disconnect_is_followed_by_fin(
    topology: Topology, end: Callable[[Hub], object], code: int, text: str
) -> None:
    """The hub ends its side of the stream, then the connection with code 0."""
    async with (
        hub_at(topology, transportMode="quic") as hub,
        quic_session(hub, await hub.register("alice"), hello(WITH_DATAGRAMS)) as session,
    ):
        await end(hub)
        assert await session.disconnected() == (code, text)
        assert (await session.link.over()).error_code == 0


async def test_refusals(topology: Topology) -> None:
    """A stranger gets no frame byte and CONNECTION_CLOSE 0 without reason; who is known is told why."""
    async with hub_at(topology, transportMode="quic") as hub:
        key = await hub.register("alice", enabled=False)
        async with quic_link(hub) as link:
            session = QuicSession(link, hub.key, os.urandom(32))
            with pytest.raises(LinkEndedError):
                await session.handshake(hello(WITH_DATAGRAMS))
            ended = await link.over()
            assert (link.raw, ended.error_code, ended.reason_phrase) == (b"", 0, "")
        async with quic_answered(hub, key, hello(WITH_DATAGRAMS)) as session:
            assert session.refused
            assert (await session.disconnected())[0] == 2
        change = {"enabled": True, "security": {"ipBlockList": ["10.99.0.0/24"]}}
        await hub.server.update_client("alice", change)
        async with quic_answered(hub, key, hello(WITH_DATAGRAMS)) as session:
            assert (await session.disconnected())[0] == 9


async def test_a_fin_and_a_disconnect_end_the_session(topology: Topology) -> None:
    """A FIN ends the connection, and the session waits to be resumed; a Disconnect ends it for good."""
    async with hub_at(topology, transportMode="quic") as hub:
        key = await hub.register("alice")

        async def none_live() -> bool:
            return await hub.server.list_clients() == []

        async with quic_session(hub, key, hello(WITH_DATAGRAMS)) as session:
            await session.link.send(b"", end=True)
            assert (await session.link.over()).error_code == 0
            await eventually(none_live)
        again = hello(WITH_DATAGRAMS, resume=session.given.session_id)
        async with quic_session(hub, key, again, SESSION_RESUME) as session:
            assert session.answer == SESSION_RESUME_OK
            await session.send(DISCONNECT, b"\0")
            await eventually(none_live)
        again = hello(WITH_DATAGRAMS, resume=session.given.session_id)
        async with quic_session(hub, key, again, SESSION_RESUME) as session:
            assert session.answer != SESSION_RESUME_OK
