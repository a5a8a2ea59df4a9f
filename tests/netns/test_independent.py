"""An independent client against the real hub: every byte between them is as the protocol's page says."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.netns import packets
from tests.netns.hub import Hub, hub_at, in_namespace, unique
from tests.netns.independent import (
    BATCH,
    DISCONNECT,
    GSO_TCP,
    GSO_UDP,
    IP_PACKET,
    IP_SUPER_PACKET,
    KEEPALIVE,
    KEEPALIVE_ACK,
    REKEY,
    RESUMABLE,
    SESSION_RESUME,
    SESSION_RESUME_ERR,
    SESSION_RESUME_OK,
    TCP4,
    TCP6,
    UDP_ANY,
    LinkEnded,
    Session,
    hello,
    tlvs,
)
from tests.netns.packets import ACK, FIN, PSH, SYN, Packet
from tests.netns.topology import Topology
from tests.netns.tunnel import GATEWAY, GATEWAY6, SUBNET, SUBNET6

EVERYTHING = BATCH | GSO_TCP | RESUMABLE | REKEY | GSO_UDP


async def pings(session: Session, sequence: int = 1) -> None:
    """The hub's gateway addresses answer over the tunnel."""
    settings = session.given
    for source, gateway in ((settings.ip, GATEWAY), (settings.ip6, GATEWAY6)):
        request = packets.echo(source, gateway, sequence)
        await session.packet(request)
        reply = Packet.parse(await session.expect(IP_PACKET))
        assert (reply.source, reply.destination) == (gateway, source)
        assert reply.body == packets.echo_reply_to(request)


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
    async with hub_at(topology, **changes) as hub:
        async with hub.answered(await hub.register("alice")) as session:
            given = session.given
            assert session.answer == 0x02
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
    async with hub_at(topology) as hub:
        async with hub.answered(await hub.register("alice")) as session:
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
    async with hub_at(topology) as hub:
        async with hub.answered(await hub.register("alice")) as session:
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
    async with hub_at(topology) as hub:
        async with hub.session(await hub.register("alice")) as session:
            for sequence in range(5):
                await pings(session, sequence)


async def test_two_clients_reach_each_other(topology: Topology) -> None:
    """A packet goes to the session that holds its destination, with nothing changed but the hop count."""
    async with hub_at(topology) as hub:
        async with (
            hub.session(await hub.register("alice")) as alice,
            hub.session(await hub.register("bob")) as bob,
        ):
            await alice.packet(packets.udp(alice.given.ip, bob.given.ip, (1000, 2000), b"to bob"))
            got = Packet.parse(await bob.expect(IP_PACKET))
            assert (got.source, got.destination) == (alice.given.ip, bob.given.ip)
            assert (got.ports, got.data, got.checksum_holds) == ((1000, 2000), b"to bob", True)


async def test_keepalives(topology: Topology) -> None:
    """The timestamp is echoed; optional groups, partial ones and bytes after them change nothing."""
    async with hub_at(topology) as hub:
        async with hub.session(await hub.register("alice")) as session:
            report = struct.pack("!IIHH", 20_000, 1_000, 0, 60)
            for more in (b"", report, report + b"later", report[:4], report[:5], report[:10]):
                await session.keepalive(more=more)
            await session.send(KEEPALIVE_ACK, bytes(8))
            await session.keepalive()
            info = await hub.server.get_client_telemetry("alice")
            assert info.keepalives_received == 8


async def test_frames_ignore_message_boundaries(topology: Topology) -> None:
    """Many frames in a message and frames in pieces of single bytes are read alike."""
    async with hub_at(topology) as hub:
        async with hub.session(await hub.register("alice")) as session:
            stamps = [bytes([n]) * 8 for n in range(20)]
            await session.link.send(b"".join(session.sealed(KEEPALIVE, stamp) for stamp in stamps))
            assert [await session.expect(KEEPALIVE_ACK) for _ in stamps] == stamps
            for byte in session.sealed(KEEPALIVE, stamps[1]):
                await session.link.send(bytes([byte]))
                await session.link.send(b"")
            assert await session.expect(KEEPALIVE_ACK) == stamps[1]


