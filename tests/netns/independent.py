"""A client of the wire protocol, written from its description alone.

It shares no code with smartvpn: the bytes are this module's, WebSocket is PyPI `websockets` (its
protocol without I/O, so that every byte of the hub is seen), Noise is PyPI `noiseprotocol`.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from noise.connection import Keypair, NoiseConnection
from noise.state import CipherState
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.uri import parse_uri

HANDSHAKE_INIT, HANDSHAKE_RESP, SWITCH_KEYS, SETTINGS = 0x01, 0x02, 0x03, 0x04
IP_PACKET, IP_SUPER_PACKET = 0x10, 0x11
KEEPALIVE, KEEPALIVE_ACK = 0x20, 0x21
SESSION_RESUME, SESSION_RESUME_OK, SESSION_RESUME_ERR = 0x30, 0x31, 0x32
DISCONNECT = 0x3F

CAPABILITIES, SOFTWARE, RESUME, INSTANCE = 0x01, 0x02, 0x03, 0x04
BATCH, GSO_TCP, DATAGRAM, RESUMABLE, REKEY, GSO_UDP, AES_GCM = (1 << bit for bit in range(7))
TCP4, TCP6, UDP_ANY = 1, 2, 3

SUBPROTOCOL = "smartvpn.v1"
NOISE = b"Noise_IK_25519_ChaChaPoly_BLAKE2s"
NOISE_AES = b"Noise_IK_25519_AESGCM_BLAKE2s"  # of which only the cipher is used
PATIENCE = 20.0  # seconds; only a broken hub or an overloaded machine needs as many

Tlvs = list[tuple[int, bytes]]


class LinkEndedError(Exception):
    """The hub closed the connection before what was waited for."""


def frame(kind: int, payload: bytes) -> bytes:
    """A frame as it stands on the wire."""
    return struct.pack("!BI", kind, len(payload)) + payload


def tlvs(items: Iterable[tuple[int, bytes]]) -> bytes:
    """A list of TLVs."""
    return b"".join(struct.pack("!BH", tag, len(value)) + value for tag, value in items)


def read_tlvs(data: bytes) -> Tlvs:
    """The TLVs of a list that must not be malformed."""
    items = []
    while data:
        tag, length = struct.unpack("!BH", data[:3])
        assert len(data) >= 3 + length
        items.append((tag, data[3 : 3 + length]))
        data = data[3 + length :]
    return items


def hello(
    capabilities: int = RESUMABLE | REKEY, instance: bytes | None = None, resume: bytes | None = None
) -> bytes:
    """The payload of message 1."""
    items = [(CAPABILITIES, struct.pack("!I", capabilities)), (SOFTWARE, b"independent 1")]
    if resume is not None:
        items.append((RESUME, resume))
    if instance is not None:
        items.append((INSTANCE, instance))
    return tlvs(items)


@dataclass(frozen=True)
class Settings:
    """The payload of message 2; every tag of it in words."""

    capabilities: int
    software: str
    session_id: bytes
    address: str | None
    address6: str | None
    gateway: str | None
    gateway6: str | None
    mtu: int
    dns: tuple[str, ...]
    keepalive_secs: int | None
    rekey_secs: int | None
    resume_lifetime_secs: int | None
    routes: tuple[str, ...]

    @classmethod
    def parse(cls, payload: bytes) -> Settings:
        """Read settings; sizes, and tags that may not repeat or be missing, are checked."""
        items = read_tlvs(payload)
        values = {tag: value for tag, value in items if tag not in (0x16, 0x1A)}
        assert len(values) == sum(tag not in (0x16, 0x1A) for tag, _ in items)

        def number(tag: int, form: str) -> int | None:
            return None if tag not in values else int(struct.unpack(form, values[tag])[0])

        def interface(tag: int, size: int) -> str | None:
            value = values.get(tag)
            assert value is None or len(value) == size + 1
            return value and f"{ip_address(value[:size])}/{value[size]}"

        def address(tag: int, size: int) -> str | None:
            value = values.get(tag)
            assert value is None or len(value) == size
            return value and str(ip_address(value))

        made = cls(
            capabilities=struct.unpack("!I", values[0x01])[0],
            software=values[0x02].decode(),
            session_id=values[0x10],
            address=interface(0x11, 4),
            address6=interface(0x12, 16),
            gateway=address(0x13, 4),
            gateway6=address(0x14, 16),
            mtu=struct.unpack("!H", values[0x15])[0],
            dns=tuple(str(ip_address(value)) for tag, value in items if tag == 0x16),
            keepalive_secs=number(0x17, "!H"),
            rekey_secs=number(0x18, "!I"),
            resume_lifetime_secs=number(0x19, "!I"),
            routes=tuple(str(ip_network((v[1:], v[0]))) for tag, v in items if tag == 0x1A),
        )
        assert len(made.session_id) == 16
        assert made.address or made.address6
        return made

    @property
    def ip(self) -> str:
        """The session's IPv4 address without its prefix."""
        assert self.address is not None
        return str(ip_interface(self.address).ip)

    @property
    def ip6(self) -> str:
        """The session's IPv6 address without its prefix."""
        assert self.address6 is not None
        return str(ip_interface(self.address6).ip)


