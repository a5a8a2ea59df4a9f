"""VpnBridge with real daemons: over pipes and over sockets, and when they fail."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from smartvpn import (
    ConfigError,
    InvalidStateError,
    UnknownMethodError,
    UnreachableError,
    VpnBridge,
    VpnTimeoutError,
)
from smartvpn.events import Exited, Reconnected

DAEMON = (sys.executable, "-m", "smartvpn.daemon")
STDIO = {"transport": "stdio"}


@asynccontextmanager
async def socket_daemon(path: Path, mode: str = "server") -> AsyncIterator[asyncio.subprocess.Process]:
    """A daemon on a Unix socket, ended by SIGTERM."""
    command = (*DAEMON, "--management-socket", str(path), "--mode", mode)
    process = await asyncio.create_subprocess_exec(*command)
    try:
        async with asyncio.timeout(20):
            while not os.access(path, os.F_OK):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the daemon's socket is."""
    return tmp_path / "smartvpn.sock"


async def test_stdio_starts_and_ends_a_daemon() -> None:
    """`start` spawns it, twice is the same, `stop` ends it, and it can be started again."""
    bridge = VpnBridge("server", STDIO)
    assert not bridge.running
    for _ in range(2):
        await bridge.start()
        pid = bridge.pid
        assert pid is not None
        await bridge.start()
        assert bridge.pid == pid
        pair = await bridge.request("generateKeypair")
        assert len(pair.public_key) == 44
        await bridge.stop()
        assert not bridge.running
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_many_requests_at_once() -> None:
    """Answers find their requests, however many are on their way."""
    async with VpnBridge("client", STDIO) as bridge:
        pairs = await asyncio.gather(*(bridge.request("generateKeypair") for _ in range(500)))
        assert len({pair.private_key for pair in pairs}) == 500


async def test_a_socket_is_attached_to_and_left(path: Path) -> None:
    """Over a socket `stop` only closes the connection: the daemon lives on for others."""
    async with socket_daemon(path) as process:
        async with VpnBridge("server", {"transport": "socket", "socketPath": path}) as bridge:
            assert bridge.pid is None
            await bridge.request("generateKeypair")
        async with VpnBridge("server", {"transport": "socket", "socket_path": str(path)}) as bridge:
            await bridge.request("getStatus")
        assert process.returncode is None


async def test_no_daemon_is_told(path: Path) -> None:
    """No socket, or a program that is not there: an error that names it; nothing is spawned."""
    with pytest.raises(UnreachableError, match=r"smartvpn\.sock"):
        await VpnBridge("server", {"transport": "socket", "socketPath": str(path)}).start()
    with pytest.raises(UnreachableError, match="/nonexistent/daemon"):
        await VpnBridge("server", STDIO, command=["/nonexistent/daemon"]).start()


async def test_a_program_that_ends_at_once_is_told() -> None:
    """What it said last and its status are in the error."""
    command = (sys.executable, "-c", "import sys; sys.exit('no TUN here')")
    with pytest.raises(UnreachableError, match="status 1: no TUN here"):
        await VpnBridge("server", STDIO, command=command).start()


async def test_the_other_mode_is_refused(path: Path) -> None:
    """A client's bridge does not take a server's daemon."""
    async with socket_daemon(path, "server"):
        with pytest.raises(InvalidStateError, match="server mode, not in client mode"):
            await VpnBridge("client", {"transport": "socket", "socketPath": str(path)}).start()


async def test_before_start_and_after_stop() -> None:
    """Requests without a daemon are refused in words."""
    bridge = VpnBridge("server", STDIO)
    with pytest.raises(InvalidStateError, match="not started"):
        await bridge.request("getStatus")
    await bridge.start()
    await bridge.stop()
    with pytest.raises(InvalidStateError, match="not started"):
        await bridge.request("getStatus")


async def test_wrong_requests() -> None:
    """An unknown method, a method of the other mode, wrong params: told before anything is sent."""
    bridge = VpnBridge("server", STDIO)
    for method in ("fly", "connect"):
        with pytest.raises(UnknownMethodError, match=method):
            await bridge.request(method)
    with pytest.raises(ConfigError, match="clientId"):
        await bridge.request("getClient", 5)
    with pytest.raises(TypeError):
        await bridge.request("getClient", "a", "b", "c")


