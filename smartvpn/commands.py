"""The command table: every method of the JSON protocol, once.

The daemon checks params by it, the bridge and the control classes are derived from it, and so
is the reference in `docs/`. The fields of a params class stand in the order in which Python
callers may give them by position.
"""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum
from typing import Any

import attrs
from attrs import Factory, field, frozen

from smartvpn import _fields as check
from smartvpn._fields import each, integer, optional, valid
from smartvpn._json import from_json, to_json
from smartvpn.config import (
    DEFAULT_PRIORITY,
    ClientConfig,
    ClientEntry,
    ClientSecurity,
    ServerConfig,
    WgPeerConfig,
)
from smartvpn.errors import ConfigError
from smartvpn.types import (
    ClientKeypairs,
    ClientList,
    ClientTelemetry,
    ClientUpdate,
    ConfigBundle,
    ConnectionQuality,
    ConnectResult,
    ExportedConfig,
    ExportFormat,
    Keypair,
    MtuInfo,
    RegisteredClients,
    ServerStatistics,
    StartResult,
    Statistics,
    Status,
    WgPeerList,
)


class Mode(StrEnum):
    """What a daemon is."""

    SERVER = "server"
    CLIENT = "client"


def _export_format(value: str) -> ExportFormat:
    return check.choice(ExportFormat, value)


@frozen(kw_only=True)
class NoParams:
    """A command without params."""


@frozen(kw_only=True)
class StartParams:
    """The hub's config; the JSON may also be the config itself."""

    config: ServerConfig = field(validator=valid(check.instance(ServerConfig)))


@frozen(kw_only=True)
class ConnectParams:
    """The client's config with its keys; the JSON may also be the config itself."""

    config: ClientConfig = field(validator=valid(check.instance(ClientConfig)))

    def __attrs_post_init__(self) -> None:
        self.config.require_secrets()


@frozen(kw_only=True)
class ClientIdParams:
    """A client of the registry."""

    client_id: str = field(validator=valid(check.client_id))


@frozen(kw_only=True)
class SessionParams:
    """A client, and one of its sessions; without it all of them."""

    client_id: str = field(validator=valid(check.client_id))
    session_id: str | None = field(default=None, validator=optional(check.name))


@frozen(kw_only=True)
class CreateClientParams:
    """A new client; what is left out is generated or takes its default."""

    client_id: str = field(validator=valid(check.client_id))
    tags: tuple[str, ...] = field(
        default=(), converter=check.strings, validator=each(check.name, check.MAX_TAGS)
    )
    description: str | None = field(default=None, validator=optional(check.description))
    security: ClientSecurity = field(
        default=Factory(ClientSecurity), validator=valid(check.instance(ClientSecurity))
    )
    priority: int = field(default=DEFAULT_PRIORITY, validator=valid(integer(0, check.UINT16_MAX)))
    expires_at: datetime | None = field(default=None, converter=check.utc, validator=optional(check.moment))
    assigned_ip: str | None = field(default=None, validator=optional(check.ipv4))
    enabled: bool = field(default=True, validator=valid(check.boolean))
    public_key: str | None = field(default=None, validator=optional(check.public_key))
    wg_public_key: str | None = field(default=None, validator=optional(check.public_key))


@frozen(kw_only=True)
class ListRegisteredParams:
    """A filter and a page of the registry; without `limit` everything from `offset` on."""

    tag: str | None = field(default=None, validator=optional(check.name))
    enabled: bool | None = field(default=None, validator=optional(check.boolean))
    offset: int = field(default=0, validator=valid(integer(0)))
    limit: int | None = field(default=None, validator=optional(integer(0)))


@frozen(kw_only=True)
class UpdateClientParams:
    """A client and what changes."""

    client_id: str = field(validator=valid(check.client_id))
    update: ClientUpdate = field(validator=valid(check.instance(ClientUpdate)))


@frozen(kw_only=True)
class ExportParams:
    """A client and the form its config is wanted in."""

    client_id: str = field(validator=valid(check.client_id))
    format: ExportFormat = field(converter=_export_format, validator=valid(check.member(ExportFormat)))


@frozen(kw_only=True)
class RateLimitParams:
    """A client and its limit, in bytes."""

    client_id: str = field(validator=valid(check.client_id))
    rate_bytes_per_sec: int = field(validator=valid(integer(1)))
    burst_bytes: int = field(validator=valid(integer(1)))


@frozen(kw_only=True)
class PeerKeyParams:
    """A WireGuard peer."""

    public_key: str = field(validator=valid(check.public_key))


