"""The hub's registry through its commands: keys from outside, rivals, errors that change nothing, records."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smartvpn.registry.sqlite import read_audit
from tests.conftest import require_namespaces
from tests.netns.lone import lone_config, lone_daemon, public_key
from tests.raw import TIMEOUT, Connection

ALICE = {"clientId": "alice"}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Connection]:
    """A connection to a hub that is started."""
    require_namespaces()
    with lone_daemon(tmp_path) as daemon, daemon.connect() as connection:
        connection.result("start", lone_config(tmp_path))
        yield connection


def everything(hub: Connection) -> Any:
    """What the registry holds."""
    return hub.result("listRegisteredClients")


# keys from outside


@pytest.mark.parametrize(
    ("given", "secrets"),
    [
        (("publicKey",), {"wgPrivateKey"}),
        (("wgPublicKey",), {"noisePrivateKey"}),
        (("publicKey", "wgPublicKey"), set()),
    ],
)
def test_a_key_from_outside_has_no_secret(hub: Connection, given: tuple[str, ...], secrets: set[str]) -> None:
    """The entry has the key that was given; where the private half would stand nothing stands, in words."""
    keys = {name: public_key() for name in given}
    bundle = hub.result("createClient", ALICE | keys)
    assert bundle["secrets"].keys() == secrets
    assert {name: bundle["entry"][name] for name in given} == keys
    config, text = bundle["smartvpnConfig"], bundle["wireguardConfig"]
    assert ("clientPrivateKey" in config) == ("publicKey" not in given)
    assert config["clientPublicKey"] == bundle["entry"]["publicKey"]
    assert ("\nPrivateKey = " in text, "\n# PrivateKey =" in text) == (
        "wgPublicKey" not in given,
        "wgPublicKey" in given,
    )


def test_the_hubs_own_key_is_no_clients(hub: Connection, tmp_path: Path) -> None:
    """It would let the hub take itself for a client."""
    hub.result("stop")
    config = lone_config(tmp_path)
    hub.result("start", config)
    own = ALICE | {"publicKey": config["publicKey"]}
    assert hub.refusal("createClient", own) == ("INVALID_PARAMS", "publicKey: is the hub's own")
    hub.result("createClient", {"clientId": "bob"})
    export = hub.result("exportClientConfig", {"clientId": "bob", "format": "wireguard"})["config"]
    (wg_key,) = [line.split(" = ")[1] for line in export.splitlines() if line.startswith("PublicKey")]
    own = ALICE | {"wgPublicKey": wg_key}
    assert hub.refusal("createClient", own) == ("INVALID_PARAMS", "wgPublicKey: is the hub's own")


# what is refused changes nothing


def refusals(hub: Connection) -> list[tuple[str, dict[str, Any], str, str]]:
    """Commands that must fail: method, params, code, and words of the reason."""
    bob = hub.result("createClient", {"clientId": "bob"})["entry"]
    past = "2020-01-01T00:00:00Z"
    return [
        ("createClient", ALICE, "ALREADY_EXISTS", "client 'alice' exists already"),
        ("createClient", {"clientId": "c", "publicKey": bob["publicKey"]}, "CONFLICT", "publicKey"),
        ("createClient", {"clientId": "c", "wgPublicKey": bob["wgPublicKey"]}, "CONFLICT", "wgPublicKey"),
        ("createClient", {"clientId": "c", "assignedIp": bob["assignedIp"]}, "CONFLICT", "assignedIp"),
        ("createClient", {"clientId": "c", "assignedIp": "10.9.0.1"}, "INVALID_PARAMS", "assignedIp"),
        ("createClient", {"clientId": "c", "expiresAt": past}, "INVALID_PARAMS", "expiresAt"),
        ("createClient", {"clientId": "c", "colour": "red"}, "INVALID_PARAMS", "colour: unknown field"),
        ("updateClient", ALICE | {"update": {"assignedIp": bob["assignedIp"]}}, "CONFLICT", "assignedIp"),
        ("updateClient", ALICE | {"update": {"assignedIp": "10.8.0.1"}}, "INVALID_PARAMS", "assignedIp"),
        ("updateClient", ALICE | {"update": {"expiresAt": past}}, "INVALID_PARAMS", "update.expiresAt"),
        (
            "updateClient",
            ALICE | {"update": {"security": {"ipAllowList": ["10.0.0.*.*"]}}},
            "INVALID_PARAMS",
            "update.security.ipAllowList[0]",
        ),
        ("disconnectClient", ALICE, "NOT_FOUND", "no such session"),
        ("disconnectClient", ALICE | {"sessionId": "00" * 16}, "NOT_FOUND", "no such session"),
        ("disconnectClient", ALICE | {"sessionId": "zero"}, "INVALID_PARAMS", "sessionId"),
        ("getClientTelemetry", ALICE | {"sessionId": "00" * 16}, "NOT_FOUND", "no such session"),
        ("addWgPeer", {"publicKey": public_key(), "allowedIps": []}, "INVALID_STATE", "WireGuard"),
        ("removeWgPeer", {"publicKey": public_key()}, "INVALID_STATE", "WireGuard"),
    ]


def test_what_is_refused_changes_nothing(hub: Connection, tmp_path: Path) -> None:
    """Neither the registry nor its log, nor what the engine holds: what was not taken can be taken."""
    hub.result("createClient", ALICE | {"tags": ["a"], "description": "d"})
    cases = refusals(hub)
    before, records = everything(hub), read_audit(tmp_path / "registry.db")
    for method, params, code, words in cases:
        actual, error = hub.refusal(method, params)
        assert (actual, words in error) == (code, True), (method, params, actual, error)
    assert everything(hub) == before
    assert read_audit(tmp_path / "registry.db") == records
    assert hub.result("createClient", {"clientId": "c"})["entry"]["assignedIp"] == "10.8.0.4"


def test_the_pool_ends(tmp_path: Path) -> None:
    """POOL_EXHAUSTED; the next one gets in when a place is free."""
    require_namespaces()
    with lone_daemon(tmp_path) as daemon, daemon.connect() as hub:
        hub.result("start", lone_config(tmp_path, subnet="10.8.0.0/30"))
        hub.result("createClient", ALICE)
        code, error = hub.refusal("createClient", {"clientId": "bob"})
        assert (code, error) == ("POOL_EXHAUSTED", "no free address is left in the subnet")
        hub.result("removeClient", ALICE)
        assert hub.result("createClient", {"clientId": "bob"})["entry"]["assignedIp"] == "10.8.0.2"


def test_rivals(hub: Connection) -> None:
    """Of many who want the same name, key or address at one moment one wins; all others are told."""
    key, wg_key = public_key(), public_key()
    wants: list[dict[str, Any]] = [{"clientId": "same"}] * 16
    wants += [{"clientId": f"key-{n}", "publicKey": key} for n in range(16)]
    wants += [{"clientId": f"wg-{n}", "wgPublicKey": wg_key} for n in range(16)]
    wants += [{"clientId": f"ip-{n}", "assignedIp": "10.8.9.9"} for n in range(16)]
    for number, params in enumerate(wants):
        hub.send(id=str(number), method="createClient", params=params)
    answers = {answer["id"]: answer for answer in (hub.answer() for _ in wants)}
    for start, code in ((0, "ALREADY_EXISTS"), (16, "CONFLICT"), (32, "CONFLICT"), (48, "CONFLICT")):
        group = [answers[str(number)] for number in range(start, start + 16)]
        assert sorted(answer["success"] for answer in group) == [False] * 15 + [True]
        assert {answer["code"] for answer in group if not answer["success"]} == {code}
    listed = everything(hub)
    winners = [answer["result"]["entry"] for answer in answers.values() if answer["success"]]
    assert sorted(winners, key=lambda entry: str(entry["clientId"])) == listed["clients"]
    assert listed["total"] == 4


def test_many_at_once(hub: Connection) -> None:
    """A crowd is created, changed and removed in one go; every address is given once."""
    for number in range(300):
        hub.send(id=f"c{number}", method="createClient", params={"clientId": f"client-{number}"})
    entries = [hub.answer()["result"]["entry"] for _ in range(300)]
    assert len({entry["assignedIp"] for entry in entries}) == 300
    for number in range(300):
        update = {"clientId": f"client-{number}", "update": {"tags": ["t"]}}
        hub.send(id=f"u{number}", method="updateClient", params=update)
        if number % 2:
            hub.send(id=f"r{number}", method="removeClient", params={"clientId": f"client-{number}"})
    answers = {answer["id"]: answer["success"] for answer in (hub.answer() for _ in range(450))}
    assert all(answers.values())
    assert hub.result("listRegisteredClients", {"tag": "t", "limit": 0})["total"] == 150


# subnets


def test_another_subnet_and_back(tmp_path: Path) -> None:
    """Clients it has no place for are left out, not lost: changed, removed, and in again with it."""
    require_namespaces()
    old = lone_config(tmp_path, subnet6="fd08::/64")
    with lone_daemon(tmp_path) as daemon, daemon.connect() as hub:
        hub.result("start", old)
        for name in ("alice", "bob", "carol"):
            hub.result("createClient", {"clientId": name})
        hub.result("stop")
        hub.result("start", old | {"subnet": "10.9.0.0/16"})
        assert "left out" in hub.event("error")["message"]
        new = hub.result("createClient", {"clientId": "dave"})["entry"]
        assert (new["assignedIp"], new["assignedIp6"]) == ("10.9.0.2", "fd08::2")
        assert "assignedIp6" not in hub.result("getClient", ALICE)
        assert hub.result("getClientTelemetry", ALICE)["assignedIp"] == "10.8.0.2"
        hub.result("disableClient", ALICE)
        hub.result("removeClient", {"clientId": "bob"})
        moved = {"clientId": "carol", "update": {"assignedIp": "10.9.0.7"}}
        assert hub.result("updateClient", moved)["assignedIp6"] == "fd08::7"
        hub.result("stop")
        hub.result("start", old)
        alice = hub.result("getClient", ALICE)
        assert (alice["assignedIp"], alice["assignedIp6"], alice["enabled"]) == ("10.8.0.2", "fd08::2", False)
        assert everything(hub)["total"] == 3


LEFT_OUT = "client 'alice' is left out: assignedIp: '10.8.0.2' is not a client address of the subnet"


def test_a_client_that_is_left_out(tmp_path: Path) -> None:
    """The registry has it; what needs it in the hub says that it is left out, and why; it can come back."""
    require_namespaces()
    old = lone_config(tmp_path)
    limit = ALICE | {"rateBytesPerSec": 10**6, "burstBytes": 10**5}
    with lone_daemon(tmp_path) as daemon, daemon.connect() as hub:
        hub.result("start", old)
        entry = hub.result("createClient", ALICE)["entry"]
        hub.result("stop")
        hub.result("start", old | {"subnet": "10.9.0.0/16"})
        assert hub.event("error") == {"message": LEFT_OUT, "code": "INVALID_PARAMS"}
        assert hub.result("getClient", ALICE) == entry
        assert everything(hub) == {"clients": [entry], "total": 1}
        before = read_audit(tmp_path / "registry.db")
        for method, params in (
            ("exportClientConfig", ALICE | {"format": "smartvpn"}),
            ("exportClientConfig", ALICE | {"format": "wireguard"}),
            ("disconnectClient", ALICE),
            ("setClientRateLimit", limit),
            ("removeClientRateLimit", ALICE),
        ):
            assert hub.refusal(method, params) == ("INVALID_STATE", LEFT_OUT)
        assert read_audit(tmp_path / "registry.db") == before
        assert hub.refusal("createClient", ALICE)[0] == "ALREADY_EXISTS"
        own = {"clientId": "bob", "publicKey": entry["publicKey"]}
        assert hub.refusal("createClient", own)[0] == "CONFLICT"
        moved = hub.result("updateClient", ALICE | {"update": {"assignedIp": "10.9.0.2"}})
        assert moved == entry | {"assignedIp": "10.9.0.2"}
        hub.result("setClientRateLimit", limit)
        hub.result("exportClientConfig", ALICE | {"format": "wireguard"})
        assert hub.result("createClient", {"clientId": "bob"})["entry"]["assignedIp"] == "10.9.0.3"


def damage(folder: Path, column: str, value: str, client_id: str = "alice") -> None:
    """Another program writes that into a client's row."""
    with contextlib.closing(sqlite3.connect(folder / "registry.db")) as database, database:
        database.execute(f"UPDATE clients SET {column} = {value} WHERE client_id = ?", (client_id,))


