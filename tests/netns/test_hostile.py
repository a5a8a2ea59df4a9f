"""Hostile links: whatever comes before a session is live ends quietly, and nobody else notices."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import ssl
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from smartvpn.keys import PrivateKey
from tests.netns.bystander import MIB, attacked
from tests.netns.certificates import self_signed
from tests.netns.hub import PORT, Hub, in_namespace, pings, tcp_socket
from tests.netns.independent import (
    CAPABILITIES,
    DISCONNECT,
    HANDSHAKE_INIT,
    HANDSHAKE_RESP,
    INSTANCE,
    IP_PACKET,
    KEEPALIVE,
    PATIENCE,
    RESUME,
    SESSION_RESUME,
    SWITCH_KEYS,
    Link,
    LinkEndedError,
    Session,
    first_frame,
    frame,
    hello,
    tlvs,
)
from tests.netns.topology import HUB_OUTER, Topology
from tests.netns.tunnel import eventually

LOGGER = "smartvpn.daemon"
MOST = 15.0  # seconds for what must happen after 5, on a machine that is busy


async def ends_without_a_byte(link: Link) -> None:
    """The hub closes the TCP connection: no frame, no Close."""
    async with asyncio.timeout(PATIENCE):
        await link.rest()
    assert bytes(link.raw) == b""


async def refused(hub: Hub, message: bytes) -> None:
    """The hub takes that first message for a bad one."""
    async with hub.link() as link:
        await link.send(message)
        await ends_without_a_byte(link)


def closed_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the hub logged about connections that it closed."""
    return [text for text in caplog.messages if "connection from 10.99.0.2 closed" in text]


# message 1


async def test_unknown_keys(topology: Topology, caplog: pytest.LogCaptureFixture) -> None:
    """A stranger's handshake, as any that does not open, gets not a byte; the hub logs it once a second."""
    caplog.set_level(logging.INFO, LOGGER)
    async with attacked(topology) as hub:
        started = time.monotonic()
        for _ in range(10):
            stranger = os.urandom(32)
            await refused(hub, first_frame(hub.key, stranger, hello()))
            await refused(hub, first_frame(hub.key, stranger, hello(resume=os.urandom(16)), SESSION_RESUME))
        assert 1 <= len(closed_lines(caplog)) <= time.monotonic() - started + 2
        assert "unknown key" in closed_lines(caplog)[0]


def _with_bit_flipped(message: bytes, at: int) -> bytes:
    return message[:at] + bytes([message[at] ^ 1]) + message[at + 1 :]


async def test_message_1_that_does_not_open(topology: Topology) -> None:
    """A real key does not help: one bit off anywhere, cut off, for another hub, or with a weak point."""
    async with attacked(topology) as hub:
        key = await hub.register("alice")
        size = len(first_frame(hub.key, key, hello())) - 5
        for at in (5, 36, 37, 84, 85, size, size + 4):
            await refused(hub, _with_bit_flipped(first_frame(hub.key, key, hello()), at))
        for left in (0, 1, 31, 32, 80, 95, 96, size - 1):
            await refused(hub, frame(HANDSHAKE_INIT, first_frame(hub.key, key, hello())[5:][:left]))
        await refused(hub, first_frame(PrivateKey.generate().public_key.raw, key, hello()))
        await asyncio.sleep(1)
        for point in WEAK_POINTS:
            await refused(hub, frame(HANDSHAKE_INIT, point + os.urandom(size - 32)))


WEAK_POINTS = [
    bytes(32),
    b"\1" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]


BAD_HELLOS = [
    b"",
    tlvs([(0x02, b"no capabilities")]),
    tlvs([(CAPABILITIES, b"\0\0\0")]),
    tlvs([(CAPABILITIES, bytes(5))]),
    hello() + tlvs([(CAPABILITIES, bytes(4))]),
    hello() + tlvs([(INSTANCE, bytes(15))]),
    hello() + tlvs([(INSTANCE, bytes(16)), (INSTANCE, bytes(16))]),
    hello() + tlvs([(RESUME, bytes(17))]),
    hello() + b"\x7e",
    hello() + b"\x7e\0",
    hello() + b"\x7e\0\1",
    hello() + b"\x7e\xff\xff" + bytes(100),
]


async def test_bad_hellos(topology: Topology) -> None:
    """A hello that opens and is malformed is a bad message, also from a real key."""
    async with attacked(topology) as hub:
        key = await hub.register("alice")
        for payload in BAD_HELLOS:
            await refused(hub, first_frame(hub.key, key, payload))
        await refused(hub, first_frame(hub.key, key, hello(), SESSION_RESUME))
        async with hub.session(key) as session:
            await pings(session)


