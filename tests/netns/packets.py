"""Inner packets built and read by hand: IPv4 and IPv6 with ICMP echo, UDP and TCP."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import ip_address

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def ip(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    """A packet of the addresses' version, without options, that may not be fragmented."""
    packed = ip_address(source).packed + ip_address(destination).packed
    if ":" in source:
        return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + packed + payload
    head = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(payload), 1, 0x4000, 64, protocol)
    return head + struct.pack("!H", checksum(head + b"\0\0" + packed)) + packed + payload


def _sum_over(source: str, destination: str, protocol: int, segment: bytes) -> int:
    packed = ip_address(source).packed + ip_address(destination).packed
    return checksum(packed + struct.pack("!II", len(segment), protocol) + segment)


def echo(source: str, destination: str, sequence: int = 1, data: bytes = b"smartvpn" * 7) -> bytes:
    """An ICMP or ICMPv6 echo request."""
    rest = struct.pack("!HH", 0x5356, sequence) + data
    if ":" in source:
        total = _sum_over(source, destination, ICMPV6, b"\x80\0\0\0" + rest)
        return ip(source, destination, ICMPV6, struct.pack("!BBH", 128, 0, total) + rest)
    total = checksum(b"\x08\0\0\0" + rest)
    return ip(source, destination, ICMP, struct.pack("!BBH", 8, 0, total) + rest)


def echo_reply_to(request: bytes) -> bytes:
    """What answers an echo request, from its ICMP header on."""
    start, kind = (40, 129) if request[0] >> 4 == 6 else (20, 0)
    bare = bytes([kind, 0, 0, 0]) + request[start + 4 :]
    if kind == 0:
        return bare[:2] + struct.pack("!H", checksum(bare)) + bare[4:]
    source, destination = (str(ip_address(request[at : at + 16])) for at in (8, 24))
    return bare[:2] + struct.pack("!H", _sum_over(destination, source, ICMPV6, bare)) + bare[4:]


def udp(source: str, destination: str, ports: tuple[int, int], data: bytes) -> bytes:
    """A UDP datagram from the first port to the second."""
    head = struct.pack("!HHHH", *ports, 8 + len(data), 0)
    total = _sum_over(source, destination, UDP, head + data) or 0xFFFF
    return ip(source, destination, UDP, head[:6] + struct.pack("!H", total) + data)


def tcp(
    source: str,
    destination: str,
    ports: tuple[int, int],
    numbers: tuple[int, int],
    flags: int,
    data: bytes = b"",
    options: bytes = b"",
) -> bytes:
    """A TCP segment with those sequence and acknowledgement numbers; options are multiples of 4 bytes."""
    offset = (5 + len(options) // 4) << 4
    head = struct.pack("!HHIIBBH", *ports, *numbers, offset, flags, 65535)
    total = _sum_over(source, destination, TCP, head + bytes(4) + options + data)
    return ip(source, destination, TCP, head + struct.pack("!HH", total, 0) + options + data)


@dataclass(frozen=True)
class Packet:
    """An inner packet taken apart as far as the tests ask."""

    source: str
    destination: str
    protocol: int
    body: bytes
    """from the transport header on"""

    @classmethod
    def parse(cls, data: bytes) -> Packet:
        """Read a packet without options or extension headers; its lengths and IPv4 checksum must be right."""
        if data[0] >> 4 == 6:
            _, length, protocol, _ = struct.unpack("!IHBB", data[:8])
            addresses, body = data[8:40], data[40:]
        else:
            assert data[0] == 0x45
            assert checksum(data[:20]) == 0
            length, protocol = struct.unpack("!H", data[2:4])[0] - 20, data[9]
            addresses, body = data[12:20], data[20:]
        assert length == len(body)
        half = len(addresses) // 2
        return cls(str(ip_address(addresses[:half])), str(ip_address(addresses[half:])), protocol, body)

    @property
    def checksum_holds(self) -> bool:
        """Whether the TCP, UDP or ICMPv6 checksum is right."""
        return _sum_over(self.source, self.destination, self.protocol, self.body) == 0

    @property
    def ports(self) -> tuple[int, int]:
        """Source and destination of UDP or TCP."""
        source, destination = struct.unpack("!HH", self.body[:4])
        return source, destination

    @property
    def numbers(self) -> tuple[int, int]:
        """TCP's sequence and acknowledgement numbers."""
        sequence, acknowledgement = struct.unpack("!II", self.body[4:12])
        return sequence, acknowledgement

    @property
    def flags(self) -> int:
        """TCP's flags."""
        return self.body[13]

    @property
    def data(self) -> bytes:
        """What UDP or TCP carries."""
        return self.body[8 if self.protocol == UDP else (self.body[12] >> 4) * 4 :]
