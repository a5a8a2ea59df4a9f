"""Hostile clients with a real key: what a live session may not do, and what it costs nobody else."""

from __future__ import annotations

import asyncio
import logging
import os
import struct
from contextlib import suppress

import pytest

from tests.netns import packets
from tests.netns.bystander import MIB, attacked
from tests.netns.hub import Hub, pings
from tests.netns.independent import (
    BATCH,
    GSO_TCP,
    GSO_UDP,
    HANDSHAKE_INIT,
    HANDSHAKE_RESP,
    IP_PACKET,
    IP_SUPER_PACKET,
    KEEPALIVE,
    KEEPALIVE_ACK,
    PATIENCE,
    REKEY,
    RESUMABLE,
    SESSION_RESUME,
    SESSION_RESUME_ERR,
    SESSION_RESUME_OK,
    SETTINGS,
    SWITCH_KEYS,
    TCP4,
    TCP6,
    UDP_ANY,
    Session,
    frame,
    hello,
)
from tests.netns.topology import INTERNET, Topology
from tests.netns.tunnel import GATEWAY, GATEWAY6, eventually


async def closed_at_once(session: Session) -> None:
    """The hub ends the link without another frame."""
    before = len(session.link.messages)
    async with asyncio.timeout(PATIENCE):
        await session.link.rest()
    assert session.link.messages[before:] == []


# frames that do not open


def _tampered(session: Session) -> bytes:
    sealed = session.sealed(KEEPALIVE, bytes(8))
    return sealed[:-1] + bytes([sealed[-1] ^ 1])


def _of_another_type(session: Session) -> bytes:
    return bytes([IP_PACKET]) + session.sealed(KEEPALIVE, bytes(8))[1:]


def _twice(session: Session) -> bytes:
    session.sealed(0x80)
    sealed = session.sealed(0x80)
    return sealed + sealed


def _reordered(session: Session) -> bytes:
    first, second = session.sealed(0x80), session.sealed(0x80)
    return second + first


def _left_out(session: Session) -> bytes:
    session.sealed(KEEPALIVE, bytes(8))
    return session.sealed(KEEPALIVE, bytes(8))


def _shorter_than_said(session: Session) -> bytes:
    sealed = session.sealed(0x80, bytes(100))
    return sealed[:50] + session.sealed(0x80, bytes(100))


UNOPENED = [
    _tampered,
    _of_another_type,
    _twice,
    _reordered,
    _left_out,
    _shorter_than_said,
    lambda _: frame(KEEPALIVE, b""),
    lambda _: frame(KEEPALIVE, bytes(15)),
    lambda _: frame(KEEPALIVE, bytes(16)),
    lambda _: frame(0x80, os.urandom(65535)),
    lambda _: struct.pack("!BI", IP_PACKET, 65536),
    lambda _: struct.pack("!BI", IP_PACKET, 0xFFFFFFFF),
    lambda _: struct.pack("!BI", 0x80, 0x80000000),
]


async def test_frames_that_do_not_open(topology: Topology, caplog: pytest.LogCaptureFixture) -> None:
    """A bad length or tag ends the link at once and without a word; the owner may still resume."""
    caplog.set_level(logging.INFO, "smartvpn.daemon")
    async with attacked(topology) as hub:
        key = await hub.register("alice")
        async with hub.session(key) as session:
            address = session.given.address
        for bad in UNOPENED:
            resume = hello(resume=session.given.session_id)
            async with hub.session(key, resume, SESSION_RESUME) as session:
                assert (session.answer, session.given.address) == (SESSION_RESUME_OK, address)
                await session.link.send(bad(session))
                await closed_at_once(session)
        assert any("connection from 10.99.0.2 closed" in text for text in caplog.messages)


async def test_a_frame_that_never_ends(topology: Topology) -> None:
    """A frame cut off by the end of the connection is nothing."""
    async with attacked(topology) as hub:
        key = await hub.register("alice")
        async with hub.session(key) as session:
            await session.link.send(session.sealed(IP_PACKET, bytes(1000))[:700])
        async with hub.session(key) as session:
            await pings(session)


