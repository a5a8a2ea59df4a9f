"""A daemon as a process: started in the background, found by its socket, ended."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import BinaryIO

from smartvpn.cli._errors import ExitCode, Failure
from smartvpn.commands import Mode
from smartvpn.installer import VpnInstaller

LOG_FOLDER = Path("/var/log")
_START_SECS = 30.0
_END_SECS = 30.0
_LOG_BYTES = 16 * 1024


def log_path(mode: Mode) -> Path:
    """Where a daemon in the background writes its log; launchd's unit has the same place."""
    return LOG_FOLDER / f"smartvpn-{mode}.log"


def unit_path(mode: Mode) -> Path:
    """Where the service's unit would be."""
    return Path(f"/etc/systemd/system/smartvpn-{mode}.service")


def ran(seconds: float, *command: str) -> subprocess.CompletedProcess[str]:
    """A service manager's command, ended. Raises Failure when it takes longer than that."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        shown = " ".join(command)
        raise Failure(
            f"`{shown}` did not end within {seconds:g} s",
            "it may still be at it: see `smartvpn logs` and `systemctl status`",
            ExitCode.UNREACHABLE,
        ) from None


def systemd_runs() -> bool:
    """Whether systemd is this machine's service manager (sd_booted(3))."""
    return VpnInstaller.detect_platform() == "linux" and Path("/run/systemd/system").is_dir()


def daemon_words(mode: Mode, socket_path: str) -> list[str]:
    """The command line of a daemon of this installation."""
    return [
        sys.executable,
        "-P",
        "-m",
        "smartvpn.daemon",
        "--mode",
        mode.value,
        "--management-socket",
        socket_path,
    ]


def start(mode: Mode, socket_path: str, log: Path) -> subprocess.Popen[bytes]:
    """A daemon in the background that listens on the socket, its log appended to the file."""
    with _opened(log) as file:
        before = file.tell()
        process = subprocess.Popen(
            daemon_words(mode, socket_path),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
    deadline = time.monotonic() + _START_SECS
    while not listens(socket_path):
        if process.poll() is not None:
            raise Failure(_last_words(log, before), f"see {log}")
        if time.monotonic() > deadline:
            process.terminate()
            raise Failure(f"the daemon did not listen within {_START_SECS:g} s", f"see {log}")
        time.sleep(0.02)
    return process


def _opened(log: Path) -> BinaryIO:
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    file = os.fdopen(handle, "ab")
    file.seek(0, os.SEEK_END)
    return file


def _last_words(log: Path, before: int) -> str:
    with log.open("rb") as file:
        file.seek(max(before, log.stat().st_size - _LOG_BYTES))
        lines = file.read().decode("utf-8", "replace").splitlines()
    return lines[-1].removeprefix("smartvpn_daemon: ") if lines else "the daemon ended without a word"


def end(process: subprocess.Popen[bytes]) -> None:
    """End a daemon of ours, and wait for it."""
    process.terminate()
    try:
        process.wait(_END_SECS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def listens(socket_path: str) -> bool:
    """Whether a daemon listens on the path."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(socket_path) == 0


def end_listener(socket_path: str) -> int:
    """End the daemon that listens on the path, whoever started it; its process id.

    The kernel says which process that is (SO_PEERCRED), and a pidfd keeps it from being another
    by the time of the signal.
    """
    pid = _listener(socket_path)
    if pid == 1 and systemd_runs():
        raise Failure(
            "systemd holds the socket for a daemon that it has not started",
            "stop its socket unit with `systemctl stop`",
            ExitCode.CONFLICT,
        )
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return pid
    try:
        if _listener(socket_path) != pid:
            raise Failure("another daemon took the socket's place just now", "try again", ExitCode.CONFLICT)
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        if not select.select([handle], [], [], _END_SECS)[0]:
            raise Failure(f"the daemon (pid {pid}) does not end", f"end it with `kill -9 {pid}`")
    finally:
        os.close(handle)
    return pid


def _listener(socket_path: str) -> int:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(socket_path)
        except PermissionError:
            raise Failure(
                f"no permission to connect to {socket_path}", "run it as root (sudo)", ExitCode.PERMISSION
            ) from None
        except OSError:
            raise Failure(
                f"no daemon listens on {socket_path}", "nothing is to be ended", ExitCode.UNREACHABLE
            ) from None
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", credentials)[0]
    if pid == 0:
        raise Failure("the daemon runs in another process namespace", "end it there", ExitCode.UNREACHABLE)
    return pid
