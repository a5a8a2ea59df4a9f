"""TCP connections through a tunnel that tell when their bytes come: standing still is seen, and an end."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time

from tests.netns.topology import Topology
from tests.netns.tunnel import GATEWAY

# An echo whose sender reports every answer with its time: standing still is seen, and an end.
ECHO = """
import socket, sys, threading
listener = socket.create_server((sys.argv[1], 9))
print("ready", flush=True)
def serve(connection):
    while data := connection.recv(65536):
        connection.sendall(data)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""
TALK = """
import socket, sys, time
connection = socket.create_connection((sys.argv[1], 9), 20)
connection.settimeout(120)
number = 0
while True:
    connection.sendall(b"%08d" % number + bytes(4096))
    got = b""
    while len(got) < 4104:
        piece = connection.recv(65536)
        assert piece, "the connection has ended"
        got += piece
    assert got[:8] == b"%08d" % number
    number += 1
    print(time.monotonic(), flush=True)
    time.sleep(0.01)
"""

# A download without an end, of some 4 MB/s: only acknowledgements go the other way.
POUR = """
import socket, sys, time
listener = socket.create_server((sys.argv[1], 9))
print("ready", flush=True)
connection, _ = listener.accept()
while True:
    connection.sendall(bytes(40000))
    time.sleep(0.01)
"""
DRINK = """
import socket, sys, time
connection = socket.create_connection((sys.argv[1], 9), 20)
connection.settimeout(120)
while True:
    left = 40000
    while left:
        piece = connection.recv(left)
        assert piece, "the connection has ended"
        left -= len(piece)
    print(time.monotonic(), flush=True)
"""

# The other way round.
GULP = """
import socket, sys
listener = socket.create_server((sys.argv[1], 9))
print("ready", flush=True)
connection, _ = listener.accept()
while connection.recv(65536):
    pass
"""
SHOUT = """
import socket, sys, time
connection = socket.create_connection((sys.argv[1], 9), 20)
connection.settimeout(120)
while True:
    connection.sendall(bytes(40000))
    print(time.monotonic(), flush=True)
    time.sleep(0.01)
"""


class Talk:
    """A TCP connection through the tunnel that asks and answers all the time, or a download."""

    def __init__(
        self,
        machine: Topology,
        target: str = GATEWAY,
        role: str = "hub",
        programs: tuple[str, str] = (ECHO, TALK),
    ) -> None:
        echo = machine.popen(
            role, sys.executable, "-c", programs[0], target, stdout=subprocess.PIPE, text=True
        )
        assert echo.stdout is not None
        assert echo.stdout.readline() == "ready\n"
        self._talk = machine.popen(
            "client",
            sys.executable,
            "-c",
            programs[1],
            target,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self._talk.stdout is not None
        os.set_blocking(self._talk.stdout.fileno(), False)
        self._partial = b""

    def beats(self) -> list[float]:
        """The times of the answers since the last call."""
        assert self._talk.stdout is not None
        data = self._partial + (self._talk.stdout.read() or b"")
        *lines, self._partial = data.split(b"\n")
        assert self._talk.poll() is None, data.decode()
        return [float(line) for line in lines]

    async def standstill(self, seconds: float = 40) -> float:
        """The longest pause between answers, seen until they come steadily again for two seconds."""
        begin = last = time.monotonic()
        longest = 0.0
        self.beats()
        async with asyncio.timeout(seconds):
            while longest < 0.1 or last < begin + 2 or time.monotonic() > last + 0.5:
                for beat in self.beats():
                    if beat - last > longest:
                        longest, begin = beat - last, beat
                    last = beat
                await asyncio.sleep(0.02)
        return longest

    async def goes_on(self, seconds: float = 40) -> float:
        """Wait for an answer to something asked from now on; when it came, in seconds from now."""
        begin = time.monotonic()
        self.beats()
        async with asyncio.timeout(seconds):
            while True:
                late = [beat for beat in self.beats() if beat > begin + 0.05]
                if late:
                    return late[0] - begin
                await asyncio.sleep(0.02)
