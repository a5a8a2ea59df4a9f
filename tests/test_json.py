"""The converter: strict, camelCase, and errors that name the JSON path and no secret."""

import json
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from smartvpn import (
    ClientConfig,
    ClientEntry,
    ClientSecurity,
    ConfigError,
    RateLimit,
    ServerConfig,
    VpnConfig,
)
from smartvpn._json import dump, from_json, parse, parse_long, to_json
from smartvpn.types import ClientUpdate, ConnectionQuality, ExportedConfig, Keypair, RegisteredClients, Status

HUB = Keypair.generate()
OTHER = Keypair.generate()

SERVER: dict[str, Any] = {
    "listenAddr": "0.0.0.0:443",
    "privateKey": HUB.private_key,
    "publicKey": HUB.public_key,
    "subnet": "10.8.0.0/24",
}
ENTRY: dict[str, Any] = {
    "clientId": "alice",
    "publicKey": HUB.public_key,
    "wgPublicKey": OTHER.public_key,
    "enabled": True,
    "assignedIp": "10.8.0.2",
}
CLIENT: dict[str, Any] = {
    "serverUrl": "wss://hub/",
    "serverPublicKey": HUB.public_key,
    "clientPrivateKey": OTHER.private_key,
    "clientPublicKey": OTHER.public_key,
}

FAULTS: list[tuple[Any, type, str, str]] = [
    ([], ServerConfig, "", "expected an object, got a list"),
    ({**SERVER, "colour": 1}, ServerConfig, "colour", "unknown field"),
    ({**SERVER, "listen_addr": "a:1"}, ServerConfig, "listen_addr", "unknown field"),
    ({k: SERVER[k] for k in SERVER if k != "subnet"}, ServerConfig, "subnet", "is missing"),
    ({**SERVER, "mtu": None}, ServerConfig, "mtu", "expected an integer, got null"),
    ({**SERVER, "mtu": 1420.0}, ServerConfig, "mtu", "expected an integer, got a number"),
    ({**SERVER, "mtu": True}, ServerConfig, "mtu", "expected an integer, got a boolean"),
    ({**SERVER, "enableNat": "yes"}, ServerConfig, "enableNat", "expected true or false, got a string"),
    ({**SERVER, "dns": "1.1.1.1"}, ServerConfig, "dns", "expected a list, got a string"),
    ({**SERVER, "dns": [1]}, ServerConfig, "dns[0]", "expected a string, got a number"),
    ({**SERVER, "registry": "\ud800"}, ServerConfig, "registry", "is not valid Unicode"),
    (
        {**SERVER, "transportMode": "x"},
        ServerConfig,
        "transportMode",
        "is not one of websocket, quic, both, wireguard, all",
    ),
    (
        {**SERVER, "privateKey": [HUB.private_key]},
        ServerConfig,
        "privateKey",
        "expected a string, got a list",
    ),
    ({**SERVER, "clients": [ENTRY, {}]}, ServerConfig, "clients[1].clientId", "is missing"),
    (
        {**SERVER, "clients": [{**ENTRY, "security": {"ipAllowList": ["::1", "x"]}}]},
        ServerConfig,
        "clients[0].security.ipAllowList[1]",
        "'x' is not an IPv4 or IPv6 address",
    ),
    (
        {**SERVER, "clients": [{**ENTRY, "security": {"rateLimit": {"bytesPerSec": 1}}}]},
        ServerConfig,
        "clients[0].security.rateLimit.burstBytes",
        "is missing",
    ),
    (
        {**SERVER, "clients": [{**ENTRY, "security": {"a": 1}}]},
        ServerConfig,
        "clients[0].security.a",
        "unknown field",
    ),
    ({**ENTRY, "expiresAt": "soon"}, ClientEntry, "expiresAt", "is not a time such as 2030-01-31T12:00:00Z"),
    (
        {**ENTRY, "expiresAt": "0001-01-01T00:00:00+23:00"},
        ClientEntry,
        "expiresAt",
        "is not a time such as 2030-01-31T12:00:00Z",
    ),
    ({"publicKey": "x"}, ClientUpdate, "publicKey", "unknown field"),
    ({"clientId": "x"}, ClientUpdate, "clientId", "unknown field"),
    ({"assignedIp": None}, ClientUpdate, "assignedIp", "expected a string, got null"),
    (
        {"security": {"maxConnections": 0}},
        ClientUpdate,
        "security.maxConnections",
        "0 is not between 1 and 65535",
    ),
    ({"config": 5}, ExportedConfig, "config", "expected an object, got a number"),
]


@pytest.mark.parametrize(("data", "cls", "field", "reason"), FAULTS)
def test_faults(data: Any, cls: type, field: str, reason: str) -> None:
    """The path and the reason are exact, in a file of any depth."""
    with pytest.raises(ConfigError) as caught:
        from_json(data, cls)
    assert (caught.value.field, caught.value.reason) == (field, reason)