async def test_only_handshakes_before_keys(topology: Topology) -> None:
    """Any other type, or a length over 1024, ends the link before its payload has come."""
    async with attacked(topology) as hub:
        others = (0x00, HANDSHAKE_RESP, SWITCH_KEYS, IP_PACKET, KEEPALIVE, DISCONNECT, 0x40, 0x80, 0xFF)
        for kind in others:
            await refused(hub, frame(kind, os.urandom(96)))
        for length in (1025, 65535, 65536, 0x7FFFFFFF, 0xFFFFFFFF):
            await refused(hub, struct.pack("!BI", HANDSHAKE_INIT, length))


async def test_messages_that_are_no_frames(topology: Topology) -> None:
    """A text message, and one over 256 KiB, before keys."""
    async with attacked(topology) as hub:
        async with hub.link() as link:
            await link.send_text("hello")
            await ends_without_a_byte(link)
        await refused(hub, bytes(256 * 1024 + 1))


async def test_replayed_handshakes(topology: Topology, caplog: pytest.LogCaptureFixture) -> None:
    """A message 1 that was seen is not answered again, whole or in pieces, and does not touch its session."""
    caplog.set_level(logging.INFO, LOGGER)
    async with attacked(topology) as hub, hub.link() as link:
        session = Session(link, hub.key, await hub.register("alice"))
        seen = frame(HANDSHAKE_INIT, session.message_1(hello()))
        await link.send(seen)
        await session.read_message_2()
        await session.keepalive()
        for _ in range(5):
            await refused(hub, seen)
        async with hub.link() as other:
            for byte in seen:
                await other.send(bytes([byte]))
            await ends_without_a_byte(other)
        assert "a repeated handshake" in closed_lines(caplog)[0]
        await pings(session)


async def test_a_client_that_gives_up(topology: Topology) -> None:
    """Links dropped after each step of a handshake leave nothing behind."""
    async with attacked(topology) as hub:
        key = await hub.register("alice")
        for _ in range(5):
            async with hub.tcp():
                pass
            async with hub.link() as link:
                await link.send(first_frame(hub.key, os.urandom(32), hello())[:50])
            async with hub.link() as link:
                await link.send(first_frame(hub.key, key, hello()))
            async with hub.answered(key):
                pass
        assert [info.client_id for info in await hub.server.list_clients()] == ["bystander"]


# the five seconds


async def _cut(work: Awaitable[None]) -> float:
    """How long the hub put up with it."""
    started = time.monotonic()
    async with asyncio.timeout(MOST):
        await work
    return time.monotonic() - started


async def _drip(writer: asyncio.StreamWriter, data: bytes, pause: float = 0.4) -> None:
    with suppress(ConnectionError):
        for byte in data:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(pause)


async def _dripped(hub: Hub, data: bytes) -> bytes:
    """Send bytes slowly; what the hub says until it closes."""
    async with hub.tcp() as (reader, writer):
        dripping = asyncio.create_task(_drip(writer, data))
        try:
            return bytes(await _until_closed(reader))
        finally:
            dripping.cancel()


async def _until_closed(reader: asyncio.StreamReader) -> bytes:
    got = bytearray()
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            got += data
    return bytes(got)


async def _silent(hub: Hub, data: bytes = b"") -> None:
    async with hub.tcp() as (reader, writer):
        writer.write(data)
        assert b" 101 " not in await _until_closed(reader)


async def _drip_request(hub: Hub) -> None:
    assert b" 101 " not in await _dripped(hub, UPGRADE)


async def _silent_after_the_upgrade(hub: Hub) -> None:
    async with hub.link() as link:
        await ends_without_a_byte(link)


async def _drip_message_1(hub: Hub) -> None:
    async with hub.link() as link:
        first = first_frame(hub.key, os.urandom(32), hello())
        dripping = asyncio.create_task(_drip_messages(link, first))
        await ends_without_a_byte(link)
        dripping.cancel()


async def _drip_messages(link: Link, data: bytes) -> None:
    for byte in data:
        await link.send(bytes([byte]))
        await asyncio.sleep(0.4)


async def _ping_instead(hub: Hub) -> None:
    async with hub.link() as link:
        pinging = asyncio.create_task(_pinging(link))
        async with asyncio.timeout(PATIENCE):
            assert await link.rest() == b""
        pinging.cancel()
        assert link.closing is None


async def _pinging(link: Link) -> None:
    while True:
        await link.ping(b"still here")
        await link.send(b"")
        await asyncio.sleep(0.3)


UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: hub\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: smartvpn.v1\r\n\r\n"
)

LORISES = [
    _silent,
    lambda hub: _silent(hub, b"G"),
    lambda hub: _silent(hub, UPGRADE[:-1]),
    _drip_request,
    _silent_after_the_upgrade,
    _drip_message_1,
    _ping_instead,
]


async def test_slow_handshakes_are_cut(topology: Topology) -> None:
    """Message 1 must be there 5 s after accept: silence and drips are cut then, at whatever step."""
    async with attacked(topology) as hub:
        took = await asyncio.gather(*(_cut(loris(hub)) for loris in LORISES))
        assert [round(seconds, 1) for seconds in took if seconds < 4.5] == []


async def test_slow_handshakes_over_tls_are_cut(topology: Topology, tmp_path: Path) -> None:
    """The 5 s count from accept with TLS too: a silent peer, a dripped ClientHello, silence after it."""
    certificate = self_signed(tmp_path, "hub", HUB_OUTER)
    async with attacked(topology, tlsCert=certificate.cert_text, tlsKey=certificate.key_text) as hub:
        tls = _client_hello()
        work = (_silent(hub), _silent(hub, tls[:20]), _drip_client_hello(hub, tls), _silent(hub, tls))
        took = await asyncio.gather(*(_cut(one) for one in work))
        assert [round(seconds, 1) for seconds in took if seconds < 4.5] == []


def _client_hello() -> bytes:
    sent = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), sent, server_hostname="hub").do_handshake()
    return sent.read()


async def _drip_client_hello(hub: Hub, tls: bytes) -> None:
    assert await _dripped(hub, tls) == b""


async def test_half_open_links_are_closed(topology: Topology) -> None:
    """Without a frame from the client after message 2: closed after 5 s, and without a Disconnect."""
    async with attacked(topology) as hub:
        key = await hub.register("alice")
        took = await asyncio.gather(
            *(_cut(_half_open(hub, key, way)) for way in (_nothing, _dribble, _pinging))
        )
        assert [round(seconds, 1) for seconds in took if seconds < 4.5] == []
        assert [info.client_id for info in await hub.server.list_clients()] == ["bystander"]


async def _half_open(hub: Hub, key: bytes, way: Callable[[Link], Awaitable[None]]) -> None:
    async with hub.answered(key) as session:
        before = len(session.link.messages)
        doing = asyncio.ensure_future(way(session.link))
        async with asyncio.timeout(PATIENCE):
            await session.link.rest()
        doing.cancel()
        assert session.link.messages[before:] == []
        assert session.link.closing is None


async def _nothing(_: Link) -> None:
    pass


async def _dribble(link: Link) -> None:
    for byte in frame(KEEPALIVE, bytes(24)):
        await link.send(bytes([byte]))
        await asyncio.sleep(0.4)


async def test_a_disconnect_makes_nothing_live(topology: Topology) -> None:
    """A client that ends its half-open session by Disconnect was never connected."""
    async with attacked(topology) as hub:
        async with hub.answered(await hub.register("alice")) as session:
            await session.send(DISCONNECT, b"\0")
            async with asyncio.timeout(PATIENCE):
                assert await session.link.rest() == b""
        assert (await hub.server.get_statistics()).total_connections == 1


# many


async def _was_answered(hub: Hub, key: bytes, role: str = "client") -> bool:
    async with hub.tcp(role) as streams:
        link = Link(*streams)
        try:
            await link.upgrade()
            await Session(link, hub.key, key).handshake(hello())
        except LinkEndedError:
            return False
        return True


async def test_handshakes_per_source(topology: Topology) -> None:
    """20 at once and 20 a second are answered, the rest is closed; other sources are not held up."""
    topology.run("internet", "ip", "route", "add", "10.99.0.0/24", "via", "10.99.1.1")
    async with attacked(topology) as hub:
        key = await hub.register("alice")
        await asyncio.sleep(1.1)
        started = time.monotonic()
        answered = await asyncio.gather(*(_was_answered(hub, key) for _ in range(150)))
        allowed = 20 + 20 * (time.monotonic() - started) + 1
        assert 20 <= sum(answered) <= allowed  # all 150 only where they took more than 6 s
        assert await _was_answered(hub, key, "internet")
        await asyncio.sleep(1.1)
        assert await _was_answered(hub, key)


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Lets this process open as many files as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_descriptors")
async def test_many_half_open_links(topology: Topology) -> None:
    """1500 silent WebSockets from one source: an honest client comes in beside them, and all are cut."""
    async with attacked(topology) as hub:
        key = await hub.register("alice")
        before = hub.memory
        async with AsyncExitStack() as stack:
            links = [await stack.enter_async_context(hub.tcp()) for _ in range(1500)]
            for _, writer in links:
                writer.write(UPGRADE)
            assert await _was_answered(hub, key)
            assert hub.memory - before < 64 * MIB
            async with asyncio.timeout(60):
                heard = await asyncio.gather(*(_until_closed(reader) for reader, _ in links))
            assert {answer.count(b"\r\n\r\n") for answer in heard} <= {0, 1}
        async with hub.session(key) as session:
            await pings(session)


