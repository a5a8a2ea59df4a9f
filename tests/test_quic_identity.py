"""What a hub is known by over QUIC is made once; where clients find it; which transport they remember."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from smartvpn._known import KnownTransports
from smartvpn._native import has_quic
from smartvpn._quic import certificate_hash, public_quic_endpoint, quic_identity
from smartvpn.config import ServerConfig
from smartvpn.keys import PrivateKey
from smartvpn.tunnel import _instance


def config(**changes: Any) -> ServerConfig:
    key = PrivateKey.generate()
    fields = {"listen_addr": "0.0.0.0:443", "subnet": "10.8.0.0/24", "transport_mode": "both"} | changes
    return ServerConfig(private_key=key.base64, public_key=key.public_key.base64, **fields)


class Store:
    """Secrets in a dictionary."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    async def get_secret(self, name: str) -> bytes | None:
        return self.kept.get(name)

    async def put_secret(self, name: str, value: bytes) -> None:
        self.kept[name] = value


@pytest.mark.skipif(not has_quic(), reason="this build has no QUIC: run `make vendor build`")
async def test_the_identity_is_made_once() -> None:
    """Certificate, key and secret are the same at every start with one store, and others with another."""
    store = Store()
    first, again = await quic_identity(config(), store), await quic_identity(config(), store)
    assert first == again
    assert "PRIVATE KEY" in first.key
    assert first.key not in repr(first)
    assert len(first.secret) == 32
    assert len(base64.b64decode(certificate_hash(first.certificate))) == 32
    other = await quic_identity(config(), Store())
    assert certificate_hash(other.certificate) != certificate_hash(first.certificate)
    assert other.secret != first.secret


@pytest.mark.parametrize(
    ("changes", "public", "ports", "expected"),
    [
        ({}, ("192.0.2.1", None), (443, 443), "192.0.2.1:443"),
        (
            {"server_endpoint": "vpn.example.org"},
            ("vpn.example.org", None),
            (443, 443),
            "vpn.example.org:443",
        ),
        (
            {"server_endpoint": "vpn.example.org:8443"},
            ("vpn.example.org", 8443),
            (443, 443),
            "vpn.example.org:8443",
        ),
        (
            {"server_endpoint": "vpn.example.org:8443", "quic_listen_addr": "0.0.0.0:4433"},
            ("vpn.example.org", 8443),
            (443, 4433),
            "vpn.example.org:4433",
        ),
        ({"quic_listen_addr": "192.0.2.9:4433"}, ("192.0.2.1", None), (443, 4433), "192.0.2.9:4433"),
        ({"quic_listen_addr": "[::]:4433"}, ("2001:db8::1", None), (443, 4433), "[2001:db8::1]:4433"),
    ],
)
def test_where_clients_find_quic(
    changes: dict[str, Any], public: tuple[str, int | None], ports: tuple[int, int], expected: str
) -> None:
    """The public host and port, QUIC's own where it listens elsewhere."""
    assert public_quic_endpoint(config(**changes), public, *ports) == expected


def test_transports_are_remembered(tmp_path: Path) -> None:
    """The last of each hub, of 64 hubs at most, in a new process too."""
    path = tmp_path / "state" / "transports.json"
    known = KnownTransports(path)
    assert known.get("a:443") is None
    for number in range(70):
        known.put(f"hub{number}:443", "quic")
    known.put("hub30:443", "websocket")
    again = KnownTransports(path)
    assert again.get("hub30:443") == "websocket"
    assert again.get("hub69:443") == "quic"
    assert again.get("hub5:443") is None
    assert len(json.loads(path.read_text())) == 64
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_an_installation_keeps_its_name(tmp_path: Path) -> None:
    """Made once, whole, for its owner alone; a damaged one is replaced."""
    path = tmp_path / "state" / "instance"
    name = _instance(path)
    assert (len(name), _instance(path), path.stat().st_mode & 0o777) == (16, name, 0o600)
    path.write_bytes(name[:7])
    assert _instance(path) not in (name, name[:7])
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a:443": 7}', "\x00"])
def test_a_damaged_memory_is_no_error(tmp_path: Path, text: str) -> None:
    """What cannot be read is forgotten, and written anew."""
    path = tmp_path / "transports.json"
    path.write_text(text)
    known = KnownTransports(path)
    assert known.get("a:443") is None
    known.put("a:443", "quic")
    assert known.get("a:443") == "quic"
