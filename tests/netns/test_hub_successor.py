"""A hub killed with -9 and its successor: connections through its NAT go on, and nothing else is left."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.netns.state import state
from tests.netns.test_commands import daemon_on, machine_prefix
from tests.netns.topology import INTERNET, INTERNET6, Topology
from tests.netns.tunnel import TUN, eventually, hub_config
from tests.raw import DaemonProcess, Lines

# A daemon that waits another time for its start, and whose start may take long.
DAEMON = """
import asyncio, sys
from smartvpn import _leftovers, daemon
from smartvpn.hub._running import Running
_leftovers.HEIR_SECS, slowness = {wait}, {slowness}
load = Running._load
async def load_slowly(self):
    await asyncio.sleep(slowness)
    await load(self)
Running._load = load_slowly
sys.exit(daemon.main())
"""
LONG = 600.0

# A server that sends what it is told to and waits for the echo, and sends datagrams all the time.
SERVER = """
import socket, sys, threading, time
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
datagrams = socket.socket(family, socket.SOCK_DGRAM)
datagrams.bind((sys.argv[1], 9))
def tick():
    peer = datagrams.recvfrom(100)[1]
    while True:
        try:
            datagrams.sendto(b"tick", peer)
        except OSError:  # told to be unreachable
            pass
        time.sleep(0.001)
threading.Thread(target=tick, daemon=True).start()
with socket.create_server((sys.argv[1], 9), family=family) as listener:
    print("ready", flush=True)
    connection = listener.accept()[0]
echo = connection.makefile()
for line in sys.stdin:
    connection.sendall(line.encode())
    print(echo.readline(), end="", flush=True)
"""
CLIENT = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
datagrams = socket.socket(family, socket.SOCK_DGRAM)
datagrams.connect((sys.argv[1], 9))
datagrams.send(b"begin")
datagrams.recv(100)
connection = socket.create_connection((sys.argv[1], 9))
while data := connection.recv(100):
    connection.sendall(data)
"""
# What comes for translated connections and is taken for the hub's own.
WATCH = """
add table inet watch
add chain inet watch in { type filter hook input priority 0; }
add rule inet watch in iifname "internet" meta l4proto { tcp, udp } counter
"""


