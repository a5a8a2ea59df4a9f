"""The registry when the process dies or the disk is full: nothing acknowledged is lost, or given twice."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smartvpn.types import TunnelState
from tests.conftest import require_namespaces
from tests.netns.lone import lone_config, lone_daemon
from tests.netns.topology import Topology
from tests.netns.tunnel import GATEWAY, TUN, answers, client_on, hub_config
from tests.raw import Connection, SocketDaemon

WRITES = 1000
ROUNDS = 8
OUTSTANDING = 16


class Writes:
    """A stream of writes to a hub, and what may be in the registry after any part of them.

    At most one write to a client is under way at a time: `acknowledged` has each client as the hub
    last told it (None: removed), `under_way` what it may be instead.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.acknowledged: dict[str, dict[str, Any] | None] = {}
        self.under_way: dict[str, str] = {}
        self.count = 0

    def send(self, hub: Connection) -> None:
        """One more write."""
        self.count += 1
        free = [
            name for name, entry in self.acknowledged.items() if entry and name not in self.under_way.values()
        ]
        kind = self.random.choice(["createClient", "createClient", "updateClient", "removeClient"])
        if not free:
            kind = "createClient"
        name = f"client-{self.count}" if kind == "createClient" else self.random.choice(free)
        params: dict[str, Any] = {"clientId": name}
        if kind == "updateClient":
            params["update"] = {"tags": [f"tag-{self.count}"]}
        self.under_way[f"{kind} {self.count}"] = name
        hub.send(id=f"{kind} {self.count}", method=kind, params=params)

    def take(self, answer: dict[str, Any]) -> None:
        """What the hub acknowledged."""
        assert answer["success"] is True, answer
        name, result = self.under_way.pop(answer["id"]), answer["result"]
        if answer["id"].startswith("removeClient"):
            self.acknowledged[name] = None
        else:
            self.acknowledged[name] = result.get("entry", result)

    def check(self, found: dict[str, dict[str, Any]]) -> None:
        """Every acknowledged write is there; of one that was under way all or nothing; no address twice."""
        unsure = set(self.under_way.values())
        for name, entry in self.acknowledged.items():
            if name not in unsure:
                assert found.get(name) == entry
        for request, name in self.under_way.items():
            before = self.acknowledged.get(name)
            if request.startswith("createClient") and name in found:
                self.acknowledged[name] = found[name]
            elif found.get(name) != before:
                self.acknowledged[name] = self._done(request, name, found.get(name))
        self.under_way.clear()
        assert found.keys() == {name for name, entry in self.acknowledged.items() if entry}
        for field in ("assignedIp", "publicKey", "wgPublicKey"):
            assert len({entry[field] for entry in found.values()}) == len(found)

    def _done(self, request: str, name: str, entry: dict[str, Any] | None) -> dict[str, Any] | None:
        kind, number = request.split()
        assert kind != "createClient"
        if kind == "removeClient":
            assert entry is None
            return None
        before = self.acknowledged[name]
        assert before is not None
        assert entry == before | {"tags": [f"tag-{number}"]}
        return entry


def write_until_killed(daemon: SocketDaemon, hub: Connection, writes: Writes, count: int) -> None:
    """Keep some writes outstanding, and kill the daemon in the midst of them, after `count` answers."""
    for _ in range(OUTSTANDING):
        writes.send(hub)
    for _ in range(count):
        writes.take(hub.answer())
        writes.send(hub)
    daemon.process.send_signal(signal.SIGKILL)
    daemon.process.wait()
    for line in rest_of(hub):
        message = json.loads(line)
        if "event" not in message:
            writes.take(message)


def rest_of(hub: Connection) -> Iterator[bytes]:
    """The whole lines that the dead daemon had sent."""
    data = hub._buffer
    with contextlib.suppress(ConnectionResetError):
        while more := hub.socket.recv(1 << 16):
            data += more
    yield from data.split(b"\n")[:-1]


