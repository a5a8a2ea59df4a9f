"""An independent client against the real hub: every byte between them is as the protocol's page says."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.netns import packets
from tests.netns.hub import hub_at, in_namespace, pings
from tests.netns.independent import (
    AES_GCM,
    BATCH,
    GSO_TCP,
    GSO_UDP,
    HANDSHAKE_RESP,
    IP_PACKET,
    IP_SUPER_PACKET,
    KEEPALIVE,
    KEEPALIVE_ACK,
    REKEY,
    RESUMABLE,
    TCP4,
    TCP6,
    UDP_ANY,
    Session,
    hello,
    tlvs,
)
from tests.netns.packets import ACK, FIN, PSH, SYN, Packet
from tests.netns.topology import Topology
from tests.netns.tunnel import GATEWAY, GATEWAY6, SUBNET, SUBNET6

EVERYTHING = BATCH | GSO_TCP | RESUMABLE | REKEY | GSO_UDP


# the handshake


async def test_settings_say_what_the_hub_is_configured_to(topology: Topology) -> None:
    """Message 2 carries each setting, every one as configured."""
    changes: dict[str, Any] = {
        "dns": ["192.0.2.53", "2001:db8::53"],
        "mtu": 1380,
        "keepaliveIntervalSecs": 45,
        "rekeySecs": 1800,
        "resumeLifetimeSecs": 120,
        "routes": ["10.99.1.0/24", "fd99:1::/64", "10.8.0.0/24"],
    }
    async with hub_at(topology, **changes) as hub, hub.answered(await hub.register("alice")) as session:
        given = session.given
        assert session.answer == HANDSHAKE_RESP
        assert given.capabilities & (BATCH | RESUMABLE | REKEY) == BATCH | RESUMABLE | REKEY
        assert given.software.startswith("smartvpn ")
        assert given.address == "10.8.0.2/24"
        assert given.address6 == "fd08::2/64"
        assert given.gateway == GATEWAY
        assert given.gateway6 == GATEWAY6
        assert given.mtu == 1380
        assert given.dns == ("192.0.2.53", "2001:db8::53")
        assert given.keepalive_secs == 45
        assert given.rekey_secs == 1800
        assert given.resume_lifetime_secs == 120
        assert sorted(given.routes) == ["10.8.0.0/24", "10.99.1.0/24", "fd99:1::/64"]


async def test_settings_without_configuration(topology: Topology) -> None:
    """The defaults: MTU 1420, keepalive 60 s, rekey 3600 s, resume 300 s, no DNS, the subnets as routes."""
    async with hub_at(topology) as hub, hub.answered(await hub.register("alice")) as session:
        given = session.given
        assert (given.mtu, given.keepalive_secs) == (1420, 60)
        assert (given.rekey_secs, given.resume_lifetime_secs) == (3600, 300)
        assert given.dns == ()
        assert set(given.routes) <= {SUBNET, SUBNET6}


async def test_session_ids_are_fresh(topology: Topology) -> None:
    """Each handshake gets an id of its own."""
    async with hub_at(topology) as hub:
        key = await hub.register("alice")
        ids = set()
        for _ in range(3):
            async with hub.answered(key) as session:
                ids.add(session.given.session_id)
        assert len(ids) == 3


async def test_a_session_is_live_at_the_first_frame(topology: Topology) -> None:
    """Before it the hub lists no session; after it, the one with the id that message 2 named."""
    async with hub_at(topology) as hub, hub.answered(await hub.register("alice")) as session:
        assert await hub.server.list_clients() == []
        await session.keepalive()
        [info] = await hub.server.list_clients()
        assert info.client_id == "alice"
        assert info.session_id == session.given.session_id.hex()
        assert info.assigned_ip == session.given.ip


async def test_hello_may_hold_unknown_tags_and_repeat_them(topology: Topology) -> None:
    """Tags that a later version may add are ignored."""
    async with hub_at(topology) as hub:
        payload = hello() + tlvs([(0x7E, b"new"), (0x7E, b""), (0xF0, bytes(200))])
        async with hub.session(await hub.register("alice"), payload) as session:
            await pings(session)


# frames


async def test_pings_over_both_versions(topology: Topology) -> None:
    """Echo requests built by hand come back from the hub's gateway addresses."""
    async with hub_at(topology) as hub, hub.session(await hub.register("alice")) as session:
        for sequence in range(5):
            await pings(session, sequence)