DAMAGED = "damaged in the registry: "


def test_a_client_that_is_damaged(tmp_path: Path) -> None:
    """It is told and left out, with its address kept; the others are served; it is mended, or removed."""
    require_namespaces()
    config = lone_config(tmp_path, subnet6="fd08::/64")
    with lone_daemon(tmp_path) as daemon, daemon.connect() as hub:
        hub.result("start", config)
        alice, bob, carol, dave = (
            hub.result("createClient", {"clientId": name})["entry"]
            for name in ("alice", "bob", "carol", "dave")
        )
        hub.result("stop")
        damage(tmp_path, "public_key", "'damaged'")
        damage(tmp_path, "security", "'{'", "bob")
        damage(tmp_path, "client_id", "CAST(x'ff' AS TEXT)", "dave")
        hub.result("start", config)
        told = [hub.event("error") for _ in range(3)]
        reasons = {
            "alice": "publicKey: is not a key",
            "bob": "security: Expecting",
            "row 4": "clientId: is not",
        }
        for name, reason in reasons.items():
            (message,) = [event["message"] for event in told if f"'{name}'" in event["message"]]
            assert message.startswith(f"client '{name}' is left out: {DAMAGED}{reason}")
        assert {event["code"] for event in told} == {"INTERNAL"}

        assert everything(hub) == {"clients": [carol], "total": 4}
        listing = hub.event("error")["message"]
        assert all(f"client '{name}' is {DAMAGED}{reason}" in listing for name, reason in reasons.items())
        for name in reasons:
            code, error = hub.refusal("getClient", {"clientId": name})
            assert (code, DAMAGED in error) == ("INTERNAL", True)
            assert hub.refusal("createClient", {"clientId": name})[0] == "ALREADY_EXISTS"
            assert hub.refusal("disableClient", {"clientId": name})[0] == "INTERNAL"
        assert hub.result("createClient", {"clientId": "erin"})["entry"]["assignedIp"] == "10.8.0.6"
        taken = ("CONFLICT", "assignedIp: '10.8.0.2' is taken")
        assert hub.refusal("createClient", {"clientId": "f", "assignedIp": "10.8.0.2"}) == taken
        assert (
            hub.refusal("updateClient", {"clientId": "erin", "update": {"assignedIp": "10.8.0.2"}}) == taken
        )

        rotated = hub.result("rotateClientKey", ALICE)["entry"]
        assert alice | {name: rotated[name] for name in ("publicKey", "wgPublicKey")} == rotated
        hub.result("exportClientConfig", ALICE | {"format": "smartvpn"})
        some, whole = {"security": {"maxConnections": 2}}, {"security": None}
        assert hub.refusal("updateClient", {"clientId": "bob", "update": some})[0] == "INTERNAL"
        assert hub.result("updateClient", {"clientId": "bob", "update": whole}) == bob
        hub.result("setClientRateLimit", {"clientId": "bob", "rateBytesPerSec": 10**6, "burstBytes": 10**5})
        hub.result("removeClient", {"clientId": "row 4"})
        assert hub.result("createClient", {"clientId": "dave"})["entry"]["assignedIp"] == dave["assignedIp"]

        damage(tmp_path, "priority", "-1")  # while the hub runs
        hub.result("setClientRateLimit", ALICE | {"rateBytesPerSec": 10**6, "burstBytes": 10**5})
        hub.result("removeClient", ALICE)
        damage(tmp_path, "client_id", "'gone'", "carol")
        for name in ("carol", "gone"):  # the engine has one, the registry the other
            hub.result("removeClient", {"clientId": name})
        assert hub.refusal("removeClient", {"clientId": "carol"})[0] == "NOT_FOUND"
        for address in (alice["assignedIp"], carol["assignedIp"]):
            hub.result("createClient", {"clientId": f"at {address}"})


