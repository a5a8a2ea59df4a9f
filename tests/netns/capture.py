"""What leaves and enters a machine's interface, as the kernel sees it."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address

from attrs import frozen

from tests.netns.hub import in_namespace
from tests.netns.topology import Topology

ETH_P_ALL, OUTGOING = 3, 4
TCP, UDP = 6, 17
_SO_TIMESTAMPNS, _SO_RCVBUFFORCE = 35, 33
_LONGEST = 65536


@frozen
class Seen:
    """An IP packet, without extension headers: whole in `data`, and when it passed, in seconds."""

    at: float
    outgoing: bool
    data: bytes

    @property
    def length(self) -> int:
        """By its own header."""
        if self.data[0] >> 4 == 4:
            return int(struct.unpack_from("!H", self.data, 2)[0])
        return 40 + int(struct.unpack_from("!H", self.data, 4)[0])

    @property
    def protocol(self) -> int:
        """6 TCP, 17 UDP."""
        return self.data[9 if self.data[0] >> 4 == 4 else 6]

    @property
    def destination(self) -> str:
        """The address."""
        if self.data[0] >> 4 == 4:
            return str(IPv4Address(self.data[16:20]))
        return str(IPv6Address(self.data[24:40]))

    @property
    def ports(self) -> tuple[int, int]:
        """Of TCP or UDP: source, destination."""
        source, destination = struct.unpack_from("!HH", self.data, 20 if self.data[0] >> 4 == 4 else 40)
        return source, destination


class Capture:
    """Packets of an interface since it was opened."""

    def __init__(self, at: socket.socket) -> None:
        self._at = at

    def packets(self) -> Iterator[Seen]:
        """Those that have passed and were not taken yet."""
        while True:
            try:
                data, control, _, address = self._at.recvmsg(_LONGEST, 128)
            except BlockingIOError:
                return
            stamps = [
                struct.unpack("qq", value[:16])
                for level, kind, value in control
                if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS)
            ]
            if data and data[0] >> 4 in (4, 6):
                seconds, nanoseconds = stamps[0]
                yield Seen(seconds + nanoseconds / 1e9, address[2] == OUTGOING, data)


@contextmanager
def captured(machine: Topology, role: str, device: str = "outer") -> Iterator[Capture]:
    """Everything that passes there from now on."""
    at = in_namespace(
        machine, role, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
    )
    with at:
        at.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        at.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 32 << 20)
        at.bind((device, ETH_P_ALL))
        at.setblocking(False)
        yield Capture(at)