class Link:
    """A WebSocket to the hub: the byte stream of its frames, and every byte below it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.raw = bytearray()
        """every byte the hub sent after the upgrade"""
        self.messages: list[bytes] = []
        self.closing: bytes | None = None
        """the body of a Close frame"""
        self.response: Response | None = None
        self._stream = bytearray()
        self._protocol = ClientProtocol(parse_uri("ws://hub/any/path"), subprotocols=[SUBPROTOCOL])

    async def upgrade(self) -> None:
        """Ask for the WebSocket and check the answer. Raises LinkEndedError."""
        self._protocol.send_request(self._protocol.connect())
        await self._flush()
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise LinkEndedError from error
        self._protocol.receive_data(head)
        [self.response] = self._protocol.events_received()
        assert self._protocol.handshake_exc is None
        assert self._protocol.subprotocol == SUBPROTOCOL

    async def send(self, message: bytes) -> None:
        """One binary message."""
        self._protocol.send_binary(message)
        await self._flush()

    async def send_text(self, message: str) -> None:
        """One text message."""
        self._protocol.send_text(message.encode())
        await self._flush()

    async def ping(self, data: bytes) -> None:
        """One WebSocket ping."""
        self._protocol.send_ping(data)
        await self._flush()

    async def exactly(self, size: int) -> bytes:
        """That many bytes of the frame stream. Raises LinkEndedError."""
        while len(self._stream) < size:
            if not await self._read():
                raise LinkEndedError
        data = bytes(self._stream[:size])
        del self._stream[:size]
        return data

    async def rest(self) -> bytes:
        """What is left of the frame stream when the hub has closed."""
        while await self._read():
            pass
        return bytes(self._stream)

    async def _read(self) -> bool:
        try:
            data = await self.reader.read(1 << 16)
        except ConnectionError:
            return False
        self.raw += data
        if data:
            self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            assert isinstance(event, Frame)
            self._on_event(event)
        await self._flush()
        return bool(data)

    def _on_event(self, event: Frame) -> None:
        if event.opcode in (Opcode.BINARY, Opcode.CONT):
            assert event.opcode is Opcode.BINARY or self.messages
            self.messages.append(bytes(event.data))
            self._stream += event.data
        elif event.opcode is Opcode.CLOSE:
            self.closing = bytes(event.data)

    async def _flush(self) -> None:
        with suppress(ConnectionError):
            for data in self._protocol.data_to_send():
                if data:
                    self.writer.write(data)
            await self.writer.drain()

    async def close(self) -> None:
        """End the TCP connection without a word."""
        self.writer.transport.abort()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


@asynccontextmanager
async def tcp_streams(
    at: socket.socket, address: tuple[str, int]
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """The streams of a socket of any namespace, connected; aborted at the end."""
    at.setblocking(False)
    await asyncio.get_running_loop().sock_connect(at, address)
    reader, writer = await asyncio.open_connection(sock=at)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()


def initiator(hub_key: bytes, private_key: bytes, prologue: bytes = b"smartvpn/1") -> NoiseConnection:
    """Our side of a Noise IK handshake."""
    noise = NoiseConnection.from_name(NOISE)
    noise.set_as_initiator()
    noise.set_prologue(prologue)
    noise.set_keypair_from_private_bytes(Keypair.STATIC, private_key)
    noise.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, hub_key)
    noise.start_handshake()
    return noise


def first_frame(hub_key: bytes, private_key: bytes, payload: bytes, kind: int = HANDSHAKE_INIT) -> bytes:
    """The frame that opens a handshake nobody will finish."""
    return frame(kind, bytes(initiator(hub_key, private_key).write_message(payload)))


def aes_gcm(key: bytes) -> CipherState:
    """Noise's AESGCM under a key that Split() gave."""
    state = CipherState(NoiseConnection.from_name(NOISE_AES).noise_protocol)
    state.initialize_key(key)
    return state


