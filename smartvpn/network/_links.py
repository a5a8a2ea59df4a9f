"""Links, addresses and routes as changes, over netlink."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from attrs import frozen
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from smartvpn.errors import ConflictError, NotFoundError, PermissionDeniedError, SmartVpnError
from smartvpn.network._changes import Change, Record, recorded

PROTOCOL = 83
"""Marks our routes, as rt_protos does for others, so that nobody else's is ever removed."""
MAIN_TABLE = 254

_IFF_UP = 1
_IFA_F_NODAD = 2
_GONE = {errno.ENODEV, errno.ESRCH, errno.ENOENT, errno.EADDRNOTAVAIL, errno.ENXIO}


@contextmanager
def netlink(doing: str) -> Iterator[Any]:
    """A netlink socket; `doing` is what a failure's message says could not be done."""
    try:
        with IPRoute() as ipr:
            yield ipr
    except NetlinkError as error:
        raise _explained(doing, error.code) from error


def _explained(doing: str, code: int) -> SmartVpnError:
    text = f"cannot {doing}: {os.strerror(code)}"
    if code in (errno.EPERM, errno.EACCES):
        return PermissionDeniedError(f"{text} (root or CAP_NET_ADMIN is needed)")
    if code == errno.ENODEV:
        return NotFoundError(text)
    return SmartVpnError(text)


@contextmanager
def _unless_gone() -> Iterator[Any]:
    try:
        with IPRoute() as ipr:
            yield ipr
    except NetlinkError as error:
        if error.code not in _GONE:
            raise _explained("undo a change of the network", error.code) from error