def has_aes() -> bool:
    """Whether the processor has instructions for AES; without them the hub does not offer it."""
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return flags is not None and "aes" in flags[1].split()


@pytest.mark.skipif(not has_aes(), reason="the processor has no AES instructions")
async def test_aes_gcm_where_both_offer_it(topology: Topology, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same keys under the other cipher, through a rekey too; who does not offer it is served as ever."""
    monkeypatch.setenv("SMARTVPN_CIPHER", "aes-256-gcm")
    async with hub_at(topology) as hub:
        alice = await hub.register("alice")
        async with hub.session(alice, hello(RESUMABLE | REKEY | AES_GCM)) as session:
            assert session.aes
            await pings(session)
            await session.rekey()
            await pings(session)
        async with hub.session(alice) as session:
            assert session.given.capabilities & AES_GCM
            assert not session.aes
            await pings(session)


async def test_aes_gcm_is_not_forced_on_a_hub(topology: Topology, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that prefers ChaCha20-Poly1305, or never renews its keys, does not offer it."""
    for cipher, changes in (("chacha20-poly1305", {}), ("", {"rekeySecs": 0})):
        monkeypatch.setenv("SMARTVPN_CIPHER", cipher)
        async with (
            hub_at(topology, **changes) as hub,
            hub.session(await hub.register("alice"), hello(REKEY | AES_GCM)) as session,
        ):
            assert not session.given.capabilities & AES_GCM
            await pings(session)


async def test_two_clients_reach_each_other(topology: Topology) -> None:
    """A packet goes to the session that holds its destination, with nothing changed but the hop count."""
    async with (
        hub_at(topology) as hub,
        hub.session(await hub.register("alice")) as alice,
        hub.session(await hub.register("bob")) as bob,
    ):
        await alice.packet(packets.udp(alice.given.ip, bob.given.ip, (1000, 2000), b"to bob"))
        got = Packet.parse(await bob.expect(IP_PACKET))
        assert (got.source, got.destination) == (alice.given.ip, bob.given.ip)
        assert (got.ports, got.data, got.checksum_holds) == ((1000, 2000), b"to bob", True)


async def test_keepalives(topology: Topology) -> None:
    """The timestamp is echoed; optional groups, partial ones and bytes after them change nothing."""
    async with hub_at(topology) as hub, hub.session(await hub.register("alice")) as session:
        report = struct.pack("!IIHH", 20_000, 1_000, 0, 60)
        for more in (b"", report, report + b"later", report[:4], report[:5], report[:10]):
            await session.keepalive(more=more)
        await session.send(KEEPALIVE_ACK, bytes(8))
        await session.keepalive()
        info = await hub.server.get_client_telemetry("alice")
        assert info.keepalives_received == 8


async def test_frames_ignore_message_boundaries(topology: Topology) -> None:
    """Many frames in a message and frames in pieces of single bytes are read alike."""
    async with hub_at(topology) as hub, hub.session(await hub.register("alice")) as session:
        burst = [packets.echo(session.given.ip, GATEWAY, n) for n in range(20)]
        await session.link.send(b"".join(session.sealed(IP_PACKET, request) for request in burst))
        replies = [Packet.parse(await session.expect(IP_PACKET)).body for _ in burst]
        assert sorted(replies) == sorted(packets.echo_reply_to(request) for request in burst)
        for byte in session.sealed(KEEPALIVE, b"in bytes"):
            await session.link.send(bytes([byte]))
            await session.link.send(b"")
        assert await session.expect(KEEPALIVE_ACK) == b"in bytes"


@pytest.mark.parametrize("capabilities", [RESUMABLE | REKEY, EVERYTHING])
async def test_one_frame_a_message_without_batch(topology: Topology, capabilities: int) -> None:
    """Every message to a client without `batch` is one whole frame; with it, any bytes of the stream."""
    async with (
        hub_at(topology) as hub,
        hub.session(await hub.register("alice"), hello(capabilities)) as session,
    ):
        await pings(session)  # the kernel learns which queue the flow goes to
        burst = [packets.echo(session.given.ip, GATEWAY, n) for n in range(50)]
        for request in burst:
            await session.packet(request)
        replies = [Packet.parse(await session.expect(IP_PACKET)).body for _ in burst]
        assert replies == [packets.echo_reply_to(request) for request in burst]
        whole = [len(m) == 5 + struct.unpack("!I", m[1:5])[0] for m in session.link.messages]
        assert all(whole) or capabilities & BATCH


async def test_websocket_pings_are_answered(topology: Topology) -> None:
    """A WebSocket ping gets its pong and leaves the frames alone."""
    async with hub_at(topology) as hub, hub.session(await hub.register("alice")) as session:
        before = len(session.link.raw)
        await session.link.ping(b"hello")
        await session.keepalive()
        assert bytes(session.link.raw[before:]).startswith(b"\x8a\x05hello")


async def test_unknown_types_from_0x80_are_skipped(topology: Topology) -> None:
    """A later version's frames, any plaintext, pass without harm."""
    async with hub_at(topology) as hub, hub.session(await hub.register("alice")) as session:
        for kind in (0x80, 0x81, 0xC0, 0xFF):
            await session.send(kind, os.urandom(100))
            await session.send(kind)
        await pings(session)


# super-packets


def _udp_sink(port: int, family: int) -> socket.socket:
    at = socket.socket(family, socket.SOCK_DGRAM)
    at.bind((GATEWAY6 if family == socket.AF_INET6 else GATEWAY, port))
    at.settimeout(20)
    return at


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
async def test_a_udp_super_packet_arrives_as_its_segments(topology: Topology, family: int) -> None:
    """Datagrams of the segment size and a shorter last one, in order, whatever its checksum field held."""
    async with (
        hub_at(topology) as hub,
        hub.session(await hub.register("alice"), hello(EVERYTHING)) as session,
    ):
        with in_namespace(topology, "hub", lambda: _udp_sink(5000, family)) as sink:
            six = family == socket.AF_INET6
            source, gateway = (session.given.ip6, GATEWAY6) if six else (session.given.ip, GATEWAY)
            data = os.urandom(10 * 1000 + 77)
            whole = bytearray(packets.udp(source, gateway, (4000, 5000), data))
            whole[(40 if six else 20) + 6 :][:2] = b"\xde\xad"
            await session.super_packet(UDP_ANY, 1000, bytes(whole))
            got = [await asyncio.to_thread(sink.recv, 65535) for _ in range(11)]
            assert [len(datagram) for datagram in got] == [1000] * 10 + [77]
            assert b"".join(got) == data
            await session.super_packet(UDP_ANY, 1000, packets.udp(source, gateway, (4000, 5000), b"one"))
            assert await asyncio.to_thread(sink.recv, 65535) == b"one"


UDP_SEGMENT = 103


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize("capabilities", [RESUMABLE | REKEY, EVERYTHING])
async def test_udp_comes_whole_only_to_who_asked(topology: Topology, family: int, capabilities: int) -> None:
    """What the hub's kernel sends with UDP_SEGMENT is a super-packet for `gso-udp`, else segments."""
    async with (
        hub_at(topology) as hub,
        hub.session(await hub.register("alice"), hello(capabilities)) as session,
    ):
        with in_namespace(topology, "hub", lambda: _udp_sink(5000, family)) as source:
            source.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 1000)
            ours = session.given.ip6 if family == socket.AF_INET6 else session.given.ip
            data = os.urandom(8 * 1000 + 5)
            source.sendto(data, (ours, 4000))
            got = await _datagrams(session, len(data))
            assert b"".join(datagram for _, datagram in got) == data
            assert {kind for kind, _ in got} == {IP_SUPER_PACKET if capabilities & GSO_UDP else IP_PACKET}


