"""The C library without Python: the example programs, built by what pkg-config says, in real tunnels."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from smartvpn.config import ClientConfig
from smartvpn.types import Keypair
from tests.c_library import build_example, install
from tests.netns.topology import HUB_INTERNET, HUB_OUTER, Topology
from tests.netns.tunnel import GATEWAY, answers, hub_on


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the built programs."""
    folder = tmp_path_factory.mktemp("examples")
    installed = install(folder / "root")
    for name in ("client", "hub", "wireguard"):
        build_example(installed, name, folder)
    return folder


@contextmanager
def running(machine: Topology, role: str, private_key: str, *command: str) -> Iterator[subprocess.Popen[Any]]:
    """A program with its key on stdin; ended by Ctrl-C, which it takes with status 0."""
    process = machine.popen(role, *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
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


@contextmanager
def client(
    machine: Topology, programs: Path, config: ClientConfig, private_key: str
) -> Iterator[subprocess.Popen[Any]]:
    """The client's example on the client's machine."""
    command = (str(programs / "client"), str(config.server_url), config.server_public_key)
    with running(machine, "client", private_key, *command) as process:
        yield process


async def test_a_tunnel_from_c(topology: Topology, programs: Path) -> None:
    """The program is told its address, its packets cross, and the hub sees it end."""
    async with hub_on(topology) as server:
        bundle = await server.create_client("alice")
        config = bundle.smartvpn_config
        with client(topology, programs, config, bundle.secrets.noise_private_key) as process:
            settings = (await asyncio.to_thread(line_with, process, "settings: ")).split()
            device, address = settings[2], settings[4]
            topology.run("client", "ip", "address", "add", address, "dev", device)
            assert await answers(topology, GATEWAY)
            assert len(await server.list_clients()) == 1
        assert await server.list_clients() == []


async def test_an_unknown_key_is_told(topology: Topology, programs: Path) -> None:
    """A client that the hub does not know tries on, and says why it does not get in."""
    async with hub_on(topology) as server:
        bundle = await server.create_client("alice")
        await server.remove_client("alice")
        with client(topology, programs, bundle.smartvpn_config, bundle.secrets.noise_private_key) as process:
            line = await asyncio.to_thread(line_with, process, "state: connecting: ")
            assert "it does not know this client's key" in line


def own_address(machine: Topology, role: str, device: str, address: str) -> None:
    """What is left to the program's user: the address of the device."""
    machine.run(role, "ip", "address", "add", address, "dev", device)
    machine.run(role, "ip", "link", "set", device, "up")


async def test_a_hub_with_two_clients_in_c(topology: Topology, programs: Path) -> None:
    """Both get in with the keys that were named, reach the hub and each other; packets are counted."""
    hub, alice, bob = Keypair.generate(), Keypair.generate(), Keypair.generate()
    topology.run("internet", "ip", "route", "add", "10.99.0.0/24", "via", HUB_INTERNET)
    named = (f"alice={alice.public_key}", f"bob={bob.public_key}")
    command = (str(programs / "hub"), f"{HUB_OUTER}:7443", "10.8.0.0/24", *named)
    peer = (str(programs / "client"), f"ws://{HUB_OUTER}:7443/", hub.public_key)
    with running(topology, "hub", hub.private_key, *command) as server:
        assert line_with(server, "client: alice") == "client: alice 10.8.0.2"
        own_address(topology, "hub", line_with(server, "listening: port 7443").split()[-1], "10.8.0.1/24")
        with (
            running(topology, "client", alice.private_key, *peer) as one,
            running(topology, "internet", bob.private_key, *peer) as other,
        ):
            for process, role in ((one, "client"), (other, "internet")):
                settings = line_with(process, "settings: ").split()
                own_address(topology, role, settings[2], settings[4])
            started = {line_with(server, "started: ") for _ in range(2)}
            assert started == {"started: alice", "started: bob"}
            assert await answers(topology, GATEWAY)
            assert await answers(topology, "10.8.0.3")
        server.send_signal(signal.SIGINT)
        carried = [int(word) for word in line_with(server, "carried: ").split() if word.isdecimal()]
        assert all(count >= 6 for count in carried)


async def test_a_wireguard_device_in_c(topology: Topology, programs: Path) -> None:
    """Two of them, one of which knows where the other is: a handshake, packets both ways, bytes counted."""
    one, other = Keypair.generate(), Keypair.generate()
    program = str(programs / "wireguard")
    first = (program, "51820", other.public_key, "10.9.0.2/32")
    second = (program, "51820", one.public_key, "10.9.0.1/32", f"{HUB_OUTER}:51820")
    with running(topology, "hub", one.private_key, *first) as hub:
        own_address(topology, "hub", line_with(hub, "device: ").split()[-1], "10.9.0.1/24")
        with running(topology, "client", other.private_key, *second) as client:
            own_address(topology, "client", line_with(client, "device: ").split()[-1], "10.9.0.2/24")
            assert line_with(client, "state: connected")
            assert await answers(topology, "10.9.0.1")
            assert await answers(topology, "10.9.0.2", "hub")
        hub.send_signal(signal.SIGINT)
        assert int(line_with(hub, "rx_bytes=").partition("=")[2]) > 6 * 84


@pytest.mark.parametrize(
    ("name", "arguments", "key", "words"),
    [
        ("hub", ("127.0.0.1:0", "10.8.0.0/24", "alice"), None, "a client is NAME=PUBLIC_KEY"),
        ("hub", ("nowhere", "10.8.0.0/24", "a=b"), None, "listen"),
        ("hub", ("127.0.0.1:0", "10.8.0.0/24", "a=b"), "short", "no key in base64"),
        ("client", ("ws://127.0.0.1:1/", "x"), None, "SERVER_PUBLIC_KEY is no key in base64"),
        ("wireguard", ("99999", "x", "10.0.0.0/8"), None, "not 32 bytes in base64"),
        ("wireguard", (), None, "usage: wireguard"),
    ],
)
def test_wrong_arguments(
    topology: Topology, programs: Path, name: str, arguments: tuple[str, ...], key: str | None, words: str
) -> None:
    """One line that says which, status 1."""
    done = subprocess.run(
        topology.command("hub", str(programs / name), *arguments),
        input=f"{key or Keypair.generate().private_key}\n",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert words in done.stderr.splitlines()[-1]
