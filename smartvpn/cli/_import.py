"""`smartvpn import wg0.conf`: a WireGuard server as a hub, or a WireGuard client as a client."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import click
from attrs import frozen

from smartvpn._address import parse_interface, parse_network
from smartvpn._json import dump
from smartvpn.cli import _host, _wgfile
from smartvpn.cli._app import App, AppCommand, pass_app
from smartvpn.cli._errors import ExitCode, Failure
from smartvpn.cli._files import refuse_existing, refuse_unwritable, write_all
from smartvpn.cli._wgfile import Section
from smartvpn.config import (
    DEFAULT_REGISTRY,
    ClientConfig,
    ClientEntry,
    ServerConfig,
    Transport,
    TransportMode,
    WgPeerConfig,
)
from smartvpn.configfile import CLIENT_PATH, SERVER_PATH
from smartvpn.errors import ConfigError
from smartvpn.keys import PrivateKey
from smartvpn.types import Keypair

_DEFAULT_PORT, _DEFAULT_MTU = 51820, 1420


@click.command(cls=AppCommand, name="import")
@click.argument("source", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="The config to write.")
@click.option("--endpoint", metavar="HOST[:PORT]", help="What clients connect to.")
@click.option("--registry", default=DEFAULT_REGISTRY, help=f"The registry's file ({DEFAULT_REGISTRY}).")
@click.option("--force", is_flag=True, help="Replace a config that exists.")
@pass_app
def import_(
    app: App, source: Path, config: Path | None, endpoint: str | None, registry: str, force: bool
) -> None:
    """Take over a config of wg-quick or wg-easy; its peers go on as they are."""
    interface, peers = _wgfile.parse(_text(source), str(source))
    is_client = len(peers) == 1 and peers[0].one("endpoint") and interface.one("listenport") is None
    path = config or (CLIENT_PATH if is_client else SERVER_PATH)
    (refuse_unwritable if force else refuse_existing)([path])
    try:
        made = _client(interface, peers[0]) if is_client else _Hub.of(interface, peers, endpoint, registry)
    except ConfigError as error:
        raise Failure(f"{source}: {error}", "correct the file", ExitCode.CONFIG) from None
    if isinstance(made, ClientConfig):
        write_all({path: dump(made, indent=2) + "\n"}, replace=force)
        app.say(f"wrote {path}: a client of {made.wg_endpoint}", path=str(path), mode="client")
        return
    write_all({path: dump(made.config, indent=2) + "\n"}, replace=force)
    clients, others = made.config.clients, made.config.wg_peers
    app.say(
        f"wrote {path}: {len(clients)} clients, {len(others)} other peers; start it with `smartvpn up`",
        path=str(path),
        mode="server",
        clients=[client.client_id for client in clients],
        peers=[peer.public_key for peer in others],
        notes=made.notes,
    )
    for note in made.notes:
        app.hint(note)


def _text(source: Path) -> str:
    try:
        return source.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise Failure(f"{source} is not text", "name a WireGuard config", ExitCode.CONFIG) from None


def _required(section: Section, name: str, shown: str) -> str:
    value = section.one(name)
    if value is None:
        raise ConfigError(f"[{section.kind.capitalize()}] of line {section.line}", f"has no {shown}")
    return value


def _number(section: Section, name: str) -> int | None:
    text = section.one(name)
    if text is None or text.lower() == "off":
        return None
    if not text.isdecimal():
        raise ConfigError(f"{name} of the section of line {section.line}", "is no number")
    return int(text)


# a client's file


def _client(interface: Section, peer: Section) -> ClientConfig:
    addresses = _interfaces(interface)
    four = [item for item in addresses if item.version == 4]
    six = [item for item in addresses if item.version == 6]
    if not four:
        raise ConfigError("Address", "has no IPv4 address, which a client needs")
    return ClientConfig(
        transport=Transport.WIREGUARD,
        server_public_key=_required(peer, "publickey", "PublicKey"),
        wg_private_key=_required(interface, "privatekey", "PrivateKey"),
        wg_address=str(four[0].ip),
        wg_address_prefix=four[0].network.prefixlen,
        wg_address6=str(six[0].ip) if six else None,
        wg_preshared_key=peer.one("presharedkey"),
        wg_endpoint=peer.one("endpoint"),
        wg_allowed_ips=peer.many("allowedips"),
        wg_persistent_keepalive=_number(peer, "persistentkeepalive"),
        dns=_servers(interface) or None,
        mtu=_number(interface, "mtu"),
    )


def _interfaces(interface: Section) -> list[ipaddress.IPv4Interface | ipaddress.IPv6Interface]:
    found = []
    for text in interface.many("address"):
        try:
            found.append(parse_interface(text))
        except ValueError as error:
            raise ConfigError("Address", str(error)) from None
    if not found:
        raise ConfigError("Address", "is missing")
    return found


def _servers(interface: Section) -> list[str]:
    """DNS of wg-quick may hold search domains too, which are not taken over."""
    found = []
    for text in interface.many("dns"):
        try:
            found.append(str(ipaddress.ip_address(text)))
        except ValueError:
            continue
    return found


# a server's file


@frozen
class _Hub:
    """The hub's config, and what its owner should know."""

    config: ServerConfig
    notes: list[str]

    @classmethod
    def of(cls, interface: Section, peers: list[Section], endpoint: str | None, registry: str) -> _Hub:
        notes: list[str] = []
        key = _required(interface, "privatekey", "PrivateKey")
        subnet, subnet6 = _subnets(interface, notes)
        clients: list[ClientEntry] = []
        others: list[WgPeerConfig] = []
        for number, peer in enumerate(peers, 1):
            address = _client_address(peer, subnet)
            if address is None or peer.one("presharedkey") is not None:
                others.append(_other(peer))
            else:
                clients.append(_entry(peer, address, number, {client.client_id for client in clients}))
        if hooks := [name for name in ("preup", "postup", "predown", "postdown") if interface.many(name)]:
            notes.append(f"{', '.join(hooks)} not taken over: forwarding and NAT are the hub's own work")
        with_preshared = sum(peer.one("presharedkey") is not None for peer in peers)
        if with_preshared:
            notes.append(
                f"{with_preshared} peers have a preshared key: they connect as before, but as other peers, "
                "without the limits of clients; `smartvpn client add` makes clients"
            )
        config = ServerConfig(
            listen_addr="0.0.0.0:8080",
            server_endpoint=endpoint or _outward(notes),
            private_key=(pair := Keypair.generate()).private_key,
            public_key=pair.public_key,
            subnet=str(subnet),
            subnet6=None if subnet6 is None else str(subnet6),
            transport_mode=TransportMode.ALL,
            wg_private_key=key,
            wg_listen_port=_number(interface, "listenport") or _DEFAULT_PORT,
            mtu=_number(interface, "mtu") or _DEFAULT_MTU,
            dns=_servers(interface) or _host.name_servers(),
            enable_nat=True,
            registry=registry,
            clients=clients,
            wg_peers=others,
        )
        return cls(config, notes)


