"""Wrong configs at the daemon: each field once, by command and by file; the error names it."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from smartvpn._fields import camel_case
from smartvpn.config import ClientConfig, ServerConfig
from smartvpn.keys import PrivateKey
from tests.raw import DaemonProcess, Lines, run_daemon

KEY, OTHER = PrivateKey.generate(), PrivateKey.generate()
BAD_KEY = b64encode(bytes(range(100, 129))).decode()
ENTRY = {
    "clientId": "alice",
    "publicKey": KEY.public_key.base64,
    "wgPublicKey": OTHER.public_key.base64,
    "enabled": True,
    "assignedIp": "10.8.0.2",
}

SERVER = {
    "listenAddr": "127.0.0.1:0",
    "privateKey": KEY.base64,
    "publicKey": KEY.public_key.base64,
    "subnet": "10.8.0.0/24",
    "registry": ":memory:",
}
CLIENT = {
    "serverUrl": "ws://127.0.0.1:9/",
    "serverPublicKey": OTHER.public_key.base64,
    "clientPrivateKey": KEY.base64,
    "clientPublicKey": KEY.public_key.base64,
    "transport": "websocket",
}

WRONG_SERVER: list[tuple[str, Any]] = [
    ("listenAddr", "127.0.0.1"),
    ("privateKey", BAD_KEY),
    ("publicKey", OTHER.public_key.base64),
    ("subnet", "10.8.0.1/24"),
    ("subnet6", "10.9.0.0/24"),
    ("tlsCert", 7),
    ("tlsKey", ""),
    ("dns", ["one.example"]),
    ("mtu", 500),
    ("keepaliveIntervalSecs", 0),
    ("enableNat", "yes"),
    ("transportMode", "carrier pigeon"),
    ("quicListenAddr", "127.0.0.1:70000"),
    ("quicIdleTimeoutSecs", 1.5),
    ("defaultRateLimitBytesPerSec", -1),
    ("defaultBurstBytes", "many"),
    ("wgListenPort", 65536),
    ("wgPrivateKey", BAD_KEY),
    ("wgPeers", [{"publicKey": KEY.public_key.base64, "allowedIps": ["10.8.0.256"]}]),
    ("wgBackend", "both"),
    ("clients", [ENTRY | {"assignedIp": "10.9.0.2"}]),
    ("registry", ""),
    ("serverEndpoint", "https://vpn.example.org/"),
    ("trustedProxies", ["10.0.0.0/8", "everybody"]),
    ("routes", "0.0.0.0/0"),
    ("rekeySecs", 5),
    ("resumeLifetimeSecs", 2**32),
    ("allowHostAccess", None),
]

WRONG_CLIENT: list[tuple[str, Any]] = [
    ("serverUrl", "http://hub.example/"),
    ("quicServerUrl", "hub.example"),
    ("serverPublicKey", "short"),
    ("clientPrivateKey", BAD_KEY),
    ("clientPublicKey", OTHER.public_key.base64),
    ("transport", "both"),
    ("serverCertHash", "sha256"),
    ("dns", ["192.0.2.1", "192.0.2"]),
    ("mtu", 70000),
    ("keepaliveIntervalSecs", "60"),
    ("routes", ["10.0.0.0/33"]),
    ("wgPrivateKey", BAD_KEY),
    ("wgAddress", "fd00::2"),
    ("wgAddress6", "10.8.0.2"),
    ("wgAddressPrefix", 33),
    ("wgPresharedKey", BAD_KEY),
    ("wgPersistentKeepalive", -1),
    ("wgEndpoint", "hub.example:0"),
    ("wgAllowedIps", ["0.0.0.0/0", 5]),
]

MISSING_SERVER = ["listenAddr", "privateKey", "publicKey", "subnet"]
MISSING_CLIENT = ["serverUrl", "serverPublicKey", "clientPrivateKey", "clientPublicKey"]


@pytest.fixture(scope="module")
def server() -> Iterator[Lines]:
    """A daemon in server mode that has logged no key in the end."""
    yield from _running("server")


@pytest.fixture(scope="module")
def client() -> Iterator[Lines]:
    """A daemon in client mode that has logged no key in the end."""
    yield from _running("client")


def _running(mode: str) -> Iterator[Lines]:
    with DaemonProcess.stdio(mode, "--log-level", "DEBUG") as daemon:
        assert daemon.lines.receive()["event"] == "ready"
        yield daemon.lines
        assert daemon.end() == 0
        assert [key for key in (KEY.base64, BAD_KEY) if key in daemon.errors] == []


def _refused(lines: Lines, method: str, config: dict[str, Any], field: str) -> None:
    """Both forms of the params are refused alike, by the field's name and without its value."""
    for params in (config, {"config": config}):
        code, error = lines.refusal(method, params)
        assert (code, error[: len(field)]) == ("INVALID_PARAMS", field), error
        assert error[len(field)] in ":[."
        assert KEY.base64[:20] not in error
    assert lines.result("getStatus") == {"state": "disconnected"}