_WRAPPED: dict[type, type] = {StartParams: ServerConfig, ConnectParams: ClientConfig}


@frozen
class Command:
    """A method of one mode: its params class, and the class of its result (None: no result).

    `bare` names the result's attribute that Python callers get instead of the whole result.
    """

    method: str
    params: type[Any] = NoParams
    result: type[Any] | None = None
    bare: str | None = None
    python_name: str = field(
        default=Factory(lambda self: _snake_case(self.method), takes_self=True), kw_only=True
    )

    def read_params(self, data: object) -> Any:
        """A params object out of a request's `params`. Raises ConfigError."""
        if self.params in _WRAPPED:
            return self.params(config=from_json(_unwrapped(data), _WRAPPED[self.params]))
        return from_json({} if data is None else data, self.params)

    def bind(self, *args: object, **kwargs: object) -> Any:
        """A params object out of a Python call's arguments.

        Raises TypeError as Python does for a call with wrong arguments, ConfigError for wrong values.
        """
        names = [item.name for item in attrs.fields(self.params)]
        if len(args) > len(names):
            raise TypeError(f"{self.python_name}() takes {len(names)} arguments, {len(args)} were given")
        given = dict(zip(names, args, strict=False))
        twice = given.keys() & kwargs.keys()
        if twice:
            raise TypeError(f"{self.python_name}() got {min(twice)!r} twice")
        return self.params(**given, **kwargs)

    def write_params(self, params: object) -> Any:
        """The JSON form of a params object."""
        return to_json(params)

    def read_result(self, data: object) -> Any:
        """The result as an object, whole. Raises ConfigError when the answer is not of its type."""
        return None if self.result is None else from_json(data, self.result)

    def python_result(self, result: Any) -> Any:
        """What a Python caller gets: the result, or its `bare` attribute."""
        return result if self.bare is None else getattr(result, self.bare)


def _snake_case(name: str) -> str:
    return re.sub(r"([A-Z])", lambda match: "_" + match[1].lower(), name)


def _unwrapped(data: object) -> object:
    if data is None:
        raise ConfigError("config", "is missing")
    if not isinstance(data, dict) or "config" not in data:
        return data
    for name in data:
        if name != "config":
            raise ConfigError(name[:64], "unknown field")
    return data["config"]


def _table(*commands: Command) -> dict[str, Command]:
    return {command.method: command for command in commands}


SERVER_COMMANDS = _table(
    Command("start", StartParams, StartResult),
    Command("stop", python_name="stop_server"),
    Command("getStatus", NoParams, Status),
    Command("getStatistics", NoParams, ServerStatistics),
    Command("createClient", CreateClientParams, ConfigBundle),
    Command("removeClient", ClientIdParams),
    Command("getClient", ClientIdParams, ClientEntry),
    Command("enableClient", ClientIdParams),
    Command("disableClient", ClientIdParams),
    Command("listRegisteredClients", ListRegisteredParams, RegisteredClients, "page"),
    Command("updateClient", UpdateClientParams, ClientEntry),
    Command("rotateClientKey", ClientIdParams, ConfigBundle),
    Command("exportClientConfig", ExportParams, ExportedConfig, "config"),
    Command("listClients", NoParams, ClientList, "sessions"),
    Command("disconnectClient", SessionParams),
    Command("setClientRateLimit", RateLimitParams),
    Command("removeClientRateLimit", ClientIdParams),
    Command("getClientTelemetry", SessionParams, ClientTelemetry),
    Command("generateKeypair", NoParams, Keypair),
    Command("generateWgKeypair", NoParams, Keypair),
    Command("generateClientKeypair", NoParams, ClientKeypairs),
    Command("addWgPeer", WgPeerConfig),
    Command("removeWgPeer", PeerKeyParams),
    Command("listWgPeers", NoParams, WgPeerList, "items"),
)

CLIENT_COMMANDS = _table(
    Command("connect", ConnectParams, ConnectResult),
    Command("disconnect"),
    Command("getStatus", NoParams, Status),
    Command("getStatistics", NoParams, Statistics),
    Command("getConnectionQuality", NoParams, ConnectionQuality),
    Command("getMtuInfo", NoParams, MtuInfo),
    Command("generateKeypair", NoParams, Keypair),
)

COMMANDS: dict[Mode, dict[str, Command]] = {Mode.SERVER: SERVER_COMMANDS, Mode.CLIENT: CLIENT_COMMANDS}