def _subnets(
    interface: Section, notes: list[str]
) -> tuple[ipaddress.IPv4Network, ipaddress.IPv6Network | None]:
    four: ipaddress.IPv4Network | None = None
    six: ipaddress.IPv6Network | None = None
    for item in _interfaces(interface):
        if item.ip != item.network[0] + 1:
            notes.append(f"the hub's address becomes {item.network[0] + 1}; it was {item.ip}")
        if isinstance(item.network, ipaddress.IPv4Network):
            four = four or item.network
        else:
            six = six or item.network
    if four is None:
        raise ConfigError("Address", "has no IPv4 network, which a hub needs")
    return four, six


def _client_address(peer: Section, subnet: ipaddress.IPv4Network) -> str | None:
    """The peer's one address in the subnet; None when it is a router with networks behind it."""
    address: str | None = None
    for text in peer.many("allowedips"):
        try:
            network = parse_network(text if "/" in text else f"{text}/{128 if ':' in text else 32}")
        except ValueError as error:
            raise ConfigError(f"AllowedIPs of the peer of line {peer.line}", str(error)) from None
        if network.prefixlen != network.max_prefixlen:
            return None
        if isinstance(network, ipaddress.IPv4Network):
            if address is not None or network[0] not in subnet or network[0] == subnet[0] + 1:
                return None
            address = str(network[0])
    return address


def _entry(peer: Section, address: str, number: int, taken: set[str]) -> ClientEntry:
    """A client of the registry. It has no Noise key yet: `client rotate` gives it a whole new config."""
    name = peer.name or f"peer-{number}"
    if name in taken:
        name = f"{name}-{number}"
    return ClientEntry(
        client_id=name,
        public_key=PrivateKey.generate().public_key.base64,
        wg_public_key=_required(peer, "publickey", "PublicKey"),
        assigned_ip=address,
        tags=("imported",),
    )


def _other(peer: Section) -> WgPeerConfig:
    return WgPeerConfig(
        public_key=_required(peer, "publickey", "PublicKey"),
        preshared_key=peer.one("presharedkey"),
        allowed_ips=peer.many("allowedips"),
        endpoint=peer.one("endpoint"),
        persistent_keepalive=_number(peer, "persistentkeepalive"),
    )


def _outward(notes: list[str]) -> str:
    address = _host.outward_address()
    if address is None:
        raise Failure(
            "this machine has no route that would tell its address", "use --endpoint", ExitCode.USAGE
        )
    notes.append(f"new configs will name {address}; use --endpoint where clients know another")
    return str(address)