# frames out of place


OUT_OF_PLACE = (0x00, HANDSHAKE_RESP, SWITCH_KEYS, SETTINGS, 0x05, 0x0F, 0x12, 0x1F, 0x22, 0x2F)
RESUMES = (SESSION_RESUME, SESSION_RESUME_OK, SESSION_RESUME_ERR, 0x33, 0x3E, 0x40, 0x7F)


@pytest.mark.parametrize("kinds", [OUT_OF_PLACE, RESUMES])
async def test_frames_out_of_place(topology: Topology, kinds: tuple[int, ...]) -> None:
    """An unknown type below 0x80, or a known one in no place for it, gets code 11, then the end."""
    async with attacked(topology) as hub:
        key = await hub.register("alice")
        for kind in kinds:
            for plaintext in (b"", os.urandom(96)):
                async with hub.session(key) as session:
                    await session.send(kind, plaintext)
                    assert (hex(kind), (await session.disconnected())[0]) == (hex(kind), 11)


async def test_offences_in_plaintexts(topology: Topology) -> None:
    """A keepalive under 8 bytes and a rekey that does not open: code 11, and the session is not resumable."""
    async with attacked(topology) as hub:
        key = await hub.register("alice")
        offences = [(KEEPALIVE, bytes(n)) for n in range(8)]
        offences += [(HANDSHAKE_INIT, data) for data in (b"", bytes(95), os.urandom(96), os.urandom(2000))]
        for kind, plaintext in offences:
            async with hub.session(key) as session:
                await session.send(kind, plaintext)
                assert (await session.disconnected())[0] == 11
        resume = hello(resume=session.given.session_id)
        async with hub.session(key, resume, SESSION_RESUME) as session:
            assert session.answer == SESSION_RESUME_ERR


async def test_what_is_ignored(topology: Topology) -> None:
    """Acks that nobody asked for and later versions' frames, however large and many, end nothing."""
    async with attacked(topology) as hub, hub.session(await hub.register("alice")) as session:
        for n in range(200):
            await session.send(KEEPALIVE_ACK, os.urandom(n % 20))
            await session.send(0x80 + n % 128, os.urandom(n * 300))
        await pings(session)


# WebSocket messages


def _masked(first: int, data: bytes, *, size: int | None = None) -> bytes:
    """A WebSocket frame by hand; `size` is what it says its length is."""
    said = len(data) if size is None else size
    if said < 126:
        head = bytes([first, 0x80 | said])
    elif said < 65536:
        head = bytes([first, 0xFE]) + struct.pack("!H", said)
    else:
        head = bytes([first, 0xFF]) + struct.pack("!Q", said)
    return head + bytes(4) + data


BINARY, TEXT, CONTINUATION, PING = 0x82, 0x81, 0x80, 0x89
MORE = 0x7F  # clears the final bit

BROKEN_MESSAGES = [
    _masked(TEXT, b"hello"),
    _masked(TEXT, b""),
    _masked(BINARY, bytes(256 * 1024 + 1)),
    _masked(BINARY & MORE, bytes(200_000)) + _masked(CONTINUATION, bytes(200_000)),
    _masked(BINARY, bytes(256 * 1024 + 1), size=1 << 62),
    _masked(BINARY, b"", size=(1 << 64) - 1),
    _masked(0xC2, b"\x02\0"),
    _masked(0xA2, b""),
    _masked(0x83, b"reserved"),
    _masked(0x8B, b"reserved"),
    _masked(CONTINUATION, b"of nothing"),
    _masked(BINARY & MORE, b"\x80") + _masked(BINARY, b"another"),
    _masked(PING & MORE, b"in parts"),
    _masked(PING, bytes(126)),
    b"\x82\x05\x80\0\0\0\0",
]


def _a_full_message(session: Session) -> bytes:
    return b"".join(session.sealed(0x80, bytes(size)) for size in (65519, 65519, 65519, 65503))


