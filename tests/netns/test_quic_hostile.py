"""Hostile peers at a real hub's QUIC port: refused, counted, told in the log, and nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from smartvpn.config import Transport
from tests.netns.bystander import MIB, attacked
from tests.netns.hub import PORT, Hub, in_namespace
from tests.netns.independent import DATAGRAM, REKEY, RESUMABLE, hello
from tests.netns.independent_quic import ALPN, QuicLink, QuicSession, quic_link, quic_session
from tests.netns.topology import HUB_OUTER, Topology
from tests.netns.tunnel import eventually
from tests.test_metrics import samples, scrape

FLOW_CONTROL_ERROR, STREAM_LIMIT_ERROR = 0x3, 0x4


@contextlib.asynccontextmanager
async def quic_attacked(machine: Topology) -> AsyncIterator[Hub]:
    """A hub whose bystander is there over QUIC, and stays."""
    async with attacked(machine, "--metrics", transportMode="both") as hub:
        [bystander] = await hub.server.list_clients()
        assert bystander.transport == Transport.QUIC
        yield hub


def counted(hub: Hub) -> dict[str, float]:
    """What QUIC's port has refused, by cause, and handshakes that came to nothing as `bad`."""
    found = {}
    for (name, labels), count in samples(scrape(hub.machine)).items():
        told = dict(labels)
        if name == "smartvpn_quic_rejects_total":
            found[told["cause"]] = count
        elif name == "smartvpn_handshakes_total" and told["outcome"] == "bad":
            found["bad"] = count
    return found


async def counts(hub: Hub, before: dict[str, float], **expected: int) -> None:
    """Wait until so many more were counted under these causes, and nothing under any other.

    But for packets that follow the end of their own connection.
    """
    wanted = before | {cause: before[cause] + count for cause, count in expected.items()}
    seen: dict[str, float] = {}
    if "unknown" not in expected:
        del wanted["unknown"]

    async def reached() -> bool:
        now = await asyncio.to_thread(counted, hub)
        seen.update({cause: now[cause] for cause in wanted})
        return seen == wanted

    try:
        await eventually(reached)
    except TimeoutError:
        assert seen == wanted