def test_the_tables_name_every_field() -> None:
    """No field is forgotten, and none stands there twice."""
    for table, kind in ((WRONG_SERVER, ServerConfig), (WRONG_CLIENT, ClientConfig)):
        assert [field for field, _ in table] == [camel_case(item.name) for item in attrs.fields(kind)]


def names_of(cases: list[tuple[str, Any]]) -> list[str]:
    """Without the values: some are keys made for this run."""
    return [f"{field}-{number}" for number, (field, _) in enumerate(cases)]


@pytest.mark.parametrize(("field", "value"), WRONG_SERVER, ids=names_of(WRONG_SERVER))
def test_a_wrong_field_of_the_hub(server: Lines, field: str, value: Any) -> None:
    """`start` refuses it."""
    _refused(server, "start", SERVER | {field: value}, field)


@pytest.mark.parametrize(("field", "value"), WRONG_CLIENT, ids=names_of(WRONG_CLIENT))
def test_a_wrong_field_of_the_client(client: Lines, field: str, value: Any) -> None:
    """`connect` refuses it."""
    _refused(client, "connect", CLIENT | {field: value}, field)


@pytest.mark.parametrize("field", MISSING_SERVER)
def test_a_missing_field_of_the_hub(server: Lines, field: str) -> None:
    """What is required and left out is named."""
    _refused(server, "start", {name: SERVER[name] for name in SERVER if name != field}, field)


@pytest.mark.parametrize("field", MISSING_CLIENT)
def test_a_missing_field_of_the_client(client: Lines, field: str) -> None:
    """What is required and left out is named."""
    _refused(client, "connect", {name: CLIENT[name] for name in CLIENT if name != field}, field)


def test_an_unknown_field(server: Lines, client: Lines) -> None:
    """A misspelt field is named, not passed over."""
    _refused(server, "start", SERVER | {"listenAdr": "127.0.0.1:1"}, "listenAdr")
    _refused(client, "connect", CLIENT | {"serverURL": "ws://hub/"}, "serverURL")


# files


def _run_with_file(path: Path, mode: str = "server") -> tuple[int, str, str]:
    done = run_daemon("--config", str(path), "--mode", mode)
    return done.returncode, done.stdout, done.stderr


def test_a_config_file_that_is_wrong(tmp_path: Path) -> None:
    """Status 1 and one line on stderr: the file, and the field, or why it cannot be read."""
    path = tmp_path / "server.json"
    wrong = f"smartvpn_daemon: {path}: mtu: 5 is not between 576 and 65000\n"
    assert _run_with_file(path) == (1, "", f"smartvpn_daemon: {path}: No such file or directory\n")
    path.write_text("{")
    status, out, errors = _run_with_file(path)
    assert (status, out) == (1, "")
    assert errors.startswith(f"smartvpn_daemon: {path} is not JSON")
    path.write_text(json.dumps(SERVER | {"mtu": 5}))
    assert _run_with_file(path) == (1, "", wrong)
    path.write_text(json.dumps(CLIENT | {"mtu": 5}))
    assert _run_with_file(path, "client") == (1, "", wrong)
    assert _run_with_file(tmp_path) == (1, "", f"smartvpn_daemon: {tmp_path}: Is a directory\n")


def test_a_client_file_without_its_secret(tmp_path: Path) -> None:
    """An exported config loads, but cannot connect: the missing key is named."""
    path = tmp_path / "client.json"
    path.write_text(json.dumps({name: CLIENT[name] for name in CLIENT if name != "clientPrivateKey"}))
    status, _, errors = _run_with_file(path, "client")
    assert (status, errors) == (
        1,
        "smartvpn_daemon: clientPrivateKey: is required with transport websocket\n",
    )
