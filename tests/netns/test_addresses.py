"""A hub whose name has several addresses, of which some stay silent."""

from __future__ import annotations

import time

import pytest

from smartvpn.config import Transport
from tests.netns.topology import HUB_OUTER, Topology
from tests.netns.tunnel import GATEWAY, answers, client_on, hub_on

NAME, OTHER = "hub.example", "10.99.0.7"
SILENT = """
add table inet silent
add chain inet silent in {{ type filter hook input priority -300; }}
add rule inet silent in ip daddr {address} counter drop
"""


@pytest.mark.parametrize("silent", [HUB_OUTER, OTHER])
@pytest.mark.parametrize(
    ("mode", "within"), [("websocket", 4.5), ("quic", 5.0), ("both", 5.0)], ids=["websocket", "quic", "auto"]
)
async def test_a_silent_address_is_passed(topology: Topology, mode: str, within: float, silent: str) -> None:
    """Whichever of the two comes first, the one that answers is found, by one and the same attempt."""
    topology.run("hub", "ip", "address", "add", f"{OTHER}/24", "dev", "outer")
    topology.run("hub", "nft", SILENT.format(address=silent))
    hosts = topology.resolv_conf("client").with_name("hosts")
    hosts.write_text(f"127.0.0.1 localhost\n{HUB_OUTER} {NAME}\n{OTHER} {NAME}\n")
    hub = hub_on(topology, listenAddr="0.0.0.0:7443", serverEndpoint=f"{NAME}:7443", transportMode=mode)
    async with hub as server:
        bundle = await server.create_client("alice")
        async with client_on(topology, bundle.smartvpn_config) as client:
            begin = time.monotonic()
            result = await client.connect()
            took = time.monotonic() - begin
            print(f"{mode}, {silent} is silent: {took:.2f} s by {result.transport}")
            assert took < within
            assert result.transport is (Transport.WEBSOCKET if mode == "websocket" else Transport.QUIC)
            assert await answers(topology, GATEWAY)
