"""What `VpnServer` and `VpnClient` have in common: a bridge, a config, and a lifetime."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import ClassVar, Self

from smartvpn._listeners import QUEUE_LIMIT, Callback, Subscription, Unsubscribe
from smartvpn.bridge import REQUEST_SECS, AnyTransport, VpnBridge
from smartvpn.commands import Mode


class RemoteDaemon:
    """A daemon driven through a bridge."""

    mode: ClassVar[Mode]

    def __init__(
        self,
        transport: AnyTransport,
        *,
        command: Sequence[str] | None = None,
        request_timeout: float | None = REQUEST_SECS,
    ) -> None:
        self.bridge = VpnBridge(self.mode, transport, command=command, request_timeout=request_timeout)

    @property
    def running(self) -> bool:
        """Whether the daemon is connected."""
        return self.bridge.running

    async def _enter(self) -> None:
        await self.bridge.start()

    async def stop(self) -> None:
        """End the daemon, if it is our own, or close the connection to it. Iterators of events end."""
        await self.bridge.stop()

    def events(self, limit: int = QUEUE_LIMIT) -> Subscription:
        """An async iterator over all events from now on; at most `limit` wait for their reader."""
        return self.bridge.events(limit)

    def on(self, event_name: str, callback: Callback) -> Unsubscribe:
        """Call `callback(event)` for each such event, until the returned function is called.

        Raises ConfigError for a name no event has.
        """
        return self.bridge.on(event_name, callback)

    async def __aenter__(self) -> Self:
        try:
            await self._enter()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
