"""The services under a running systemd, in the machine of vm.py: installed, watched, killed, removed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECONDS = 300  # for one command, by emulated processors that others use as well
HUB, CLIENT, DASHBOARD = (f"smartvpn-{name}.service" for name in ("server", "client", "dashboard"))
SOCKET = Path("/run/smartvpn.sock")
CLIENT_SOCKET = Path("/run/smartvpn-client.sock")
SHORT_WATCH = "[Service]\nWatchdogSec=15\nTimeoutAbortSec=2\n"


def sh(*words: str, check: bool = True) -> str:
    """What a command prints; it must end well."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert not check or done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def fails(*words: str) -> str:
    """What a command complains of; it must not end well."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode, f"{' '.join(words)}: {done.stdout}"
    return done.stderr


def fact(unit: str, name: str) -> str:
    """What systemd knows of the unit."""
    return sh("systemctl", "show", "--value", f"--property={name}", unit)


def pid(unit: str) -> int:
    """Its main process."""
    return int(fact(unit, "MainPID"))


def until(condition: Callable[[], Any], what: str) -> None:
    """Wait until it holds."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, f"not within {SECONDS} s: {what}"
        time.sleep(0.3)


def user(unit: str) -> int:
    """Whose process it is."""
    return Path(f"/proc/{pid(unit)}").stat().st_uid


def rights(unit: str) -> int:
    """The capabilities that its process has."""
    lines = Path(f"/proc/{pid(unit)}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("CapPrm")).split()[1], 16)


def refused() -> None:
    """Beside a daemon by hand, and with a port that is taken: the reason is told, and nothing of it stays."""
    sh("smartvpn", "init", "--endpoint", "192.0.2.1", "--subnet", "10.8.0.0/24")
    sh("smartvpn", "up")
    assert "listens on /var/run/smartvpn.sock already" in fails("smartvpn", "service", "install")
    sh("smartvpn", "down")
    with socket.create_server(("0.0.0.0", 8080)):
        told = fails("smartvpn", "service", "install")
    assert f"{HUB} does not start: cannot listen on 0.0.0.0:8080: Address already in use" in told, told
    assert fact(HUB, "LoadState") == "not-found"
    assert list(Path("/etc/systemd/system").glob(f"**/{HUB}")) == []


def installed() -> None:
    """The hub is active once it listens; a user of its own with two rights has the process and the socket."""
    print(sh("smartvpn", "service", "install"), flush=True)
    assert sh("systemctl", "is-active", HUB) == "active"
    assert sh("systemctl", "is-enabled", HUB) == "enabled"
    assert user(HUB) >= 61184  # the range of dynamic users
    assert SOCKET.stat().st_uid == user(HUB)
    assert rights(HUB) == 1 << 12 | 1 << 10
    sh("smartvpn", "client", "add", "alice")
    assert "0 connected of 1" in sh("smartvpn", "status")


def with_a_dashboard() -> None:
    """It runs as the hub's user without any right, commands the hub, and cannot see its keys."""
    print(sh("smartvpn", "service", "dashboard"), flush=True)
    assert sh("systemctl", "is-active", DASHBOARD) == "active"
    assert (user(DASHBOARD), rights(DASHBOARD)) == (user(HUB), 0)
    look = ("setpriv", f"--reuid={user(HUB)}", "--clear-groups", "head", "-c", "6")
    of_hub, of_dashboard = (("nsenter", "--mount", f"--target={pid(unit)}") for unit in (HUB, DASHBOARD))
    assert sh(*of_hub, *look, "/var/lib/smartvpn/registry.db") == "SQLite"
    assert sh(*of_dashboard, *look, "/proc/self/comm") == "head"
    for place in ("/var/lib/smartvpn/registry.db", "/var/lib/private/smartvpn/registry.db"):
        assert sh(*of_dashboard, *look, place, check=False) == ""
    token = Path("/var/lib/smartvpn-dashboard/dashboard.token").read_text().strip()
    opener = urllib.request.build_opener(
        urllib.request.HTTPCookieProcessor(), urllib.request.ProxyHandler({})
    )
    form = urllib.parse.urlencode({"token": token}).encode()
    opener.open("http://127.0.0.1:8787/login", form, timeout=SECONDS).close()
    with opener.open("http://127.0.0.1:8787/api/events", timeout=SECONDS) as events:
        pictures = (json.loads(line[6:]) for line in events if line.startswith(b"data: "))
        assert any(picture["registered"] == 1 for picture, _ in zip(pictures, range(20), strict=False))


def killed() -> None:
    """It comes back, with its clients; the dashboard goes on."""
    before = pid(HUB)
    os.kill(before, signal.SIGKILL)
    until(lambda: pid(HUB) not in (0, before) and fact(HUB, "ActiveState") == "active", "another process")
    assert fact(HUB, "NRestarts") == "1"
    assert "alice" in sh("smartvpn", "client", "list")
    assert sh("systemctl", "is-active", DASHBOARD) == "active"


def watched() -> None:
    """One that gives no sign of life is replaced; one that gives them is not."""
    extra = Path(f"/etc/systemd/system/{HUB}.d/watch.conf")
    extra.parent.mkdir()
    extra.write_text(SHORT_WATCH)
    sh("systemctl", "daemon-reload")
    sh("systemctl", "restart", HUB)
    before = pid(HUB)
    time.sleep(20)  # longer than the watchdog's time
    assert (pid(HUB), fact(HUB, "ActiveState")) == (before, "active")
    os.kill(before, signal.SIGSTOP)
    until(lambda: pid(HUB) not in (0, before) and fact(HUB, "ActiveState") == "active", "another process")
    extra.unlink()
    extra.parent.rmdir()


def with_a_client() -> None:
    """A client's service is active though its hub is not to be reached, and restarts as well."""
    client = ("smartvpn", "--socket", str(CLIENT_SOCKET))
    print(sh(*client, "service", "install", "alice.json"), flush=True)
    assert sh("systemctl", "is-active", CLIENT) == "active"
    assert rights(CLIENT) == 1 << 12 | 1 << 10
    until(CLIENT_SOCKET.exists, "the client's socket")
    before = pid(CLIENT)
    os.kill(before, signal.SIGKILL)
    until(
        lambda: pid(CLIENT) not in (0, before) and fact(CLIENT, "ActiveState") == "active", "another process"
    )


def removed() -> None:
    """Nothing of it is left but config and registry."""
    for mode, unit in (("dashboard", DASHBOARD), ("client", CLIENT), ("server", HUB)):
        print(sh("smartvpn", "service", "remove", "--mode", mode), flush=True)
        assert sh("systemctl", "is-active", unit, check=False) == "inactive"
        assert not Path(f"/etc/systemd/system/{unit}").exists()
    assert not SOCKET.exists()
    assert not CLIENT_SOCKET.exists()
    assert "smartvpn" not in sh("nft", "list", "tables")
    assert Path("/var/lib/private/smartvpn/registry.db").exists()


def main() -> int:
    """The exit status."""
    for step in (refused, installed, with_a_dashboard, killed, watched, with_a_client, removed):
        begun = time.monotonic()
        try:
            step()
        except Exception:
            traceback.print_exc()
            units = [f"--unit={unit}" for unit in (HUB, CLIENT, DASHBOARD)]
            print(sh("journalctl", "--no-pager", "--lines=60", *units, check=False))
            return 1
        print(f"{step.__name__}: {time.monotonic() - begun:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
