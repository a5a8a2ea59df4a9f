"""The hub's packet filter: one nftables table of our own, replaced and removed as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from attrs import frozen

from smartvpn._address import IpNetwork
from smartvpn.errors import NotFoundError, PermissionDeniedError, SmartVpnError
from smartvpn.network import _commands
from smartvpn.network._changes import Change, Record, recorded


def table_name(interface: str) -> str:
    """The name of an interface's table, of family inet."""
    return f"smartvpn_{interface}"


@recorded
@frozen
class NftTable(Change):
    """The table exists with these chains."""

    kind: ClassVar[str] = "nft-table"
    carries_flows: ClassVar[bool] = True  # without NAT the host takes their packets for its own: RST
    name: str
    chains: str

    @property
    def slot(self) -> tuple[object, ...]:
        return self.kind, self.name

    def apply(self, before: str | None) -> None:
        # "delete" fails without a table, "add" does nothing with one; all lines are one transaction.
        _nft(f"{_removal(self.name)}table inet {self.name} {{\n{self.chains}}}\n")

    def undo(self, before: str | None, others: Sequence[Record]) -> None:
        _nft(_removal(self.name))


def _removal(name: str) -> str:
    return f"add table inet {name}\ndelete table inet {name}\n"


def _nft(script: str) -> None:
    try:
        _commands.run("nft", "-f", "-", text=script)
    except NotFoundError:
        raise NotFoundError("NAT and host protection need the program nft (package nftables)") from None
    except SmartVpnError as error:
        if "not permitted" in str(error):
            raise PermissionDeniedError(f"{error} (root or CAP_NET_ADMIN is needed)") from error
        raise


def nat_chains(interface: str, networks: Sequence[IpNetwork]) -> str:
    """Masquerade what leaves the tunnel's networks, and let no TCP segment outgrow the tunnel."""
    masquerade = "".join(
        f'        {_ip(network.version)} saddr {network} oifname != "{interface}" masquerade\n'
        for network in networks
    )
    clamp = "tcp flags & (syn|rst) == syn tcp option maxseg size set rt mtu"
    return (
        "    chain postrouting {\n"
        "        type nat hook postrouting priority srcnat; policy accept;\n"
        f"{masquerade}"
        "    }\n"
        "    chain forward {\n"
        "        type filter hook forward priority mangle; policy accept;\n"
        f'        iifname "{interface}" {clamp}\n'
        f'        oifname "{interface}" {clamp}\n'
        "    }\n"
        "    chain forward_accept {\n"
        "        type filter hook forward priority filter; policy accept;\n"
        f'        iifname "{interface}" accept\n'
        f'        oifname "{interface}" accept\n'
        "    }\n"
    )


def host_chain(interface: str, gateways: Sequence[str]) -> str:
    """Clients reach nothing on the host but ICMP, and DNS on the tunnel's own addresses."""
    dns = "".join(
        f'        iifname "{interface}" {_ip(6 if ":" in gateway else 4)} daddr {gateway} '
        "meta l4proto { tcp, udp } th dport 53 accept\n"
        for gateway in gateways
    )
    return (
        "    chain input {\n"
        "        type filter hook input priority filter; policy accept;\n"
        f'        iifname "{interface}" ct state established accept\n'
        f'        iifname "{interface}" meta l4proto {{ icmp, ipv6-icmp }} accept\n'
        f"{dns}"
        f'        iifname "{interface}" drop\n'
        "    }\n"
    )


def guard_chains(interface: str) -> str:
    """Whatever a client sends, it reaches no loopback, no link-local address and no group."""
    own = f'iifname "{interface}"'
    return (
        "    chain guard {\n"
        "        type filter hook prerouting priority raw; policy accept;\n"
        f"        {own} ip daddr {{ 0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16, 224.0.0.0/3 }} drop\n"
        f"        {own} ip6 daddr {{ ::1, fe80::/10, ff00::/8 }} drop\n"
        "    }\n"
    )


def _ip(version: int) -> str:
    return "ip" if version == 4 else "ip6"
