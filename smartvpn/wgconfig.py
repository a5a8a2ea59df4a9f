"""WireGuard configuration text, as `wg-quick(8)` reads it.

Every value is checked before it is written, so that none can add a line or a command.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from attrs import fields_dict

from smartvpn import _fields as check
from smartvpn._address import join_host_port, parse_endpoint, parse_interface
from smartvpn.config import MAX_MTU, MIN_MTU, WgPeerConfig
from smartvpn.errors import ConfigError

OneOrMore: TypeAlias = str | Iterable[str]
Peer: TypeAlias = WgPeerConfig | Mapping[str, Any]

_INTERFACE = re.compile(r"[A-Za-z0-9_.@-]{1,15}")
_ROUTES = Path("/proc/net/route")
_ROUTES6 = Path("/proc/net/ipv6_route")


class WgConfigGenerator:
    """Writes the text of a WireGuard client or server.

    `address`, `dns` and `allowed_ips` are one text or many. A peer is a WgPeerConfig, or a mapping
    with its field names. Wrong values raise ConfigError naming the field.
    """

    @staticmethod
    def generate_client_config(
        private_key: str | None,
        address: OneOrMore,
        dns: OneOrMore | None = None,
        mtu: int | None = None,
        *,
        peer: Peer,
    ) -> str:
        """A client's config. Without `private_key` its line is a comment to be filled in."""
        interface = [
            _private_key_line(private_key),
            *_line("Address", _addresses(address)),
            *_line("DNS", _dns(dns)),
            *_line("MTU", _mtu(mtu)),
        ]
        return _text(_section("[Interface]", interface), _peer_section(peer, ""))

    @staticmethod
    def generate_server_config(
        private_key: str,
        address: OneOrMore,
        listen_port: int = 51820,
        dns: OneOrMore | None = None,
        mtu: int | None = None,
        enable_nat: bool = False,
        nat_interface: str | None = None,
        peers: Iterable[Peer] = (),
    ) -> str:
        """A server's config, with NAT by PostUp and PostDown where `enable_nat` asks for it.

        Without `nat_interface` the interface of the default route is taken; where there is none,
        everything that leaves by another interface than the tunnel is translated.
        """
        addresses = _addresses(address)
        _check(check.integer(0, check.UINT16_MAX), "listenPort", listen_port)
        interface = [
            _private_key_line(private_key),
            *_line("Address", addresses),
            *_line("ListenPort", [str(listen_port)]),
            *_line("DNS", _dns(dns)),
            *_line("MTU", _mtu(mtu)),
            *(_nat_lines(addresses, nat_interface) if enable_nat else []),
        ]
        sections = [_peer_section(peer, f"peers[{index}]") for index, peer in enumerate(peers)]
        return _text(_section("[Interface]", interface), *sections)


def default_interface(ipv6: bool = False) -> str | None:
    """The interface of this host's default route with the lowest metric, or None without one."""
    found = _default_routes6() if ipv6 else _default_routes()
    return min(found)[1] if found else None


def _default_routes() -> list[tuple[int, str]]:
    """Columns: interface, destination, gateway, flags, use counts, metric, mask."""
    rows = [line.split() for line in _read_lines(_ROUTES)[1:]]
    return [(int(row[6]), row[0]) for row in rows if row[1] == row[7] == "00000000"]


def _default_routes6() -> list[tuple[int, str]]:
    """Columns: destination, its length, source, its length, hop, metric, counts, flags, interface."""
    rows = [line.split() for line in _read_lines(_ROUTES6)]
    return [
        (int(row[5], 16), row[9])
        for row in rows
        if int(row[0], 16) == int(row[1], 16) == 0 and row[9] != "lo"
    ]


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return []


def _check(validate: check.Check, field: str, value: object) -> None:
    try:
        validate(value)
    except ValueError as error:
        raise ConfigError(field, str(error)) from None


def _private_key_line(private_key: str | None) -> str:
    if private_key is None:
        return "# PrivateKey ="
    _check(check.key, "privateKey", private_key)
    return f"PrivateKey = {private_key}"


