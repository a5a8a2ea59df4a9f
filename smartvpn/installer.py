"""Service units for the daemon: text only, nothing is installed. systemd.service(5), launchd.plist(5)."""

from __future__ import annotations

import plistlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, Literal

from attrs import frozen

from smartvpn._address import is_loopback
from smartvpn._weblisten import DASHBOARD_LISTEN, dashboard_address, dashboard_host
from smartvpn.errors import ConfigError

BINARY_PATH = "/usr/local/bin/smartvpn_daemon"
DASHBOARD_PATH = "/usr/local/bin/smartvpn-dashboard"
DASHBOARD_UNIT = "/etc/systemd/system/smartvpn-dashboard.service"
SOCKET_PATH = "/var/run/smartvpn.sock"

Platform = Literal["linux", "macos", "windows", "unknown"]
ServiceMode = Literal["server", "client"]

_PLATFORMS: dict[str, Platform] = {"linux": "linux", "darwin": "macos", "win32": "windows"}
_TITLES = {"server": "smartvpn hub", "client": "smartvpn client"}

# The daemon starts as root (the "!"), takes the socket's place, gives it to the dynamic user, reads config
# and certificates, and then becomes that user by itself, with CAP_NET_ADMIN and CAP_NET_BIND_SERVICE alone.
_HUB_USER = """\
DynamicUser=yes
User=smartvpn
StateDirectory=smartvpn
RuntimeDirectory=smartvpn-server
CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_BIND_SERVICE CAP_SETUID CAP_SETGID CAP_CHOWN
RemoveIPC=yes"""

# Name servers are set by user 0 only, be it in resolv.conf or at systemd-resolved: a client keeps the
# number, without the rights that go with it.
_CLIENT_USER = """\
StateDirectory=smartvpn-client
RuntimeDirectory=smartvpn-client
CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_BIND_SERVICE
ReadWritePaths=-/etc/resolv.conf"""

_HARDENED = """\
UMask=0077
NoNewPrivileges=yes
KeyringMode=private
LockPersonality=yes
MemoryDenyWriteExecute=yes
PrivateMounts=yes
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectSystem=strict
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service"""

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
LimitNOFILE=524288
LimitMEMLOCK=64M
DevicePolicy=closed
DeviceAllow=/dev/net/tun rw
ProtectHome=read-only
ReadWritePaths=/proc/sys/net {folder}
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
{hardened}

[Install]
WantedBy=multi-user.target
"""

# The hub's user, whom alone the hub lets command it; the hub's keys are out of its sight.
_DASHBOARD = """\
[Unit]
Description=smartvpn dashboard
Wants=network-online.target
After=network-online.target smartvpn-server.service

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
Restart=on-failure
RestartSec=1
TimeoutStopSec=20
WatchdogSec=60
DynamicUser=yes
User=smartvpn
StateDirectory=smartvpn-dashboard
StateDirectoryMode=0700
InaccessiblePaths=-/etc/smartvpn -/var/lib/private/smartvpn
{more}
PrivateDevices=yes
ProcSubset=pid
ProtectHome=yes
ProtectProc=invisible
RemoveIPC=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
{hardened}

[Install]
WantedBy=multi-user.target
"""
_FIRST_FREE_PORT = 1024
_CAPABILITIES = ("CapabilityBoundingSet", "AmbientCapabilities")


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
            hardened=_HARDENED,
        )

    @staticmethod
    def generate_dashboard_unit(
        binary_path: str = DASHBOARD_PATH,
        socket_path: str = SOCKET_PATH,
        listen: str = DASHBOARD_LISTEN,
        *,
        public_hosts: Sequence[str] = (),
        tls_cert: str | None = None,
        tls_key: str | None = None,
        behind_proxy: bool = False,
    ) -> str:
        """A systemd unit that runs the dashboard for the hub behind the socket, as the hub's user.

        The certificate's files may be root's alone: systemd hands them over. Raises ConfigError for a path
        that is not absolute, and for an address beyond this machine without https.
        """
        host, port = dashboard_address(listen, tls_cert=tls_cert, tls_key=tls_key, behind_proxy=behind_proxy)
        words = [_absolute("binaryPath", binary_path), "--socket", _absolute("socketPath", socket_path)]
        words += ["--listen", listen]
        words += [word for name in public_hosts for word in ("--public-host", dashboard_host(name))]
        words += ["--behind-proxy"] if behind_proxy else []
        command = " ".join(map(_exec_word, words))
        low = 0 < port < _FIRST_FREE_PORT
        more = [f"{name}={'CAP_NET_BIND_SERVICE' if low else ''}" for name in _CAPABILITIES]
        if tls_cert is not None and tls_key is not None:
            for option, path in (("tls-cert", tls_cert), ("tls-key", tls_key)):
                command += f" --{option} ${{CREDENTIALS_DIRECTORY}}/{option}"
                more.append(f"LoadCredential={option}:{_credential(option, path)}")
        if is_loopback(host):
            more += ["IPAddressDeny=any", "IPAddressAllow=localhost"]
        return _DASHBOARD.format(command=command, more="\n".join(more), hardened=_HARDENED)

    @staticmethod
    def generate_launchd_plist(
        binary_path: str = BINARY_PATH,
        socket_path: str = SOCKET_PATH,
        mode: ServiceMode = "server",
        *,
        config_path: str | None = None,
    ) -> str:
        """A launchd property list that runs the daemon with its management socket.

        The daemon itself runs on Linux only, and no launchd has loaded this text yet. With `config_path` the
        daemon starts from that file. Raises ConfigError for a path that is not absolute, or an unknown mode.
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

    @classmethod
    def generate_dashboard_service(cls, **options: Any) -> ServiceUnit:
        """The dashboard's unit, with the options of `generate_dashboard_unit`.

        Raises ConfigError, also where there is no systemd.
        """
        platform = cls.detect_platform()
        if platform != "linux":
            raise ConfigError("platform", f"the dashboard as a service is not supported on '{platform}'")
        content = cls.generate_dashboard_unit(**options)
        return ServiceUnit(platform=platform, content=content, install_path=DASHBOARD_UNIT)


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


def _credential(option: str, path: str) -> str:
    """LoadCredential= takes everything behind the colon, but for specifiers."""
    return _absolute("tlsCert" if option == "tls-cert" else "tlsKey", path).replace("%", "%%")


def _exec_word(word: str) -> str:
    """systemd expands specifiers and variables in commands; doubled they stand for themselves."""
    return _quoted(word).replace("%", "%%").replace("$", "$$")


def _quoted(word: str) -> str:
    if shlex.quote(word) == word:
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