@pytest.mark.parametrize("capabilities", [RESUMABLE | REKEY, EVERYTHING])
async def test_one_frame_a_message_without_batch(topology: Topology, capabilities: int) -> None:
    """Every message to a client without `batch` is one whole frame; with it, messages concatenate to frames."""
    async with hub_at(topology) as hub:
        async with hub.session(await hub.register("alice"), hello(capabilities)) as session:
            burst = [packets.echo(session.given.ip, GATEWAY, n) for n in range(50)]
            for request in burst:
                await session.packet(request)
            replies = [Packet.parse(await session.expect(IP_PACKET)).body for _ in burst]
            assert replies == [packets.echo_reply_to(request) for request in burst]
            whole = [len(m) == 5 + struct.unpack("!I", m[1:5])[0] for m in session.link.messages]
            assert all(whole) or capabilities & BATCH


async def test_websocket_pings_are_answered(topology: Topology) -> None:
    """A WebSocket ping gets its pong and leaves the frames alone."""
    async with hub_at(topology) as hub:
        async with hub.session(await hub.register("alice")) as session:
            before = len(session.link.raw)
            await session.link.ping(b"hello")
            await session.keepalive()
            assert bytes(session.link.raw[before:]).startswith(b"\x8a\x05hello")


async def test_unknown_types_from_0x80_are_skipped(topology: Topology) -> None:
    """A later version's frames, any plaintext, pass without harm."""
    async with hub_at(topology) as hub:
        async with hub.session(await hub.register("alice")) as session:
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
    async with hub_at(topology) as hub:
        async with hub.session(await hub.register("alice"), hello(EVERYTHING)) as session:
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
    async with hub_at(topology) as hub:
        async with hub.session(await hub.register("alice"), hello(capabilities)) as session:
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
    """One TCP connection to a listener on the hub, its segments built by hand; the order is never lost here."""

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
    """A stream written in one super-packet is read whole, and one read comes in super-packets to who asked."""
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


# rekey


async def test_rekey(topology: Topology) -> None:
    """After it both directions run under keys of the new handshake, and the session is the same."""
    async with hub_at(topology) as hub:
        async with hub.session(await hub.register("alice")) as session:
            await session.rekey()
            await session.keepalive()
            await pings(session)
            [info] = await hub.server.list_clients()
            assert info.session_id == session.given.session_id.hex()


async def test_frames_between_init_and_switch_keys(topology: Topology) -> None:
    """Until SwitchKeys the client's frames are under its old keys, the hub's under the new; the payload is ignored."""
    async with hub_at(topology) as hub:
        async with hub.session(await hub.register("alice")) as session:
            await session.send_rekey_init(b"a later version's payload")
            early = packets.echo(session.given.ip, GATEWAY, 7)
            await session.packet(early)
            await session.finish_rekey()
            reply = Packet.parse(await session.expect(IP_PACKET))
            assert reply.body == packets.echo_reply_to(early)
            await pings(session)


async def test_a_second_rekey_chains_on_the_first(topology: Topology) -> None:
    """Its prologue ends with the first rekey's hash; 10 s lie between them."""
    async with hub_at(topology) as hub:
        async with hub.session(await hub.register("alice")) as session:
            await session.rekey()
            await asyncio.sleep(10.5)
            await session.rekey()
            await pings(session)


async def test_a_rekey_too_soon_is_an_offence(topology: Topology) -> None:
    """Less than 10 s after the last rekey's Init: code 11. The first handshake does not count."""
    async with hub_at(topology) as hub:
        async with hub.session(await hub.register("alice")) as session:
            await session.rekey()
            await session.send_rekey_init()
            assert (await session.disconnected())[0] == 11


async def test_a_second_init_before_switch_keys_is_an_offence(topology: Topology) -> None:
    """However long after the first: code 11, under the hub's new key."""
    async with hub_at(topology) as hub:
        async with hub.session(await hub.register("alice")) as session:
            await session.send_rekey_init()
            await session.take_rekey_answer()
            await asyncio.sleep(10.5)
            await session.send(0x01, os.urandom(96))
            assert (await session.disconnected())[0] == 11


async def test_a_rekey_by_another_key_is_an_offence(topology: Topology) -> None:
    """The static key must be the session's, the prologue must hold the handshake's hash: else code 11."""
    async with hub_at(topology) as hub:
        alice, bob = await hub.register("alice"), await hub.register("bob")
        async with hub.session(alice) as session:
            session.use_private_key(bob)
            await session.send_rekey_init()
            assert (await session.disconnected())[0] == 11
        async with hub.session(alice) as session:
            await session.send_rekey_init(after=os.urandom(32))
            assert (await session.disconnected())[0] == 11


