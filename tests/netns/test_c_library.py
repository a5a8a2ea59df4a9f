"""The C library without Python: the example program against a real hub."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import Any

from smartvpn.config import ClientConfig
from tests.netns.topology import Topology
from tests.netns.tunnel import GATEWAY, answers, hub_on

PROGRAM = Path(__file__).parents[2] / "build" / "examples" / "client"


@contextmanager
def example(machine: Topology, config: ClientConfig, private_key: str) -> Iterator[subprocess.Popen[Any]]:
    """The example on the client's machine; ended by Ctrl-C."""
    url, key = config.server_url, config.server_public_key
    process = machine.popen(
        "client", str(PROGRAM), url, key, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    process.stdin.write(private_key + "\n")
    process.stdin.close()
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


def line_with(process: subprocess.Popen[Any], start: str) -> str:
    """The next line that begins so; waits 20 s at most."""
    assert process.stdout is not None
    timer = Timer(20, process.kill)
    timer.start()
    try:
        return _line_with(process.stdout, start)
    finally:
        timer.cancel()


def _line_with(lines: Iterable[str], start: str) -> str:
    for line in lines:
        if line.startswith(start):
            return line.strip()
    raise AssertionError(f"the program ended without a line '{start}'")


async def test_a_tunnel_from_c(topology: Topology) -> None:
    """The program is told its address, its packets cross, and the hub sees it end."""
    async with hub_on(topology) as server:
        bundle = await server.create_client("alice")
        config = bundle.smartvpn_config
        with example(topology, config, bundle.secrets.noise_private_key) as process:
            settings = (await asyncio.to_thread(line_with, process, "settings: ")).split()
            device, address = settings[2], settings[4]
            topology.run("client", "ip", "address", "add", address, "dev", device)
            assert await answers(topology, GATEWAY)
            assert len(await server.list_clients()) == 1
        assert await server.list_clients() == []


async def test_an_unknown_key_is_told(topology: Topology) -> None:
    """A client that the hub does not know tries on, and says why it does not get in."""
    async with hub_on(topology) as server:
        bundle = await server.create_client("alice")
        await server.remove_client("alice")
        with example(topology, bundle.smartvpn_config, bundle.secrets.noise_private_key) as process:
            line = await asyncio.to_thread(line_with, process, "state: connecting: ")
            assert "it does not know this client's key" in line
