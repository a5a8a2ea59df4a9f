"""Parsers for what configs say about the network: endpoints, URLs, networks, patterns.

Each raises ValueError with a reason that reads well after the field's name.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TypeAlias

from attrs import frozen

IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_HOST_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_URL = re.compile(r"(?P<scheme>wss?)://(?P<authority>[^/?#\s\\@]+)(?P<path>(?:[/?][!-~]*)?)", re.IGNORECASE)
_DIGITS = re.compile(r"[0-9]{1,5}")
_LENGTH = re.compile(r"[0-9]{1,3}")
_DEFAULT_PORTS = {"wss": 443, "ws": 80}


def shown(text: str) -> str:
    """`text` quoted and cut, fit for a message."""
    return repr(text if len(text) <= 64 else text[:61] + "...")


def parse_address(text: str) -> IpAddress:
    """An IPv4 or IPv6 address without zone."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{shown(text)} is not an IPv4 or IPv6 address") from None
    if "%" in text:
        raise ValueError(f"{shown(text)} has a zone, which cannot be used here")
    return address


def parse_network(text: str) -> IpNetwork:
    """A CIDR such as `10.0.0.0/8`; the address part may have host bits, which are dropped."""
    address, slash, length = text.partition("/")
    if not slash or not _LENGTH.fullmatch(length) or "%" in address:
        raise ValueError(f"{shown(text)} is not a CIDR such as 10.8.0.0/24")
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{shown(text)} is not a CIDR such as 10.8.0.0/24") from None


def parse_interface(text: str) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    """An interface's address with its prefix length, such as `10.8.0.1/24`; bare means one host."""
    if "/" in text:
        parse_network(text)
    else:
        parse_address(text)
    return ipaddress.ip_interface(text)


def parse_pattern(text: str) -> tuple[IpAddress, IpAddress]:
    """The first and last address of an ACL pattern.

    A pattern is an address, a CIDR, a wildcard `192.168.1.*` or `fd00::1:*` (stars for the last
    groups), or a range `1.1.1.1-1.1.1.100`. IPv4-mapped IPv6 addresses are IPv4.
    """
    if "*" in text:
        return _parse_wildcard(text)
    if "-" in text:
        return _parse_range(text)
    if "/" in text:
        network = parse_network(text)
        return _one_family(network[0], network[-1])
    address = _unmapped(parse_address(text))
    return address, address


def _unmapped(address: IpAddress) -> IpAddress:
    return getattr(address, "ipv4_mapped", None) or address


def _one_family(first: IpAddress, last: IpAddress) -> tuple[IpAddress, IpAddress]:
    """Both ends as IPv4, or both as they are: an IPv6 range may begin or end among the mapped addresses."""
    ends = _unmapped(first), _unmapped(last)
    return ends if ends[0].version == ends[1].version else (first, last)


def _parse_wildcard(text: str) -> tuple[IpAddress, IpAddress]:
    separator, full = (":", "ffff") if ":" in text else (".", "255")
    groups = text.split(separator)
    stars = groups.count("*")
    fixed, starred = groups[: len(groups) - stars], groups[len(groups) - stars :]
    if starred != ["*"] * stars or "*" in separator.join(fixed):
        raise ValueError(f"{shown(text)} is not a wildcard such as 192.168.1.* (stars for the last groups)")
    try:
        first = parse_address(separator.join(fixed + ["0"] * stars))
        last = parse_address(separator.join(fixed + [full] * stars))
    except ValueError:
        raise ValueError(f"{shown(text)} is not a wildcard such as 192.168.1.* or fd00::1:*") from None
    return _one_family(first, last)


def _parse_range(text: str) -> tuple[IpAddress, IpAddress]:
    low, _, high = text.partition("-")
    first, last = _unmapped(parse_address(low)), _unmapped(parse_address(high))
    if first.version != last.version:
        raise ValueError(f"{shown(text)} mixes IPv4 and IPv6")
    if int(first) > int(last):
        raise ValueError(f"{shown(text)} ends before it begins")
    return first, last


