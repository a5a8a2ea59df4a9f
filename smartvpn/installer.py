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

# The daemon starts as root (the "!"), takes the socket's place, reads config and certificates, and then
# becomes the dynamic user by itself, with CAP_NET_ADMIN and CAP_NET_BIND_SERVICE and nothing else.
_HUB_USER = """\
DynamicUser=yes
User=smartvpn
StateDirectory=smartvpn
RuntimeDirectory=smartvpn-server
CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_BIND_SERVICE CAP_SETUID CAP_SETGID
RemoveIPC=yes"""

# Name servers are set by user 0 only, be it in resolv.conf or at systemd-resolved: a client keeps the
# number, without the rights that go with it.
_CLIENT_USER = """\
StateDirectory=smartvpn-client
RuntimeDirectory=smartvpn-client
CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_BIND_SERVICE
ReadWritePaths=-/etc/resolv.conf"""

_SYSTEMD = """\
[Unit]
Description={title}
Wants=network-online.target
After=network-online.target

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
ExecStopPost=+-/bin/rm -f {socket}
Restart=on-failure
RestartSec=1
TimeoutStopSec=20
WatchdogSec=60
{user}
StateDirectoryMode=0700
RuntimeDirectoryPreserve=yes
UMask=0077
LimitNOFILE=524288
LimitMEMLOCK=64M
DevicePolicy=closed
DeviceAllow=/dev/net/tun rw
NoNewPrivileges=yes
KeyringMode=private
LockPersonality=yes
MemoryDenyWriteExecute=yes
PrivateMounts=yes
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=read-only
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectSystem=strict
ReadWritePaths=/proc/sys/net {folder}
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service

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
        hub = mode == "server"
        words += ["--user", "smartvpn" if hub else "root"]
        return _SYSTEMD.format(
            title=_TITLES[mode],
            command=("!" if hub else "") + " ".join(map(_exec_word, words)),
            socket=_exec_word(socket_path),
            folder=_quoted(str(PurePosixPath(socket_path).parent)).replace("%", "%%"),
            user=_HUB_USER if hub else _CLIENT_USER,
        )

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
                "ThrottleInterval": 1,
                "ProcessType": "Interactive",
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


def _exec_word(word: str) -> str:
    """systemd expands specifiers and variables in commands; doubled they stand for themselves."""
    return _quoted(word).replace("%", "%%").replace("$", "$$")


def _quoted(word: str) -> str:
    if shlex.quote(word) == word:
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
