"""QUIC against another implementation (aioquic), both ways, and peers that break the rules."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import hashlib
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aioquic.asyncio import QuicConnectionProtocol, connect, serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, DatagramFrameReceived, QuicEvent, StreamDataReceived
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

ROOT = Path(__file__).resolve().parent.parent
ECHO = ROOT / "build" / "tests" / "quic_echo"
WITHIN = 20  # seconds for whatever is awaited
NO_APPLICATION_PROTOCOL = 0x178
FLOW_CONTROL_ERROR, STREAM_LIMIT_ERROR = 0x3, 0x4


class Echo:
    """Our end of a link, as a process that tells line by line what happens to it."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [ECHO, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> list[str]:
        """Its remaining lines; it ended by itself or does now, without a fault."""
        rest, _ = self.process.communicate(timeout=WITHIN)
        assert self.process.returncode == 0
        return rest.splitlines()


@pytest.fixture
def server() -> Iterator[tuple[Echo, int]]:
    """Our server and its port."""
    echo = Echo("server")
    yield echo, int(echo.line().split()[1])
    echo.end()


class Peer(QuicConnectionProtocol):
    """aioquic's end, which keeps what it is told."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.seen: asyncio.Queue[QuicEvent] = asyncio.Queue()

    def quic_event_received(self, event: QuicEvent) -> None:
        self.seen.put_nowait(event)

    async def until(self, kind: type[QuicEvent]) -> Any:
        async with asyncio.timeout(WITHIN):
            while True:
                event = await self.seen.get()
                if isinstance(event, kind):
                    return event


def configuration(**options: Any) -> QuicConfiguration:
    return QuicConfiguration(
        **{
            "is_client": True,
            "alpn_protocols": ["smartvpn"],
            "verify_mode": ssl.CERT_NONE,
            "max_datagram_frame_size": 65535,
            **options,
        }
    )


@contextlib.asynccontextmanager
async def client(port: int, **options: Any) -> AsyncIterator[Peer]:
    async with connect(
        "127.0.0.1", port, configuration=configuration(**options), create_protocol=Peer
    ) as peer:
        assert isinstance(peer, Peer)
        yield peer


async def test_a_foreign_client_speaks_on_stream_and_by_datagram(server: tuple[Echo, int]) -> None:
    """What it sends comes back, on the one stream and as a datagram; its FIN ends the link with code 0."""
    echo, port = server
    async with client(port) as peer:
        stream = peer._quic.get_next_available_stream_id()
        peer._quic.send_stream_data(stream, b"frames " * 100)
        peer._quic.send_datagram_frame(b"one packet")
        peer.transmit()
        assert (await peer.until(DatagramFrameReceived)).data == b"one packet"
        peer._quic.send_stream_data(stream, b"", end_stream=True)
        peer.transmit()
        ended = await peer.until(ConnectionTerminated)
        assert (ended.error_code, ended.frame_type, ended.reason_phrase) == (0, None, "")
    assert "closed 0 the other side closed the connection" in [echo.line() for _ in range(4)]


async def test_stream_bytes_come_back_in_order(server: tuple[Echo, int]) -> None:
    """A megabyte, which is more than the windows at the start."""
    _, port = server
    sent = bytes(i * 7 & 0xFF for i in range(1 << 20))
    got = b""
    async with client(port) as peer:
        stream = peer._quic.get_next_available_stream_id()
        peer._quic.send_stream_data(stream, sent)
        peer.transmit()
        while len(got) < len(sent):
            got += (await peer.until(StreamDataReceived)).data
        assert got == sent


async def test_a_peer_without_datagrams_is_told_apart(server: tuple[Echo, int]) -> None:
    """No datagram is offered to it."""
    echo, port = server
    async with client(port, max_datagram_frame_size=None):
        assert echo.line() == "open datagram_max 0"


@pytest.mark.parametrize("protocols", [["h3"], ["smartvpn/2", "h3"], None])
async def test_other_protocols_are_refused(server: tuple[Echo, int], protocols: list[str] | None) -> None:
    """With TLS' own alert, also when the client names none; and the server goes on."""
    _, port = server
    with pytest.raises(ConnectionError):
        async with client(port, alpn_protocols=protocols):
            pass
    async with client(port):
        pass


async def test_more_streams_are_refused(server: tuple[Echo, int]) -> None:
    """A second stream, or one of another kind, ends the link that opens it and no other."""
    _, port = server
    async with client(port) as good:
        for unidirectional in (False, True):
            async with client(port) as peer:
                peer._quic._remote_max_streams_bidi = peer._quic._remote_max_streams_uni = 10
                peer._quic._remote_max_stream_data_uni = 100
                for _ in range(2):
                    stream = peer._quic.get_next_available_stream_id(is_unidirectional=unidirectional)
                    peer._quic.send_stream_data(stream, b"x")
                peer.transmit()
                assert (await peer.until(ConnectionTerminated)).error_code == STREAM_LIMIT_ERROR
        await good.ping()


