"""VpnServer against a hub that runs: each method, its result's type and what it does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from smartvpn import (
    AlreadyExistsError,
    ClientConfig,
    ClientEntry,
    ClientSecurity,
    ConfigBundle,
    ConfigError,
    ConflictError,
    InvalidStateError,
    Keypair,
    NotFoundError,
    PoolExhaustedError,
    RateLimit,
    TunnelState,
    VpnServer,
)
from tests.netns.topology import Topology
from tests.netns.tunnel import STDIO, daemon, hub_config, hub_on

TIME = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)


@pytest.fixture
async def server(topology: Topology) -> AsyncIterator[VpnServer]:
    """A hub without clients."""
    async with hub_on(topology, serverEndpoint="vpn.example.org") as running:
        yield running


async def test_start_tells_where_it_listens(topology: Topology) -> None:
    """`start()` alone starts the daemon; `start(config)` opens the listeners; `stop_server` closes them."""
    server = VpnServer(STDIO, command=daemon(topology, "hub", "server"))
    assert not server.running
    assert await server.start() is None
    assert server.running
    with pytest.raises(InvalidStateError):
        await server.create_client("alice")
    assert isinstance(await server.generate_keypair(), Keypair)
    for _ in range(2):
        result = await server.start(hub_config())
        assert result is not None
        assert result.listen.websocket == "10.99.0.1:7443"
        status = await server.get_status()
        assert (status.state, status.assigned_ip) == (TunnelState.CONNECTED, "10.8.0.1")
        with pytest.raises(InvalidStateError, match="started already"):
            await server.start(hub_config())
        await server.stop_server()
        assert (await server.get_status()).state is TunnelState.DISCONNECTED
    await server.stop()
    assert not server.running


async def test_a_bundle_is_complete(server: VpnServer) -> None:
    """What create_client returns: entry, both configs, secrets that fit the public halves."""
    bundle = await server.create_client(
        "alice",
        tags=["phone", "staff"],
        description="Alice's phone",
        security={
            "destinationBlockList": ["10.0.0.0/8"],
            "rateLimit": {"bytesPerSec": 1000, "burstBytes": 16384},
        },
        priority=50,
        expires_at=TIME,
        assigned_ip="10.8.0.77",
    )
    assert isinstance(bundle, ConfigBundle)
    entry = bundle.entry
    assert (entry.client_id, entry.assigned_ip, entry.assigned_ip6) == ("alice", "10.8.0.77", "fd08::4d")
    assert (entry.tags, entry.description, entry.priority) == (("phone", "staff"), "Alice's phone", 50)
    assert entry.expires_at == TIME
    assert entry.security.rate_limit == RateLimit(bytes_per_sec=1000, burst_bytes=16384)
    config = bundle.smartvpn_config
    assert config.server_url == "ws://vpn.example.org:7443/"
    assert config.client_private_key == bundle.secrets.noise_private_key
    assert config.client_public_key == entry.public_key
    assert f"PrivateKey = {bundle.secrets.wg_private_key}" in bundle.wireguard_config
    assert "Address = 10.8.0.77/24, fd08::4d/64" in bundle.wireguard_config
    assert "Endpoint = vpn.example.org:51820" in bundle.wireguard_config
    assert "PersistentKeepalive = 25" in bundle.wireguard_config
    assert await server.get_client("alice") == entry


async def test_keys_from_outside_have_no_secret(server: VpnServer) -> None:
    """A client that brings its public keys keeps its private ones."""
    noise, wireguard = await server.generate_keypair(), await server.generate_wg_keypair()
    bundle = await server.create_client(
        "alice", public_key=noise.public_key, wg_public_key=wireguard.public_key
    )
    assert (bundle.entry.public_key, bundle.entry.wg_public_key) == (noise.public_key, wireguard.public_key)
    assert (bundle.secrets.noise_private_key, bundle.secrets.wg_private_key) == (None, None)
    assert bundle.smartvpn_config.client_private_key is None


async def test_entries_are_listed_in_pages(server: VpnServer) -> None:
    """By tag, by state, a part of them, and how many there are."""
    for number in range(12):
        await server.create_client(f"client-{number:02}", tags=["even"] if number % 2 == 0 else [])
    await server.disable_client("client-03")
    page = await server.list_registered_clients()
    assert ([entry.client_id for entry in page][:2], page.total) == (["client-00", "client-01"], 12)
    page = await server.list_registered_clients(tag="even", offset=1, limit=2)
    assert ([entry.client_id for entry in page], page.total) == (["client-02", "client-04"], 6)
    page = await server.list_registered_clients(enabled=False)
    assert [entry.client_id for entry in page] == ["client-03"]


async def test_an_entry_is_changed(server: VpnServer) -> None:
    """Only what is named changes, and null resets; disable and enable; remove frees id and address."""
    before = (await server.create_client("alice", tags=["a"], description="old")).entry
    after = await server.update_client("alice", {"description": "new", "expiresAt": TIME.isoformat()})
    assert (after.description, after.expires_at, after.tags) == ("new", TIME, before.tags)
    after = await server.update_client("alice", {"description": None, "expiresAt": None, "tags": []})
    assert (after.description, after.expires_at, after.tags) == (None, None, ())
    await server.disable_client("alice")
    assert (await server.get_client("alice")).enabled is False
    await server.enable_client("alice")
    assert (await server.get_client("alice")).enabled is True
    await server.remove_client("alice")
    with pytest.raises(NotFoundError, match="alice"):
        await server.get_client("alice")
    assert (await server.create_client("alice")).entry.assigned_ip == before.assigned_ip


async def test_keys_are_rotated(server: VpnServer) -> None:
    """Fresh keys and a fresh bundle; address and all else stay."""
    before = await server.create_client("alice")
    after = await server.rotate_client_key("alice")
    assert after.entry.public_key != before.entry.public_key
    assert after.entry.wg_public_key != before.entry.wg_public_key
    assert after.entry.assigned_ip == before.entry.assigned_ip
    assert after.secrets.noise_private_key not in (None, before.secrets.noise_private_key)


async def test_configs_are_exported_without_secrets(server: VpnServer) -> None:
    """Both forms, as they were in the bundle but for the private keys."""
    bundle = await server.create_client("alice")
    config = await server.export_client_config("alice", "smartvpn")
    assert isinstance(config, ClientConfig)
    assert config.client_private_key is None
    assert config.server_public_key == bundle.smartvpn_config.server_public_key
    text = await server.export_client_config("alice", "wireguard")
    assert isinstance(text, str)
    assert "# PrivateKey =" in text
    assert str(bundle.secrets.wg_private_key) not in text


async def test_nobody_is_connected(server: VpnServer) -> None:
    """Commands about sessions, of a client that has none."""
    await server.create_client("alice")
    assert await server.list_clients() == []
    statistics = await server.get_statistics()
    assert (statistics.active_clients, statistics.total_connections) == (0, 0)
    with pytest.raises(NotFoundError, match="session"):
        await server.get_client_telemetry("alice", "00" * 16)
    telemetry = await server.get_client_telemetry("alice")
    assert (telemetry.assigned_ip, telemetry.bytes_sent, telemetry.quality) == ("10.8.0.2", 0, None)
    await server.set_client_rate_limit("alice", 1_000_000, 20_000)
    await server.remove_client_rate_limit("alice")
    with pytest.raises(NotFoundError, match="session"):
        await server.disconnect_client("alice")


async def test_wireguard_peers_need_wireguard(server: VpnServer) -> None:
    """A hub without WireGuard has no peers, and says so."""
    key = (await server.generate_wg_keypair()).public_key
    with pytest.raises(InvalidStateError, match="WireGuard"):
        await server.add_wg_peer({"publicKey": key, "allowedIps": ["10.9.0.2/32"]})
    with pytest.raises(InvalidStateError, match="WireGuard"):
        await server.remove_wg_peer(key)
    assert await server.list_wg_peers() == []


NAMING_A_CLIENT: dict[str, tuple[object, ...]] = {
    "get_client": (),
    "remove_client": (),
    "enable_client": (),
    "disable_client": (),
    "update_client": ({"description": "x"},),
    "rotate_client_key": (),
    "export_client_config": ("smartvpn",),
    "disconnect_client": (),
    "set_client_rate_limit": (1, 1),
    "remove_client_rate_limit": (),
    "get_client_telemetry": (),
}


async def test_an_unknown_client_is_named(server: VpnServer) -> None:
    """NOT_FOUND with the id, from every command that takes one."""
    for method, arguments in NAMING_A_CLIENT.items():
        with pytest.raises(NotFoundError, match="'nobody'"):
            await getattr(server, method)("nobody", *arguments)


async def test_what_exists_is_refused(server: VpnServer) -> None:
    """The same id, the same address, the same key: refused, and nothing is changed."""
    alice = (await server.create_client("alice")).entry
    with pytest.raises(AlreadyExistsError, match="alice"):
        await server.create_client("alice")
    with pytest.raises((AlreadyExistsError, ConflictError)):
        await server.create_client("bob", assigned_ip=alice.assigned_ip)
    with pytest.raises((AlreadyExistsError, ConflictError)):
        await server.create_client("bob", public_key=alice.public_key)
    page = await server.list_registered_clients()
    assert list(page) == [alice]


async def test_the_pool_ends(topology: Topology) -> None:
    """A /29 has five addresses for clients; the sixth is told, and a freed one is given again."""
    async with hub_on(topology, subnet="10.8.0.0/29", subnet6=None) as server:
        given = [(await server.create_client(f"client-{n}")).entry.assigned_ip for n in range(5)]
        assert given == [f"10.8.0.{n}" for n in range(2, 7)]
        with pytest.raises(PoolExhaustedError):
            await server.create_client("late")
        await server.remove_client("client-3")
        assert (await server.create_client("late")).entry.assigned_ip == given[3]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"client_id": ""}, "clientId"),
    ({"client_id": "x" * 200}, "clientId"),
    ({"assigned_ip": "10.9.0.1"}, "assignedIp"),
    ({"assigned_ip": "10.8.0.1"}, "assignedIp"),
    ({"assigned_ip": "10.8.0.0"}, "assignedIp"),
    ({"assigned_ip": "ten"}, "assignedIp"),
    ({"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}, "expiresAt"),
    ({"security": {"ipAllowList": ["1.2.3.4.5"]}}, "ipAllowList"),
    ({"security": {"destinationBlockList": ["10.0.0.9-10.0.0.1"]}}, "destinationBlockList"),
    ({"security": {"maxConnections": 0}}, "maxConnections"),
    ({"security": {"rateLimit": {"bytesPerSec": 0, "burstBytes": 1}}}, "bytesPerSec"),
    ({"public_key": "AAAA"}, "publicKey"),
    ({"priority": "high"}, "priority"),
]


async def test_wrong_arguments_are_named(server: VpnServer) -> None:
    """ConfigError with the JSON field, and no client comes of it."""
    for arguments, field in WRONG:
        with pytest.raises(ConfigError, match=field):
            await server.create_client(**({"client_id": "alice"} | arguments))
        assert (await server.list_registered_clients()).total == 0


async def test_seeded_clients_and_the_registry_survive(topology: Topology, tmp_path: Any) -> None:
    """Clients of the config are put in once; what is registered is there after a restart."""
    pair = Keypair.generate()
    entry = ClientEntry(
        client_id="seed",
        public_key=pair.public_key,
        wg_public_key=Keypair.generate().public_key,
        assigned_ip="10.8.0.9",
        security=ClientSecurity(max_connections=3),
    )
    config = hub_config(registry=str(tmp_path / "registry.db"))
    seeded = config | {"clients": [{**_json(entry)}]}
    async with VpnServer(STDIO, seeded, command=daemon(topology, "hub", "server")) as server:
        await server.create_client("alice")
        entries = list(await server.list_registered_clients())
        text = await server.export_client_config("alice", "wireguard")
    async with VpnServer(STDIO, seeded, command=daemon(topology, "hub", "server")) as server:
        assert list(await server.list_registered_clients()) == entries
        assert await server.export_client_config("alice", "wireguard") == text
        assert (await server.get_client("seed")).security.max_connections == 3


def _json(entry: ClientEntry) -> dict[str, Any]:
    return {
        "clientId": entry.client_id,
        "publicKey": entry.public_key,
        "wgPublicKey": entry.wg_public_key,
        "assignedIp": entry.assigned_ip,
        "enabled": True,
        "security": {"maxConnections": entry.security.max_connections},
    }
