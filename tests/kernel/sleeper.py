"""What runs in the machine that suspend.py puts to sleep: clients, and what goes through their tunnels.

It reads requests from a serial line, a JSON object each, and answers in the same way. Every client has a
network namespace with one of the machine's cards.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import io
import itertools
import json
import os
import socket
import struct
import subprocess
import sys
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smartvpn.client import VpnClient
from smartvpn.events import StatusChanged
from smartvpn.types import TunnelState

SERIAL = Path("/dev/ttyS1")
OPT = "/opt/smartvpn"
GATEWAY, PORT = "10.8.0.1", 9
NETWORKS_SERVERS = "nameserver 192.0.2.53\n"
ALARM = Path("/sys/class/rtc/rtc0/wakealarm")
CLONE_NEWNET = 0x40000000
AWAY = 2.0  # s from waking up to the network's return
PATIENCE = 40.0  # s from then on; emulated programs are slow
STEADY = 5.0  # s: so long nothing may change when all is back


def sh(text: str) -> None:
    """A command that must end well."""
    subprocess.run(text.split(), check=True)


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """What this thread opens belongs to the namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as home, Path("/run/netns", namespace).open() as there:
        if libc.setns(there.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        try:
            yield
        finally:
            libc.setns(home.fileno(), CLONE_NEWNET)


def slept() -> float:
    """How long the machine has slept since it was started, s."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


def suspend(seconds: int) -> float:
    """Put the machine to sleep; the time at which it woke up. 0 s: until somebody wakes it."""
    ALARM.write_text("0")
    if seconds:
        ALARM.write_text(f"+{seconds}")
    Path("/sys/power/state").write_text("mem")
    return time.monotonic()


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


class Pings:
    """An echo request every 50 ms."""

    def __init__(self, number: int) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self._socket.setblocking(False)
        self._id = number
        self._sent: dict[int, float] = {}
        self.answered = 0.0  # when the newest that was answered was sent
        self.heard = 0.0  # and when its answer came

    async def send(self) -> None:
        """For ever; what cannot be sent now is lost."""
        for number in itertools.cycle(range(0x10000)):
            body = struct.pack("!HH8x", self._id, number)
            head = struct.pack("!BBH", 8, 0, checksum(b"\x08\0\0\0" + body))
            self._sent[number] = time.monotonic()
            with contextlib.suppress(OSError):
                self._socket.sendto(head + body, (GATEWAY, 0))
            await asyncio.sleep(0.05)

    async def receive(self) -> None:
        """For ever."""
        while True:
            packet = await asyncio.get_running_loop().sock_recv(self._socket, 200)
            kind, _, _, found, number = struct.unpack_from("!BBHHH", packet, 20)
            if kind == 0 and found == self._id and self._sent.get(number, 0) > self.answered:
                self.answered, self.heard = self._sent[number], time.monotonic()


class Talk:
    """A TCP connection that asks ten times a second, and waits for every answer."""

    def __init__(self) -> None:
        self._socket = socket.create_connection((GATEWAY, PORT), 20)
        self._socket.setblocking(False)
        self.heard = 0.0

    async def go_on(self) -> None:
        """Until the connection ends, which is an error."""
        loop = asyncio.get_running_loop()
        for number in itertools.count():
            words = b"%08d" % number
            await loop.sock_sendall(self._socket, words)
            answer = await loop.sock_recv(self._socket, 8)
            if answer != words:
                raise ConnectionError("the connection has ended")
            self.heard = time.monotonic()
            await asyncio.sleep(0.1)


class Sleeper:
    """A client in its namespace, and what goes through its tunnel."""

    def __init__(self, name: str, number: int) -> None:
        self.name, self._number = name, number
        self._resolv_conf = Path("/etc/netns", name, "resolv.conf")
        self._join()
        environment = [f"PYTHONPATH={OPT}", f"STATE_DIRECTORY=/var/lib/{name}"]
        daemon = ["-m", "smartvpn.daemon", "--management", "--mode", "client"]
        command = ["ip", "netns", "exec", name, "env", *environment, sys.executable, *daemon]
        self.client = VpnClient({"transport": "stdio"}, command=command)
        self._states: list[tuple[float, TunnelState]] = []
        self._tasks: list[asyncio.Task[None]] = []

    def _join(self) -> None:
        """The namespace with its card, which is told by its hardware address."""
        cards = Path("/sys/class/net").glob("*/address")
        [card] = [card for card in cards if card.read_text().endswith(f":{self._number:02x}\n")]
        self._resolv_conf.parent.mkdir(parents=True)
        self._resolv_conf.write_text(NETWORKS_SERVERS)
        net = f"10.77.{self._number}"
        sh(f"ip netns add {self.name}")
        sh(f"ip link set {card.parent.name} netns {self.name} name outer")
        sh(f"ip -n {self.name} address add {net}.2/24 dev outer")
        for link in ("lo", "outer"):
            sh(f"ip -n {self.name} link set {link} up")
        sh(f"ip -n {self.name} route add default via {net}.1")

    async def connect(self, config: Any) -> dict[str, Any]:
        """The tunnel, and traffic."""
        self.client.on("status", self._on_status)
        result = await self.client.connect(config)
        with inside(self.name):
            self._pings, self._talk = Pings(self._number), Talk()
        for work in (self._pings.send(), self._pings.receive(), self._talk.go_on()):
            self._tasks.append(asyncio.create_task(work))
        self._servers = self._resolv_conf.read_text()
        if self._servers == NETWORKS_SERVERS:
            raise AssertionError("the tunnel's name servers are not set")
        return {"address": result.assigned_ip, "transport": result.transport}

    def _on_status(self, event: Any) -> None:
        if isinstance(event, StatusChanged):
            self._states.append((time.monotonic(), event.status.state))

    def fall_asleep(self, away: bool) -> None:
        """Somebody sets the network's name servers; with `away` the network is left, as a wireless one is."""
        self._resolv_conf.write_text(NETWORKS_SERVERS)
        if away:
            sh(f"ip -n {self.name} link set outer down")

    def come_back(self) -> float:
        """The network is there again, with another address: when."""
        net = f"10.77.{self._number}"
        sh(f"ip -n {self.name} address flush dev outer")
        sh(f"ip -n {self.name} link set outer up")
        sh(f"ip -n {self.name} address add {net}.3/24 dev outer")
        sh(f"ip -n {self.name} route add default via {net}.1")
        back = time.monotonic()
        time.sleep(0.5)
        self._resolv_conf.write_text(NETWORKS_SERVERS)
        return back

    async def wake(self, at: float) -> dict[str, Any]:
        """After how many seconds all was back (None: it was not), and what the tunnel is like then."""
        back: dict[str, float | None] = dict.fromkeys(("ping", "talk", "dns"))
        while None in back.values() and time.monotonic() < at + PATIENCE:
            now = {
                "ping": self._pings.answered > at,
                "talk": self._talk.heard > at,
                "dns": self._has_servers(),
            }
            for name in [name for name, is_back in now.items() if is_back and back[name] is None]:
                back[name] = round(time.monotonic() - at, 2)
            await asyncio.sleep(0.05)
        await asyncio.sleep(STEADY)
        for task in self._tasks:
            if task.done():
                await task
        status = await self.client.get_status()
        states = [state for time, state in self._states if time > at]
        return {
            **back,
            "reconnects": sum(state is TunnelState.RECONNECTING for state, _ in itertools.groupby(states)),
            "steady": min(self._pings.heard, self._talk.heard) > time.monotonic() - 3,
            "state": status.state,
            "address": status.assigned_ip,
            "transport": status.transport,
        }

    def _has_servers(self) -> bool:
        return self._resolv_conf.read_text() == self._servers


class Machine:
    """All sleepers, and what is asked of them."""

    def __init__(self) -> None:
        self._sleepers: dict[str, Sleeper] = {}

    async def start(self, names: list[str]) -> None:
        """The clients' daemons, while there is nothing else to do: an emulated machine takes its time."""
        for number, name in enumerate(names, 1):
            self._sleepers[name] = Sleeper(name, number)
            await self._sleepers[name].client.start()

    async def connect(self, name: str, config: Any) -> dict[str, Any]:
        """One of the clients."""
        return await self._sleepers[name].connect(config)

    async def sleep(self, seconds: int, away: bool) -> dict[str, Any]:
        """Sleep, and what it was like to wake up."""
        for sleeper in self._sleepers.values():
            sleeper.fall_asleep(away)
        before = slept()
        woke = await asyncio.to_thread(suspend, seconds)
        length = slept() - before
        if away:
            await asyncio.sleep(AWAY)
        woken = await asyncio.gather(*(self._wake(one, woke, away) for one in self._sleepers.values()))
        return {"slept": length, "clients": dict(zip(self._sleepers, woken, strict=True))}

    async def _wake(self, sleeper: Sleeper, woke: float, away: bool) -> dict[str, Any]:
        return await sleeper.wake(await asyncio.to_thread(sleeper.come_back) if away else woke)


async def serve(serial: io.FileIO) -> None:
    """Answer until the machine is switched off."""
    machine = Machine()
    serial.write(b'{"result": "ready"}\n')
    lines = os.fdopen(os.dup(serial.fileno()))
    while line := await asyncio.to_thread(lines.readline):
        request = json.loads(line)
        try:
            answer = {"result": await getattr(machine, request.pop("call"))(**request)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        serial.write(json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    Path("/etc/resolv.conf").write_text(NETWORKS_SERVERS)
    with SERIAL.open("rb+", buffering=0) as opened:
        tty.setraw(opened)
        asyncio.run(serve(opened))