async def _datagrams(session: Session, size: int) -> list[tuple[int, bytes]]:
    got: list[tuple[int, bytes]] = []
    while sum(len(data) for _, data in got) < size:
        kind, plaintext = await session.receive()
        packet = Packet.parse(_inner(kind, plaintext, UDP_ANY, 1000))
        assert packet.ports == (5000, 4000)
        assert kind == IP_SUPER_PACKET or (packet.checksum_holds and len(packet.data) <= 1000)
        got.append((kind, packet.data))
    return got


def _inner(kind: int, plaintext: bytes, wanted: int, segment_size: int) -> bytes:
    """The packet of a data frame; a super-packet's head must be as wanted."""
    if kind == IP_PACKET:
        return plaintext
    assert kind == IP_SUPER_PACKET
    assert struct.unpack("!BH", plaintext[:3]) == (wanted, segment_size)
    return plaintext[3:]


class HandMadeTcp:
    """One TCP connection to a listener on the hub, its segments built by hand."""

    MSS = 1000

    def __init__(self, session: Session, six: bool) -> None:
        self.session = session
        self.kind = TCP6 if six else TCP4
        given = session.given
        self.ends = (given.ip6, GATEWAY6) if six else (given.ip, GATEWAY)
        self.next, self.due = 1000, 0
        self.kinds: set[int] = set()

    def segment(self, flags: int, data: bytes = b"", options: bytes = b"") -> bytes:
        """The next segment as a packet."""
        made = packets.tcp(*self.ends, (4000, 5000), (self.next, self.due), flags, data, options)
        self.next += len(data) + bool(flags & (SYN | FIN))
        return made

    async def open(self) -> None:
        """The three-way handshake."""
        await self.session.packet(self.segment(SYN, options=struct.pack("!BBH", 2, 4, self.MSS)))
        answer = Packet.parse(await self.session.expect(IP_PACKET))
        assert (answer.flags, answer.numbers[1]) == (SYN | ACK, self.next)
        self.due = answer.numbers[0] + 1
        await self.session.packet(self.segment(ACK))

    async def receive(self, size: int) -> bytes:
        """That many bytes of the stream, each arrival acknowledged."""
        got = b""
        while len(got) < size:
            kind, plaintext = await self.session.receive()
            packet = Packet.parse(_inner(kind, plaintext, self.kind, self.MSS))
            if packet.data:
                self.kinds.add(kind)
                assert packet.numbers[0] == self.due
                assert kind == IP_SUPER_PACKET or (packet.checksum_holds and len(packet.data) <= self.MSS)
                got += packet.data
                self.due += len(packet.data)
                await self.session.packet(self.segment(ACK))
        return got