async def test_no_rekey_in_time(topology: Topology) -> None:
    """By twice the interval without one: code 12, when both sides have `rekey`; else the session lives on."""
    async with hub_at(topology, rekeySecs=20) as hub:
        late, excused = await hub.register("late"), await hub.register("excused")
        async with (
            hub.session(late, hello(RESUMABLE | REKEY)) as one,
            hub.session(excused, hello(RESUMABLE)) as other,
        ):
            await asyncio.sleep(30)
            await one.keepalive()
            await asyncio.sleep(9)
            assert (await one.disconnected())[0] == 12
            await asyncio.sleep(1)
            await other.keepalive()


# resume


async def test_resume_keeps_the_address(topology: Topology) -> None:
    """The session moves to the new link with its addresses; the old link gets code 1 when the new one is live."""
    async with hub_at(topology) as hub:
        instance = unique()
        key = await hub.register("alice")
        async with hub.session(key, hello(instance=instance)) as old:
            resume = hello(instance=instance, resume=old.given.session_id)
            async with hub.answered(key, resume, SESSION_RESUME) as new:
                assert new.answer == SESSION_RESUME_OK
                assert (new.given.address, new.given.address6) == (old.given.address, old.given.address6)
                assert new.given.session_id != old.given.session_id
                await old.keepalive()
                await new.keepalive()
                assert await old.disconnected() == (1, "superseded")
                await pings(new)
                [info] = await hub.server.list_clients()
                assert info.session_id == new.given.session_id.hex()


async def test_resume_after_the_link_was_lost(topology: Topology) -> None:
    """A session whose link is gone waits for its owner, also on an address that is not the entry's own."""
    async with hub_at(topology) as hub:
        key = await hub.register("alice", security={"maxConnections": 2})
        async with hub.session(key, hello(instance=unique())):
            async with hub.session(key, hello(instance=(ours := unique()))) as second:
                given = second.given
            assert given.address not in (None, "10.8.0.2/24")
            resume = hello(instance=ours, resume=given.session_id)
            async with hub.session(key, resume, SESSION_RESUME) as again:
                assert again.answer == SESSION_RESUME_OK
                assert (again.given.address, again.given.address6) == (given.address, given.address6)
                await pings(again)


async def test_what_cannot_be_resumed(topology: Topology) -> None:
    """An unknown id, another key's session, and one that ended by Disconnect: 0x32 and a fresh session."""
    async with hub_at(topology) as hub:
        alice, bob = await hub.register("alice"), await hub.register("bob")
        async with hub.session(bob) as other:
            async with hub.session(alice) as ended:
                await ended.send(DISCONNECT, b"\0")
                with pytest.raises(LinkEnded):
                    await ended.receive()
            for session_id in (os.urandom(16), other.given.session_id, ended.given.session_id):
                resume = hello(resume=session_id)
                async with hub.session(alice, resume, SESSION_RESUME) as fresh:
                    assert fresh.answer == SESSION_RESUME_ERR
                    await pings(fresh)
            await pings(other)


async def test_resume_expires(topology: Topology) -> None:
    """The lifetime counts from the end of the old link."""
    async with hub_at(topology, resumeLifetimeSecs=2) as hub:
        key = await hub.register("alice")
        async with hub.session(key) as old:
            pass
        await asyncio.sleep(4)
        async with hub.session(key, hello(resume=old.given.session_id), SESSION_RESUME) as fresh:
            assert fresh.answer == SESSION_RESUME_ERR


async def test_the_resume_tag_needs_its_frame(topology: Topology) -> None:
    """HandshakeInit with the tag is a plain handshake; SessionResume without it is a bad message."""
    async with hub_at(topology) as hub:
        key = await hub.register("alice")
        async with hub.session(key) as old:
            async with hub.session(key, hello(resume=old.given.session_id)) as new:
                assert new.answer == 0x02
        with pytest.raises(LinkEnded):
            async with hub.answered(key, hello(), SESSION_RESUME):
                pass


async def test_the_later_of_two_resumes_is_a_new_session(topology: Topology) -> None:
    """Both links got SessionResumeOk; the first to go live has the session, the second replaces it as a new one."""
    async with hub_at(topology) as hub:
        instance = unique()
        key = await hub.register("alice")
        async with hub.session(key, hello(instance=instance)) as old:
            resume = hello(instance=instance, resume=old.given.session_id)
        async with (
            hub.answered(key, resume, SESSION_RESUME) as first,
            hub.answered(key, resume, SESSION_RESUME) as second,
        ):
            assert (first.answer, second.answer) == (SESSION_RESUME_OK, SESSION_RESUME_OK)
            await first.keepalive()
            await second.keepalive()
            assert (await first.disconnected())[0] == 1
            await pings(second)