async def test_a_killed_daemon_fails_what_waits() -> None:
    """kill -9: the request that waits fails, `exit` tells the signal, and a new start works."""
    bridge = VpnBridge("server", STDIO)
    await bridge.start()
    events = bridge.events()
    assert bridge.pid is not None
    os.kill(bridge.pid, signal.SIGSTOP)
    waiting = asyncio.create_task(bridge.request("generateKeypair"))
    await asyncio.sleep(0.05)
    os.kill(bridge.pid, signal.SIGKILL)
    with pytest.raises(UnreachableError, match="SIGKILL"):
        await waiting
    async with asyncio.timeout(5):
        assert await anext(events) == Exited(code=None, signal=signal.SIGKILL)
    assert not bridge.running
    await bridge.start()
    await bridge.request("generateKeypair")
    await bridge.stop()


async def test_a_daemon_that_does_not_answer_is_a_timeout() -> None:
    """After the seconds that were given; a late answer confuses nobody."""
    async with VpnBridge("server", STDIO) as bridge:
        assert bridge.pid is not None
        os.kill(bridge.pid, signal.SIGSTOP)
        with pytest.raises(VpnTimeoutError, match="generateKeypair"):
            await bridge.request("generateKeypair", timeout=0.2)
        os.kill(bridge.pid, signal.SIGCONT)
        assert (await bridge.request("getStatus")).state == "disconnected"


async def test_a_lost_socket_is_attached_to_again(path: Path) -> None:
    """With autoReconnect: requests fail while it is away, `reconnected` tells when it is back."""
    options = {
        "transport": "socket",
        "socketPath": str(path),
        "autoReconnect": True,
        "reconnectBaseDelayMs": 50,
        "reconnectMaxDelayMs": 200,
        "maxReconnectAttempts": 100,
    }
    async with socket_daemon(path):
        bridge = VpnBridge("server", options)
        await bridge.start()
        events = bridge.events()
    with pytest.raises(UnreachableError, match="tried again"):
        await bridge.request("getStatus")
    async with socket_daemon(path), asyncio.timeout(20):
        assert await anext(events) == Reconnected()
        await bridge.request("getStatus")
        await bridge.stop()
    assert await anext(events, None) is None


async def test_a_socket_is_given_up(path: Path) -> None:
    """Without autoReconnect, or after the last attempt, `exit` is all there is."""
    for more in ({}, {"autoReconnect": True, "maxReconnectAttempts": 2, "reconnectBaseDelayMs": 10}):
        async with socket_daemon(path):
            bridge = VpnBridge("server", {"transport": "socket", "socketPath": str(path)} | more)
            await bridge.start()
            events = bridge.events()
        async with asyncio.timeout(10):
            assert await anext(events) == Exited()
        with pytest.raises(InvalidStateError, match="not started"):
            await bridge.request("getStatus")
        await bridge.stop()


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({}, "transport"),
        ({"transport": "smoke"}, "transport"),
        ({"transport": "socket"}, "socketPath"),
        ({"transport": "socket", "socketPath": ""}, "socketPath"),
        ({"transport": "socket", "socketPath": "/x", "reconnectBaseDelayMs": 0}, "reconnectBaseDelayMs"),
        ({"transport": "socket", "socketPath": "/x", "retries": 1}, "retries"),
        ({"transport": "stdio", "socketPath": "/x"}, "socketPath"),
        (None, "transport"),
    ],
)
def test_wrong_transports_are_named(options: Any, field: str) -> None:
    """ConfigError with the option's name."""
    with pytest.raises(ConfigError, match=field):
        VpnBridge("server", options)


def test_unknown_events_are_refused() -> None:
    """A name no event has, and a coroutine function as callback."""
    bridge = VpnBridge("server", STDIO)
    with pytest.raises(ConfigError, match="event"):
        bridge.on("rain", print)

    async def coroutine(event: object) -> None:
        del event

    with pytest.raises(TypeError):
        bridge.on("status", coroutine)