@pytest.mark.usefixtures("many_descriptors")
async def test_more_half_open_links_than_the_hub_keeps(topology: Topology) -> None:
    """While 4000 at once hold every place an honest client may be refused; once they are cut it comes in."""
    async with attacked(topology) as hub:
        key = await hub.register("alice")
        sockets = in_namespace(topology, "client", lambda: [tcp_socket() for _ in range(4000)])
        try:
            for at in sockets:
                at.setblocking(False)
                with suppress(BlockingIOError):
                    at.connect((HUB_OUTER, PORT))
            await eventually(lambda: _was_answered(hub, key))
        finally:
            for at in sockets:
                at.close()


# what is no WebSocket


def _without(name: bytes) -> bytes:
    lines = UPGRADE.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.startswith(name + b":"))


NO_UPGRADES = [
    _without(b"Sec-WebSocket-Key"),
    _without(b"Upgrade"),
    _without(b"Connection"),
    _without(b"Sec-WebSocket-Version"),
    UPGRADE.replace(b"GET", b"POST"),
    UPGRADE.replace(b"GET", b"HEAD"),
    UPGRADE.replace(b"GET / HTTP/1.1", b"CONNECT hub:443 HTTP/1.1"),
    UPGRADE.replace(b"HTTP/1.1", b"HTTP/1.0"),
    UPGRADE.replace(b"HTTP/1.1", b"HTTP/9.9"),
    UPGRADE.replace(b"Version: 13", b"Version: 8"),
    UPGRADE.replace(b"AAAAAAAAAAAAAAAAAAAAAA==", b"short"),
    UPGRADE.replace(b"Upgrade: websocket", b"Upgrade: h2c"),
    UPGRADE.replace(b"Host: hub", b"X-Filler: " + b"x" * 100_000),
    UPGRADE.replace(b"Host: hub", b"\r\n".join(b"X-%d: y" % n for n in range(5000))),
    UPGRADE.replace(b"GET /", b"GET /" + b"a" * 100_000),
    UPGRADE.replace(b"Host: hub", b"no colon here"),
    b"GET / HTTP/1.1\r\nHost: hub\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b'{"id": "1", "method": "getStatus"}\n',
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + UPGRADE,
    b"\r\n" * 50_000,
    bytes(100_000),
    b"\xff" * 1_000_000,
]


async def _no_upgrade(hub: Hub, request: bytes) -> None:
    async with hub.tcp() as (reader, writer):
        with suppress(ConnectionError):
            writer.write(request)
            await writer.drain()
        async with asyncio.timeout(PATIENCE):
            assert b" 101 " not in await _until_closed(reader)


async def test_what_is_no_upgrade(topology: Topology) -> None:
    """Broken, foreign and huge requests get no WebSocket, and are closed."""
    async with attacked(topology) as hub:
        await asyncio.gather(*(_no_upgrade(hub, request) for request in NO_UPGRADES))
        async with hub.session(await hub.register("alice")) as session:
            await pings(session)


async def _noise_after_upgrade(hub: Hub, size: int) -> None:
    async with hub.tcp() as (reader, writer):
        writer.write(UPGRADE)
        await reader.readuntil(b"\r\n\r\n")
        with suppress(ConnectionError):
            writer.write(os.urandom(size))
            await writer.drain()
        async with asyncio.timeout(PATIENCE):
            await _until_closed(reader)


async def test_random_bytes(topology: Topology) -> None:
    """Noise on the port, before and after the upgrade, does nothing but end its own connection."""
    async with attacked(topology) as hub:
        await asyncio.gather(*(_no_upgrade(hub, os.urandom(size)) for size in range(1, 60_000, 2000)))
        await asyncio.gather(*(_noise_after_upgrade(hub, size) for size in (1, 2, 6, 50, 5000, 500_000)))
        async with hub.session(await hub.register("alice")) as session:
            await pings(session)