# ends


async def _disable(hub: Hub) -> None:
    await hub.server.disable_client("alice")


async def _expire(hub: Hub) -> None:
    await hub.server.update_client(
        "alice", {"expiresAt": (datetime.now(UTC) + timedelta(seconds=1)).isoformat()}
    )


async def _remove(hub: Hub) -> None:
    await hub.server.remove_client("alice")


async def _rotate(hub: Hub) -> None:
    await hub.server.rotate_client_key("alice")


async def _kick(hub: Hub) -> None:
    await hub.server.disconnect_client("alice")


async def _deny(hub: Hub) -> None:
    await hub.server.update_client("alice", {"security": {"ipBlockList": ["10.99.0.0/24"]}})


async def _shut_down(hub: Hub) -> None:
    await hub.server.stop_server()


ENDS = [
    (_disable, 2, "disabled"),
    (_expire, 3, "expired"),
    (_remove, 4, "removed"),
    (_rotate, 5, "key rotated"),
    (_kick, 6, "kicked"),
    (_shut_down, 7, "server shutting down"),
]


@pytest.mark.parametrize(("end", "code", "text"), ENDS)
async def test_why_a_session_ended(topology: Topology, end: Any, code: int, text: str) -> None:
    """The hub says the reason in a Disconnect, then closes."""
    async with hub_at(topology) as hub:
        async with hub.session(await hub.register("alice")) as session:
            await end(hub)
            assert await session.disconnected() == (code, text)


REFUSALS: list[tuple[dict[str, Any], int]] = [
    ({"enabled": False}, 2),
    ({"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}, 3),
    ({"security": {"ipBlockList": ["10.99.0.2"]}}, 9),
]


@pytest.mark.parametrize(("options", "code"), REFUSALS)
@pytest.mark.parametrize("kind", [0x01, SESSION_RESUME])
async def test_refusals_name_their_reason(
    topology: Topology, options: dict[str, Any], code: int, kind: int
) -> None:
    """The owner of a real key gets message 2 with an empty payload, 0x32 to a resume, and the code."""
    async with hub_at(topology) as hub:
        key = await hub.register("alice", **options)
        payload = hello(resume=os.urandom(16)) if kind == SESSION_RESUME else hello()
        async with hub.answered(key, payload, kind) as session:
            assert session.refused
            assert session.answer == (SESSION_RESUME_ERR if kind == SESSION_RESUME else 0x02)
            assert (await session.disconnected())[0] == code


async def test_the_same_instance_replaces_itself(topology: Topology) -> None:
    """A new session of one installation ends its older one with code 1 and keeps its address, below maxConnections too."""
    async with hub_at(topology) as hub:
        key = await hub.register("alice", security={"maxConnections": 3})
        instance = unique()
        async with hub.session(key, hello(instance=instance)) as old:
            async with hub.session(key, hello(instance=instance)) as new:
                assert (await old.disconnected())[0] == 1
                assert new.given.address == old.given.address
                await pings(new)


async def test_instances_share_max_connections(topology: Topology) -> None:
    """Each has an address of its own; one too many gets code 8 while all the others are heard from."""
    async with hub_at(topology) as hub:
        key = await hub.register("alice", security={"maxConnections": 2})
        async with (
            hub.session(key, hello(instance=unique())) as one,
            hub.session(key, hello(instance=unique())) as two,
        ):
            assert one.given.address != two.given.address
            async with hub.answered(key, hello(instance=unique())) as three:
                await three.send(KEEPALIVE, bytes(8))
                assert (await three.disconnected())[0] == 8
            await pings(one)
            await pings(two)


async def test_one_connection_goes_to_the_newest(topology: Topology) -> None:
    """With maxConnections 1 the newest instance replaces the older."""
    async with hub_at(topology) as hub:
        key = await hub.register("alice")
        async with hub.session(key, hello(instance=unique())) as old:
            async with hub.session(key, hello(instance=unique())) as new:
                assert (await old.disconnected())[0] == 1
                await pings(new)


async def test_a_clients_disconnect_ends_its_session(topology: Topology) -> None:
    """With a code and text, with a code, with nothing: the hub closes and forgets the session."""
    async with hub_at(topology) as hub:
        key = await hub.register("alice")
        for body in (b"\0bye", b"\0", b"", b"\0\xff\x1b[31m\n" * 20):
            async with hub.session(key) as session:
                await session.send(DISCONNECT, body)
                with pytest.raises(LinkEnded):
                    await session.receive()
        assert await hub.server.list_clients() == []
