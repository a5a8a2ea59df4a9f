"""The hub, as a class: one method for each command of the daemon's server mode.

async with VpnServer({"transport": "stdio"}, config) as server:
    bundle = await server.create_client("alice")
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypeAlias, cast

from attrs import fields_dict

from smartvpn._json import from_json
from smartvpn._remote import RemoteDaemon
from smartvpn.bridge import REQUEST_SECS, AnyTransport
from smartvpn.commands import Mode
from smartvpn.config import (
    DEFAULT_PRIORITY,
    ClientConfig,
    ClientEntry,
    ClientSecurity,
    ServerConfig,
    WgPeerConfig,
)
from smartvpn.types import (
    ClientInfo,
    ClientKeypairs,
    ClientTelemetry,
    ClientUpdate,
    ConfigBundle,
    EntryPage,
    ExportFormat,
    Keypair,
    ServerStatistics,
    StartResult,
    Status,
    WgPeerInfo,
)

Json: TypeAlias = Mapping[str, Any]

_OPEN = ClientSecurity()
_PEER_FIELDS = tuple(fields_dict(WgPeerConfig))


class VpnServer(RemoteDaemon):
    """A hub in a daemon. Its config, and every other structure, may also come as parsed JSON.

    Every command raises what the daemon answers with (the tree in `smartvpn.errors`), ConfigError
    for a wrong argument, UnreachableError when the daemon is lost, VpnTimeoutError when it does
    not answer in `request_timeout` seconds, and InvalidStateError before `start`.
    """

    mode = Mode.SERVER

    def __init__(
        self,
        transport: AnyTransport,
        config: ServerConfig | Json | None = None,
        *,
        command: Sequence[str] | None = None,
        request_timeout: float | None = REQUEST_SECS,
    ) -> None:
        super().__init__(transport, command=command, request_timeout=request_timeout)
        self._config = None if config is None else from_json(config, ServerConfig)

    async def _enter(self) -> None:
        await self.start()

    async def start(self, config: ServerConfig | Json | None = None) -> StartResult | None:
        """Start the daemon or attach to it, and with a config, this one or that of the class, the hub.

        Returns where the hub listens; None without a config, when only the daemon is there now
        and commands that need no hub, such as those that make keys, can be given.
        """
        chosen = self._config if config is None else from_json(config, ServerConfig)
        await self.bridge.start()
        if chosen is None:
            return None
        return cast(StartResult, await self.bridge.request("start", chosen))

    async def stop_server(self) -> None:
        """Close the listeners and end all sessions. The daemon stays, for another `start(config)`."""
        await self.bridge.request("stop")

    async def get_status(self) -> Status:
        """Whether the hub runs, and where."""
        return cast(Status, await self.bridge.request("getStatus"))

    async def get_statistics(self) -> ServerStatistics:
        """The counters of all clients together."""
        return cast(ServerStatistics, await self.bridge.request("getStatistics"))

    async def create_client(
        self,
        client_id: str,
        tags: Iterable[str] = (),
        description: str | None = None,
        security: ClientSecurity | Json = _OPEN,
        priority: int = DEFAULT_PRIORITY,
        expires_at: datetime | None = None,
        assigned_ip: str | None = None,
        enabled: bool = True,
        public_key: str | None = None,
        wg_public_key: str | None = None,
    ) -> ConfigBundle:
        """Register a client; keys and address are made unless they are given.

        Returns its entry, both configs, and the secrets, which are shown this once.
        """
        bundle = await self.bridge.request(
            "createClient",
            client_id,
            tags,
            description,
            from_json(security, ClientSecurity, "security"),
            priority,
            expires_at,
            assigned_ip,
            enabled,
            public_key,
            wg_public_key,
        )
        return cast(ConfigBundle, bundle)

    async def remove_client(self, client_id: str) -> None:
        """Forget the client and end its sessions."""
        await self.bridge.request("removeClient", client_id)

    async def get_client(self, client_id: str) -> ClientEntry:
        """The registry's entry of the client."""
        return cast(ClientEntry, await self.bridge.request("getClient", client_id))

    async def enable_client(self, client_id: str) -> None:
        """Let the client connect again."""
        await self.bridge.request("enableClient", client_id)

    async def disable_client(self, client_id: str) -> None:
        """End the client's sessions and refuse new ones."""
        await self.bridge.request("disableClient", client_id)

    async def list_registered_clients(
        self, tag: str | None = None, enabled: bool | None = None, offset: int = 0, limit: int | None = None
    ) -> EntryPage:
        """A page of the registry, a list whose `total` counts all entries that pass the filter.

        One that is damaged is counted, not listed: an `error` event names it.
        """
        page = await self.bridge.request("listRegisteredClients", tag, enabled, offset, limit)
        return cast(EntryPage, page)

    async def update_client(self, client_id: str, update: ClientUpdate | Json) -> ClientEntry:
        """Change what `update` names, for a live client too; None in it resets to the default."""
        change = from_json(update, ClientUpdate, "update")
        return cast(ClientEntry, await self.bridge.request("updateClient", client_id, change))

    async def rotate_client_key(self, client_id: str) -> ConfigBundle:
        """Give the client fresh keys, end its sessions, and return what `create_client` does."""
        return cast(ConfigBundle, await self.bridge.request("rotateClientKey", client_id))

    async def export_client_config(
        self, client_id: str, format: ExportFormat | Literal["smartvpn", "wireguard"]
    ) -> ClientConfig | str:
        """The client's config without secrets: a ClientConfig, or WireGuard's text."""
        return cast("ClientConfig | str", await self.bridge.request("exportClientConfig", client_id, format))

    async def list_clients(self) -> list[ClientInfo]:
        """The live sessions."""
        return cast(list[ClientInfo], await self.bridge.request("listClients"))

    async def disconnect_client(self, client_id: str, session_id: str | None = None) -> None:
        """End one session of the client, or all; it may come back."""
        await self.bridge.request("disconnectClient", client_id, session_id)

    async def set_client_rate_limit(self, client_id: str, rate_bytes_per_sec: int, burst_bytes: int) -> None:
        """Limit the client's bytes in each direction, at once, until a restart or an update."""
        await self.bridge.request("setClientRateLimit", client_id, rate_bytes_per_sec, burst_bytes)

    async def remove_client_rate_limit(self, client_id: str) -> None:
        """Let the client send without limit, as long as an override would hold."""
        await self.bridge.request("removeClientRateLimit", client_id)

    async def get_client_telemetry(self, client_id: str, session_id: str | None = None) -> ClientTelemetry:
        """The counters and the link quality of one session, or of the client."""
        return cast(ClientTelemetry, await self.bridge.request("getClientTelemetry", client_id, session_id))

    async def generate_keypair(self) -> Keypair:
        """A fresh Noise pair."""
        return cast(Keypair, await self.bridge.request("generateKeypair"))

    async def generate_wg_keypair(self) -> Keypair:
        """A fresh WireGuard pair."""
        return cast(Keypair, await self.bridge.request("generateWgKeypair"))

    async def generate_client_keypair(self) -> ClientKeypairs:
        """Both pairs of a client."""
        return cast(ClientKeypairs, await self.bridge.request("generateClientKeypair"))

    async def add_wg_peer(self, peer: WgPeerConfig | Json) -> None:
        """Add a WireGuard peer that is no client of the registry."""
        checked = from_json(peer, WgPeerConfig)
        await self.bridge.request("addWgPeer", **{name: getattr(checked, name) for name in _PEER_FIELDS})

    async def remove_wg_peer(self, public_key: str) -> None:
        """Remove a WireGuard peer."""
        await self.bridge.request("removeWgPeer", public_key)

    async def list_wg_peers(self) -> list[WgPeerInfo]:
        """The WireGuard peers and their counters."""
        return cast(list[WgPeerInfo], await self.bridge.request("listWgPeers"))