def parse_host(text: str) -> str:
    """A DNS name, an IPv4 address, or an IPv6 address with or without brackets; comes back bare."""
    if text.startswith("[") and text.endswith("]"):
        return _bracketed(text)
    if ":" in text:
        return str(parse_address(text))
    if re.fullmatch(r"[0-9.]+", text):
        return str(parse_address(text))
    labels = text.removesuffix(".").split(".")
    if len(text) > 253 or not all(_HOST_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{shown(text)} is not a host name or address")
    return text


def _bracketed(text: str) -> str:
    address = parse_address(text[1:-1])
    if address.version != 6:
        raise ValueError(f"{shown(text)}: only IPv6 addresses stand in brackets")
    return str(address)


def parse_port(text: str, lowest: int = 1) -> int:
    """A port number of `lowest` to 65535."""
    port = int(text) if _DIGITS.fullmatch(text) else -1
    if not lowest <= port <= 65535:
        raise ValueError(f"port {shown(text)} is not between {lowest} and 65535")
    return port


def split_host_port(text: str) -> tuple[str, str | None]:
    """Host and port text; an IPv6 host needs its brackets when a port follows."""
    match = re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(?::([^:]*))?", text)
    if match is None:
        raise ValueError(f"{shown(text)} is not host:port (an IPv6 host stands in brackets)")
    return match[1], match[2]


def parse_endpoint(text: str, lowest_port: int = 1) -> tuple[str, int]:
    """`host:port`, `1.2.3.4:51820` or `[2001:db8::1]:51820`, as host without brackets and port."""
    host, port = split_host_port(text)
    if port is None:
        raise ValueError(f"{shown(text)} has no port: expected host:port")
    return parse_host(host), parse_port(port, lowest_port)


def parse_listen(text: str) -> tuple[str, int]:
    """`host:port` to listen on; the host may be left out for all addresses, port 0 picks a free one."""
    host, port = split_host_port(text)
    if port is None:
        raise ValueError(f"{shown(text)} has no port: expected host:port")
    return (parse_host(host) if host else "0.0.0.0"), parse_port(port, 0)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def parse_public_host(text: str) -> tuple[str, int | None]:
    """A host that others can reach, with a port or without: `vpn.example.com`, `[2001:db8::1]:443`."""
    if text.count(":") > 1 and not text.startswith("["):
        return parse_host(text), None
    host, port = split_host_port(text)
    return parse_host(host), None if port is None else parse_port(port)


def join_host_port(host: str, port: int) -> str:
    """The text form of an endpoint, with brackets around an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@frozen
class ServerUrl:
    """A hub's address. `scheme` is `wss`, `ws`, or `quic` for a bare `host:port`."""

    scheme: str
    host: str
    port: int
    path: str = "/"

    @property
    def tls(self) -> bool:
        """Whether WebSocket to it runs inside TLS."""
        return self.scheme != "ws"

    @property
    def authority(self) -> str:
        """`host:port`, with brackets around an IPv6 host."""
        return join_host_port(self.host, self.port)


def parse_server_url(text: str) -> ServerUrl:
    """`wss://host/path`, `ws://host:port/path` (ports 443 and 80, path `/` when left out), or `host:port`."""
    if "://" not in text:
        host, port = parse_endpoint(text)
        return ServerUrl("quic", host, port)
    match = _URL.fullmatch(text)
    if match is None or "#" in match["path"]:
        raise ValueError("is not wss://host/path, ws://host:port/path or host:port")  # may hold a password
    scheme = match["scheme"].lower()
    host, port_text = split_host_port(match["authority"])
    port = _DEFAULT_PORTS[scheme] if port_text is None else parse_port(port_text)
    path = match["path"] if match["path"].startswith("/") else "/" + match["path"]
    return ServerUrl(scheme, parse_host(host), port, path)