def wireguard_config(folder: Path, **changes: Any) -> dict[str, Any]:
    """As `lone_config`, with WireGuard."""
    config = lone_config(folder, transportMode="wireguard", serverEndpoint="192.0.2.9", wgListenPort=0)
    return config | changes


# both or neither


def test_what_the_engine_refuses_is_not_written(tmp_path: Path) -> None:
    """A key that a WireGuard peer took while the client was disabled: CONFLICT, nothing is written."""
    require_namespaces()
    key = public_key()
    with lone_daemon(tmp_path) as daemon, daemon.connect() as hub:
        hub.result("start", wireguard_config(tmp_path))
        hub.result("createClient", ALICE | {"wgPublicKey": key, "enabled": False})
        peer = {"publicKey": key, "allowedIps": ["10.60.0.0/24"]}
        hub.result("addWgPeer", peer)
        before, records = everything(hub), read_audit(tmp_path / "registry.db")
        reason = ("CONFLICT", "wgPublicKey: a WireGuard peer has this key")
        assert hub.refusal("enableClient", ALICE) == reason
        assert hub.refusal("updateClient", ALICE | {"update": {"tags": ["t"]}}) == reason
        assert hub.refusal("updateClient", ALICE | {"update": {"assignedIp": "10.8.0.9"}}) == reason
        assert (everything(hub), read_audit(tmp_path / "registry.db")) == (before, records)
        assert hub.result("createClient", {"clientId": "bob", "assignedIp": "10.8.0.9"})
        hub.result("rotateClientKey", ALICE)
        hub.result("enableClient", ALICE)
        assert hub.refusal("createClient", {"clientId": "c", "wgPublicKey": key}) == reason
        hub.result("removeWgPeer", {"publicKey": key})
        hub.result("createClient", {"clientId": "c", "wgPublicKey": key})