def test_outer_path() -> None:
    """The place where the data stands is put before the path."""
    with pytest.raises(ConfigError) as caught:
        from_json({"ipAllowList": ["x"]}, ClientSecurity, "update.security")
    assert caught.value.field == "update.security.ipAllowList[0]"


SECRETS = ("privateKey", "wgPrivateKey", "tlsKey")


@given(st.sampled_from(SECRETS), st.text(st.characters(codec="utf-8"), min_size=12))
def test_secrets_are_not_repeated(name: str, secret: str) -> None:
    """Whatever stands in a secret's place, no message repeats it."""
    for value in (secret, [secret], {secret: 1}):
        with pytest.raises(ConfigError) as caught:
            from_json({**SERVER, name: value}, ServerConfig)
        assert secret not in str(caught.value)
        assert caught.value.__context__ is None


def test_json_names() -> None:
    """Names are camelCase, None and empty lists stay out, times are ISO 8601 in UTC."""
    entry = ClientEntry(
        client_id="alice",
        public_key=HUB.public_key,
        wg_public_key=OTHER.public_key,
        security=ClientSecurity(
            ip_block_list=["10.0.0.*"], rate_limit=RateLimit(bytes_per_sec=1000, burst_bytes=2000)
        ),
        tags=["a", "b"],
        expires_at=datetime(2030, 1, 31, 12, tzinfo=UTC),
        assigned_ip="10.8.0.2",
        assigned_ip6="fd00::2",
    )
    assert to_json(entry) == {
        "clientId": "alice",
        "publicKey": HUB.public_key,
        "wgPublicKey": OTHER.public_key,
        "security": {
            "ipBlockList": ["10.0.0.*"],
            "maxConnections": 1,
            "rateLimit": {"bytesPerSec": 1000, "burstBytes": 2000},
        },
        "priority": 100,
        "enabled": True,
        "tags": ["a", "b"],
        "expiresAt": "2030-01-31T12:00:00Z",
        "assignedIp": "10.8.0.2",
        "assignedIp6": "fd00::2",
    }
    assert from_json(to_json(entry), ClientEntry) == entry


def test_required_lists_are_written_when_empty() -> None:
    """Only a default may be left out: an empty page is a page, and no routes are not all routes."""
    assert to_json(RegisteredClients(clients=[], total=0)) == {"clients": [], "total": 0}
    config = from_json({**SERVER, "routes": []}, ServerConfig)
    assert to_json(config)["routes"] == []
    assert from_json(to_json(config), ServerConfig) == config


def test_update_tells_null_from_missing() -> None:
    """Both survive the way to JSON and back."""
    data = {"tags": None, "priority": 5, "security": {"rateLimit": None, "maxConnections": 2}}
    assert to_json(from_json(data, ClientUpdate)) == data


def test_exported_config_has_two_forms() -> None:
    """Text is WireGuard text, an object is a client config."""
    assert from_json({"config": "[Interface]\n"}, ExportedConfig).config == "[Interface]\n"
    exported = from_json({"config": CLIENT}, ExportedConfig).config
    assert isinstance(exported, ClientConfig)
    assert exported.client_public_key == OTHER.public_key


def test_enums_are_plain_text() -> None:
    """Members are written as the text they stand for."""
    written = to_json(from_json({"state": "connected"}, Status))
    assert (written, type(written["state"])) == ({"state": "connected"}, str)


def test_numbers() -> None:
    """Fractions take integers; NaN and numbers without end are refused both ways."""
    data = {
        "srttMs": 1,
        "jitterMs": 0.5,
        "minRttMs": 1.0,
        "maxRttMs": 2.0,
        "lossRatio": 0.0,
        "consecutiveTimeouts": 0,
        "linkHealth": "healthy",
        "currentKeepaliveIntervalSecs": 60,
    }
    assert from_json(data, ConnectionQuality).srtt_ms == 1.0
    for wrong in (float("nan"), float("inf"), 10**400, "1"):
        with pytest.raises(ConfigError, match=r"^srttMs: "):
            from_json({**data, "srttMs": wrong}, ConnectionQuality)
    for text in ("NaN", "[Infinity]", "[" * 100_000, '"\xff"'.encode("latin-1")):
        with pytest.raises(ValueError, match=r"not JSON|nested too deeply|not UTF-8"):
            parse(text)


