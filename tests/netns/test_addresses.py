"""A hub whose name has several addresses, of which some stay silent."""

from __future__ import annotations

import time

import pytest

from smartvpn.config import Transport
from tests.netns.topology import HUB_OUTER, HUB_OUTER6, Topology
from tests.netns.tunnel import GATEWAY, answers, client_on, hub_on

NAME, OTHER = "hub.example", "10.99.0.7"
SILENT = """
add table inet silent
delete table inet silent
add table inet silent
add chain inet silent in { type filter hook input priority -300; }
"""
# The addresses in the order in which they are tried: IPv6 first. One that begins with "!" is silent.
NAMES = (
    (f"!{HUB_OUTER}", OTHER),
    (HUB_OUTER, f"!{OTHER}"),
    (f"!{HUB_OUTER6}", HUB_OUTER),
    (HUB_OUTER6, f"!{HUB_OUTER}"),
    (f"!{HUB_OUTER6}", f"!{HUB_OUTER}", OTHER),
)


def name_has(machine: Topology, *addresses: str) -> None:
    """What the client's machine knows of the hub's name, and what the hub's is deaf to."""
    lines = "".join(f"{address.strip('!')} {NAME}\n" for address in addresses)
    machine.resolv_conf("client").with_name("hosts").write_text(f"127.0.0.1 localhost\n{lines}")
    rules = SILENT
    for address in addresses:
        if address.startswith("!"):
            match = f"{'ip6' if ':' in address else 'ip'} daddr {address[1:]}"
            rules += f"add rule inet silent in meta l4proto {{ tcp, udp }} {match} counter drop\n"
    machine.run("hub", "nft", rules)


@pytest.mark.parametrize(
    ("mode", "within"), [("websocket", 4.5), ("quic", 5.0), ("both", 5.0)], ids=["websocket", "quic", "auto"]
)
async def test_silent_addresses_are_passed(topology: Topology, mode: str, within: float) -> None:
    """Wherever the one that answers stands, whatever its family: one and the same attempt finds it."""
    topology.run("hub", "ip", "address", "add", f"{OTHER}/24", "dev", "outer")
    name_has(topology)
    hub = hub_on(topology, listenAddr="[::]:7443", serverEndpoint=f"{NAME}:7443", transportMode=mode)
    async with hub as server:
        bundle = await server.create_client("alice")
        async with client_on(topology, bundle.smartvpn_config) as client:
            for addresses in NAMES:
                name_has(topology, *addresses)
                begin = time.monotonic()
                result = await client.connect()
                took = time.monotonic() - begin
                print(f"{mode}, {' '.join(addresses)}: {took:.2f} s by {result.transport}")
                assert took < within
                assert result.transport is (Transport.WEBSOCKET if mode == "websocket" else Transport.QUIC)
                assert await answers(topology, GATEWAY, "client", "-c", "1")
                await client.disconnect()
