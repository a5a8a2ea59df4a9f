"""The command table walked: every field of every command, at every depth, with every type that it is not."""

from __future__ import annotations

import copy
import types
from collections.abc import Iterator
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import attrs
import pytest

from smartvpn._fields import camel_case
from smartvpn.commands import CLIENT_COMMANDS, SERVER_COMMANDS, Command, ConnectParams, StartParams
from smartvpn.config import ClientConfig, ServerConfig
from smartvpn.registry.sqlite import read_audit
from smartvpn.types import Unset
from tests.conftest import require_namespaces
from tests.netns.lone import lone_config, lone_daemon, public_key
from tests.raw import DaemonProcess, Lines

KEY, PEER = public_key(), public_key()
LIMIT = {"bytesPerSec": 10**6, "burstBytes": 10**5}
SECURITY = {"ipAllowList": ["10.0.0.0/8"], "rateLimit": LIMIT}
ALICE, NEW = {"clientId": "alice"}, {"clientId": "new"}

# Of each command what it takes, with every object that it may hold.
TAKEN: dict[str, dict[str, Any]] = {
    "createClient": NEW | {"security": SECURITY},
    "removeClient": ALICE,
    "getClient": ALICE,
    "enableClient": ALICE,
    "disableClient": ALICE,
    "updateClient": ALICE | {"update": {"security": SECURITY}},
    "rotateClientKey": ALICE,
    "exportClientConfig": ALICE | {"format": "smartvpn"},
    "disconnectClient": ALICE,
    "setClientRateLimit": ALICE | {"rateBytesPerSec": 10**6, "burstBytes": 10**5},
    "removeClientRateLimit": ALICE,
    "getClientTelemetry": ALICE,
    "addWgPeer": {"publicKey": PEER, "allowedIps": ["10.60.0.0/24"]},
    "removeWgPeer": {"publicKey": PEER},
}
ENTRY = {"clientId": "seed", "publicKey": KEY, "wgPublicKey": KEY, "enabled": True, "assignedIp": "10.8.0.9"}
CLIENT = {
    "serverUrl": "ws://127.0.0.1:9/",
    "serverPublicKey": KEY,
    "clientPrivateKey": KEY,
    "clientPublicKey": KEY,
}
VALUES: list[Any] = [None, True, 7, 1.5, "text", [], {}]
KINDS = {str: "string", bool: "boolean", int: "integer", float: "number", tuple: "list", datetime: "string"}
Place = tuple[str | int, ...]


def kind_of(value: Any) -> str:
    """What JSON calls it."""
    names = {type(None): "null", dict: "object", list: "list"}
    return names.get(type(value)) or KINDS[type(value)]


def kinds_taken(annotation: Any) -> set[str]:
    """The JSON types that a field of this annotation takes."""
    origin = get_origin(annotation) or annotation
    if origin in (Union, types.UnionType):
        return {kind for member in get_args(annotation) for kind in kinds_taken(member)}
    if origin is Unset:
        return set()
    if origin is type(None):
        return {"null"}
    if isinstance(origin, type) and issubclass(origin, Enum):
        return {"string"}
    if attrs.has(origin):
        return {"object"}
    return {KINDS[origin]}


def class_inside(annotation: Any) -> type | None:
    """The attrs class that a field of this annotation may hold, on its own or in a list."""
    if attrs.has(annotation):
        return annotation  # type: ignore[no-any-return]
    found = (class_inside(member) for member in get_args(annotation))
    return next((kind for kind in found if kind is not None), None)


def replaced(params: Any, place: Place, value: Any) -> Any:
    """The params with another value at the place."""
    changed = copy.deepcopy(params)
    inner = changed
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    return changed


def at(params: Any, place: Place) -> Any:
    """What stands there."""
    for step in place:
        params = params[step]
    return params