async def test_broken_messages(topology: Topology) -> None:
    """Text, over 256 KiB, compressed, reserved, unmasked or fragmented against the rules: the link ends."""
    async with attacked(topology) as hub:
        key = await hub.register("alice")
        for message in BROKEN_MESSAGES:
            async with hub.session(key) as session:
                with suppress(ConnectionError):
                    session.link.writer.write(message)
                    await session.link.writer.drain()
                await closed_at_once(session)


async def test_messages_at_the_limit(topology: Topology) -> None:
    """256 KiB in one message, in fragments, and empty messages between are all well."""
    async with attacked(topology) as hub, hub.session(await hub.register("alice")) as session:
        whole = _a_full_message(session)
        assert len(whole) == 256 * 1024
        await session.link.send(whole)
        parts = _a_full_message(session)
        written = [_masked(BINARY & MORE, parts[:1]), _masked(PING, b""), _masked(0, parts[1:100_000])]
        session.link.writer.write(b"".join([*written, _masked(CONTINUATION, parts[100_000:])]))
        session.link.writer.write(_masked(BINARY, b"") * 1000)
        await pings(session)


async def test_many_control_frames(topology: Topology) -> None:
    """A flood of WebSocket pings whose pongs nobody reads, and of keepalives, stays bounded in the hub."""
    async with (
        attacked(topology) as hub,
        hub.session(await hub.register("alice"), receive_buffer=4096) as session,
    ):
        before = hub.memory
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(8):
                while True:
                    burst = _masked(PING, bytes(125)) * 100 + b"".join(
                        _masked(BINARY, session.sealed(KEEPALIVE, bytes(8))) for _ in range(100)
                    )
                    session.link.writer.write(burst)
                    await session.link.writer.drain()
        assert hub.memory - before < 16 * MIB


# inner packets


async def lets_pass(hub: Hub, session: Session, what: list[bytes], kind: int = IP_PACKET) -> list[str]:
    """Which of the plaintexts the hub did not drop and count, in hex; the session lives."""
    passed = []
    for plaintext in what:
        before = await hub.drops("alice")
        await session.send(kind, plaintext)
        await session.keepalive()
        if await hub.drops("alice") != before + 1:
            passed.append(plaintext[:48].hex())
    return passed


EVERYTHING = BATCH | GSO_TCP | RESUMABLE | REKEY | GSO_UDP


def _edited(packet: bytes, at: int, value: bytes) -> bytes:
    return packet[:at] + value + packet[at + len(value) :]


def _super(kind: int, segment_size: int, packet: bytes) -> bytes:
    return struct.pack("!BH", kind, segment_size) + packet


