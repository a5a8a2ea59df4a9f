"""What this machine tells of itself: its address, its networks, its name servers."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path

from smartvpn._address import IpAddress, IpNetwork

_RESOLV_FILES = (Path("/run/systemd/resolve/resolv.conf"), Path("/etc/resolv.conf"))
_ROUTES = Path("/proc/net/route")
_PUBLIC_SERVERS = ("1.1.1.1", "9.9.9.9")


def outward_address() -> IpAddress | None:
    """The address that packets to the internet leave from; nothing is sent to find it."""
    for family, far in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((far, 9))
            except OSError:
                continue
            return ipaddress.ip_address(probe.getsockname()[0])
    return None


def networks() -> list[IpNetwork]:
    """The networks that this machine has routes to, but the default."""
    try:
        rows = [line.split() for line in _ROUTES.read_text(encoding="ascii").splitlines()[1:]]
    except FileNotFoundError:
        return []
    found: list[IpNetwork] = []
    for row in rows:
        address, mask = (int.from_bytes(bytes.fromhex(row[column]), "little") for column in (1, 7))
        if mask:
            found.append(ipaddress.IPv4Network((address, mask.bit_count())))
    return found


def free_subnet() -> str:
    """A /24 that no route of this machine touches: 10.8.0.0/24, or the next 10.x.0.0/24."""
    taken = networks()
    for second in (*range(8, 256), *range(8)):
        candidate = ipaddress.IPv4Network((f"10.{second}.0.0", 24))
        if not any(candidate.overlaps(network) for network in taken if network.version == 4):
            return str(candidate)
    return "172.31.240.0/24"


def name_servers() -> tuple[str, ...]:
    """This machine's, where clients can reach them too; else public ones."""
    for path in _RESOLV_FILES:
        try:
            lines = path.read_text(errors="replace").splitlines()
        except OSError:
            continue
        words = [line.split() for line in lines]
        servers = [row[1] for row in words if len(row) > 1 and row[0] == "nameserver"]
        usable = [server for server in servers if _reachable_by_others(server)]
        if usable:
            return tuple(usable[:2])
    return _PUBLIC_SERVERS


def _reachable_by_others(server: str) -> bool:
    try:
        address = ipaddress.ip_address(server)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_link_local)