# records


def test_every_command_is_on_record(tmp_path: Path) -> None:
    """Each with its name and what it changed, and no secret among it; what only reads has none."""
    require_namespaces()
    peer, psk = {"publicKey": public_key(), "allowedIps": ["10.60.0.0/24"]}, public_key()
    with lone_daemon(tmp_path) as daemon, daemon.connect() as hub:
        hub.result("start", wireguard_config(tmp_path))
        bundle = hub.result("createClient", ALICE | {"description": "d"})
        hub.result("updateClient", ALICE | {"update": {"tags": ["t"]}})
        hub.result("updateClient", ALICE | {"update": {"assignedIp": "10.8.0.9"}})
        hub.result("disableClient", ALICE)
        hub.result("enableClient", ALICE)
        rotated = hub.result("rotateClientKey", ALICE)
        hub.result("setClientRateLimit", ALICE | {"rateBytesPerSec": 10**6, "burstBytes": 10**5})
        hub.result("removeClientRateLimit", ALICE)
        hub.result("addWgPeer", peer | {"presharedKey": psk})
        hub.result("removeWgPeer", {"publicKey": peer["publicKey"]})
        for method in ("getClient", "getClientTelemetry"):
            hub.result(method, ALICE)
        for method in ("getStatus", "getStatistics", "listClients", "listWgPeers", "generateClientKeypair"):
            hub.result(method)
        hub.result("exportClientConfig", ALICE | {"format": "wireguard"})
        everything(hub)
        hub.result("removeClient", ALICE)
        hub.result("stop")
    records = [
        (record.action, record.client_id, record.detail) for record in read_audit(tmp_path / "registry.db")
    ]
    entry = {name: value for name, value in bundle["entry"].items() if name != "clientId"}
    keys = {name: rotated["entry"][name] for name in ("publicKey", "wgPublicKey")}
    assert records[::-1] == [
        ("start", None, {}),
        ("createClient", "alice", entry),
        ("updateClient", "alice", {"tags": ["t"]}),
        ("updateClient", "alice", {"assignedIp": "10.8.0.9"}),
        ("disableClient", "alice", {"enabled": False}),
        ("enableClient", "alice", {"enabled": True}),
        ("rotateClientKey", "alice", keys),
        ("setClientRateLimit", "alice", {"bytesPerSec": 10**6, "burstBytes": 10**5}),
        ("removeClientRateLimit", "alice", {}),
        ("addWgPeer", None, peer),
        ("removeWgPeer", None, {"publicKey": peer["publicKey"]}),
        ("removeClient", "alice", {}),
        ("stop", None, {}),
    ]
    contents = b"".join(child.read_bytes() for child in tmp_path.glob("registry.db*"))
    for secret in (*bundle["secrets"].values(), *rotated["secrets"].values(), psk):
        assert secret.encode() not in contents


