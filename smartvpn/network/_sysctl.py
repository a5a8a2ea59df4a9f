"""Kernel settings under /proc/sys/net as changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from attrs import frozen

from smartvpn.errors import PermissionDeniedError, SmartVpnError
from smartvpn.network._changes import Change, Record, recorded
from smartvpn.network._links import main_routes, netlink

_ROOT = Path("/proc/sys/net")
_RTPROT_RA = 9


@recorded
@frozen
class Sysctl(Change):
    """A setting such as `ipv4/ip_forward` of one namespace has this value.

    Several interfaces may want it: the first notes what it was, the last brings that back.
    """

    kind: ClassVar[str] = "sysctl"
    carries_flows: ClassVar[bool] = True
    namespace: str
    name: str
    value: str

    def capture(self, others: Sequence[Record]) -> str | None:
        for record in others:
            if record.change == self:
                return record.before
        return self._read()

    def apply(self, before: str | None) -> None:
        if self._read() != self.value:
            self._write(self.value)

    def undo(self, before: str | None, others: Sequence[Record]) -> None:
        wanted_elsewhere = any(record.change == self for record in others)
        if before is None or wanted_elsewhere or not (_ROOT / self.name).exists():
            return
        if self._read() == self.value != before:
            self._write(before)

    def _read(self) -> str:
        try:
            return (_ROOT / self.name).read_text().strip()
        except FileNotFoundError:
            raise SmartVpnError(f"this kernel has no setting net/{self.name}") from None

    def _write(self, value: str) -> None:
        try:
            (_ROOT / self.name).write_text(value)
        except PermissionError as error:
            raise PermissionDeniedError(f"cannot set net/{self.name}: {error.strerror}") from error
        except OSError as error:
            raise SmartVpnError(f"cannot set net/{self.name}: {error.strerror}") from error


def forwarding(namespace: str, ipv6: bool) -> list[Sysctl]:
    """What makes the host forward packets.

    A host that forwards IPv6 ignores router advertisements and so would lose its own default
    route; accept_ra 2 keeps it.
    """
    settings = [Sysctl(namespace, "ipv4/ip_forward", "1")]
    if ipv6:
        settings += [Sysctl(namespace, f"ipv6/conf/{name}/accept_ra", "2") for name in _advertised()]
        settings.append(Sysctl(namespace, "ipv6/conf/all/forwarding", "1"))
    return settings


def _advertised() -> list[str]:
    """The interfaces whose routes come from router advertisements."""
    with netlink("read the routes") as ipr:
        indexes = {route["index"] for route in main_routes(ipr, 6) if route["proto"] == _RTPROT_RA}
        names = [link.get_attr("IFLA_IFNAME") for link in ipr.get_links() if link["index"] in indexes]
    return [name for name in names if (_ROOT / f"ipv6/conf/{name}/accept_ra").exists()]