class Flow:
    """A connection of the client's, through the tunnel and the hub's NAT, whose server sends."""

    def __init__(self, machine: Topology, target: str) -> None:
        self._machine = machine
        machine.run("hub", "nft", WATCH)
        server = machine.popen(
            "internet",
            sys.executable,
            "-c",
            SERVER,
            target,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert server.stdin is not None
        assert server.stdout is not None
        self._lines = Lines(server.stdout.fileno(), server.stdin.fileno())
        assert self._lines.line() == b"ready"
        machine.popen("client", sys.executable, "-c", CLIENT, target)

    def send(self, text: bytes) -> None:
        """The server sends a line."""
        self._lines.write(text + b"\n")

    def echo(self) -> bytes | None:
        """The client's answer to it; None if the connection has ended."""
        return self._lines.line()

    def retransmissions(self) -> int:
        """How often segments were sent again by the server's machine."""
        names, values = re.findall("^Tcp: (.*)$", self._read("internet", "/proc/net/snmp"), re.MULTILINE)
        return int(dict(zip(names.split(), values.split(), strict=True))["RetransSegs"])

    def taken_for_the_hubs(self) -> int:
        """How many packets came to the hub itself."""
        listed = self._machine.run("hub", "nft", "list", "chain", "inet", "watch", "in").stdout
        return int(re.findall(r"packets (\d+)", listed)[0])

    def _read(self, role: str, path: str) -> str:
        return self._machine.run(role, "cat", path).stdout


def hub_daemon(
    machine: Topology, *more: str, wait: float = LONG, slowness: float = 0, name: str = TUN
) -> DaemonProcess:
    """A daemon on the hub's machine that is ready; it waits so long for its start."""
    program = (sys.executable, "-P", "-c", DAEMON.format(wait=wait, slowness=slowness))
    arguments = ("--management", "--mode", "server", "--tun-name", name, *more)
    daemon = DaemonProcess(*arguments, prefix=machine_prefix(machine, "hub"), program=program)
    assert daemon.lines.receive()["event"] == "ready"
    return daemon


def die(daemon: DaemonProcess) -> None:
    """As kill -9."""
    assert daemon.signal(signal.SIGKILL) == -signal.SIGKILL


def connected(client: DaemonProcess, hub: DaemonProcess) -> None:
    """A new client of the hub, and its tunnel."""
    bundle = hub.lines.result("createClient", {"clientId": "alice"})
    client.lines.result("connect", bundle["smartvpnConfig"])


@pytest.mark.parametrize("target", [INTERNET, INTERNET6])
@pytest.mark.parametrize("deaths", [1, 2])
async def test_connections_outlive_it(topology: Topology, tmp_path: Path, target: str, deaths: int) -> None:
    """Killed, and once more before its start: what a server sends meanwhile arrives in the end."""
    config = hub_config(registry=str(tmp_path / "registry.db"), enableNat=True)
    with daemon_on(topology, "client", "client") as client:
        with hub_daemon(topology) as hub:
            hub.lines.result("start", config)
            connected(client, hub)
            flow = Flow(topology, target)
            flow.send(b"before")
            assert flow.echo() == b"before"
            die(hub)
        for _ in range(deaths - 1):
            with hub_daemon(topology) as hub:
                die(hub)
        with hub_daemon(topology) as hub:
            before = flow.retransmissions()
            flow.send(b"meanwhile")
            await eventually(lambda: asyncio.to_thread(lambda: flow.retransmissions() > before))
            hub.lines.result("start", config)
            assert flow.echo() == b"meanwhile"
            flow.send(b"after")
            assert flow.echo() == b"after"
            assert flow.taken_for_the_hubs() == 0
            assert hub.errors.count(f"put right what was left of {TUN}") == 1


async def test_a_start_that_takes_longer_than_the_wait(topology: Topology, tmp_path: Path) -> None:
    """Once it is under way, nothing is put back before its end."""
    config = hub_config(registry=str(tmp_path / "registry.db"), enableNat=True)
    with daemon_on(topology, "client", "client") as client:
        with hub_daemon(topology) as hub:
            hub.lines.result("start", config)
            connected(client, hub)
            flow = Flow(topology, INTERNET)
            flow.send(b"before")
            assert flow.echo() == b"before"
            die(hub)
        with hub_daemon(topology, wait=2, slowness=4) as hub:
            hub.lines.result("start", config)
            flow.send(b"after")
            assert flow.echo() == b"after"
            assert flow.taken_for_the_hubs() == 0


@pytest.mark.parametrize("mode", ["websocket", "quic", "wireguard"])
async def test_clients_that_come_before_it_knows_them(topology: Topology, tmp_path: Path, mode: str) -> None:
    """While a hub reads its registry it listens already: who comes waits, instead of being a stranger."""
    config = hub_config(registry=str(tmp_path / "registry.db"), transportMode=mode, wgListenPort=7443)
    with hub_daemon(topology) as hub:
        hub.lines.result("start", config)
        bundle = hub.lines.result("createClient", {"clientId": "alice"})
        die(hub)

    async def listens() -> bool:
        kind = "-ltn" if mode == "websocket" else "-lun"
        return ":7443" in (await asyncio.to_thread(topology.run, "hub", "ss", kind)).stdout

    with hub_daemon(topology, slowness=2) as hub, daemon_on(topology, "client", "client") as client:
        hub.lines.send(id="start", method="start", params=config)
        await eventually(listens)
        client.lines.result("connect", bundle["smartvpnConfig"])
        assert hub.lines.answer()["success"] is True
        assert "closed: an unknown key" not in hub.errors


def killed(topology: Topology, **changes: Any) -> None:
    """A hub with NAT that is not among the living."""
    before = state(topology, "hub")
    with hub_daemon(topology) as hub:
        hub.lines.result("start", hub_config(enableNat=True, **changes))
        die(hub)
    assert state(topology, "hub") != before


async def test_no_start_comes(topology: Topology) -> None:
    """After the wait all is put right, once, and the daemon goes on."""
    before = state(topology, "hub")
    killed(topology)
    with hub_daemon(topology, wait=0.5) as heir:
        assert f"put right what was left of {TUN}" in heir.errors
        await eventually(lambda: asyncio.to_thread(lambda: state(topology, "hub") == before))
        heir.lines.result("start", hub_config(enableNat=True))
        heir.lines.result("stop")
        assert state(topology, "hub") == before
        assert heir.end() == 0
        assert heir.errors.count("put right") == 1
    assert state(topology, "hub") == before


@pytest.mark.parametrize("number", [None, signal.SIGTERM, signal.SIGINT])
def test_the_successor_ends_without_a_start(topology: Topology, number: signal.Signals | None) -> None:
    """By the end of its input or by a signal: it leaves nothing; killed, it leaves it to the next one."""
    before = state(topology, "hub")
    killed(topology)
    with hub_daemon(topology) as heir:
        die(heir)
    with hub_daemon(topology) as heir:
        assert (heir.end() if number is None else heir.signal(number)) == 0
    assert state(topology, "hub") == before


def test_a_start_that_fails(topology: Topology) -> None:
    """What waits for the next one waits on; at the end it is put right."""
    before = state(topology, "hub")
    killed(topology)
    with hub_daemon(topology) as heir:
        waiting = state(topology, "hub")
        assert waiting["nftables"] != before["nftables"]
        _, error = heir.lines.refusal("start", hub_config(enableNat=True, listenAddr="192.0.2.1:7443"))
        assert "cannot listen on 192.0.2.1:7443" in error
        assert state(topology, "hub") == waiting
        assert heir.end() == 0
    assert state(topology, "hub") == before


@pytest.mark.parametrize("name", [TUN, "other0"])
@pytest.mark.parametrize(
    "config", [{}, {"subnet6": None}, {"subnet": "10.9.0.0/24", "enableNat": True, "allowHostAccess": False}]
)
async def test_another_config(topology: Topology, config: dict[str, Any], name: str) -> None:
    """The successor has what its own config says, as on a machine where nobody died, and nothing else."""
    before = state(topology, "hub")
    config = hub_config(**config)
    with hub_daemon(topology, name=name) as hub:
        hub.lines.result("start", config)
        expected = state(topology, "hub")
        assert hub.end() == 0
    killed(topology)
    with hub_daemon(topology, wait=3 if name != TUN else LONG, name=name) as heir:
        heir.lines.result("start", config)
        await eventually(lambda: asyncio.to_thread(lambda: state(topology, "hub") == expected))
        assert heir.end() == 0
    assert state(topology, "hub") == before


def test_a_client_in_its_place(topology: Topology) -> None:
    """It is no successor: when it is ready, nothing of the hub is left."""
    before = state(topology, "hub")
    killed(topology)
    with daemon_on(topology, "hub", "client") as client:
        assert client.lines.receive()["event"] == "ready"
        assert state(topology, "hub") == before
        assert f"put right what was left of {TUN}" in client.errors