def _lying_super_packets(ip: str, ip6: str) -> list[bytes]:
    ports, numbers = (4000, 9), (1, 1)
    udp = packets.udp(ip, GATEWAY, ports, bytes(5000))
    udp6 = packets.udp(ip6, GATEWAY6, ports, bytes(5000))
    tcp = packets.tcp(ip, GATEWAY, ports, numbers, packets.ACK, bytes(5000))
    tcp6 = packets.tcp(ip6, GATEWAY6, ports, numbers, packets.ACK, bytes(5000))
    kinds = [
        *(_super(kind, 1000, udp) for kind in (0, TCP4, TCP6, 4, 0x83, 255)),
        *(_super(kind, 1000, udp6) for kind in (0, TCP4, TCP6, 4)),
        *(_super(kind, 1000, tcp) for kind in (0, TCP6, UDP_ANY, 4)),
        *(_super(kind, 1000, tcp6) for kind in (0, TCP4, UDP_ANY, 4)),
        _super(TCP4, 1000, packets.echo(ip, GATEWAY, data=bytes(5000))),
    ]
    sizes = [
        *(_super(UDP_ANY, size, udp) for size in (0, 1, 255)),
        *(_super(TCP4, size, tcp) for size in (0, 1, 255)),
        _super(UDP_ANY, 256, packets.udp(ip, GATEWAY, ports, bytes(256 * 128 + 1))),
        _super(TCP6, 256, packets.tcp(ip6, GATEWAY6, ports, numbers, packets.ACK, bytes(256 * 128 + 1))),
    ]
    lengths = [
        *(_super(UDP_ANY, 1000, udp)[:size] for size in (0, 1, 2, 3, 4, 22, 23, 30, 5000)),
        *(_super(TCP6, 1000, tcp6)[:size] for size in (42, 43, 60, 5000)),
        *(_super(UDP_ANY, 1000, _edited(udp, 2, struct.pack("!H", n))) for n in (0, 27, 5027, 5029, 65535)),
        *(_super(TCP6, 1000, _edited(tcp6, 4, struct.pack("!H", n))) for n in (0, 19, 5019, 5021, 65535)),
        *(_super(UDP_ANY, 1000, _edited(udp, 24, struct.pack("!H", n))) for n in (0, 7, 5007, 5009)),
        *(_super(TCP4, 1000, _edited(tcp, 32, bytes([n << 4]))) for n in (0, 4)),
    ]
    versions = [
        *(_super(UDP_ANY, 1000, _edited(udp, 0, bytes([n]))) for n in (0x05, 0x44, 0x55, 0x65, 0xF5)),
        *(_super(TCP6, 1000, _edited(tcp6, 0, bytes([n]))) for n in (0x00, 0x45, 0x50, 0xF0)),
        _super(UDP_ANY, 1000, _edited(udp, 6, b"\x20\x00")),
        _super(UDP_ANY, 1000, _edited(udp, 6, b"\x00\x01")),
    ]
    return kinds + sizes + lengths + versions


async def test_super_packets_that_lie(topology: Topology) -> None:
    """Kind, segment size, count, lengths or version that are not so: dropped, counted, and no more."""
    async with (
        attacked(topology) as hub,
        hub.session(await hub.register("alice"), hello(EVERYTHING)) as session,
    ):
        lies = _lying_super_packets(session.given.ip, session.given.ip6)
        assert await lets_pass(hub, session, lies, IP_SUPER_PACKET) == []
        await pings(session)


async def test_sources_of_others(topology: Topology) -> None:
    """A packet whose source is not the session's address is dropped and counted, super-packets too."""
    async with (
        attacked(topology) as hub,
        hub.session(await hub.register("alice"), hello(EVERYTHING)) as session,
    ):
        sources = ("10.8.0.1", "10.8.0.2", "10.8.0.4", "0.0.0.0", "127.0.0.1", "10.99.0.2", "255.255.255.255")
        sources6 = (GATEWAY6, "fd08::2", "fd08::4", "::", "::1", "fd99::2", "fe80::1", "ff02::1")
        assert session.given.ip not in sources
        forged = [packets.echo(source, GATEWAY) for source in sources]
        forged += [packets.echo(source, GATEWAY6) for source in sources6]
        assert await lets_pass(hub, session, forged) == []
        whole = [_super(UDP_ANY, 1000, packets.udp(s, GATEWAY, (1, 2), bytes(3000))) for s in sources]
        assert await lets_pass(hub, session, whole, IP_SUPER_PACKET) == []
        await pings(session)


def _malformed(ip: str, ip6: str) -> list[bytes]:
    good, good6 = packets.echo(ip, GATEWAY), packets.echo(ip6, GATEWAY6)
    return [
        *(good[:size] for size in (0, 1, 19, 20, 40, len(good) - 1)),
        *(good6[:size] for size in (1, 39, 40, len(good6) - 1)),
        *(_edited(good, 0, bytes([n])) for n in (0x00, 0x05, 0x15, 0x44, 0x40, 0x55, 0x65, 0x75, 0xF5)),
        *(_edited(good6, 0, bytes([n])) for n in (0x00, 0x40, 0x50, 0x70, 0xF0)),
        *(_edited(good, 2, struct.pack("!H", n)) for n in (0, 19, len(good) + 1, 65535)),
        *(_edited(good6, 4, struct.pack("!H", n)) for n in (len(good6) - 39, 65535)),
        os.urandom(1),
        bytes(1000),
        b"\xff" * 1000,
    ]


