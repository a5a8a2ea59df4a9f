"""An independent client against the real hub: rekey, resume, and how sessions end."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.netns import packets
from tests.netns.hub import Hub, hub_at, pings, unique
from tests.netns.independent import (
    DISCONNECT,
    HANDSHAKE_INIT,
    HANDSHAKE_RESP,
    IP_PACKET,
    KEEPALIVE,
    REKEY,
    RESUMABLE,
    SESSION_RESUME,
    SESSION_RESUME_ERR,
    SESSION_RESUME_OK,
    LinkEndedError,
    hello,
)
from tests.netns.packets import Packet
from tests.netns.topology import Topology
from tests.netns.tunnel import GATEWAY

# rekey


async def test_rekey(topology: Topology) -> None:
    """After it both directions run under keys of the new handshake, and the session is the same."""
    async with hub_at(topology) as hub, hub.session(await hub.register("alice")) as session:
        await session.rekey()
        await session.keepalive()
        await pings(session)
        [info] = await hub.server.list_clients()
        assert info.session_id == session.given.session_id.hex()


async def test_frames_between_init_and_switch_keys(topology: Topology) -> None:
    """Until SwitchKeys the client stays on its old keys, the hub is on the new; a payload is ignored."""
    async with hub_at(topology) as hub, hub.session(await hub.register("alice")) as session:
        await session.send_rekey_init(b"a later version's payload")
        early = packets.echo(session.given.ip, GATEWAY, 7)
        await session.packet(early)
        await session.finish_rekey()
        reply = Packet.parse(await session.expect(IP_PACKET))
        assert reply.body == packets.echo_reply_to(early)
        await pings(session)


@pytest.mark.long(12)
async def test_a_second_rekey_chains_on_the_first(topology: Topology) -> None:
    """Its prologue ends with the first rekey's hash; 10 s lie between them."""
    async with hub_at(topology) as hub, hub.session(await hub.register("alice")) as session:
        await session.rekey()
        await asyncio.sleep(10.5)
        await session.rekey()
        await pings(session)


async def test_a_rekey_too_soon_is_an_offence(topology: Topology) -> None:
    """Less than 10 s after the last rekey's Init: code 11. The first handshake does not count."""
    async with hub_at(topology) as hub, hub.session(await hub.register("alice")) as session:
        await session.rekey()
        await session.send_rekey_init()
        assert (await session.disconnected())[0] == 11


@pytest.mark.long(12)
async def test_a_second_init_before_switch_keys_is_an_offence(topology: Topology) -> None:
    """However long after the first: code 11, under the hub's new key."""
    async with hub_at(topology) as hub, hub.session(await hub.register("alice")) as session:
        await session.send_rekey_init()
        await session.take_rekey_answer()
        await asyncio.sleep(10.5)
        await session.send(HANDSHAKE_INIT, os.urandom(96))
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


@pytest.mark.long(45)
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
    """The session moves with its addresses; the old link gets code 1 when the new one is live."""
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
                with pytest.raises(LinkEndedError):
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
        async with (
            hub.session(key) as old,
            hub.session(key, hello(resume=old.given.session_id)) as new,
        ):
            assert new.answer == HANDSHAKE_RESP
        with pytest.raises(LinkEndedError):
            async with hub.answered(key, hello(), SESSION_RESUME):
                pass


async def test_the_later_of_two_resumes_is_a_new_session(topology: Topology) -> None:
    """Both are told SessionResumeOk; the first to go live has the session, the second replaces it."""
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


async def _disable(hub: Hub, name: str) -> None:
    await hub.server.disable_client(name)


async def _expire(hub: Hub, name: str) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=1)
    await hub.server.update_client(name, {"expiresAt": soon.isoformat()})


async def _remove(hub: Hub, name: str) -> None:
    await hub.server.remove_client(name)


async def _rotate(hub: Hub, name: str) -> None:
    await hub.server.rotate_client_key(name)


async def _kick(hub: Hub, name: str) -> None:
    await hub.server.disconnect_client(name)


async def _shut_down(hub: Hub, _: str) -> None:
    await hub.server.stop_server()