def test_kill_9_at_any_moment(tmp_path: Path) -> None:
    """A thousand writes, many at a time, and the process killed again and again in the midst of them."""
    require_namespaces()
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    writes, config = Writes(seed), lone_config(tmp_path)
    for _ in range(ROUNDS):
        with lone_daemon(tmp_path) as daemon, daemon.connect() as hub:
            hub.result("start", config)
            listed = hub.result("listRegisteredClients")["clients"]
            writes.check({entry["clientId"]: entry for entry in listed})
            write_until_killed(daemon, hub, writes, writes.random.randrange(2 * WRITES // ROUNDS))
    while writes.count < WRITES:
        with lone_daemon(tmp_path) as daemon, daemon.connect() as hub:
            hub.result("start", config)
            write_until_killed(daemon, hub, writes, min(200, WRITES - writes.count))
    with lone_daemon(tmp_path) as daemon, daemon.connect() as hub:
        hub.result("start", config)
        listed = hub.result("listRegisteredClients")["clients"]
        writes.check({entry["clientId"]: entry for entry in listed})


# a full disk

DISK = 'mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"'


def on_a_small_disk(topology: Topology, folder: Path) -> SocketDaemon:
    """A daemon on the hub's machine for which `folder`/disk is a file system of 1 MB."""
    disk = folder / "disk"
    disk.mkdir()
    state = f"STATE_DIRECTORY={topology.state_dir('hub')}"
    prefix = topology.command("hub", "sh", "-c", DISK, str(disk), "env", state)
    return SocketDaemon(folder / "s.sock", "--tun-name", TUN, prefix=tuple(prefix))


def fill(disk: Path) -> Path:
    """A file that takes all the room there is."""
    path = disk / "filler"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 512):
            pass
    with pytest.raises(OSError, match="No space") as raised:
        (disk / "more").write_bytes(b"x" * 65536)
    assert raised.value.errno == errno.ENOSPC
    (disk / "more").unlink(missing_ok=True)
    return path


async def test_a_full_disk(topology: Topology, tmp_path: Path) -> None:
    """Writes fail and say why, and change nothing; tunnels and reads live on; with room all is as before."""
    with on_a_small_disk(topology, tmp_path) as daemon, daemon.connect() as hub:
        config = hub_config(
            registry=str(tmp_path / "disk" / "registry.db"), transportMode="all", wgListenPort=51820
        )
        hub.result("start", config)
        bundle = hub.result("createClient", {"clientId": "alice"})
        carol = hub.result("createClient", {"clientId": "carol", "enabled": False})["entry"]
        hub.result("addWgPeer", {"publicKey": carol["wgPublicKey"], "allowedIps": []})
        async with client_on(topology, bundle["smartvpnConfig"]) as alice:
            await alice.connect()
            [session] = [each["sessionId"] for each in hub.result("listClients")["clients"]]
            filler = await asyncio.to_thread(fill, Path(f"/proc/{daemon.process.pid}/root{tmp_path}/disk"))
            refused = written_until_full(hub)
            before = hub.result("listRegisteredClients")
            for method, params in (
                ("createClient", {"clientId": refused}),
                ("disableClient", {"clientId": "alice"}),
                ("rotateClientKey", {"clientId": "alice"}),
                ("updateClient", {"clientId": "alice", "update": {"tags": ["t"]}}),
                ("updateClient", {"clientId": "alice", "update": {"assignedIp": "10.8.0.200"}}),
                ("removeClient", {"clientId": "alice"}),
            ):
                code, error = hub.refusal(method, params)
                assert (code, "full" in error) == ("INTERNAL", True), (method, error)
            assert hub.result("listRegisteredClients") == before
            assert hub.result("listClients")["clients"][0]["sessionId"] == session
            assert hub.refusal("enableClient", {"clientId": "carol"}) == (
                "CONFLICT",
                "wgPublicKey: a WireGuard peer has this key",
            )
            assert hub.result("listRegisteredClients") == before
            hub.result(
                "setClientRateLimit", {"clientId": "alice", "rateBytesPerSec": 10**6, "burstBytes": 10**5}
            )
            assert hub.result("getClientTelemetry", {"clientId": "alice"})["burstBytes"] == 10**5
            assert hub.event("error")["message"].startswith("the audit log: ")
            assert "not in the audit log: 'setClientRateLimit' of uid 0, client 'alice'" in daemon.errors
            assert await answers(topology, GATEWAY)
            assert (await alice.get_status()).state is TunnelState.CONNECTED
            filler.unlink()
            entry = hub.result("createClient", {"clientId": refused})["entry"]
            assert entry["assignedIp"] == f"10.8.0.{before['total'] + 2}"
            hub.result("stop")
            hub.result("start", config)
            assert hub.result("listRegisteredClients")["clients"] == sorted(
                [*before["clients"], entry], key=lambda kept: str(kept["clientId"])
            )


def written_until_full(hub: Connection) -> str:
    """Clients are created in what room is left; the name of the first that is refused."""
    for number in range(200):
        answer = hub.ask("createClient", {"clientId": f"client-{number:03}"})
        if not answer["success"]:
            assert answer["code"] == "INTERNAL"
            assert "disk is full" in answer["error"]
            return f"client-{number:03}"
    raise AssertionError("the disk does not get full")