async def test_data_past_the_window_ends_the_link(server: tuple[Echo, int]) -> None:
    """A client that leaves a gap and goes on past the window is not remembered without bounds."""
    _, port = server
    async with client(port) as peer:
        quic = peer._quic
        stream = quic.get_next_available_stream_id()
        quic.send_stream_data(stream, b"x" * 10)
        dropped = quic.datagrams_to_send(now=asyncio.get_running_loop().time())
        assert dropped
        quic._loss.spaces[-1].sent_packets.clear()  # never sent again: the gap stays
        quic._remote_max_data = 10**9
        quic._streams[stream].max_stream_data_remote = 10**9
        quic.send_stream_data(stream, b"x" * 300_000)
        quic._loss._cc.congestion_window = 10**9
        peer.transmit()
        assert (await peer.until(ConnectionTerminated)).error_code == FLOW_CONTROL_ERROR


def test_other_versions_are_negotiated(server: tuple[Echo, int]) -> None:
    """The answer to a long packet of an unknown version names version 1 alone, with the IDs swapped."""
    _, port = server
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(WITHIN)
        sock.sendto(
            (b"\xc0" + bytes.fromhex("1a2a3a4a") + b"\x08" + b"D" * 8 + b"\x08" + b"S" * 8).ljust(
                1200, b"\0"
            ),
            ("127.0.0.1", port),
        )
        answer = sock.recv(2048)
    assert answer[0] & 0x80
    assert answer[1:] == bytes(4) + b"\x08" + b"S" * 8 + b"\x08" + b"D" * 8 + bytes.fromhex("00000001")


# ---- a foreign server ----


def certificate(folder: Path, *, expired: bool) -> tuple[Path, Path, str]:
    """A self-signed certificate, its key, and the SHA-256 of its DER form in hex."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "elsewhere")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=30))
        .not_valid_after(now + datetime.timedelta(days=-1 if expired else 1))
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    digest = hashlib.sha256(made.public_bytes(serialization.Encoding.DER)).hexdigest()
    return folder / "cert.pem", folder / "key.pem", digest


class EchoPeer(Peer):
    """aioquic's server, which sends back what it gets."""

    _quic: QuicConnection

    def quic_event_received(self, event: QuicEvent) -> None:
        super().quic_event_received(event)
        if isinstance(event, StreamDataReceived):
            self._quic.send_stream_data(event.stream_id, event.data, event.end_stream)
        elif isinstance(event, DatagramFrameReceived):
            self._quic.send_datagram_frame(event.data)
        self.transmit()


@contextlib.asynccontextmanager
async def foreign_server(
    folder: Path, *, expired: bool = False, **options: Any
) -> AsyncIterator[tuple[str, str]]:
    """Its address and its certificate's hash."""
    cert, key, digest = certificate(folder, expired=expired)
    config = configuration(is_client=False, **options)
    config.load_cert_chain(cert, key)
    running = await serve("127.0.0.1", 0, configuration=config, create_protocol=EchoPeer)
    try:
        yield f"127.0.0.1:{running._transport.get_extra_info('sockname')[1]}", digest  # type: ignore[attr-defined]
    finally:
        running.close()


async def end_of(*arguments: str) -> list[str]:
    """What our client says until it ends by itself."""
    process = await asyncio.create_subprocess_exec(
        ECHO, "client", *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(WITHIN):
        text = await process.stdout.read()
        await process.wait()
    assert process.returncode == 0
    return text.decode().splitlines()


@pytest.mark.parametrize("expired", [False, True])
async def test_our_client_speaks_with_a_foreign_server(tmp_path: Path, expired: bool) -> None:
    """Stream and datagram; dates say nothing about a certificate that is pinned."""
    async with foreign_server(tmp_path, expired=expired) as (address, digest):
        lines = await end_of(address, digest)
    assert "bytes 5" in lines
    assert "datagram 6" in lines
    assert lines[-1].startswith("closed 0")


async def test_a_foreign_certificate_is_refused(tmp_path: Path) -> None:
    """The words name the field that holds the pin."""
    async with foreign_server(tmp_path) as (address, digest):
        wrong = ("0" if digest[0] != "0" else "1") + digest[1:]
        lines = await end_of(address, wrong)
    assert lines == ["closed -6 the server's certificate does not match serverCertHash"]


async def test_a_server_of_another_protocol_is_named(tmp_path: Path) -> None:
    """An HTTP/3 server, as it stands at many an address."""
    async with foreign_server(tmp_path, alpn_protocols=["h3"]) as (address, digest):
        lines = await end_of(address, digest)
    assert lines == ["closed -15 the other side does not speak smartvpn over QUIC (ALPN)"]
