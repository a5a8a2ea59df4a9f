"""Addresses, routes, NAT and DNS of a tunnel's interface, and their way back.

Every change is noted in a journal before it is made. `Network.restore` undoes them in reverse;
after a crash `Network.restore_leftovers` does.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar

from smartvpn import _address
from smartvpn._names import NameServer
from smartvpn.errors import ConfigError, InvalidStateError
from smartvpn.network._changes import Change, reconcile, undo_all
from smartvpn.network._dns import NameServers, belongs_to_another_network, dns_changes, system_servers
from smartvpn.network._journal import Journal, Owner, journals, locked, namespace_identity
from smartvpn.network._links import Address, LinkMtu, LinkUp, Route, interface_index
from smartvpn.network._nat import NftTable, guard_chains, host_chain, nat_chains, table_name
from smartvpn.network._routes import server_routes, tunnel_networks, tunnel_routes, way_without_us
from smartvpn.network._sysctl import Sysctl, forwarding

__all__ = ["Network"]

_log = logging.getLogger(__name__)

# A service has a directory of its own (systemd.exec(5), RuntimeDirectory).
STATE_DIR = Path(os.environ.get("RUNTIME_DIRECTORY", "/run/smartvpn").partition(":")[0])
_INTERFACE = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9_.-]{1,15}")
Interface: TypeAlias = ipaddress.IPv4Interface | ipaddress.IPv6Interface
T = TypeVar("T")


class Network:
    """What one interface needs of the system around it.

    All methods block for the length of a few system calls and may be called from any thread. They
    raise SmartVpnError and its kin: PermissionDeniedError without CAP_NET_ADMIN, NotFoundError
    for a missing interface or program, ConflictError for a route somebody else has,
    InvalidStateError when another process manages the interface, ConfigError for a wrong value.
    What was done before an error stays, recorded; `restore` takes it back.
    """

    def __init__(self, interface: str, *, state_dir: Path = STATE_DIR) -> None:
        if not _INTERFACE.fullmatch(interface):
            raise ConfigError("interface", f"{_address.shown(interface)} is no interface name")
        self._interface = interface
        self._state_dir = Path(state_dir)
        self._servers: list[_address.IpAddress] = []
        self._networks: list[_address.IpNetwork] = []

    def configure_hub(
        self,
        *,
        address: str,
        address6: str | None,
        mtu: int,
        nat: bool,
        subnet: str,
        subnet6: str | None,
        allow_host_access: bool,
        routes: Sequence[str] = (),
        guarded: bool = False,
    ) -> None:
        """Make the interface a hub's: address, forwarding, NAT, and who reaches the host.

        Called again, change only what differs. `routes` are networks beyond clients or peers.
        `address` is such as `10.8.0.1/24`, `subnet` such as `10.8.0.0/24`, `mtu` is in bytes. With
        `nat`, packets of the subnets leave through other interfaces under the host's address.
        Without `allow_host_access` clients reach ICMP and DNS on the host and nothing else. With
        `guarded` what is never reached is kept from them here, since the kernel carries the packets.
        """
        addresses = _addresses(address, address6)
        networks = [_parsed(_address.parse_network, "subnet", subnet)]
        if subnet6:
            networks.append(_parsed(_address.parse_network, "subnet6", subnet6))
        chains = nat_chains(self._interface, networks) if nat else ""
        if not allow_host_access:
            chains += host_chain(self._interface, [str(item.ip) for item in addresses])
        if guarded:
            chains += guard_chains(self._interface)
        with locked(self._state_dir):
            # The filter comes before the first packet, and goes after the last.
            wanted: list[Change] = [NftTable(table_name(self._interface), chains)] if chains else []
            wanted += self._interface_changes(addresses, mtu)
            beyond = _parsed_all(_address.parse_network, "routes", routes)
            wanted += tunnel_routes(beyond, networks, interface_index(self._interface))
            wanted += forwarding(namespace_identity(), ipv6=bool(subnet6))
            journal = self._journal(keep_flows=True)
            reconcile(journal, wanted, again=wanted if journal.inherited else ())

    def configure_client(
        self,
        *,
        address: str,
        address6: str | None,
        mtu: int,
        routes: list[str],
        dns: list[str],
        server_addresses: Sequence[str],
        dns_again: bool = False,
    ) -> None:
        """Make the interface a client's; called again, change only what differs.

        `routes` are networks that go into the tunnel, besides the address's own. `dns` are servers
        for all names. `server_addresses` are where the hub is outside of the tunnel: packets to
        them keep the way they had. `dns_again` sets the servers anew though they are the same: others may
        have changed them.
        """
        addresses = _addresses(address, address6)
        networks = tunnel_networks(_parsed_all(_address.parse_network, "routes", routes))
        servers = [str(server) for server in _parsed_all(_address.parse_address, "dns", dns)]
        self._servers = _parsed_all(_address.parse_address, "serverAddresses", server_addresses)
        self._networks = networks
        with locked(self._state_dir):
            index = interface_index(self._interface)
            wanted = self._interface_changes(addresses, mtu)
            wanted += server_routes(self._servers, networks, index)
            wanted += tunnel_routes(networks, [item.network for item in addresses], index)
            resolver = dns_changes(self._interface, index, servers)
            reconcile(self._journal(), wanted + resolver, again=resolver if dns_again else ())

    def refresh(self, server_addresses: Sequence[str]) -> None:
        """Look anew for the ways to the hub around the tunnel; set name servers that others have replaced.

        Call it when the network changed, or the hub's addresses did.
        """
        self._servers = _parsed_all(_address.parse_address, "serverAddresses", server_addresses)
        with locked(self._state_dir):
            index = interface_index(self._interface)
            journal = self._journal()
            around = server_routes(self._servers, self._networks, index)
            kept = [record.change for record in journal.records if not _leads_around(record.change, index)]
            others = journal.others()
            lost = [item.change for item in journal.records if item.change.is_lost(item.before, others)]
            reconcile(journal, around + kept, again=lost)

    def name_servers_outside(self) -> list[NameServer]:
        """Those that the system's resolver cannot reach without the tunnel, and how each is asked around it.

        The tunnel's own have replaced them, or their route leads into it.
        """
        with locked(self._state_dir):
            records = Journal.at(self._state_dir, self._interface).records
            index = interface_index(self._interface)
        changes = [(record.change, record.before) for record in records]
        ours = [(change, before) for change, before in changes if isinstance(change, NameServers)]
        if ours:
            theirs = [server for change, before in ours for server in change.others(before)]
        else:
            theirs = [server for server in system_servers() if _is_in(server, self._networks)]
        reached = (_outside(server, index) for server in dict.fromkeys(theirs))
        return [server for server in reached if server is not None]

    def restore(self) -> None:
        """Undo everything, the last first; nothing happens when there is nothing to undo."""
        with locked(self._state_dir):
            journal = Journal.at(self._state_dir, self._interface)
            if journal.owner == Owner.current() or not journal.owner.alive:
                _restore(journal)

    @staticmethod
    def look_around() -> None:
        """Learn, and keep, what needs rights that the process is about to give up."""
        belongs_to_another_network()

    @classmethod
    def restore_leftovers(cls, state_dir: Path = STATE_DIR, *, keep_flows: bool = False) -> list[str]:
        """Undo what processes that died left in this network namespace; the interfaces' names.

        With `keep_flows` NAT and forwarding stay, and in the journal: the next `configure_hub` of the
        interface takes them over, the next `restore_leftovers` undoes them.
        """
        with locked(Path(state_dir)):
            left = [journal for journal in journals(Path(state_dir)) if not journal.owner.alive]
            for journal in left:
                _restore(journal, keep_flows=keep_flows)
                _log.info("restored what a dead process changed for %s", journal.interface)
            return [journal.interface for journal in left]

    def _interface_changes(self, addresses: Sequence[Interface], mtu: int) -> list[Change]:
        index = interface_index(self._interface)
        changes: list[Change] = []
        if any(item.version == 6 for item in addresses):
            name = f"ipv6/conf/{self._interface}/disable_ipv6"
            changes.append(Sysctl(namespace_identity(), name, "0"))
        changes += [LinkMtu(index, mtu), LinkUp(index)]
        changes += [Address(index, str(item)) for item in addresses]
        return changes

    def _journal(self, *, keep_flows: bool = False) -> Journal:
        """Our journal; a dead process's is worked off first, but what carries flows if that is to be kept."""
        journal = Journal.at(self._state_dir, self._interface)
        if journal.owner == Owner.current() and not journal.stale:
            return journal
        if journal.owner.alive and not journal.stale:
            raise InvalidStateError(
                f"interface {self._interface} is managed by the process {journal.owner.pid}"
            )
        _restore(journal, keep_flows=keep_flows)
        return journal.taken_over()


