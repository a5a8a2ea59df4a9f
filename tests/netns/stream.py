"""A steady stream of numbered datagrams through a tunnel: which arrived, and when."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.netns.topology import Topology

_SINK = """
import socket, struct, sys, time
sink = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
sink.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
sink.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
sink.bind(("::", int(sys.argv[1])))
sink.settimeout(0.05)
print("ready", flush=True)
arrived = []
while True:
    try:
        data = sink.recv(2000)
    except TimeoutError:
        continue
    now = time.monotonic()
    [number] = struct.unpack("!Q", data[:8])
    if number == 2**64 - 1:
        break
    arrived.append((number, now))
for number, now in arrived:
    print(number, now)
"""

_SOURCE = """
import select, socket, struct, sys, time
address, port, interval, size = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
source = socket.socket(family, socket.SOCK_DGRAM)
print("sending", flush=True)
sent, at = 0, time.monotonic()
while not select.select([sys.stdin], [], [], max(0, at - time.monotonic()))[0]:
    at += interval
    try:
        source.sendto(struct.pack("!Q", sent) + bytes(size - 8), (address, port))
    except OSError:
        pass
    sent += 1
print(sent)
"""

_END = """
import socket, sys
socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(b"\\xff" * 8, ("::1", int(sys.argv[1])))
"""


@dataclass(frozen=True)
class Arrival:
    """One datagram; `at` is of time.monotonic()."""

    number: int
    at: float


class Stream:
    """Running while its context lasts; read `sent` and `arrived` after `stop`."""

    def __init__(self, machine: Topology, sink: str, port: int) -> None:
        self._machine, self._sink_role, self._port = machine, sink, port
        self.sent = 0
        self.arrived: list[Arrival] = []
        self._processes: list[subprocess.Popen[str]] = []

    def _start(self, role: str, script: str, *arguments: str) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        process = self._machine.popen(role, sys.executable, "-c", script, *arguments, **pipes)
        self._processes.append(process)
        return process

    def open(self, source: str, address: str, interval: float, size: int) -> None:
        """The sink first; on return both are at work."""
        self._sink = self._start(self._sink_role, _SINK, str(self._port))
        assert self._sink.stdout is not None
        assert self._sink.stdout.readline() == "ready\n"
        arguments = (address, str(self._port), str(interval), str(size))
        self._source = self._start(source, _SOURCE, *arguments)
        assert self._source.stdout is not None
        assert self._source.stdout.readline() == "sending\n"

    async def stop(self, settle: float = 0.5) -> None:
        """Ends the source, then the sink, once what is under way has had time to arrive."""
        out, _ = await asyncio.to_thread(self._source.communicate, "\n", 30)
        self.sent = int(out)
        await asyncio.sleep(settle)
        self._machine.run(self._sink_role, sys.executable, "-c", _END, str(self._port))
        out, _ = await asyncio.to_thread(self._sink.communicate, None, 30)
        rows = (line.split() for line in out.splitlines())
        self.arrived = [Arrival(int(number), float(at)) for number, at in rows]

    def after(self, moment: float) -> int:
        """How many came later than that."""
        return sum(one.at > moment for one in self.arrived)

    @property
    def numbers(self) -> list[int]:
        """What came, in the order in which it came."""
        return [one.number for one in self.arrived]


@asynccontextmanager
async def stream(
    machine: Topology,
    source: str,
    sink: str,
    address: str,
    *,
    interval: float = 0.002,
    size: int = 200,
    port: int = 9999,
) -> AsyncIterator[Stream]:
    """`size` bytes of payload every `interval` seconds from one machine to an address of another."""
    made = Stream(machine, sink, port)
    await asyncio.to_thread(made.open, source, address, interval, size)
    yield made


async def until_monotonic(moment: float) -> None:
    """Sleep until that moment of time.monotonic()."""
    await asyncio.sleep(max(0.0, moment - time.monotonic()))
