"""The same client over QUIC, from the protocol's page alone: the transport is PyPI `aioquic`.

Frames go on the one stream, packets as datagrams under keys that are derived from those of the frames.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aioquic.asyncio import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, DatagramFrameReceived, QuicEvent, StreamDataReceived
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from tests.netns.hub import PORT, Hub, in_namespace
from tests.netns.independent import (
    HANDSHAKE_INIT,
    IP_PACKET,
    PATIENCE,
    LinkEndedError,
    Session,
    hello,
)
from tests.netns.topology import HUB_OUTER

ALPN = "smartvpn"


class QuicLink(QuicConnectionProtocol):
    """A QUIC connection to the hub: the frames' stream, and the datagrams beside it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.raw = bytearray()
        """every byte of the stream that the hub sent"""
        self.closing: bytes | None = None
        """empty when the hub ended its side of the stream"""
        self.terminated: ConnectionTerminated | None = None
        self.datagrams: list[bytes] = []
        """what has come and was not taken"""
        self._stream = bytearray()
        self._changed = asyncio.Event()

    def quic_event_received(self, event: QuicEvent) -> None:
        """Keep what came, and wake who waits."""
        if isinstance(event, StreamDataReceived):
            assert event.stream_id == 0
            self.raw += event.data
            self._stream += event.data
            self.closing = b"" if event.end_stream else self.closing
        elif isinstance(event, DatagramFrameReceived):
            self.datagrams.append(event.data)
        elif isinstance(event, ConnectionTerminated):
            self.terminated = event
        self._changed.set()

    async def _more(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    @property
    def _ended(self) -> bool:
        return self.closing is not None or self.terminated is not None

    async def send(self, data: bytes, end: bool = False) -> None:
        """Bytes of the frame stream, however they are cut."""
        self._quic.send_stream_data(0, data, end_stream=end)
        self.transmit()

    async def exactly(self, size: int) -> bytes:
        """That many bytes of the frame stream. Raises LinkEndedError."""
        while len(self._stream) < size:
            if self._ended:
                raise LinkEndedError
            await self._more()
        data = bytes(self._stream[:size])
        del self._stream[:size]
        return data

    async def rest(self) -> bytes:
        """What is left of the frame stream when the hub has ended it."""
        while not self._ended:
            await self._more()
        return bytes(self._stream)

    async def over(self) -> ConnectionTerminated:
        """How the connection ended, when it has."""
        async with asyncio.timeout(PATIENCE):
            while self.terminated is None:
                await self._more()
        return self.terminated

    def send_datagram(self, data: bytes) -> None:
        """One datagram."""
        self._quic.send_datagram_frame(data)
        self.transmit()

    async def datagram(self) -> bytes:
        """The next datagram. Raises TimeoutError."""
        async with asyncio.timeout(PATIENCE):
            while not self.datagrams:
                await self._more()
        return self.datagrams.pop(0)


class Direction:
    """The keys of one direction's datagrams, by epoch."""

    def __init__(self) -> None:
        self.epoch, self.counter = -1, 0
        self._keys: dict[int, ChaCha20Poly1305] = {}

    def next_epoch(self, k: bytes) -> None:
        """The epoch that Split() begins whose key for this direction is `k`."""
        self.epoch, self.counter = (self.epoch + 1) % 256, 0
        derived = ChaCha20Poly1305(k).encrypt(self._nonce(2**64 - 2), bytes(32), b"")[:32]
        self._keys[self.epoch] = ChaCha20Poly1305(derived)

    @staticmethod
    def _nonce(counter: int) -> bytes:
        return bytes(4) + struct.pack("<Q", counter)

    def seal(self, packet: bytes, epoch: int | None = None, counter: int | None = None) -> bytes:
        """A datagram; without a counter the next one is used up."""
        epoch = self.epoch if epoch is None else epoch
        if counter is None:
            counter, self.counter = self.counter, self.counter + 1
        header = struct.pack("<BBQ", IP_PACKET, epoch, counter)
        return header + self._keys[epoch].encrypt(self._nonce(counter), packet, header)

    def open(self, datagram: bytes) -> tuple[int, int, bytes]:
        """Epoch, counter and packet of a datagram. Raises InvalidTag, KeyError (an epoch without keys)."""
        kind, epoch, counter = struct.unpack("<BBQ", datagram[:10])
        assert kind == IP_PACKET
        return epoch, counter, self._keys[epoch].decrypt(self._nonce(counter), datagram[10:], datagram[:10])


class QuicSession(Session):
    """The protocol on a QUIC connection."""

    link: QuicLink

    def __init__(self, link: QuicLink, hub_key: bytes, private_key: bytes) -> None:
        super().__init__(link, hub_key, private_key)
        self.outbound, self.inbound = Direction(), Direction()

    def _take_keys(self) -> None:
        super()._take_keys()
        self.outbound.next_epoch(self._noise.noise_protocol.cipher_state_encrypt.k)

    def _take_receiving(self) -> None:
        super()._take_receiving()
        self.inbound.next_epoch(self._noise.noise_protocol.cipher_state_decrypt.k)

    def packet_by_datagram(self, packet: bytes, **how: int) -> bytes:
        """One inner packet into the tunnel; the datagram that carried it."""
        datagram = self.outbound.seal(packet, **how)
        self.link.send_datagram(datagram)
        return datagram

    async def datagram(self) -> tuple[int, int, bytes]:
        """Epoch, counter and packet of the next datagram, which must open."""
        return self.inbound.open(await self.link.datagram())


@asynccontextmanager
async def quic_link(hub: Hub, **options: Any) -> AsyncIterator[QuicLink]:
    """A connection from the machine `client`, whose handshake is done."""
    configuration = QuicConfiguration(
        **{
            "is_client": True,
            "alpn_protocols": [ALPN],
            "verify_mode": ssl.CERT_NONE,
            "max_datagram_frame_size": 65535,
            **options,
        }
    )
    at = in_namespace(hub.machine, "client", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    at.setblocking(False)
    at.bind(("", 0))
    connection = QuicConnection(configuration=configuration)
    loop = asyncio.get_running_loop()
    transport, link = await loop.create_datagram_endpoint(lambda: QuicLink(connection), sock=at)
    link.connect((HUB_OUTER, PORT))
    try:
        await link.wait_connected()
        yield link
    finally:
        link.close()
        await link.wait_closed()
        transport.close()


@asynccontextmanager
async def quic_answered(
    hub: Hub, private_key: bytes, payload: bytes, kind: int = HANDSHAKE_INIT
) -> AsyncIterator[QuicSession]:
    """A session after message 2: half-open, or refused."""
    async with quic_link(hub) as link:
        session = QuicSession(link, hub.key, private_key)
        await session.handshake(payload, kind)
        yield session


@asynccontextmanager
async def quic_session(hub: Hub, private_key: bytes, *how: Any) -> AsyncIterator[QuicSession]:
    """A live session."""
    async with quic_answered(hub, private_key, *(how or (hello(),))) as session:
        await session.keepalive()
        yield session