def _restore(journal: Journal, *, keep_flows: bool = False) -> None:
    if journal.stale:
        journal.records = [record for record in journal.records if record.change.outlives_namespace]
    kept = [record.change.slot for record in journal.records if record.change.carries_flows]
    undo_all(journal, keep=kept if keep_flows else ())
    journal.save()


def _leads_around(change: Change, tunnel: int) -> bool:
    return isinstance(change, Route) and change.index != tunnel


def _is_in(server: str, networks: Sequence[_address.IpNetwork]) -> bool:
    try:
        address = _address.parse_address(server)
    except ValueError:
        return False
    return any(address in network for network in networks)


def _outside(text: str, tunnel: int) -> NameServer | None:
    """A name server as resolv.conf has it, if there is a way to it around the tunnel."""
    bare, _, scope = text.partition("%")
    try:
        address = _address.parse_address(bare)
        if address.is_loopback:
            return NameServer(bare)
        if address.is_link_local and scope:
            index = int(scope) if scope.isdigit() else socket.if_nametoindex(scope)
            return NameServer(bare, socket.if_indextoname(index), index)
        hop = way_without_us(address, tunnel)
        return None if hop is None else NameServer(bare, socket.if_indextoname(hop.index))
    except (ValueError, OSError):
        return None


def _addresses(address: str, address6: str | None) -> list[Interface]:
    addresses = [_parsed(_address.parse_interface, "address", address)]
    if address6:
        addresses.append(_parsed(_address.parse_interface, "address6", address6))
    return addresses


def _parsed_all(parse: Callable[[str], T], name: str, texts: Sequence[str]) -> list[T]:
    return [_parsed(parse, f"{name}[{place}]", text) for place, text in enumerate(texts)]


def _parsed(parse: Callable[[str], T], name: str, text: str) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise ConfigError(name, str(error)) from None