class Session:
    """The protocol on one link: the handshake, then frames both ways under its keys."""

    def __init__(self, link: Link, hub_key: bytes, private_key: bytes) -> None:
        self.link = link
        self.answer: int | None = None
        """the type of message 2"""
        self.refused = False
        self.settings: Settings | None = None
        self._offered = 0
        self._hub_key, self._private_key = hub_key, private_key
        self._noise = initiator(hub_key, private_key)
        self._sending: Any = None
        self._receiving: Any = None

    def message_1(self, payload: bytes) -> bytes:
        """Noise message 1 of this session's handshake; once a session."""
        return bytes(self._noise.write_message(payload))

    async def handshake(self, payload: bytes, kind: int = HANDSHAKE_INIT) -> int:
        """Message 1 and message 2; returns the type of message 2, which may be a refusal."""
        self._offered = struct.unpack("!I", payload[3:7])[0] if payload[:3] == b"\x01\x00\x04" else 0
        await self.link.send(frame(kind, self.message_1(payload)))
        return await self.read_message_2()

    async def read_message_2(self) -> int:
        """Wait for message 2 and take its keys and settings. Raises LinkEndedError."""
        async with asyncio.timeout(PATIENCE):
            header = await self.link.exactly(5)
            self.answer, length = struct.unpack("!BI", header)
            payload = bytes(self._noise.read_message(await self.link.exactly(length)))
        self._take_keys()
        self.refused = payload == b""
        self.settings = None if self.refused else Settings.parse(payload)
        self._take_receiving()
        self._sending = self._cipher(self._noise.noise_protocol.cipher_state_encrypt)
        assert self.answer is not None
        return self.answer

    def _take_keys(self) -> None:
        self._hash: bytes = self._noise.get_handshake_hash()

    def _take_receiving(self) -> None:
        self._receiving = self._cipher(self._noise.noise_protocol.cipher_state_decrypt)

    @property
    def aes(self) -> bool:
        """Whether both sides offered AES-GCM."""
        return bool(self.settings and self.settings.capabilities & self._offered & AES_GCM)

    def _cipher(self, state: CipherState) -> CipherState:
        return aes_gcm(state.k) if self.aes else state

    @property
    def given(self) -> Settings:
        """The settings of a session that was not refused."""
        assert self.settings is not None
        return self.settings

    def sealed(self, kind: int, plaintext: bytes = b"") -> bytes:
        """A frame under the session's keys. Its counter is used up."""
        header = struct.pack("!BI", kind, len(plaintext) + 16)
        return header + bytes(self._sending.encrypt_with_ad(header, plaintext))

    async def send(self, kind: int, plaintext: bytes = b"") -> None:
        """One frame in one message."""
        await self.link.send(self.sealed(kind, plaintext))

    async def receive(self) -> tuple[int, bytes]:
        """The next frame's type and plaintext. Raises LinkEndedError, TimeoutError."""
        async with asyncio.timeout(PATIENCE):
            header = await self.link.exactly(5)
            kind, length = struct.unpack("!BI", header)
            sealed = await self.link.exactly(length)
        return kind, bytes(self._receiving.decrypt_with_ad(header, sealed))

    async def expect(self, kind: int) -> bytes:
        """The plaintext of the next frame, which must be of that type."""
        got, plaintext = await self.receive()
        assert (hex(got), plaintext) == (hex(kind), plaintext)
        return plaintext

    async def keepalive(self, timestamp: bytes | None = None, more: bytes = b"") -> None:
        """A keepalive whose acknowledgement must be the next frame."""
        sent = os.urandom(8) if timestamp is None else timestamp
        await self.send(KEEPALIVE, sent + more)
        assert await self.expect(KEEPALIVE_ACK) == sent

    async def packet(self, packet: bytes) -> None:
        """One inner packet into the tunnel."""
        await self.send(IP_PACKET, packet)

    async def super_packet(self, kind: int, segment_size: int, packet: bytes) -> None:
        """One super-packet into the tunnel."""
        await self.send(IP_SUPER_PACKET, struct.pack("!BH", kind, segment_size) + packet)

    async def rekey(self) -> None:
        """Fresh keys for both directions; the old ones are gone when it returns."""
        await self.send_rekey_init()
        await self.finish_rekey()

    def use_private_key(self, private_key: bytes) -> None:
        """Make the next rekey under another static key."""
        self._private_key = private_key

    async def send_rekey_init(self, payload: bytes = b"", after: bytes | None = None) -> None:
        """The first half of a rekey; `after` is another hash than that of the last handshake."""
        self._noise = initiator(self._hub_key, self._private_key, b"smartvpn/1 rekey" + (after or self._hash))
        await self.send(HANDSHAKE_INIT, self.message_1(payload))

    async def finish_rekey(self) -> None:
        """The second half."""
        await self.take_rekey_answer()
        await self.switch_keys()

    async def take_rekey_answer(self) -> None:
        """The hub's answer, which must be the next frame; all after it is under its new key."""
        self._noise.read_message(await self.expect(HANDSHAKE_RESP))
        self._take_receiving()

    async def switch_keys(self) -> None:
        """The last frame under our old key."""
        await self.send(SWITCH_KEYS)
        self._sending = self._cipher(self._noise.noise_protocol.cipher_state_encrypt)
        self._take_keys()

    async def disconnected(self) -> tuple[int, str]:
        """Code and text of the Disconnect that must be the next frame; waits for the end of the link."""
        body = await self.expect(DISCONNECT)
        async with asyncio.timeout(PATIENCE):
            assert await self.link.rest() == b""
        assert self.link.closing is not None  # a Close frame, or FIN, follows a Disconnect
        return body[0], body[1:].decode()