def in_words(place: Place) -> str:
    """As an error names it."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place).lstrip(".")


def wrong(cls: Any, params: Any, place: Place = ()) -> Iterator[tuple[Any, str]]:
    """Params with one thing wrong, and how the error begins."""
    yield replaced(params, (*place, "colour"), "red"), f"{in_words((*place, 'colour'))}: unknown field"
    hints = get_type_hints(cls)
    for field in attrs.fields(cls):
        here = (*place, camel_case(field.name))
        for value in VALUES:
            taken = kinds_taken(hints[field.name])
            if kind_of(value) not in taken and not (kind_of(value) == "integer" and "number" in taken):
                yield replaced(params, here, value), in_words(here)
        held = at(params, place).get(here[-1])
        if field.default is attrs.NOTHING:
            without = copy.deepcopy(params)
            at(without, place).pop(here[-1], None)
            yield without, f"{in_words(here)}: is missing"
        inner = class_inside(hints[field.name])
        if inner is not None and held:
            yield from wrong(inner, params, (*here, 0) if isinstance(held, list) else here)


def wrong_params(command: Command, taken: Any) -> Iterator[tuple[Any, str]]:
    """Of one command."""
    for params in (True, 7, "text", []):
        yield params, ""
    configs: dict[Any, type] = {StartParams: ServerConfig, ConnectParams: ClientConfig}
    yield from wrong(configs.get(command.params, command.params), taken)


def refused_all(lines: Lines, command: Command, taken: Any) -> int:
    """How many wrong params were refused as what they are."""
    count = 0
    for params, words in wrong_params(command, taken):
        code, error = lines.refusal(command.method, params)
        assert (code, error[: len(words)]) == ("INVALID_PARAMS", words), (command.method, params, error)
        count += 1
    return count


def test_every_server_command_refuses_wrong_types(tmp_path: Path) -> None:
    """INVALID_PARAMS by the field's name, before and after the start, and nothing has changed."""
    require_namespaces()
    path = tmp_path / "registry.db"
    config = lone_config(tmp_path, transportMode="wireguard", serverEndpoint="192.0.2.9", wgListenPort=0)
    start = config | {"clients": [ENTRY | {"security": SECURITY}], "wgPeers": [TAKEN["addWgPeer"]]}
    with lone_daemon(tmp_path) as daemon, daemon.connect() as hub:
        for method, command in SERVER_COMMANDS.items():
            assert refused_all(hub, command, start if method == "start" else TAKEN.get(method, {})) >= 5
        assert hub.result("getStatus") == {"state": "disconnected"}
        assert not path.exists()
        hub.result("start", config)
        hub.result("createClient", ALICE)
        hub.result("addWgPeer", TAKEN["addWgPeer"])
        questions = ("getStatus", "listRegisteredClients", "listWgPeers", "listClients")
        before = [hub.result(method) for method in questions], read_audit(path)
        for method, command in SERVER_COMMANDS.items():
            refused_all(hub, command, start if method == "start" else TAKEN.get(method, {}))
        assert ([hub.result(method) for method in questions], read_audit(path)) == before


def test_every_client_command_refuses_wrong_types() -> None:
    """The same in client mode."""
    with DaemonProcess.stdio("client") as daemon:
        assert daemon.lines.receive()["event"] == "ready"
        for method, command in CLIENT_COMMANDS.items():
            assert refused_all(daemon.lines, command, CLIENT if method == "connect" else {}) >= 5
        assert daemon.lines.result("getStatus") == {"state": "disconnected"}
        assert daemon.end() == 0


WITHOUT_A_HUB = {"start", "stop", "getStatus"} | {name for name in SERVER_COMMANDS if "generate" in name}


@pytest.mark.parametrize("method", sorted(SERVER_COMMANDS.keys() - WITHOUT_A_HUB))
def test_a_command_before_the_start(stopped: Lines, method: str) -> None:
    """Every command that needs a hub says that there is none."""
    assert stopped.refusal(method, TAKEN.get(method)) == ("INVALID_STATE", "the hub is not started")


@pytest.fixture(scope="module")
def stopped() -> Iterator[Lines]:
    """A daemon in server mode without a hub."""
    with DaemonProcess.stdio("server") as daemon:
        assert daemon.lines.receive()["event"] == "ready"
        yield daemon.lines


ABOUT_A_CLIENT = sorted(
    method for method, params in TAKEN.items() if "clientId" in params and method != "createClient"
)


def test_a_client_that_does_not_exist(tmp_path: Path) -> None:
    """Every command about a client says that there is none, and leaves no record."""
    require_namespaces()
    with lone_daemon(tmp_path) as daemon, daemon.connect() as hub:
        hub.result("start", lone_config(tmp_path))
        before = read_audit(tmp_path / "registry.db")
        for method in ABOUT_A_CLIENT:
            reason = ("NOT_FOUND", "client 'alice' does not exist")
            assert hub.refusal(method, TAKEN[method]) == reason, method
        assert read_audit(tmp_path / "registry.db") == before
