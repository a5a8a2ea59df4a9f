"""The device against a peer written from the paper alone, and against what is none."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.netns.topology import Topology
from tests.netns.wg import INNER, OURS, OUTER, PORT, Device, device, introduce, pair, pings, until, wg

ENDPOINT = [OUTER["hub"], PORT["hub"]]


@contextmanager
def device_for(machine: Topology, public: str, *more: str) -> Iterator[Device]:
    """A device on the hub's machine with one peer."""
    with device(machine, "hub", OURS) as hub:
        hub.set("private-key", f"key:{hub.private}", "listen-port", str(PORT["hub"]))
        hub.set("peer", public, "allowed-ips", f"{INNER['client'][0]}/32", *more)
        hub.up("10.77.0.1/24")
        yield hub


def command(scenario: str, config: dict[str, Any]) -> list[str]:
    """The raw peer's command line."""
    return [sys.executable, "-m", "tests.netns.wg_raw", scenario, json.dumps(config)]


def raw(machine: Topology, scenario: str, private: str, peer: str, **more: Any) -> dict[str, Any]:
    """What the raw peer saw."""
    config = {"private": private, "peer": peer, "endpoint": ENDPOINT, **more}
    seen: dict[str, Any] = json.loads(machine.run("client", *command(scenario, config), timeout=60).stdout)
    return seen


def test_a_peer_from_the_paper(topology: Topology) -> None:
    """Handshake with a preshared key, a ping, and nothing of it twice."""
    private, psk = wg("genkey"), wg("genpsk")
    with device_for(topology, wg("pubkey", text=private), "preshared-key", f"key:{psk}") as hub:
        ends = {"source": INNER["client"][0], "target": INNER["hub"][0]}
        assert raw(topology, "talk", private, hub.public, psk=psk, **ends) == {
            "handshake": True,
            "reply": True,
            "padded": 0,
            "replayed data": False,
            "old timestamp": False,
        }


def test_nonsense_is_not_answered(topology: Topology) -> None:
    """Wrong sizes, wrong macs, a body that does not open, noise: silence, and then a peer comes in."""
    private = wg("genkey")
    with device_for(topology, wg("pubkey", text=private)) as hub:
        seen = raw(topology, "nonsense", private, hub.public)
        assert seen == {"answers": False, "still answers": True}


@contextmanager
def flood(machine: Topology, public: str, **more: Any) -> Iterator[dict[str, Any]]:
    """Handshakes of strangers, while the block runs; what they saw is in the dictionary afterwards."""
    seen: dict[str, Any] = {}
    config = {"private": wg("genkey"), "peer": public, "endpoint": ENDPOINT, "seconds": 120, "hold": True}
    flooder = machine.popen("client", *command("flood", {**config, **more}), stdin=-1, stdout=-1)
    try:
        yield seen
    finally:
        out, _ = flooder.communicate(timeout=30)
        seen.update(json.loads(out))


def under_load(machine: Topology) -> None:
    """Wait until a flood is on its way."""
    before = _datagrams(machine)
    until(lambda: _datagrams(machine) > before + 5000)


def _datagrams(machine: Topology) -> int:
    lines = machine.run("hub", "cat", "/proc/net/snmp").stdout.splitlines()
    names, values = (line.split() for line in lines if line.startswith("Udp:"))
    return int(values[names.index("InDatagrams")])


# What csrc/engine/wg_load.h promises.
COOKIES_PER_SEC, OF_A_SOURCE = 16384, 20


def check_strangers(seen: dict[str, Any]) -> None:
    """Many cookies, but no more than the device gives out in a second, and nothing else."""
    assert seen["sent"] > 5000
    assert 1000 < seen["cookies"] <= COOKIES_PER_SEC * (seen["seconds"] + 1 / 8)
    assert seen["answers"] == 0


def test_a_flood_of_handshakes(topology: Topology) -> None:
    """Strangers of one address get cookies, so many; a live tunnel goes on, and a new peer still comes in."""
    topology.run("client", "ip", "address", "add", "10.99.0.66/24", "dev", "outer")
    with pair(topology) as (_, hub), device(topology, "client") as late:
        assert pings(topology, "client", INNER["hub"][0]) == 3
        with flood(topology, hub.public, **{"from": "10.99.0.66"}) as seen:
            under_load(topology)
            assert pings(topology, "client", INNER["hub"][0], count=20) >= 18
            late.set("private-key", f"key:{late.private}")
            hub.set("peer", late.public, "allowed-ips", "10.78.0.2/32")
            late.set(
                "peer", hub.public, "allowed-ips", "10.78.0.0/24", "endpoint", ":".join(map(str, ENDPOINT))
            )
            late.set("peer", hub.public, "persistent-keepalive", "1")
            late.up("10.78.0.2/24")
            until(lambda: late.handshake(hub), 40)
        check_strangers(seen)


def test_a_flood_from_everywhere(topology: Topology) -> None:
    """Strangers of many addresses get no more cookies together, and the tunnel goes on."""
    topology.run("client", "ip", "route", "add", "local", "10.98.0.0/16", "dev", "lo")
    topology.run("hub", "ip", "route", "add", "10.98.0.0/16", "via", OUTER["client"])
    with pair(topology) as (_, hub):
        assert pings(topology, "client", INNER["hub"][0]) == 3
        with flood(topology, hub.public, **{"from": "10.98.{0}.{0}", "sockets": 200}) as seen:
            under_load(topology)
            assert pings(topology, "client", INNER["hub"][0], count=20) >= 18
        check_strangers(seen)


def test_handshakes_of_one_source(topology: Topology) -> None:
    """Under load an address with a cookie is answered 20 times, then 20 times a second; others too."""
    privates = [wg("genkey") for _ in range(80)]
    for address in ("10.99.0.66/24", "10.99.0.67/24"):
        topology.run("client", "ip", "address", "add", address, "dev", "outer")
    with device_for(topology, wg("pubkey", text=privates[0])) as hub:
        peers = [("peer", wg("pubkey", text=private)) for private in privates]
        hub.set(*(word for peer in peers for word in peer))
        with flood(topology, hub.public, pause=0.01):
            under_load(topology)
            sources = {"from": "10.99.0.66", "apart from": "10.99.0.67"}
            seen = raw(topology, "crowd", privates[0], hub.public, privates=privates, **sources)
    assert seen["others"] == 0
    assert seen["apart"]
    assert OF_A_SOURCE <= seen["answered"] <= OF_A_SOURCE * (1 + seen["seconds"])


def test_an_introduction_is_no_oracle(topology: Topology) -> None:
    """Who does not know the hub's key gets nothing, whatever the load."""
    private = wg("genkey")
    with device_for(topology, wg("pubkey", text=private)):
        stranger = wg("pubkey", text=wg("genkey"))
        seen = raw(topology, "flood", private, stranger, seconds=1)
        assert seen["sent"] > 500
        assert (seen["cookies"], seen["answers"]) == (0, 0)


def test_a_device_without_a_key(topology: Topology) -> None:
    """It has nothing to say, and takes its key later."""
    with device(topology, "client") as one, device(topology, "hub") as other:
        introduce(one, other)
        introduce(other, one)
        for end in (one, other):
            end.up(f"{INNER[end.role][0]}/24")
        assert pings(topology, "client", INNER["hub"][0]) == 0
        for end in (one, other):
            end.set("private-key", f"key:{end.private}", "listen-port", str(PORT[end.role]))
        until(lambda: pings(topology, "client", INNER["hub"][0], count=1) == 1)
