"""Service units: their text, and that no path can smuggle anything into it."""

import plistlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from smartvpn import ConfigError, VpnInstaller

PLATFORMS = [("linux", "linux"), ("darwin", "macos"), ("win32", "windows"), ("sunos5", "unknown")]


@pytest.mark.parametrize(("name", "platform"), PLATFORMS)
def test_platforms(monkeypatch: pytest.MonkeyPatch, name: str, platform: str) -> None:
    """Python's names of platforms become ours."""
    monkeypatch.setattr(sys, "platform", name)
    assert VpnInstaller.detect_platform() == platform


def _exec_start(unit: str) -> str:
    [line] = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    return line.removeprefix("ExecStart=")


def test_systemd_defaults() -> None:
    """The usual paths, the hub's mode."""
    assert _exec_start(VpnInstaller.generate_systemd_unit()) == (
        "!/usr/local/bin/smartvpn_daemon --mode server --management-socket /var/run/smartvpn.sock"
        " --user smartvpn"
    )


def test_systemd_rights() -> None:
    """The hub has a user of its own; a client stays user 0, for name servers, with two rights."""
    hub, client = (
        VpnInstaller.generate_systemd_unit(mode=mode).splitlines() for mode in ("server", "client")
    )
    assert {"Type=notify", "DynamicUser=yes", "User=smartvpn", "NoNewPrivileges=yes"} <= set(hub)
    assert "CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_BIND_SERVICE CAP_SETUID CAP_SETGID CAP_CHOWN" in hub
    assert {"Type=notify", "NoNewPrivileges=yes"} <= set(client)
    assert "CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_BIND_SERVICE" in client
    for unit in (hub, client):
        assert [line for line in unit if line.startswith("WatchdogSec=")]
        assert "ExecStopPost=+-/bin/rm -f /var/run/smartvpn.sock" in unit
        assert "ReadWritePaths=/proc/sys/net /var/run" in unit


def test_systemd_paths_are_quoted() -> None:
    """Spaces, quotes, specifiers and variables in paths stand for themselves."""
    unit = VpnInstaller.generate_systemd_unit(
        '/opt/a b/"x"', "/run/%n.sock", "client", config_path="/etc/$HOME"
    )
    assert _exec_start(unit) == (
        '"/opt/a b/\\"x\\"" --mode client --management-socket /run/%%n.sock'
        ' --config "/etc/$$HOME" --user root'
    )


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """systemd-analyze finds nothing to say about it; without systemd the sections are looked at."""
    unit = tmp_path / "smartvpn-server.service"
    unit.write_text(VpnInstaller.generate_systemd_unit(binary_path="/bin/true"))
    if shutil.which("systemd-analyze"):
        result = subprocess.run(
            ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False, timeout=60
        )
        assert (result.returncode, result.stderr) == (0, "")
    sections = [line for line in unit.read_text().splitlines() if line.startswith("[")]
    assert sections == ["[Unit]", "[Service]", "[Install]"]


def test_the_dashboards_unit() -> None:
    """It is the hub's user without rights and without the hub's files; a low port brings one right."""
    unit = VpnInstaller.generate_dashboard_unit().splitlines()
    assert _exec_start("\n".join(unit)) == (
        "/usr/local/bin/smartvpn-dashboard --socket /var/run/smartvpn.sock --listen 127.0.0.1:8787"
    )
    assert {"DynamicUser=yes", "User=smartvpn", "CapabilityBoundingSet=", "AmbientCapabilities="} <= set(unit)
    assert {"InaccessiblePaths=-/etc/smartvpn -/var/lib/private/smartvpn", "IPAddressDeny=any"} <= set(unit)
    unit = VpnInstaller.generate_dashboard_unit(
        listen="0.0.0.0:443", tls_cert="/a b.crt", tls_key="/100%.key", public_hosts=["vpn.example.org"]
    ).splitlines()
    assert _exec_start("\n".join(unit)).endswith(
        " --listen 0.0.0.0:443 --public-host vpn.example.org"
        " --tls-cert ${CREDENTIALS_DIRECTORY}/tls-cert --tls-key ${CREDENTIALS_DIRECTORY}/tls-key"
    )
    assert {"LoadCredential=tls-cert:/a b.crt", "LoadCredential=tls-key:/100%%.key"} <= set(unit)
    assert {
        f"{name}=CAP_NET_BIND_SERVICE" for name in ("CapabilityBoundingSet", "AmbientCapabilities")
    } <= set(unit)
    assert "IPAddressDeny=any" not in unit


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"listen": "here"}, "listen"),
        ({"listen": "0.0.0.0:8787"}, "listen"),
        ({"tls_cert": "/a.crt"}, "tlsCert: needs tlsKey"),
        ({"tls_key": "/a.key"}, "tlsKey: needs tlsCert"),
        ({"tls_cert": "a.crt", "tls_key": "/a.key"}, "tlsCert"),
        ({"tls_cert": "/a.crt", "tls_key": "/a\nUser=root"}, "tlsKey"),
        ({"public_hosts": ["a b"]}, "publicHost"),
        ({"socket_path": "s.sock"}, "socketPath"),
    ],
)
def test_the_dashboards_bad_arguments_are_named(options: dict[str, Any], field: str) -> None:
    """Nothing is open to the network without https, and no option smuggles a line in."""
    with pytest.raises(ConfigError, match=field):
        VpnInstaller.generate_dashboard_unit(**options)


