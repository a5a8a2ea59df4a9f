"""All that a tunnel may change on a machine, in a form that can be compared."""

from __future__ import annotations

import json
from typing import Any

from tests.netns.topology import Topology

_SCRIPT = """
ip -json address; echo
ip route show table all; ip -6 route show table all; ip rule; ip -6 rule; echo
nft list ruleset; echo =
grep -r . /proc/sys/net/ipv4 /proc/sys/net/ipv6 2>/dev/null | LC_ALL=C sort; echo =
cat /etc/resolv.conf
"""
_OF_THE_MOMENT = ("fe80::", "ff00::", "/stable_secret:")


def state(topology: Topology, role: str) -> dict[str, Any]:
    """Links, addresses, routes, rules, nftables, kernel settings and name servers of a machine.

    What the kernel does by itself with link-local addresses is left out, and the state of cables.
    """
    links, routes, rest = topology.run(role, "sh", "-c", _SCRIPT).stdout.split("\n\n", 2)[0:3]
    ruleset, settings, resolv_conf = ("\n" + rest).split("\n=\n", 2)
    return {
        "links": [_link(link) for link in json.loads(links)],
        "routes": sorted(_route(line) for line in routes.splitlines() if not _of_the_moment(line)),
        "nftables": ruleset.strip(),
        "settings": [line for line in settings.splitlines() if not _of_the_moment(line)],
        "resolv.conf": resolv_conf,
    }


def _link(link: dict[str, Any]) -> dict[str, Any]:
    addresses = [f"{item['local']}/{item['prefixlen']}" for item in link["addr_info"]]
    return {
        "name": link["ifname"],
        "mtu": link["mtu"],
        "up": "UP" in link["flags"],
        "addresses": [address for address in addresses if not _of_the_moment(address)],
    }


def _of_the_moment(line: str) -> bool:
    return any(prefix in line for prefix in _OF_THE_MOMENT)


def _route(line: str) -> str:
    return " ".join(line.replace("linkdown", "").split())