def interface_index(name: str) -> int:
    """The index of an interface. Raises NotFoundError."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        raise NotFoundError(f"interface {name} does not exist") from None


def _link(ipr: Any, index: int) -> Any:
    return next(iter(ipr.get_links(index)))


@recorded
@frozen
class LinkUp(Change):
    """The interface is up."""

    kind: ClassVar[str] = "link-up"
    heals: ClassVar[bool] = True
    index: int

    def capture(self, others: Sequence[Record]) -> str | None:
        with netlink("read the interface") as ipr:
            return "up" if _link(ipr, self.index)["flags"] & _IFF_UP else "down"

    def apply(self, before: str | None) -> None:
        with netlink("bring the interface up") as ipr:
            ipr.link("set", index=self.index, state="up")

    def undo(self, before: str | None, others: Sequence[Record]) -> None:
        if before == "down":
            with _unless_gone() as ipr:
                ipr.link("set", index=self.index, state="down")


@recorded
@frozen
class LinkMtu(Change):
    """The interface has this MTU, in bytes."""

    kind: ClassVar[str] = "link-mtu"
    heals: ClassVar[bool] = True
    index: int
    mtu: int

    @property
    def slot(self) -> tuple[object, ...]:
        return self.kind, self.index

    def capture(self, others: Sequence[Record]) -> str | None:
        with netlink("read the interface") as ipr:
            return str(_link(ipr, self.index).get_attr("IFLA_MTU"))

    def apply(self, before: str | None) -> None:
        with netlink(f"set an MTU of {self.mtu}") as ipr:
            ipr.link("set", index=self.index, mtu=self.mtu)

    def undo(self, before: str | None, others: Sequence[Record]) -> None:
        with _unless_gone() as ipr:
            ipr.link("set", index=self.index, mtu=int(before or 1500))


@recorded
@frozen
class Address(Change):
    """The interface has this address, such as `10.8.0.2/24`; one that was there before stays."""

    kind: ClassVar[str] = "address"
    heals: ClassVar[bool] = True
    index: int
    address: str

    def capture(self, others: Sequence[Record]) -> str | None:
        with netlink("read the addresses") as ipr:
            found = [_interface(message) for message in ipr.get_addr(index=self.index)]
        return "there" if ipaddress.ip_interface(self.address) in found else None

    def apply(self, before: str | None) -> None:
        wanted = ipaddress.ip_interface(self.address)
        flags = _IFA_F_NODAD if wanted.version == 6 else 0
        with netlink(f"add the address {wanted}") as ipr, _tolerating(errno.EEXIST):
            ipr.addr("add", index=self.index, flags=flags, **_address_fields(wanted))

    def undo(self, before: str | None, others: Sequence[Record]) -> None:
        if before == "there":
            return
        with _unless_gone() as ipr:
            ipr.addr("del", index=self.index, **_address_fields(ipaddress.ip_interface(self.address)))


def _interface(message: Any) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    return ipaddress.ip_interface(f"{address}/{message['prefixlen']}")


def _address_fields(value: ipaddress.IPv4Interface | ipaddress.IPv6Interface) -> dict[str, Any]:
    return {"address": str(value.ip), "prefixlen": value.network.prefixlen, "family": family(value.version)}


@contextmanager
def _tolerating(code: int) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.code != code:
            raise


def family(version: int) -> int:
    """The address family of an IP version."""
    return socket.AF_INET if version == 4 else socket.AF_INET6


@frozen
class Hop:
    """How packets leave: through an interface, to a gateway when there is one."""

    index: int
    gateway: str | None = None
    source: str | None = None
    onlink: bool = False


@recorded
@frozen
class Route(Change):
    """A route of the main table. Without an interface its packets are refused as unreachable."""

    kind: ClassVar[str] = "route"
    heals: ClassVar[bool] = True
    network: str
    index: int | None = None
    gateway: str | None = None
    source: str | None = None
    onlink: bool = False
    metric: int = 0

    def apply(self, before: str | None) -> None:
        with netlink(f"add a route to {self.network}") as ipr:
            try:
                ipr.route("add", **self._fields())
            except NetlinkError as error:
                if error.code != errno.EEXIST:
                    raise
                self._insist_that_it_is_ours(ipr)

    def _insist_that_it_is_ours(self, ipr: Any) -> None:
        for route in main_routes(ipr, self._parsed.version):
            same = route["dst"] == self._parsed and (route["index"] == self.index or self.index is None)
            if same and route["proto"] == PROTOCOL:
                return
        raise ConflictError(f"a route to {self.network} exists already, not through the tunnel")

    def undo(self, before: str | None, others: Sequence[Record]) -> None:
        if any(record.change == self for record in others):
            return  # another tunnel's way to the same hub
        with _unless_gone() as ipr:
            ipr.route("del", **self._fields())

    @property
    def _parsed(self) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        return ipaddress.ip_network(self.network)

    def _fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "dst": self.network,
            "family": family(self._parsed.version),
            "proto": PROTOCOL,
            "table": MAIN_TABLE,
            "type": "unicast" if self.index else "unreachable",
            "oif": self.index,
            "prefsrc": self.source,
            "priority": self.metric or None,
            "flags": ["onlink"] if self.onlink else None,
        }
        if self.gateway:
            fields |= _gateway_fields(self.gateway, self._parsed.version)
        return {name: value for name, value in fields.items() if value is not None}


def _gateway_fields(gateway: str, version: int) -> dict[str, Any]:
    if ipaddress.ip_address(gateway).version == version:
        return {"gateway": gateway}
    return {"via": {"family": socket.AF_INET6, "addr": gateway}}


def main_routes(ipr: Any, version: int) -> Iterator[dict[str, Any]]:
    """The main table's routes: dst, index, proto, type, metric, and the hops that are alive."""
    for message in ipr.get_routes(family=family(version), table=MAIN_TABLE):
        if message.get_attr("RTA_TABLE") == MAIN_TABLE:
            yield {
                "dst": _destination(message, version),
                "index": message.get_attr("RTA_OIF"),
                "proto": message["proto"],
                "type": message["type"],
                "metric": message.get_attr("RTA_PRIORITY") or 0,
                "hops": list(_hops(message)),
            }


def _destination(message: Any, version: int) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    everything = "0.0.0.0" if version == 4 else "::"
    return ipaddress.ip_network(f"{message.get_attr('RTA_DST') or everything}/{message['dst_len']}")


_RTNH_F_DEAD = 1
_RTNH_F_ONLINK = 4
_RTNH_F_LINKDOWN = 16


def _hops(message: Any) -> Iterator[Hop]:
    source = message.get_attr("RTA_PREFSRC")
    several = message.get_attr("RTA_MULTIPATH")
    for leg in several or [message]:
        index = leg["oif"] if several else message.get_attr("RTA_OIF")
        if index and not leg["flags"] & (_RTNH_F_DEAD | _RTNH_F_LINKDOWN):
            via = leg.get_attr("RTA_VIA")
            gateway = leg.get_attr("RTA_GATEWAY") or (via["addr"] if via else None)
            yield Hop(index, gateway, source, bool(leg["flags"] & _RTNH_F_ONLINK))
