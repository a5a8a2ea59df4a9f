"""`GET /metrics` and nothing else: one request a connection, few that wait, none for long."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from typing import Self

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from smartvpn._address import join_host_port, parse_listen
from smartvpn._control import to_the_end
from smartvpn._visitors import Patience, is_own_host
from smartvpn.errors import ConfigError, ConflictError, SmartVpnError
from smartvpn.hub import Hub
from smartvpn.metrics.families import HubFamilies, TunnelFamilies, peer_reading, session_reading
from smartvpn.metrics.ledger import Ledger
from smartvpn.tunnel import Tunnel

_WAITING = 64
_ANSWERED = 8
_REQUEST_BYTES = 8192
_REQUEST_SECS = 5.0
_ANSWER_SECS = 30.0

log = logging.getLogger(__name__)


class MetricsEndpoint:
    """Serves one hub's or tunnel's metrics over HTTP."""

    def __init__(self, service: Hub | Tunnel, clients: int, hosts: Collection[str] = ()) -> None:
        """`clients` have series of their own; `hosts` are names it is called by, beside its address."""
        self._service = service
        self._clients = Ledger(clients)
        self._peers = Ledger(clients)
        self._scrape = asyncio.Lock()
        self._hosts = {host.lower() for host in hosts} | {"localhost"}
        self._heads = Patience(_WAITING, _REQUEST_SECS)
        self._answers = Patience(_ANSWERED, _ANSWER_SECS)
        self._server: asyncio.Server | None = None
        self.address = ""

    async def start(self, address: str) -> Self:
        """Listen on `host:port`; port 0 picks one. Raises ConfigError, ConflictError."""
        try:
            host, port = parse_listen(address)
        except ValueError as error:
            raise ConfigError("metrics", str(error)) from None
        try:
            self._server = await asyncio.start_server(self._serve, host, port, limit=_REQUEST_BYTES)
        except OSError as error:
            raise ConflictError(f"metrics cannot listen on {address}: {error.strerror}") from None
        self._hosts.add(host.lower())
        self.address = join_host_port(host, self._server.sockets[0].getsockname()[1])
        log.info("metrics on http://%s/metrics", self.address)
        return self

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        this = asyncio.current_task()
        assert this is not None
        try:
            self._heads.begin(this, writer.transport.abort)
            head = await reader.readuntil(b"\r\n\r\n")
            self._heads.end(this)
            self._answers.begin(this, this.cancel)
            writer.write(await self._answer(head))
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._heads.end(this)
            self._answers.end(this)
            writer.close()

    async def _answer(self, head: bytes) -> bytes:
        request, *lines = head.decode("latin-1").split("\r\n")
        method, _, target = request.rpartition(" ")[0].partition(" ")
        host = _header(lines, "host")
        if host and not is_own_host(host, self._hosts):
            return _response(
                "421 Misdirected Request", "text/plain", b"unknown host name: see --metrics-host\n"
            )
        if method not in ("GET", "HEAD"):
            return _response("405 Method Not Allowed", "text/plain", b"GET /metrics\n")
        if target.partition("?")[0] != "/metrics":
            return _response("404 Not Found", "text/plain", b"GET /metrics\n")
        try:
            body, kind = await self.text(_header(lines, "accept"))
        except SmartVpnError as error:
            return _response("500 Internal Server Error", "text/plain", f"{error}\n".encode())
        return _response("200 OK", kind, body, with_body=method == "GET")

    async def text(self, accept: str = "") -> tuple[bytes, str]:
        """The metrics of this moment, in the best of the formats accepted, and the content type."""
        registry = CollectorRegistry(auto_describe=False)
        encode, kind = choose_encoder(accept)
        async with self._scrape:
            registry.register(await self._families())
            return await asyncio.to_thread(encode, registry), kind

    async def _families(self) -> HubFamilies | TunnelFamilies:
        if isinstance(self._service, Tunnel):
            return TunnelFamilies(self._service.telemetry())
        seen = await self._service.telemetry()
        if seen is not None:
            await to_the_end(self._clients.update, map(session_reading, seen.sessions))
            await to_the_end(self._peers.update, map(peer_reading, seen.peers))
        return HubFamilies(seen, self._clients, self._peers)


def _header(lines: list[str], wanted: str) -> str:
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip().lower() == wanted:
            return value.strip()
    return ""


def _response(status: str, kind: str, body: bytes, with_body: bool = True) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (body if with_body else b"")
