"""A real hub and the ways an independent client has to it."""

from __future__ import annotations

import base64
import ctypes
import os
import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from smartvpn.server import VpnServer
from tests.netns import packets
from tests.netns.independent import HANDSHAKE_INIT, IP_PACKET, Link, Session, hello, tcp_streams
from tests.netns.packets import Packet
from tests.netns.topology import HUB_OUTER, Topology
from tests.netns.tunnel import GATEWAY, GATEWAY6, STDIO, daemon, hub_config

Made = TypeVar("Made")

PORT = 7443
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


def in_namespace(machine: Topology, role: str, make: Callable[[], Made]) -> Made:
    """What `make` returns when called on one of the machines: a socket stays where it was made."""

    def enter_and_make() -> Made:
        with (Path("/run/netns") / machine.names[role]).open() as namespace:
            if _LIBC.setns(namespace.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        return make()

    with ThreadPoolExecutor(1) as thread:  # only this thread changes its namespace, and it ends
        return thread.submit(enter_and_make).result()


def tcp_socket() -> socket.socket:
    """A TCP socket over IPv4."""
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM)


class Hub:
    """A running hub, and links and sessions to it from the machine `client`."""

    def __init__(self, machine: Topology, server: VpnServer, config: dict[str, Any]) -> None:
        self.machine, self.server = machine, server
        self.key = base64.b64decode(config["publicKey"])

    async def register(self, client_id: str, **options: Any) -> bytes:
        """Create a client; its private key."""
        bundle = await self.server.create_client(client_id, **options)
        assert bundle.secrets.noise_private_key is not None
        return base64.b64decode(bundle.secrets.noise_private_key)

    @asynccontextmanager
    async def tcp(self, role: str = "client", receive_buffer: int | None = None) -> AsyncIterator[Any]:
        """The streams of a TCP connection."""
        at = in_namespace(self.machine, role, tcp_socket)
        if receive_buffer is not None:
            at.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        async with tcp_streams(at, (HUB_OUTER, PORT)) as streams:
            yield streams

    @asynccontextmanager
    async def link(self, receive_buffer: int | None = None) -> AsyncIterator[Link]:
        """A WebSocket, upgraded."""
        async with self.tcp(receive_buffer=receive_buffer) as streams:
            link = Link(*streams)
            await link.upgrade()
            yield link

    @asynccontextmanager
    async def answered(
        self, private_key: bytes, payload: bytes | None = None, kind: int = HANDSHAKE_INIT, **options: Any
    ) -> AsyncIterator[Session]:
        """A session after message 2: half-open, or refused."""
        async with self.link(**options) as link:
            session = Session(link, self.key, private_key)
            await session.handshake(hello() if payload is None else payload, kind)
            yield session

    @asynccontextmanager
    async def session(self, private_key: bytes, *how: Any, **options: Any) -> AsyncIterator[Session]:
        """A live session."""
        async with self.answered(private_key, *how, **options) as session:
            await session.keepalive()
            yield session

    @property
    def memory(self) -> int:
        """The daemon's resident memory in bytes."""
        pid = self.server.bridge.pid
        [line] = [
            line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:")
        ]
        return int(line.split()[1]) * 1024

    async def drops(self, client_id: str) -> int:
        """All packets dropped from and to a client."""
        return (await self.server.get_client_telemetry(client_id)).packets_dropped


@asynccontextmanager
async def hub_at(machine: Topology, *options: str, **changes: Any) -> AsyncIterator[Hub]:
    """A hub on ws://10.99.0.1:7443/ on the machine `hub`; `options` are the daemon's."""
    config = hub_config(**changes)
    server = VpnServer(STDIO, config, command=daemon(machine, "hub", "server", *options))
    async with server:
        yield Hub(machine, server, config)


def unique() -> bytes:
    """An installation's instance."""
    return os.urandom(16)


async def pings(session: Session, sequence: int = 1) -> None:
    """The hub's gateway addresses answer over the tunnel."""
    settings = session.given
    for source, gateway in ((settings.ip, GATEWAY), (settings.ip6, GATEWAY6)):
        request = packets.echo(source, gateway, sequence)
        await session.packet(request)
        reply = Packet.parse(await session.expect(IP_PACKET))
        assert (reply.source, reply.destination) == (gateway, source)
        assert reply.body == packets.echo_reply_to(request)