def _list(value: OneOrMore | None) -> list[str]:
    if value is None:
        return []
    return [part.strip(" ") for part in value.split(",")] if isinstance(value, str) else list(value)


def _checked_list(validate: check.Check, field: str, value: OneOrMore | None) -> list[str]:
    items = _list(value)
    for index, item in enumerate(items):
        _check(validate, f"{field}[{index}]", item)
    return items


def _addresses(value: OneOrMore) -> list[str]:
    items = _checked_list(check.interface, "address", value)
    if not items:
        raise ConfigError("address", "is missing")
    return items


def _dns(value: OneOrMore | None) -> list[str]:
    return _checked_list(check.address, "dns", value)


def _mtu(value: int | None) -> list[str]:
    if value is None:
        return []
    _check(check.integer(MIN_MTU, MAX_MTU), "mtu", value)
    return [str(value)]


def _line(name: str, values: list[str]) -> list[str]:
    return [f"{name} = {', '.join(values)}"] if values else []


def _section(title: str, lines: list[str]) -> str:
    return "\n".join([title, *lines])


def _text(*sections: str) -> str:
    return "\n\n".join(sections) + "\n"


def _peer_section(peer: Peer, path: str) -> str:
    config = _peer(peer, path)
    lines = [
        f"PublicKey = {config.public_key}",
        *_line("PresharedKey", _list(config.preshared_key)),
        *_line("Endpoint", _endpoint(config.endpoint)),
        *_line("AllowedIPs", list(config.allowed_ips)),
    ]
    if config.persistent_keepalive is not None:
        lines.append(f"PersistentKeepalive = {config.persistent_keepalive}")
    return _section("[Peer]", lines)


def _peer(peer: Peer, path: str) -> WgPeerConfig:
    if isinstance(peer, WgPeerConfig):
        return peer
    known = fields_dict(WgPeerConfig)
    for name in peer:
        if name not in known:
            raise ConfigError(check.join_path(path, str(name)[:64]), "unknown field")
    for name in ("public_key", "allowed_ips"):
        if peer.get(name) is None:
            raise ConfigError(check.join_path(path, check.camel_case(name)), "is missing")
    try:
        return WgPeerConfig(**{**peer, "allowed_ips": _list(peer["allowed_ips"])})
    except ConfigError as error:
        raise ConfigError(check.join_path(path, error.field), error.reason) from None


def _endpoint(endpoint: str | None) -> list[str]:
    return [] if endpoint is None else [join_host_port(*parse_endpoint(endpoint))]


def _nat_lines(addresses: list[str], interface: str | None) -> list[str]:
    if interface is not None and not _INTERFACE.fullmatch(interface):
        raise ConfigError("natInterface", "is not an interface name")
    up: list[str] = []
    down: list[str] = []
    for network in [parse_interface(address).network for address in addresses]:
        tool = "ip6tables" if network.version == 6 else "iptables"
        for rule in _nat_rules(str(network), interface or default_interface(network.version == 6)):
            up.append(f"PostUp = {tool} {rule.replace('{}', '-A', 1)}")
            down.append(f"PostDown = {tool} {rule.replace('{}', '-D', 1)}")
    families = {parse_interface(address).version for address in addresses}
    return [*(_FORWARDING[family] for family in sorted(families)), *up, *down]


_FORWARDING = {
    4: "PostUp = sysctl -q -w net.ipv4.ip_forward=1",
    6: "PostUp = sysctl -q -w net.ipv6.conf.all.forwarding=1",
}


def _nat_rules(network: str, interface: str | None) -> list[str]:
    way_out = f"-o {interface}" if interface else "! -o %i"
    return [
        f"-t nat {{}} POSTROUTING -s {network} {way_out} -j MASQUERADE",
        f"{{}} FORWARD -i %i -s {network} -j ACCEPT",
        f"{{}} FORWARD -o %i -d {network} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    ]
