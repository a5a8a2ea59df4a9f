"""Memory that ends in the midst of a command: each of its allocations fails once, and all after it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import require_namespaces
from tests.netns.lone import lone_config, lone_daemon
from tests.raw import Connection

ALLOCATIONS = Path(__file__).parent.parent / "c" / "failing_malloc.c"
PLENTY = -1
ALICE = {"clientId": "alice"}
NO_MEMORY = ("INTERNAL", "out of memory")
LEFT_OUT = "client 'alice' is left out: out of memory"


class Memory:
    """What the daemon's C library may still have."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "left"
        self._library = folder / "failing_malloc.so"
        self.give(PLENTY)
        subprocess.run(
            ["cc", "-D_GNU_SOURCE", "-shared", "-fPIC", "-o", str(self._library), str(ALLOCATIONS)],
            check=True,
        )

    @property
    def prefix(self) -> tuple[str, ...]:
        """Runs a program that has no more."""
        return ("env", f"LD_PRELOAD={self._library}", f"FAILING_MALLOC={self._file}")

    def give(self, count: int) -> None:
        """So many allocations, and no more."""
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(count.to_bytes(8, "little", signed=True) + bytes(8))

    @property
    def failed(self) -> int:
        """Allocations that were refused since."""
        return int.from_bytes(self._file.read_bytes()[8:], "little")

    def shortages(self, hub: Connection, method: str, params: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The answers to a command that gets one allocation more each time, as long as it needs more."""
        for count in range(1000):
            self.give(count)
            answer = hub.ask(method, params)
            enough = self.failed == 0
            self.give(PLENTY)
            yield answer
            if enough:
                return
        raise AssertionError("it never has enough")


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Memory:
    """Plenty, as yet."""
    require_namespaces()
    return Memory(tmp_path_factory.mktemp("memory"))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, memory: Memory) -> Iterator[Connection]:
    """A connection to a hub with that memory, started, with alice."""
    folder = tmp_path_factory.mktemp("hub")
    config = lone_config(
        folder, subnet6="fd08::/64", transportMode="all", serverEndpoint="192.0.2.9", wgListenPort=0
    )
    with lone_daemon(folder, prefix=memory.prefix) as daemon, daemon.connect() as connection:
        connection.result("start", config)
        connection.result("createClient", ALICE)
        yield connection


def told(hub: Connection) -> list[str]:
    """The errors that events tell of, up to now."""
    hub.result("getStatus")
    events, hub.events[:] = list(hub.events), []
    return [event["data"]["message"] for event in events if event["event"] == "error"]


def check_left_out(hub: Connection, expected: dict[str, Any]) -> None:
    """It was written, is not in, keeps its address, and comes in as soon as there is memory again."""
    assert hub.result("getClient", ALICE) == expected
    assert hub.refusal("exportClientConfig", ALICE | {"format": "wireguard"}) == ("INVALID_STATE", LEFT_OUT)
    rival = {"clientId": "rival", "assignedIp": expected["assignedIp"]}
    assert hub.refusal("createClient", rival)[0] == "CONFLICT"
    assert hub.result("updateClient", ALICE | {"update": {"enabled": True}}) == expected
    check_in(hub, expected)


def check_in(hub: Connection, expected: dict[str, Any]) -> None:
    """The registry and the engine have it."""
    assert hub.result("getClient", ALICE) == expected
    hub.result("exportClientConfig", ALICE | {"format": "wireguard"})
    [peer] = [
        peer for peer in hub.result("listWgPeers")["peers"] if peer["publicKey"] == expected["wgPublicKey"]
    ]
    assert peer["allowedIps"] == [f"{expected['assignedIp']}/32", f"{expected['assignedIp6']}/128"]


CHANGES: list[tuple[str, dict[str, Any]]] = [
    (
        "updateClient",
        {
            "assignedIp": "10.8.7.7",
            "expiresAt": "2100-01-01T00:00:00Z",
            "security": {
                "ipAllowList": ["10.0.0.0/8"],
                "destinationBlockList": ["192.0.2.0/24"],
                "rateLimit": {"bytesPerSec": 10**6, "burstBytes": 10**5},
            },
        },
    ),
    ("updateClient", {"security": {"destinationBlockList": ["192.0.2.0/24"]}}),
    ("rotateClientKey", {}),
]


@pytest.mark.parametrize(("method", "update"), CHANGES)
def test_a_change(hub: Connection, memory: Memory, method: str, update: dict[str, Any]) -> None:
    """It is refused and nothing has changed; or it was written, and the client is left out, which is told."""
    back = {"assignedIp": "10.8.0.2", "expiresAt": None, "security": None}
    outcomes = []
    params = ALICE | ({"update": update} if update else {})
    before = hub.result("getClient", ALICE)
    for answer in memory.shortages(hub, method, params):
        errors = told(hub)
        if not answer["success"]:
            assert (answer["code"], answer["error"]) == NO_MEMORY
            assert errors == []
            check_in(hub, before)
            outcomes.append("refused")
            continue
        after = answer["result"].get("entry", answer["result"])
        assert errors in ([], [LEFT_OUT])
        (check_left_out if errors else check_in)(hub, after)
        outcomes.append("left out" if errors else "done")
        before = hub.result("updateClient", ALICE | {"update": back})
    assert list(dict.fromkeys(outcomes)) == ["refused", "left out", "done"]


def test_a_new_client(hub: Connection, memory: Memory) -> None:
    """There is all of it or nothing, and no address is lost."""
    bob = {
        "clientId": "bob",
        "security": {"ipAllowList": ["10.0.0.0/8"]},
        "expiresAt": "2100-01-01T00:00:00Z",
    }
    before = hub.result("listRegisteredClients")
    answers = list(memory.shortages(hub, "createClient", bob))
    assert {(answer["code"], answer["error"]) for answer in answers[:-1]} == {NO_MEMORY}
    assert len(answers) > 5
    assert answers[-1]["result"]["entry"]["assignedIp"] == "10.8.0.3"
    assert hub.result("listRegisteredClients")["total"] == before["total"] + 1
    assert told(hub) == []
