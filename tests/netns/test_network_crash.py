"""Processes killed with -9: whoever comes next puts back what they changed, wherever they were."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from smartvpn.errors import SmartVpnError
from tests.netns.state import state
from tests.netns.test_commands import daemon_on
from tests.netns.test_network import CLIENT, HUB, SPLIT, refused, unchanged
from tests.netns.topology import Topology
from tests.netns.tunnel import TUN, hub_config
from tests.netns.worker import Worker
from tests.raw import DaemonProcess


@pytest.fixture
def devices(topology: Topology) -> None:
    """A TUN device on the hub's and the client's machine that outlives every process."""
    for role in ("hub", "client"):
        topology.run(role, "ip", "tuntap", "add", "dev", "sv0", "mode", "tun")


@pytest.mark.usefixtures("devices")
@pytest.mark.parametrize(
    ("role", "call", "arguments"),
    [
        ("hub", "configure_hub", HUB | {"allow_host_access": False}),
        ("client", "configure_client", CLIENT),
    ],
)
def test_killed_at_each_step(
    topology: Topology, tmp_path: Path, role: str, call: str, arguments: dict[str, Any]
) -> None:
    """Whichever change it had reached, `restore_leftovers` of the next process takes all back."""
    before = state(topology, role)
    worker = Worker(topology, role, tmp_path)
    step = 1
    while worker.dies(step, call, **arguments):
        assert worker("restore_leftovers") == ["sv0"]
        assert state(topology, role) == before, f"killed at step {step}"
        step += 1
    assert step > 8
    worker("restore_leftovers")
    assert state(topology, role) == before


@pytest.mark.usefixtures("devices")
def test_killed_while_it_restores(topology: Topology, tmp_path: Path) -> None:
    """What it had not yet taken back, the next one does."""
    with unchanged(topology, "client"):
        worker = Worker(topology, "client", tmp_path)
        step = 1
        while True:
            killed = Worker(topology, "client", tmp_path)
            killed("configure_client", **CLIENT)
            killed.kill()
            if not worker.dies(step, "restore"):
                break
            worker("restore_leftovers")
            step += 4
        assert step > 6


@pytest.mark.usefixtures("devices")
def test_the_next_configuration_starts_afresh(topology: Topology, tmp_path: Path) -> None:
    """It takes over what a killed one left, and what its own end restores is the state before both."""
    with unchanged(topology, "client"):
        killed, heir = Worker(topology, "client", tmp_path), Worker(topology, "client", tmp_path)
        heir("configure_client", **SPLIT)
        expected = state(topology, "client")
        heir("restore")
        killed("configure_client", **CLIENT)
        killed.kill()
        heir("configure_client", **SPLIT)
        assert state(topology, "client") == expected
        heir("restore")


@pytest.mark.usefixtures("devices")
def test_a_hub_takes_over_at_each_step(topology: Topology, tmp_path: Path) -> None:
    """Whichever change the killed one had reached: NAT and forwarding that were made stay until they are
    replaced, the rest comes anew, and its own end restores the state before both."""
    before = state(topology, "hub")
    wanted = HUB | {"allow_host_access": False}
    killed, heir = Worker(topology, "hub", tmp_path), Worker(topology, "hub", tmp_path)
    heir("configure_hub", **wanted)
    expected = state(topology, "hub")
    heir("restore")
    step = 1
    while killed.dies(step, "configure_hub", **wanted):
        left = state(topology, "hub")
        assert left["nftables"] or left == before, "without NAT and protection nothing passes"
        assert heir("restore_leftovers", keep_flows=True) == ["sv0"]
        waiting = state(topology, "hub")
        assert (waiting["links"], waiting["routes"]) == (before["links"], before["routes"])
        assert waiting["nftables"] == left["nftables"]
        heir("configure_hub", **wanted)
        assert state(topology, "hub") == expected, f"killed at step {step}"
        heir("restore")
        assert state(topology, "hub") == before, f"killed at step {step}"
        step += 1
    assert step > 8


@pytest.mark.usefixtures("devices")
def test_a_device_that_went_with_its_process(topology: Topology, tmp_path: Path) -> None:
    """Addresses and routes went with it; the way around, DNS and kernel settings are put back."""
    with unchanged(topology, "client"):
        topology.run("client", "ip", "tuntap", "add", "dev", "sv5", "mode", "tun")
        killed = Worker(topology, "client", tmp_path, interface="sv5")
        killed("configure_client", **CLIENT)
        killed.kill()
        topology.run("client", "ip", "link", "del", "sv5")
        heir = Worker(topology, "client", tmp_path)
        assert heir("restore_leftovers") == ["sv5"]
        assert heir("restore_leftovers") == []


@pytest.mark.usefixtures("devices")
def test_leftovers_of_other_machines_are_theirs(topology: Topology, tmp_path: Path) -> None:
    """Another network namespace's journal is not worked off here."""
    with unchanged(topology, "client"):
        killed = Worker(topology, "client", tmp_path)
        killed("configure_client", **CLIENT)
        configured = state(topology, "client")
        killed.kill()
        hub, client = Worker(topology, "hub", tmp_path), Worker(topology, "client", tmp_path)
        assert hub("restore_leftovers") == []
        assert state(topology, "client") == configured
        assert client("restore_leftovers") == ["sv0"]