ENDS = [
    (_disable, 2, "disabled"),
    (_expire, 3, "expired"),
    (_remove, 4, "removed"),
    (_rotate, 5, "key rotated"),
    (_kick, 6, "kicked"),
    (_shut_down, 7, "server shutting down"),
]


async def test_why_a_session_ended(topology: Topology) -> None:
    """The hub says the reason in a Disconnect, then closes."""
    async with hub_at(topology) as hub:
        for end, code, text in ENDS:
            async with hub.session(await hub.register(text)) as session:
                await end(hub, text)
                assert await session.disconnected() == (code, text)


async def _change_sources(hub: Hub, name: str) -> None:
    await hub.server.update_client(name, {"security": {"ipBlockList": ["10.99.0.2"]}})


async def _let_expire(hub: Hub, name: str) -> None:
    await _expire(hub, name)
    await asyncio.sleep(1.5)


async def test_refusals_name_their_reason(topology: Topology) -> None:
    """The owner of a real key gets message 2 with an empty payload, 0x32 to a resume, and the code."""
    async with hub_at(topology) as hub:
        for change, code in ((_disable, 2), (_let_expire, 3), (_change_sources, 9)):
            key = await hub.register(f"code {code}")
            await change(hub, f"code {code}")
            await is_refused(hub, key, hello(), HANDSHAKE_INIT, (HANDSHAKE_RESP, code))
            resume = hello(resume=os.urandom(16))
            await is_refused(hub, key, resume, SESSION_RESUME, (SESSION_RESUME_ERR, code))


async def is_refused(hub: Hub, key: bytes, payload: bytes, kind: int, answer: tuple[int, int]) -> None:
    """By that kind of answer, and that code."""
    async with hub.answered(key, payload, kind) as session:
        assert session.refused
        assert (session.answer, (await session.disconnected())[0]) == answer


async def test_the_same_instance_replaces_itself(topology: Topology) -> None:
    """A new session of an installation ends its older one, whatever maxConnections, and keeps its address."""
    async with hub_at(topology) as hub:
        key = await hub.register("alice", security={"maxConnections": 3})
        instance = unique()
        async with (
            hub.session(key, hello(instance=instance)) as old,
            hub.session(key, hello(instance=instance)) as new,
        ):
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


async def test_an_address_is_on_loan(topology: Topology) -> None:
    """A further session has it until a client is given it, new or moved; then it comes back for another."""
    async with hub_at(topology) as hub:
        key = await hub.register("alice", security={"maxConnections": 2})
        await hub.register("carol")

        async def lent(session: Any) -> str:
            assert session.given.ip not in {
                entry.assigned_ip for entry in await hub.server.list_registered_clients()
            }
            return session.given.ip

        async with hub.session(key, hello(instance=unique())):
            async with hub.session(key, hello(instance=unique())) as two:
                address = await lent(two)
                await hub.register("bob", assigned_ip=address)
                assert (await two.disconnected())[0] == 6
            async with hub.session(key, hello(instance=unique())) as two:
                address = await lent(two)
                await hub.server.update_client("carol", {"assignedIp": address})
                assert (await two.disconnected())[0] == 6
                assert (await hub.server.get_client("carol")).assigned_ip == address
            async with hub.session(key, hello(instance=unique())) as two:
                await lent(two)
                await pings(two)


async def test_one_connection_goes_to_the_newest(topology: Topology) -> None:
    """With maxConnections 1 the newest instance replaces the older."""
    async with hub_at(topology) as hub:
        key = await hub.register("alice")
        async with (
            hub.session(key, hello(instance=unique())) as old,
            hub.session(key, hello(instance=unique())) as new,
        ):
            assert (await old.disconnected())[0] == 1
            await pings(new)


async def test_a_clients_disconnect_ends_its_session(topology: Topology) -> None:
    """With a code and text, with a code, with nothing: the hub closes and forgets the session."""
    async with hub_at(topology) as hub:
        key = await hub.register("alice")
        for body in (b"\0bye", b"\0", b"", b"\0\xff\x1b[31m\n" * 20):
            async with hub.session(key) as session:
                await session.send(DISCONNECT, body)
                with pytest.raises(LinkEndedError):
                    await session.receive()
        assert await hub.server.list_clients() == []