def _tcp_listener(six: bool) -> socket.socket:
    family = socket.AF_INET6 if six else socket.AF_INET
    at = socket.create_server((GATEWAY6 if six else GATEWAY, 5000), family=family)
    at.settimeout(20)
    return at


def _accept(listener: socket.socket) -> socket.socket:
    at, _ = listener.accept()
    at.settimeout(20)
    return at


@pytest.mark.parametrize("six", [False, True])
@pytest.mark.parametrize("capabilities", [RESUMABLE | REKEY, EVERYTHING])
async def test_tcp_super_packets_both_ways(topology: Topology, six: bool, capabilities: int) -> None:
    """A stream written in one super-packet arrives whole; the other way they come to who asked."""
    async with hub_at(topology) as hub:
        async with hub.session(await hub.register("alice"), hello(capabilities)) as session:
            with in_namespace(topology, "hub", lambda: _tcp_listener(six)) as listener:
                flow = HandMadeTcp(session, six)
                await flow.open()
                with await asyncio.to_thread(_accept, listener) as far:
                    up = os.urandom(20_333)
                    await session.super_packet(flow.kind, flow.MSS, flow.segment(PSH | ACK, up))
                    assert await asyncio.to_thread(far.recv, len(up), socket.MSG_WAITALL) == up
                    down = os.urandom(300_000)
                    sending = asyncio.create_task(asyncio.to_thread(far.sendall, down))
                    assert await flow.receive(len(down)) == down
                    await sending
        assert (IP_SUPER_PACKET in flow.kinds) == bool(capabilities & GSO_TCP)
