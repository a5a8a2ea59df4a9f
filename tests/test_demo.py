"""`make run`: what it shows, and that nothing of it stays behind, however it ends."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.netns.topology import ROLES

ROOT = Path(__file__).parents[1]
PATIENCE = 120.0


@contextmanager
def demonstration(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The program in a session of its own, as under a terminal; its temporary files go to `folder`."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "examples.demo"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()


def read_until(process: subprocess.Popen[bytes], words: bytes) -> bytes:
    """The program's output up to and including `words`, or to its end."""
    assert process.stdout is not None
    output, until = b"", time.monotonic() + PATIENCE
    while words not in output:
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, until - time.monotonic()))
        assert ready, f"{words!r} did not come: {output!r}"
        got = os.read(process.stdout.fileno(), 65536)
        if not got:
            break
        output += got
    return output


def machines_of(pid: int) -> list[str]:
    """The namespaces that stand for its machines and are there."""
    present = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    names = [f"smartvpn-{pid}-0-{role}" for role in ROLES]
    return [name for name in names if re.search(rf"^{name}\b", present, re.MULTILINE)]


def programs_in(machines: list[str]) -> list[str]:
    """The processes that run on those machines."""
    found = []
    for name in machines:
        command = ["ip", "netns", "pids", name]
        found += subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return found


def is_running(pid: str) -> bool:
    """Whether the process is there, and not only its entry that nobody has collected yet."""
    try:
        state = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def nothing_is_left(pid: int, programs: list[str], folder: Path) -> None:
    """No namespace, no process, no file."""
    until = time.monotonic() + 10
    while any(is_running(one) for one in programs) and time.monotonic() < until:
        time.sleep(0.05)  # they are killed, and need a moment to be gone
    assert [one for one in programs if is_running(one)] == []
    assert machines_of(pid) == []
    assert list(folder.iterdir()) == []
    assert list(Path("/etc/netns").glob(f"smartvpn-{pid}-*")) == []


@pytest.mark.long(20)
def test_it_shows_the_main_job(tmp_path: Path) -> None:
    """A client is made, comes in, reaches the internet as the hub, and every figure is told."""
    with demonstration(tmp_path) as process:
        output = read_until(process, b"nothing is left behind").decode()
        assert process.wait(30) == 0
    assert re.search(r"connected +10\.8\.0\.2 over websocket, MTU 1420", output)
    assert re.search(r"reached +10\.99\.1\.2 on the internet, which saw 10\.99\.1\.1 ", output)
    assert float(re.search(r"handshake +([\d.]+) ms", output)[1]) > 0  # type: ignore[index]
    assert re.search(r"round trip +[\d.]+ ms through the tunnel, [\d.]+ ms without", output)
    rates = re.search(r"one TCP flow +([\d.]+) Gbit/s up, ([\d.]+) Gbit/s down", output)
    assert rates is not None
    assert min(float(rates[1]), float(rates[2])) > 0
    assert "link quality" in output
    nothing_is_left(process.pid, [], tmp_path)


@pytest.mark.parametrize("moment", [b"created", b"connected", b"upload"])
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path, moment: bytes) -> None:
    """The terminal's interrupt goes to every program at once; all are gone then, and their machines too."""
    with demonstration(tmp_path) as process:
        if moment == b"upload":
            read_until(process, b"reached")  # a flow follows at once; its bar is for terminals only
        else:
            read_until(process, moment)
        programs = programs_in(machines_of(process.pid))
        assert programs
        os.killpg(process.pid, signal.SIGINT)
        assert b"stopped" in read_until(process, b"stopped")
        assert process.wait(30) == 130
    nothing_is_left(process.pid, programs, tmp_path)
