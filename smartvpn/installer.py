"""Service units for the daemon: text only, nothing is installed. systemd.service(5), launchd.plist(5)."""

from __future__ import annotations

import plistlib
import shlex
import sys
from pathlib import PurePosixPath
from typing import Literal

from attrs import frozen

from smartvpn.errors import ConfigError

BINARY_PATH = "/usr/local/bin/smartvpn_daemon"
SOCKET_PATH = "/var/run/smartvpn.sock"

Platform = Literal["linux", "macos", "windows", "unknown"]
ServiceMode = Literal["server", "client"]

_PLATFORMS: dict[str, Platform] = {"linux": "linux", "darwin": "macos", "win32": "windows"}
_TITLES = {"server": "smartvpn hub", "client": "smartvpn client"}

_SYSTEMD = """\
[Unit]
Description={title}
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
ExecStart={command}
Restart=on-failure
RestartSec=1
StateDirectory=smartvpn
StateDirectoryMode=0700
RuntimeDirectory=smartvpn
RuntimeDirectoryPreserve=yes
UMask=0077
LimitNOFILE=65536
LimitMEMLOCK=64M
CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_BIND_SERVICE
DevicePolicy=closed
DeviceAllow=/dev/net/tun rw
NoNewPrivileges=yes
LockPersonality=yes
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
"""


@frozen(kw_only=True)
class ServiceUnit:
    """A unit's text, for which platform it is, and where that wants it."""

    platform: Platform
    content: str
    install_path: str


class VpnInstaller:
    """Makes the text of service units."""

    @staticmethod
    def detect_platform() -> Platform:
        """The platform this runs on."""
        return _PLATFORMS.get(sys.platform, "unknown")

    @staticmethod
    def generate_systemd_unit(
        binary_path: str = BINARY_PATH,
        socket_path: str = SOCKET_PATH,
        mode: ServiceMode = "server",
        *,
        config_path: str | None = None,
    ) -> str:
        """A systemd unit that runs the daemon with its management socket.

        With `config_path` the daemon starts from that file. Raises ConfigError for a path that is
        not absolute, or an unknown mode.
        """
        words = _command(binary_path, socket_path, mode, config_path)
        # systemd expands specifiers and variables in ExecStart; doubled they stand for themselves.
        command = " ".join(_quoted(word).replace("%", "%%").replace("$", "$$") for word in words)
        return _SYSTEMD.format(title=_TITLES[mode], command=command)

    @staticmethod
    def generate_launchd_plist(
        binary_path: str = BINARY_PATH,
        socket_path: str = SOCKET_PATH,
        mode: ServiceMode = "server",
        *,
        config_path: str | None = None,
    ) -> str:
        """A launchd property list that runs the daemon with its management socket.

        With `config_path` the daemon starts from that file. Raises ConfigError for a path that is
        not absolute, or an unknown mode.
        """
        return plistlib.dumps(
            {
                "Label": _label(mode),
                "ProgramArguments": _command(binary_path, socket_path, mode, config_path),
                "RunAtLoad": True,
                "KeepAlive": {"SuccessfulExit": False},
                "Umask": 0o077,
                "StandardErrorPath": f"/var/log/smartvpn-{mode}.log",
            },
            sort_keys=False,
        ).decode()

    @classmethod
    def generate_service_unit(
        cls,
        mode: ServiceMode,
        config_path: str | None = None,
        *,
        binary_path: str = BINARY_PATH,
        socket_path: str = SOCKET_PATH,
    ) -> ServiceUnit:
        """The unit that fits this platform. Raises ConfigError where services are not supported."""
        platform = cls.detect_platform()
        if platform == "linux":
            content = cls.generate_systemd_unit(binary_path, socket_path, mode, config_path=config_path)
            path = f"/etc/systemd/system/smartvpn-{mode}.service"
        elif platform == "macos":
            content = cls.generate_launchd_plist(binary_path, socket_path, mode, config_path=config_path)
            path = f"/Library/LaunchDaemons/{_label(mode)}.plist"
        else:
            raise ConfigError("platform", f"services are not supported on '{platform}'")
        return ServiceUnit(platform=platform, content=content, install_path=path)


def _label(mode: str) -> str:
    return f"org.smartvpn.{mode}"


def _command(binary_path: str, socket_path: str, mode: str, config_path: str | None) -> list[str]:
    if mode not in _TITLES:
        raise ConfigError("mode", "is not one of server, client")
    words = [_absolute("binaryPath", binary_path), "--mode", mode]
    words += ["--management-socket", _absolute("socketPath", socket_path)]
    if config_path is not None:
        words += ["--config", _absolute("configPath", config_path)]
    return words


def _absolute(name: str, path: str) -> str:
    if not PurePosixPath(path).is_absolute() or any(ord(letter) < 32 for letter in path):
        raise ConfigError(name, "is not an absolute path")
    return path


def _quoted(word: str) -> str:
    if shlex.quote(word) == word:
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