@pytest.mark.usefixtures("devices")
def test_a_journal_of_a_namespace_that_is_gone(topology: Topology, tmp_path: Path) -> None:
    """Under an inode that is used again nothing is taken back that this kernel never had."""
    with unchanged(topology, "client"):
        first = Worker(topology, "client", tmp_path)
        first("configure_client", **SPLIT)
        first.kill()
        (journal,) = tmp_path.glob("*-sv0.json")
        old = journal.read_text()
        heir = Worker(topology, "client", tmp_path)
        heir("restore_leftovers")
        heir("configure_client", **SPLIT)
        configured = state(topology, "client")
        heir.kill()
        namespace = next(line for line in old.splitlines() if '"namespace"' in line)
        journal.write_text(old.replace(namespace, '"namespace": "of another boot:1",', 1))
        last = Worker(topology, "client", tmp_path)
        assert last("restore_leftovers") == ["sv0"]
        assert state(topology, "client") == configured
        journal.write_text(old)
        assert last("restore_leftovers") == ["sv0"]


@pytest.mark.usefixtures("devices")
def test_a_journal_that_cannot_be_read(topology: Topology, tmp_path: Path) -> None:
    """It is told and gets out of the way; nothing is changed by it."""
    texts = ["", "{", "[]", '{"records": [{}]}', "\0" * 100, '{"owner": {"pid": "x"}}']
    with unchanged(topology, "client"):
        worker = Worker(topology, "client", tmp_path)
        worker("configure_client", **SPLIT)
        (journal,) = tmp_path.glob("*-sv0.json")
        worker("restore")
        for text in texts:
            journal.write_text(text)
            assert worker("restore_leftovers") == []
            worker("configure_client", **SPLIT)
            worker("restore")
        assert worker.log.count(f"{journal} is no journal") >= len(texts)


@pytest.mark.usefixtures("devices")
def test_a_journal_that_cannot_be_written(topology: Topology, tmp_path: Path) -> None:
    """Without it nothing is changed: nobody could put it back."""
    with unchanged(topology, "client"):
        worker = Worker(topology, "client", tmp_path)
        worker("restore")
        inode = topology.run("client", "stat", "-Lc", "%i", "/proc/self/ns/net").stdout.strip()
        (tmp_path / f"{inode}-sv0.tmp").mkdir()
        message = f"cannot write the journal {tmp_path}/{inode}-sv0.json: Is a directory"
        with refused(SmartVpnError, message):
            worker("configure_client", **SPLIT)


# daemons


def _started(topology: Topology, role: str, mode: str) -> DaemonProcess:
    daemon = daemon_on(topology, role, mode)
    assert daemon.lines.receive()["event"] == "ready"
    return daemon


def test_killed_daemons_are_followed_by_clean_ones(topology: Topology) -> None:
    """A hub with NAT, a client with a full tunnel and DNS: the next start restores, and says so."""
    before = {role: state(topology, role) for role in ("hub", "client")}
    with _started(topology, "hub", "server") as hub, _started(topology, "client", "client") as client:
        hub.lines.result("start", hub_config(enableNat=True, allowHostAccess=False, dns=["10.8.0.1"]))
        bundle = hub.lines.result("createClient", {"clientId": "alice"})
        client.lines.result("connect", bundle["smartvpnConfig"])
        for role, changed in (("hub", "nftables"), ("hub", "settings"), ("client", "resolv.conf")):
            assert state(topology, role)[changed] != before[role][changed]
        assert hub.signal(signal.SIGKILL) == client.signal(signal.SIGKILL) == -signal.SIGKILL
    for role, mode in (("hub", "server"), ("client", "client")):
        assert state(topology, role) != before[role]
        with _started(topology, role, mode) as heir:
            assert heir.end() == 0
            assert f"put right what was left of {TUN}" in heir.errors
        assert state(topology, role) == before[role]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_daemon_that_ends_leaves_nothing(topology: Topology, number: signal.Signals) -> None:
    """Hub and client, ended by a signal in the middle of their work."""
    before = {role: state(topology, role) for role in ("hub", "client")}
    with _started(topology, "hub", "server") as hub, _started(topology, "client", "client") as client:
        hub.lines.result("start", hub_config(enableNat=True, dns=["10.8.0.1"]))
        bundle = hub.lines.result("createClient", {"clientId": "alice"})
        client.lines.result("connect", bundle["smartvpnConfig"])
        assert client.signal(number) == 0
        assert hub.signal(number) == 0
    assert {role: state(topology, role) for role in ("hub", "client")} == before


def test_a_signal_in_the_middle_of_a_start_leaves_nothing(topology: Topology) -> None:
    """Whenever it comes: the daemon ends with status 0, and the machine is what it was."""
    with unchanged(topology, "hub"):
        for pause in range(0, 60, 15):
            with _started(topology, "hub", "server") as hub:
                hub.lines.send(id="a", method="start", params=hub_config(enableNat=True))
                assert topology.run("hub", "sleep", f"{pause / 1000}").returncode == 0
                assert hub.signal(signal.SIGTERM) == 0
                assert hub.errors.count("put right") == 0
