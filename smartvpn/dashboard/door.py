"""Where connections come in: what they may cost before a request is whole, and while they do not read.

uvicorn bounds the time between two requests; not that of a request's head, of a TLS handshake, or of an
answer that nobody takes.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from smartvpn._visitors import Patience

HEAD_SECS = 10.0
WAITING = 64

_STALL_SECS = 30.0


class Visitor(H11Protocol):
    """A connection over which requests come. Its next one must be whole soon."""

    def __init__(self, *arguments: Any, heads: Patience, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._heads = heads
        self._stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """It may send."""
        super().connection_made(transport)
        self._look()

    def data_received(self, data: bytes) -> None:
        """A part of a request, or all of it."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """The next one may come."""
        super().on_response_complete()
        self._look()

    def _look(self) -> None:
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            self._heads.end(self)
        else:
            self._heads.begin(self, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._heads.end(self)
        self._unset_stall()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """It does not read what it asked for."""
        super().pause_writing()
        self._unset_stall()
        self._stall = self.loop.call_later(_STALL_SECS, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads on."""
        self._unset_stall()
        super().resume_writing()

    def _unset_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None


class TlsDoor(asyncio.Protocol):
    """A connection that is to become a TLS one; its handshake is waited for as a request's head is."""

    def __init__(self, visitor: Visitor, tls: ssl.SSLContext, heads: Patience) -> None:
        self._visitor = visitor
        self._tls = tls
        self._heads = heads
        self._early = bytearray()
        self._lost = False
        self._securing: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Nothing is read before TLS does."""
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        self._heads.begin(self, transport.abort)
        self._securing = asyncio.get_running_loop().create_task(self._secure(transport))

    async def _secure(self, transport: asyncio.Transport) -> None:
        try:
            secured = await asyncio.get_running_loop().start_tls(
                transport, self, self._tls, server_side=True, ssl_handshake_timeout=HEAD_SECS
            )
        except OSError:  # a peer that speaks no TLS, or left
            transport.abort()
            secured = None
        self._heads.end(self)
        if secured is None or self._lost:
            return
        secured.set_protocol(self._visitor)
        self._visitor.connection_made(secured)
        if self._early:
            self._visitor.data_received(bytes(self._early))

    def data_received(self, data: bytes) -> None:
        """What came in the handshake's last packet."""
        self._early += data

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._lost = True


def make_door(tls: ssl.SSLContext | None) -> Callable[..., asyncio.Protocol]:
    """What uvicorn is given as its protocol: plain, or behind TLS."""
    heads = Patience(WAITING, HEAD_SECS)
    if tls is None:
        return partial(Visitor, heads=heads)

    def behind_tls(*arguments: Any, **options: Any) -> TlsDoor:
        return TlsDoor(Visitor(*arguments, heads=heads, **options), tls, heads)

    return behind_tls