async def test_malformed_packets(topology: Topology) -> None:
    """Cut off, of no version, with lengths that are not theirs: dropped and counted."""
    async with attacked(topology) as hub, hub.session(await hub.register("alice")) as session:
        broken = _malformed(session.given.ip, session.given.ip6)
        assert await lets_pass(hub, session, broken) == []
        await pings(session)


FORBIDDEN = ("127.0.0.1", "127.255.255.255", "169.254.169.254", "169.254.0.0", "224.0.0.1", "239.255.255.255")
FORBIDDEN6 = ("fe80::1", "febf::1", "ff02::1", "ff0e::1", "::ffff:127.0.0.1", "::1")


async def test_destinations_that_are_never_reached(topology: Topology) -> None:
    """Loopback, link-local, cloud metadata and multicast are denied and counted, super-packets too."""
    async with (
        attacked(topology) as hub,
        hub.session(await hub.register("alice"), hello(EVERYTHING)) as session,
    ):
        ip, ip6 = session.given.ip, session.given.ip6
        sent = [packets.echo(ip, destination) for destination in FORBIDDEN]
        sent += [packets.echo(ip6, destination) for destination in FORBIDDEN6]
        assert await lets_pass(hub, session, sent) == []
        whole = [_super(UDP_ANY, 1000, packets.udp(ip, to, (1, 2), bytes(1001))) for to in FORBIDDEN]
        assert await lets_pass(hub, session, whole, IP_SUPER_PACKET) == []
        assert (await hub.server.get_client_telemetry("alice")).drops.acl >= len(sent)


async def test_an_acl_holds_for_super_packets(topology: Topology) -> None:
    """What a client may not reach it does not reach in one piece either."""
    async with attacked(topology) as hub:
        key = await hub.register("alice", security={"destinationBlockList": [INTERNET]})
        async with hub.session(key, hello(EVERYTHING)) as session:
            whole = packets.udp(session.given.ip, INTERNET, (1, 2), bytes(5000))
            assert await lets_pass(hub, session, [_super(UDP_ANY, 1000, whole)], IP_SUPER_PACKET) == []


# a client that does not read

FLOOD = """
import socket, sys, time
at = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    for _ in range(20):
        at.sendto(bytes(1300), (sys.argv[1], 9))
    time.sleep(0.005)
"""


@pytest.mark.long(35)
async def test_a_client_that_never_reads(topology: Topology) -> None:
    """Output blocked for 30 s ends the link; until then the hub keeps a bounded amount of it."""
    async with (
        attacked(topology) as hub,
        hub.session(await hub.register("alice"), receive_buffer=4096) as session,
    ):
        before = hub.memory
        topology.popen("hub", "python3", "-c", FLOOD, session.given.ip)
        lived, most = 0.0, 0
        while len(await hub.server.list_clients()) == 2:
            await asyncio.sleep(0.5)
            lived, most = lived + 0.5, max(most, hub.memory)
            assert lived < 90
        assert lived > 25
        assert most - before < 32 * MIB
        assert (await hub.server.get_statistics()).active_clients == 1


@pytest.mark.long(20)
async def test_an_idle_reader_wakes_up(topology: Topology) -> None:
    """A client that pauses its reading for a while loses packets, not its session."""
    async with (
        attacked(topology) as hub,
        hub.session(await hub.register("alice"), receive_buffer=4096) as session,
    ):
        flood = topology.popen("hub", "python3", "-c", FLOOD, session.given.ip)
        await asyncio.sleep(8)
        flood.kill()
        await session.send(KEEPALIVE, b"awake!!!")

        async def acknowledged() -> bool:
            kind, plaintext = await session.receive()
            return (kind, plaintext) == (KEEPALIVE_ACK, b"awake!!!")

        await eventually(acknowledged)
        assert await hub.drops("alice") > 0