PATTERNS = st.one_of(
    st.ip_addresses().map(str),
    st.ip_addresses(v=4).map(lambda address: f"{address}/12"),
    st.just("192.168.1.*"),
    st.just("1.1.1.1-1.1.1.100"),
)
SECURITY = st.builds(
    ClientSecurity,
    ip_allow_list=st.lists(PATTERNS),
    ip_block_list=st.lists(PATTERNS),
    destination_allow_list=st.lists(PATTERNS),
    destination_block_list=st.lists(PATTERNS),
    max_connections=st.integers(1, 65535),
    rate_limit=st.none()
    | st.builds(RateLimit, bytes_per_sec=st.integers(1, 2**63 - 1), burst_bytes=st.integers(1, 2**63 - 1)),
)
ENTRIES = st.builds(
    ClientEntry,
    client_id=st.text(min_size=1, max_size=32).filter(str.isprintable),
    public_key=st.builds(lambda: HUB.public_key),
    wg_public_key=st.builds(lambda: OTHER.public_key),
    security=SECURITY,
    priority=st.integers(0, 65535),
    enabled=st.booleans(),
    tags=st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(str.isprintable)),
    description=st.none() | st.text(st.characters(codec="utf-8")),
    expires_at=st.none() | st.datetimes(timezones=st.just(UTC)),
    assigned_ip=st.ip_addresses(v=4).map(str),
    assigned_ip6=st.none() | st.ip_addresses(v=6).map(str),
)


@given(ENTRIES)
def test_entry_round_trip(entry: ClientEntry) -> None:
    """Every entry comes back equal from its JSON text."""
    assert from_json(parse(dump(entry)), ClientEntry) == entry


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from([*SERVER, *ENTRY, "clients", "dns"]), inner)
    ),
)


@given(JSON)
def test_any_json_is_judged(data: Any) -> None:
    """Any JSON becomes a config or a ConfigError, never another error."""
    for cls in (ServerConfig, ClientConfig, ClientEntry, ClientUpdate):
        try:
            value = from_json(data, cls)
        except ConfigError:
            continue
        assert isinstance(value, cls)


# files


def test_validate() -> None:
    """Parsed JSON and objects are both welcome; a client config must be complete."""
    config = VpnConfig.validate_server_config(SERVER)
    assert VpnConfig.validate_server_config(config) is config
    assert VpnConfig.validate_client_config(CLIENT).server_url == "wss://hub/"
    with pytest.raises(ConfigError) as caught:
        VpnConfig.validate_client_config({k: v for k, v in CLIENT.items() if k != "clientPrivateKey"})
    assert caught.value.field == "clientPrivateKey"


def test_save_and_load(tmp_path: Path) -> None:
    """What was saved is loaded, the file is 0600 whatever it was, and no scrap is left."""
    path = tmp_path / "server.json"
    path.write_text("old")
    path.chmod(0o644)
    config = VpnConfig.validate_server_config({**SERVER, "clients": [ENTRY]})
    VpnConfig.save_to_file(path, config)
    assert VpnConfig.load_from_file(path, "server") == config
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [child.name for child in tmp_path.iterdir()] == ["server.json"]
    assert json.loads(path.read_text())["clients"][0]["clientId"] == "alice"


def test_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    """A file that cannot be replaced stays, and no scrap is left."""
    target = tmp_path / "client.json"
    (target / "inner").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        VpnConfig.save_to_file(target, VpnConfig.validate_client_config(CLIENT))
    assert [child.name for child in tmp_path.iterdir()] == ["client.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ('{"serverUrl": 1}', "serverUrl: expected a string"),
        ("[]", "expected an object"),
    ],
)
def test_load_faults(tmp_path: Path, content: str, message: str) -> None:
    """A damaged file is a ConfigError, a missing one an OSError."""
    path = tmp_path / "client.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        VpnConfig.load_from_file(path, "client")
    with pytest.raises(FileNotFoundError):
        VpnConfig.load_from_file(tmp_path / "none.json", "client")


def test_load_of_an_unknown_type(tmp_path: Path) -> None:
    """There are two types of config."""
    with pytest.raises(ConfigError, match=r"^type: "):
        VpnConfig.load_from_file(tmp_path, "hub")  # type: ignore[call-overload]


# long texts

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=40) | st.dictionaries(st.text(), inner, max_size=20),
    max_leaves=400,
)


@given(VALUES, st.integers(0, 30))
def test_long_texts_are_read_as_any(value: object, spoilt: int) -> None:
    """The reader that gives way says of any text, right or wrong, what the other one says."""
    text = json.dumps([value, ["x" * 50] * 60, value])
    place = len(text) * spoilt // 30
    for form in (text, text.encode(), text[:place] + "]" + text[place:], text[:place]):
        outcomes = []
        for read in (parse, parse_long):
            try:
                outcomes.append(read(form))
            except ValueError as error:
                outcomes.append(str(error))
        assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("text", ["[" * 100_000, '[{"a":' * 50_000, "[NaN]", b"\xff", b"\xef\xbb\xbf[1]"])
def test_long_texts_that_are_odd(text: str | bytes) -> None:
    """So does it of what no text holds."""
    outcomes = []
    for read in (parse, parse_long):
        try:
            outcomes.append(read(text))
        except ValueError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]