AS_A_USER = (
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--bounding-set=-all,+net_admin,+dac_override",
    "--inh-caps=-all,+net_admin,+dac_override",  # the device, and sources that lie where only root looks
    "--ambient-caps=+net_admin,+dac_override",
)
SPEAKING = """
import json, socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); lines = s.makefile("rb")
s.sendall(json.dumps({"id": "1", "method": "createClient", "params": {"clientId": "bob"}}).encode() + b"\\n")
while "id" not in (answer := json.loads(lines.readline())): pass
sys.exit(not answer["success"])
"""


def test_the_record_names_the_user_at_the_socket(tmp_path: Path) -> None:
    """Root's commands to another user's daemon are root's, that user's own are its own."""
    require_namespaces()
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    with lone_daemon(tmp_path, prefix=AS_A_USER) as daemon, daemon.connect() as hub:
        config = lone_config(tmp_path)
        seed = {"clientId": "seed", "publicKey": public_key(), "wgPublicKey": public_key(), "enabled": True}
        hub.result("start", config | {"clients": [seed | {"assignedIp": "10.8.0.9"}]})
        hub.result("createClient", ALICE)
        command = [*AS_A_USER, sys.executable, "-c", SPEAKING, str(daemon.path)]
        subprocess.run(command, timeout=TIMEOUT, check=True)
    records = read_audit(tmp_path / "registry.db")
    assert [(record.action, record.client_id, record.uid) for record in records] == [
        ("stop", None, 65534),  # the daemon's own end
        ("createClient", "bob", 65534),
        ("createClient", "alice", 0),
        ("start", None, 0),
        ("start", "seed", 0),
    ]


# streams


def test_a_long_list_comes_in_chunks(hub: Connection) -> None:
    """A chunk ends at a thousand clients or a million bytes, and all of them together are the list."""
    rules = {"ipBlockList": [f"10.{n // 256}.{n % 256}.0/24" for n in range(10_000)]}
    for number in range(12):
        hub.result("createClient", {"clientId": f"client-{number:02}", "security": rules})
    hub.send(id="s", method="listRegisteredClients", params={"stream": True, "offset": 1})
    chunks = []
    while (answer := hub.answer()).get("stream"):
        chunks.append(answer["data"]["clients"])
    assert answer == {"id": "s", "success": True, "result": {"clients": [], "total": 12}}
    assert len(chunks) > 1
    assert all(len(json.dumps(chunk[:-1])) < 1_100_000 for chunk in chunks)
    names = [entry["clientId"] for chunk in chunks for entry in chunk]
    assert names == [f"client-{number:02}" for number in range(1, 12)]
    assert chunks[0][0]["security"]["ipBlockList"] == rules["ipBlockList"]
