"""`smartvpn import wg0.conf`: a WireGuard server as a hub, or a WireGuard client as a client."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import click
from attrs import evolve, frozen

from smartvpn._address import parse_interface, parse_network
from smartvpn._json import dump
from smartvpn.cli import _host, _wgfile
from smartvpn.cli._app import App, AppCommand, pass_app
from smartvpn.cli._errors import ExitCode, Failure
from smartvpn.cli._files import refuse_config, write_all
from smartvpn.cli._lifecycle import up_words
from smartvpn.cli._values import FILE
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
_HOOKS = ("PreUp", "PostUp", "PreDown", "PostDown")


@click.command(cls=AppCommand, name="import")
@click.argument("source", type=FILE)
@click.option("--config", type=FILE, help="The config to write.")
@click.option("--endpoint", metavar="HOST[:PORT]", help="What clients connect to.")
@click.option("--registry", default=DEFAULT_REGISTRY, help=f"The registry's file ({DEFAULT_REGISTRY}).")
@click.option("--force", is_flag=True, help="Replace a config that exists; its keys are lost.")
@pass_app
def import_(
    app: App, source: Path, config: Path | None, endpoint: str | None, registry: str, force: bool
) -> None:
    """Take over a config of wg-quick or wg-easy. Its peers go on as they are."""
    interface, peers = _wgfile.parse(_text(source), str(source))
    is_client = len(peers) == 1 and peers[0].one("endpoint") and interface.one("listenport") is None
    path = config or (CLIENT_PATH if is_client else SERVER_PATH)
    refuse_config(path, force=force)
    try:
        made = _client(interface, peers[0]) if is_client else _Hub.of(interface, peers, endpoint, registry)
    except ConfigError as error:
        raise Failure(f"{source}: {error}", "correct the file", ExitCode.CONFIG) from None
    if isinstance(made, ClientConfig):
        write_all({path: dump(made, indent=2) + "\n"}, replace=force)
        done = f"wrote {path}: a client of {made.wg_endpoint}; start it with `{up_words(path)}`"
        app.say(done, path=str(path), mode="client")
        return
    write_all({path: dump(made.config, indent=2) + "\n"}, replace=force)
    clients, others = made.config.clients, made.config.wg_peers
    app.say(
        f"wrote {path}: {_counted(len(clients), 'client')}, {_counted(len(others), 'other peer')}, "
        f"which have no limits; start it with `{up_words(path)}`",
        path=str(path),
        mode="server",
        clients=[client.client_id for client in clients],
        peers=[peer.public_key for peer in others],
        notes=made.notes,
    )
    for note in made.notes:
        app.hint(note)


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


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
        subnet, subnet6 = _subnets(interface, notes)
        config = _empty_hub(interface, subnet, subnet6, registry, notes, endpoint)
        clients: list[ClientEntry] = []
        others: list[WgPeerConfig] = []
        for number, peer in enumerate(peers, 1):
            name = peer.name or f"peer-{number}"
            addresses = _client_addresses(peer, config)
            if isinstance(addresses, str):
                others.append(_other(peer))
                notes.append(_without_limits(name, addresses))
            else:
                clients.append(
                    _entry(peer, addresses, name, number, {client.client_id for client in clients})
                )
        if hooks := [name for name in _HOOKS if interface.many(name.lower())]:
            notes.append(f"{', '.join(hooks)} not taken over: forwarding and NAT are the hub's own work")
        return cls(evolve(config, clients=clients, wg_peers=others), notes)


def _empty_hub(
    interface: Section,
    subnet: ipaddress.IPv4Network,
    subnet6: ipaddress.IPv6Network | None,
    registry: str,
    notes: list[str],
    endpoint: str | None,
) -> ServerConfig:
    """All but its peers."""
    pair = Keypair.generate()
    return ServerConfig(
        listen_addr="0.0.0.0:8080",
        server_endpoint=endpoint or _outward(notes),
        private_key=pair.private_key,
        public_key=pair.public_key,
        subnet=str(subnet),
        subnet6=None if subnet6 is None else str(subnet6),
        transport_mode=TransportMode.ALL,
        wg_private_key=_required(interface, "privatekey", "PrivateKey"),
        wg_listen_port=_number(interface, "listenport") or _DEFAULT_PORT,
        mtu=_number(interface, "mtu") or _DEFAULT_MTU,
        dns=_servers(interface) or _host.name_servers(),
        enable_nat=True,
        registry=registry,
    )


def _without_limits(name: str, reason: str) -> str:
    """What its owner should know of a peer that is no client."""
    return (
        f"{name} {reason}: it connects as before, as one of wgPeers, WITHOUT limits, access lists and "
        "expiry, and `smartvpn client` does not know it; `smartvpn client add` makes a client in its place"
    )


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


@frozen
class _Addresses:
    """A client's, in both families."""

    four: str
    six: str | None


def _client_addresses(peer: Section, config: ServerConfig) -> _Addresses | str:
    """The peer's place in the subnets, or why it has none that a client could have."""
    if peer.one("presharedkey") is not None:
        return "has a preshared key, which clients of the registry have not"
    found: dict[int, list[str]] = {4: [], 6: []}
    for text in peer.many("allowedips"):
        try:
            network = parse_network(text if "/" in text else f"{text}/{128 if ':' in text else 32}")
        except ValueError as error:
            raise ConfigError(f"AllowedIPs of the peer of line {peer.line}", str(error)) from None
        if network.prefixlen != network.max_prefixlen:
            return f"has a network behind it ({network})"
        found[network.version].append(str(network[0]))
    subnet = ipaddress.IPv4Network(config.subnet)
    if (
        len(found[4]) != 1
        or ipaddress.IPv4Address(found[4][0]) not in subnet
        or found[4][0] == str(subnet[1])
    ):
        return f"has not one address of {subnet}"
    [four], six = found[4], found[6]
    if six and six != [config.client_address6(four)]:
        fitting = config.client_address6(four)
        goes = "the hub has no IPv6 network" if fitting is None else f"{fitting} goes with {four}"
        return f"has the IPv6 address {', '.join(six)}, but {goes}"
    return _Addresses(four, six[0] if six else None)


def _entry(peer: Section, addresses: _Addresses, name: str, number: int, taken: set[str]) -> ClientEntry:
    """A client of the registry. It has no Noise key yet: `client rotate` gives it a whole new config."""
    return ClientEntry(
        client_id=f"{name}-{number}" if name in taken else name,
        public_key=PrivateKey.generate().public_key.base64,
        wg_public_key=_required(peer, "publickey", "PublicKey"),
        assigned_ip=addresses.four,
        assigned_ip6=addresses.six,
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