# Keys of launchd.plist(5) that a daemon's job may have, and what Apple wants of each.
LAUNCHD_KEYS: dict[str, type | tuple[type, ...]] = {
    "Label": str,
    "Disabled": bool,
    "UserName": str,
    "GroupName": str,
    "Program": str,
    "ProgramArguments": list,
    "EnableGlobbing": bool,
    "KeepAlive": (bool, dict),
    "RunAtLoad": bool,
    "RootDirectory": str,
    "WorkingDirectory": str,
    "EnvironmentVariables": dict,
    "Umask": (int, str),
    "ExitTimeOut": int,
    "ThrottleInterval": int,
    "InitGroups": bool,
    "WatchPaths": list,
    "QueueDirectories": list,
    "StandardInPath": str,
    "StandardOutPath": str,
    "StandardErrorPath": str,
    "SoftResourceLimits": dict,
    "HardResourceLimits": dict,
    "Nice": int,
    "ProcessType": str,
    "AbandonProcessGroup": bool,
    "LowPriorityIO": bool,
    "LaunchOnlyOnce": bool,
    "Sockets": dict,
}
KEEP_ALIVE_KEYS = {"SuccessfulExit": bool, "PathState": dict, "OtherJobEnabled": dict, "Crashed": bool}
PROCESS_TYPES = {"Background", "Standard", "Adaptive", "Interactive"}


@pytest.mark.parametrize("mode", ["server", "client"])
def test_launchd_knows_every_key(mode: Any) -> None:
    """The property list has keys that Apple documents, values of their types, and what launchd demands."""
    job = plistlib.loads(VpnInstaller.generate_launchd_plist(mode=mode).encode(), fmt=plistlib.FMT_XML)
    for key, value in job.items():
        assert isinstance(value, LAUNCHD_KEYS[key]), key
        assert isinstance(value, bool) == (LAUNCHD_KEYS[key] is bool), key
    for key, value in job["KeepAlive"].items():
        assert isinstance(value, KEEP_ALIVE_KEYS[key]), key
    assert job["ProcessType"] in PROCESS_TYPES
    assert (job["Umask"], job["KeepAlive"]) == (0o077, {"SuccessfulExit": False})
    assert (job["Label"], job["StandardErrorPath"]) == (
        f"org.smartvpn.{mode}",
        f"/var/log/smartvpn-{mode}.log",
    )


def test_launchd_gets_the_words_as_they_are() -> None:
    """Nothing in them is quoted, whatever they hold."""
    job = plistlib.loads(
        VpnInstaller.generate_launchd_plist(
            "/opt/a & <b>/smartvpn_daemon", "/var/run/$x.sock", "client", config_path='/etc/client "1".json'
        ).encode()
    )
    assert job["ProgramArguments"] == [
        *("/opt/a & <b>/smartvpn_daemon", "--mode", "client", "--management-socket", "/var/run/$x.sock"),
        *("--config", '/etc/client "1".json'),
    ]


@pytest.mark.parametrize(
    ("name", "path", "begin"),
    [
        ("linux", "/etc/systemd/system/smartvpn-client.service", "[Unit]"),
        ("darwin", "/Library/LaunchDaemons/org.smartvpn.client.plist", "<?xml"),
    ],
)
def test_service_unit(monkeypatch: pytest.MonkeyPatch, name: str, path: str, begin: str) -> None:
    """The unit of this platform, with the place it belongs to and the config file."""
    monkeypatch.setattr(sys, "platform", name)
    unit = VpnInstaller.generate_service_unit("client", "/etc/smartvpn/client.json")
    assert unit.install_path == path
    assert unit.content.startswith(begin)
    assert "/etc/smartvpn/client.json" in unit.content
    if begin == "<?xml":  # launchd.plist(5): the file is named by its label
        assert Path(path).stem == plistlib.loads(unit.content.encode())["Label"]


def test_other_platforms_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """No unit where there are no services of ours."""
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ConfigError, match="windows"):
        VpnInstaller.generate_service_unit("server")


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"binary_path": "smartvpn_daemon"}, "binaryPath"),
        ({"socket_path": "run/x"}, "socketPath"),
        ({"config_path": "/etc/x\nExecStartPre=/bin/sh"}, "configPath"),
        ({"mode": "both"}, "mode"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], field: str) -> None:
    """A relative path, a line break, an unknown mode."""
    with pytest.raises(ConfigError, match=field):
        VpnInstaller.generate_systemd_unit(**arguments)
    with pytest.raises(ConfigError, match=field):
        VpnInstaller.generate_launchd_plist(**arguments)
