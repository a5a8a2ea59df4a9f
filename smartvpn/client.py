"""A tunnel to a hub, as a class: one method for each command of the daemon's client mode.

async with VpnClient({"transport": "stdio"}, config) as client:
    result = await client.connect()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

from smartvpn._json import from_json
from smartvpn._remote import RemoteDaemon
from smartvpn.bridge import REQUEST_SECS, AnyTransport
from smartvpn.commands import Mode
from smartvpn.config import ClientConfig
from smartvpn.errors import ConfigError
from smartvpn.types import ConnectionQuality, ConnectResult, Keypair, MtuInfo, Statistics, Status

Json: TypeAlias = Mapping[str, Any]


class VpnClient(RemoteDaemon):
    """A client in a daemon. Its config may also come as parsed JSON.

    Every command raises what the daemon answers with (the tree in `smartvpn.errors`), ConfigError
    for a wrong argument, UnreachableError when the daemon is lost, VpnTimeoutError when it does
    not answer in `request_timeout` seconds, and InvalidStateError before `start`.
    """

    mode = Mode.CLIENT

    def __init__(
        self,
        transport: AnyTransport,
        config: ClientConfig | Json | None = None,
        *,
        command: Sequence[str] | None = None,
        request_timeout: float | None = REQUEST_SECS,
    ) -> None:
        super().__init__(transport, command=command, request_timeout=request_timeout)
        self._config = None if config is None else from_json(config, ClientConfig)

    async def start(self) -> None:
        """Start the daemon or attach to it; no tunnel yet."""
        await self.bridge.start()

    async def connect(self, config: ClientConfig | Json | None = None) -> ConnectResult:
        """Open the tunnel, with this config or that of the class; it is kept open by reconnecting.

        Raises UnauthorizedError with the hub's reason when it refuses us.
        """
        chosen = self._config if config is None else from_json(config, ClientConfig)
        if chosen is None:
            raise ConfigError("config", "is missing")
        return cast(ConnectResult, await self.bridge.request("connect", chosen))

    async def disconnect(self) -> None:
        """Close the tunnel; what it changed in the system is undone."""
        await self.bridge.request("disconnect")

    async def get_status(self) -> Status:
        """How far the tunnel is, and its addresses."""
        return cast(Status, await self.bridge.request("getStatus"))

    async def get_statistics(self) -> Statistics:
        """The tunnel's counters."""
        return cast(Statistics, await self.bridge.request("getStatistics"))

    async def get_connection_quality(self) -> ConnectionQuality:
        """Round trip, jitter and loss, as keepalives measure them."""
        return cast(ConnectionQuality, await self.bridge.request("getConnectionQuality"))

    async def get_mtu_info(self) -> MtuInfo:
        """How large a packet may be, and why."""
        return cast(MtuInfo, await self.bridge.request("getMtuInfo"))

    async def generate_keypair(self) -> Keypair:
        """A fresh Noise pair."""
        return cast(Keypair, await self.bridge.request("generateKeypair"))
