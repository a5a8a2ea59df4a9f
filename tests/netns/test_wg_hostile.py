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


def test_a_flood_of_handshakes(topology: Topology) -> None:
    """Strangers get cookies, at little cost; a live tunnel goes on, and a new peer still comes in."""
    with pair(topology) as (one, hub), device(topology, "client") as late:
        assert pings(topology, "client", INNER["hub"][0]) == 3
        config = {"private": wg("genkey"), "peer": hub.public, "endpoint": ENDPOINT, "seconds": 6}
        flood = topology.popen("client", *command("flood", config), stdout=-1)
        until(lambda: int(hub.show("transfer")[one.public][0]) >= 0 and flood.poll() is None)
        assert pings(topology, "client", INNER["hub"][0], count=20) >= 18
        late.set("private-key", f"key:{late.private}")
        hub.set("peer", late.public, "allowed-ips", "10.78.0.2/32")
        late.set(
            "peer", hub.public, "allowed-ips", "10.78.0.0/24", "endpoint", f"{ENDPOINT[0]}:{ENDPOINT[1]}"
        )
        late.set("peer", hub.public, "persistent-keepalive", "1")
        late.up("10.78.0.2/24")
        until(lambda: late.handshake(hub), 15)
        out, _ = flood.communicate(timeout=30)
        seen = json.loads(out)
        assert seen["sent"] > 5000
        assert seen["cookies"] > 1000
        assert seen["answers"] == 0


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
