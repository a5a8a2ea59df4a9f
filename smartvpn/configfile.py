"""Configs in files, and checks for configs that come as parsed JSON."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

from smartvpn._files import write_private
from smartvpn._json import dump, from_json, parse
from smartvpn.config import ClientConfig, ServerConfig
from smartvpn.errors import ConfigError

SERVER_PATH = Path("/etc/smartvpn/server.json")
CLIENT_PATH = Path("/etc/smartvpn/client.json")

ConfigType: TypeAlias = Literal["server", "client"]
AnyConfig: TypeAlias = ServerConfig | ClientConfig


class VpnConfig:
    """Checks, loads and saves configs. The usual paths are SERVER_PATH and CLIENT_PATH."""

    @staticmethod
    def validate_server_config(config: ServerConfig | Mapping[str, Any]) -> ServerConfig:
        """The config as an object; parsed JSON is welcome. Raises ConfigError naming the field."""
        return from_json(config, ServerConfig)

    @staticmethod
    def validate_client_config(config: ClientConfig | Mapping[str, Any]) -> ClientConfig:
        """The config as an object, complete with the keys that connecting needs.

        Raises ConfigError naming the field.
        """
        checked = from_json(config, ClientConfig)
        checked.require_secrets()
        return checked

    @overload
    @staticmethod
    def load_from_file(path: str | os.PathLike[str], type: Literal["server"]) -> ServerConfig: ...

    @overload
    @staticmethod
    def load_from_file(path: str | os.PathLike[str], type: Literal["client"]) -> ClientConfig: ...

    @staticmethod
    def load_from_file(path: str | os.PathLike[str], type: ConfigType) -> AnyConfig:
        """The config in a JSON file. An exported client config without its secrets loads too.

        Raises ConfigError naming the field, or nothing but the path where the file is no JSON;
        OSError when it cannot be read.
        """
        if type not in ("server", "client"):
            raise ConfigError("type", "is not one of server, client")
        data = _read_json(Path(path))
        return from_json(data, ServerConfig) if type == "server" else from_json(data, ClientConfig)

    @staticmethod
    def save_to_file(path: str | os.PathLike[str], config: AnyConfig) -> None:
        """Write the config as JSON, mode 0600, replacing the file in one step. Raises OSError."""
        write_private(Path(path), (dump(config, indent=2) + "\n").encode())


def _read_json(path: Path) -> Any:
    try:
        return parse(path.read_bytes())
    except ValueError as error:
        raise ConfigError("", f"{path} is not JSON: {error}") from None