def udp_socket(hub: Hub) -> socket.socket:
    """One of the client's machine, connected to the port."""
    at = in_namespace(hub.machine, "client", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    at.connect((HUB_OUTER, PORT))
    return at


async def test_datagrams_of_no_connection(topology: Topology) -> None:
    """Noise, none at all, other versions, packets of nobody: each under its cause."""
    ids = b"\x08whatever\x08whoever!"
    async with quic_attacked(topology) as hub:
        before = counted(hub)
        with udp_socket(hub) as at:
            for _ in range(100):
                at.send(b"")
                at.send(b"\x40" + os.urandom(4))
                at.send(b"\xc0\0\0\0\1" + ids)
                at.send(b"\xc0\x1a\x2a\x3a\x4a" + ids + bytes(1200))
                at.send(b"\x40\xff" + os.urandom(60))
                await asyncio.sleep(0.001)
        await counts(hub, before, garbage=300, version=100, unknown=100)


@pytest.mark.parametrize("protocols", [["h3"], ["smartvpn/2"], None])
async def test_another_protocol(
    topology: Topology, protocols: list[str] | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Refused by TLS, counted as a bad handshake, and the hub's log says why."""
    caplog.set_level(logging.INFO, "smartvpn.daemon")
    async with quic_attacked(topology) as hub:
        before = counted(hub)
        with pytest.raises(ConnectionError):
            async with quic_link(hub, alpn_protocols=protocols):
                pass
        await counts(hub, before, bad=1)
        assert any(
            "no QUIC connection with 10.99.0.2" in text and "application protocol" in text.lower()
            for text in caplog.messages
        )


def _more_streams(link: QuicLink) -> None:
    quic = link._quic
    quic._remote_max_streams_bidi = 100
    for number in range(50):
        quic.send_stream_data(4 * number, b"x")


def _one_way_streams(link: QuicLink) -> None:
    quic = link._quic
    quic._remote_max_streams_uni = 100
    quic._remote_max_stream_data_uni = 100
    for number in range(50):
        quic.send_stream_data(2 + 4 * number, b"x")


def _past_the_window(link: QuicLink) -> None:
    quic = link._quic
    quic.send_stream_data(0, b"x" * 10)
    quic.datagrams_to_send(now=asyncio.get_running_loop().time())
    quic._loss.spaces[-1].sent_packets.clear()  # never sent again: the gap stays
    quic._remote_max_data = quic._streams[0].max_stream_data_remote = 10**9
    quic.send_stream_data(0, b"x" * 300_000)
    quic._loss._cc.congestion_window = 10**9


@pytest.mark.parametrize(
    ("offend", "error"),
    [
        (_more_streams, STREAM_LIMIT_ERROR),
        (_one_way_streams, STREAM_LIMIT_ERROR),
        (_past_the_window, FLOW_CONTROL_ERROR),
    ],
)
@pytest.mark.parametrize("live", [False, True], ids=["stranger", "client"])
async def test_past_a_limit(
    topology: Topology,
    offend: Callable[[QuicLink], None],
    error: int,
    live: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Ends that connection with QUIC's own error, whether anybody knows the peer or not."""
    caplog.set_level(logging.INFO, "smartvpn.daemon")
    async with quic_attacked(topology) as hub:
        key = await hub.register("alice")
        before = await asyncio.to_thread(counted, hub)
        async with contextlib.AsyncExitStack() as stack:
            if live:
                session = await stack.enter_async_context(quic_session(hub, key))
                link = session.link
            else:
                link = await stack.enter_async_context(quic_link(hub))
            offend(link)
            link.transmit()
            assert (await link.over()).error_code == error
        await counts(hub, before, broken=1, bad=0 if live else 1)
        assert any("connection from 10.99.0.2 closed: QUIC: " in text for text in caplog.messages)
        async with quic_session(hub, key):
            pass


async def test_datagrams_of_no_bytes(topology: Topology) -> None:
    """They do not open, and are counted as dropped like any other."""
    async with quic_attacked(topology) as hub:
        key = await hub.register("alice")
        async with quic_session(hub, key, hello(RESUMABLE | REKEY | DATAGRAM)) as session:
            before = await hub.drops("alice")
            for _ in range(500):
                session.link.send_datagram(b"")

            async def dropped() -> bool:
                return await hub.drops("alice") == before + 500

            await eventually(dropped)
            await session.keepalive()


def first_datagram() -> bytes:
    """How a client's handshake begins."""
    quic = QuicConnection(configuration=QuicConfiguration(is_client=True, alpn_protocols=[ALPN]))
    quic.connect((HUB_OUTER, PORT), now=0.0)
    [(data, _), *_] = quic.datagrams_to_send(now=0.0)
    return data


async def test_thousands_that_never_go_on(topology: Topology) -> None:
    """Past some number newcomers prove their address first; honest ones come in, the rest is gone in time."""
    count = 3000
    async with quic_attacked(topology) as hub:
        key = await hub.register("alice")
        before, memory = counted(hub), hub.memory
        with udp_socket(hub) as at:
            for number in range(count):
                at.send(first_datagram())
                if number % 20 == 0:
                    await asyncio.sleep(0)
            async with quic_session(hub, key):
                assert hub.memory - memory < 64 * MIB

            async def all_seen() -> bool:
                now = await asyncio.to_thread(counted, hub)
                begun = now["bad"] - before["bad"]
                asked = now["retry"] - before["retry"]
                return asked > 0 and begun > 100 and begun + asked >= count

            await eventually(all_seen)
        async with quic_session(hub, key):
            pass


async def test_a_session_ends_with_its_connection_alone(topology: Topology) -> None:
    """What its peer broke can be resumed: the owner of the key is told nothing worse."""
    async with quic_attacked(topology) as hub:
        key = await hub.register("alice")
        async with quic_session(hub, key) as session:
            _more_streams(session.link)
            session.link.transmit()
            await session.link.over()
        again = hello(resume=session.given.session_id)
        async with quic_link(hub) as link:
            next_one = QuicSession(link, hub.key, key)
            assert await next_one.handshake(again, 0x30) == 0x31
