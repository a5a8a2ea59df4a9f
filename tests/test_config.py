"""Configs: every default, every refusal names its field, nothing secret is shown."""

import ipaddress
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import attrs
import pytest
from hypothesis import given, strategies as st

from smartvpn._address import ServerUrl, parse_pattern, parse_server_url
from smartvpn.config import (
    ClientConfig,
    ClientEntry,
    ClientSecurity,
    RateLimit,
    ServerConfig,
    Transport,
    TransportMode,
    WgPeerConfig,
)
from smartvpn.errors import ConfigError
from smartvpn.keys import encode_key
from smartvpn.types import UNSET, ClientUpdate, Keypair, SecurityUpdate

HUB = Keypair.generate()
OTHER = Keypair.generate()


def server(**changes: Any) -> ServerConfig:
    """A valid hub with changes."""
    fields = {
        "listen_addr": "0.0.0.0:443",
        "private_key": HUB.private_key,
        "public_key": HUB.public_key,
        "subnet": "10.8.0.0/24",
    }
    return ServerConfig(**{**fields, **changes})


def client(**changes: Any) -> ClientConfig:
    """A valid client with changes."""
    return ClientConfig(**{"server_url": "wss://hub/", "server_public_key": HUB.public_key, **changes})


def entry(**changes: Any) -> ClientEntry:
    """A valid entry with changes."""
    fields = {
        "client_id": "alice",
        "public_key": HUB.public_key,
        "wg_public_key": OTHER.public_key,
        "assigned_ip": "10.8.0.2",
    }
    return ClientEntry(**{**fields, **changes})


def test_server_defaults() -> None:
    """What is left out has the documented default."""
    config = server()
    required = {"listen_addr", "private_key", "public_key", "subnet"}
    actual = {name: value for name, value in attrs.asdict(config).items() if name not in required}
    assert actual == {
        "subnet6": None,
        "tls_cert": None,
        "tls_key": None,
        "dns": (),
        "mtu": 1420,
        "keepalive_interval_secs": 60,
        "enable_nat": False,
        "transport_mode": "websocket",
        "quic_listen_addr": None,
        "quic_idle_timeout_secs": 30,
        "default_rate_limit_bytes_per_sec": None,
        "default_burst_bytes": None,
        "wg_listen_port": 51820,
        "wg_private_key": None,
        "wg_peers": (),
        "wg_backend": "userspace",
        "clients": (),
        "registry": "/var/lib/smartvpn/registry.db",
        "server_endpoint": None,
        "trusted_proxies": (),
        "routes": None,
        "rekey_secs": 3600,
        "resume_lifetime_secs": 300,
        "allow_host_access": True,
    }


def test_client_defaults() -> None:
    """A client takes from the hub what it does not set."""
    set_fields = {k: v for k, v in attrs.asdict(client()).items() if v is not None}
    assert set_fields == {
        "server_url": "wss://hub/",
        "server_public_key": HUB.public_key,
        "transport": "auto",
        "wg_address_prefix": 24,
    }


def test_entry_and_security_defaults() -> None:
    """An entry is enabled, of priority 100, and may hold one session."""
    made = entry()
    assert (made.enabled, made.priority, made.tags, made.security) == (True, 100, (), ClientSecurity())
    assert (ClientSecurity().max_connections, ClientSecurity().rate_limit) == (1, None)


SERVER_FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"listen_addr": None}, "listenAddr"),
    ({"listen_addr": "hub"}, "listenAddr"),
    ({"listen_addr": "hub:65536"}, "listenAddr"),
    ({"listen_addr": "::1:443"}, "listenAddr"),
    ({"listen_addr": "[10.0.0.1]:443"}, "listenAddr"),
    ({"private_key": "short"}, "privateKey"),
    ({"public_key": OTHER.public_key}, "publicKey"),
    ({"public_key": OTHER.public_key, "transport_mode": "wireguard"}, "publicKey"),
    ({"subnet": "10.8.0.1/24"}, "subnet"),
    ({"subnet": "10.8.0.0"}, "subnet"),
    ({"subnet": "10.8.0.0/31"}, "subnet"),
    ({"subnet": "127.0.0.0/8"}, "subnet"),
    ({"subnet": "fd00::/64"}, "subnet"),
    ({"subnet6": "10.9.0.0/24"}, "subnet6"),
    ({"subnet6": "fd00::/121"}, "subnet6"),
    ({"subnet6": "fe80::/64"}, "subnet6"),
    ({"subnet6": "fd00::/64", "mtu": 1279}, "mtu"),
    ({"tls_cert": "cert.pem"}, "tlsKey"),
    ({"tls_key": "key.pem"}, "tlsCert"),
    ({"dns": "1.1.1.1"}, "dns"),
    ({"dns": ["1.1.1.1", "one"]}, "dns[1]"),
    ({"mtu": 575}, "mtu"),
    ({"mtu": 65001}, "mtu"),
    ({"mtu": "1420"}, "mtu"),
    ({"mtu": True}, "mtu"),
    ({"keepalive_interval_secs": 0}, "keepaliveIntervalSecs"),
    ({"keepalive_interval_secs": 65536}, "keepaliveIntervalSecs"),
    ({"enable_nat": 1}, "enableNat"),
    ({"transport_mode": "tcp"}, "transportMode"),
    ({"quic_listen_addr": "hub"}, "quicListenAddr"),
    ({"quic_idle_timeout_secs": 0}, "quicIdleTimeoutSecs"),
    ({"default_rate_limit_bytes_per_sec": 0}, "defaultRateLimitBytesPerSec"),
    ({"default_burst_bytes": 0}, "defaultBurstBytes"),
    ({"wg_listen_port": 65536}, "wgListenPort"),
    ({"wg_private_key": "x"}, "wgPrivateKey"),
    ({"wg_backend": "go"}, "wgBackend"),
    ({"registry": ""}, "registry"),
    ({"server_endpoint": "a b"}, "serverEndpoint"),
    ({"trusted_proxies": ["10.0.0.0/8", "10.0.0.*"]}, "trustedProxies[1]"),
    ({"routes": ["10.0.0.0/33"]}, "routes[0]"),
    ({"rekey_secs": 19}, "rekeySecs"),
    ({"rekey_secs": -1}, "rekeySecs"),
    ({"resume_lifetime_secs": -1}, "resumeLifetimeSecs"),
    ({"clients": [entry(assigned_ip="10.9.0.2")]}, "clients[0].assignedIp"),
    ({"clients": [entry(assigned_ip="10.8.0.1")]}, "clients[0].assignedIp"),
    ({"clients": [entry(assigned_ip="10.8.0.255")]}, "clients[0].assignedIp"),
    ({"clients": [entry(), entry()]}, "clients[1].clientId"),
    ({"clients": [entry(), entry(client_id="bob")]}, "clients[1].publicKey"),
    ({"clients": [entry(assigned_ip6="fd00::2")]}, "clients[0].assignedIp6"),
    ({"clients": [entry(assigned_ip6="fd00::3")], "subnet6": "fd00::/64"}, "clients[0].assignedIp6"),
    ({"clients": ["alice"]}, "clients[0]"),
    ({"wg_peers": [WgPeerConfig(public_key=HUB.public_key, allowed_ips=[])] * 2}, "wgPeers[1].publicKey"),
]


@pytest.mark.parametrize(("changes", "field"), SERVER_FAULTS)
def test_server_faults(changes: dict[str, Any], field: str) -> None:
    """A wrong value is refused by its JSON name."""
    with pytest.raises(ConfigError) as caught:
        server(**changes)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")


@pytest.mark.parametrize(
    "changes",
    [
        {"listen_addr": None, "transport_mode": "wireguard"},
        {"listen_addr": ":443"},
        {"listen_addr": "[::]:0"},
        {"listen_addr": "hub.example.com:443"},
        {"mtu": 576},
        {"mtu": 65000},
        {"subnet6": "fd00::/120"},
        {"subnet6": "fd00::/64", "mtu": 1280},
        {"subnet": "10.8.0.0/30"},
        {"rekey_secs": 0},
        {"rekey_secs": 20},
        {"tls_cert": "c.pem", "tls_key": "k.pem"},
        {"routes": []},
        {"clients": [entry(assigned_ip6="fd00::2")], "subnet6": "fd00::/64"},
    ],
)
def test_server_bounds(changes: dict[str, Any]) -> None:
    """The last right value on each side is taken."""
    assert server(**changes).subnet.startswith("10.8.0.0/")


CLIENT_FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"server_url": None}, "serverUrl"),
    ({"server_url": "http://hub/"}, "serverUrl"),
    ({"server_url": "wss://"}, "serverUrl"),
    ({"server_url": "wss://hub:0/"}, "serverUrl"),
    ({"server_url": "wss://user:word@hub/"}, "serverUrl"),
    ({"server_url": "wss://hub/#part"}, "serverUrl"),
    ({"server_url": "wss://hub/\r\nX: y"}, "serverUrl"),
    ({"server_url": "hub"}, "serverUrl"),
    ({"quic_server_url": "quic://hub"}, "quicServerUrl"),
    ({"server_public_key": ""}, "serverPublicKey"),
    ({"server_public_key": encode_key(bytes(32))}, "serverPublicKey"),
    ({"client_private_key": "x"}, "clientPrivateKey"),
    ({"client_private_key": HUB.private_key, "client_public_key": OTHER.public_key}, "clientPublicKey"),
    ({"transport": "tcp"}, "transport"),
    ({"server_cert_hash": "abcd"}, "serverCertHash"),
    ({"wg_address": "fd00::2"}, "wgAddress"),
    ({"wg_address6": "10.0.0.2"}, "wgAddress6"),
    ({"wg_address_prefix": 33}, "wgAddressPrefix"),
    ({"wg_persistent_keepalive": 65536}, "wgPersistentKeepalive"),
    ({"wg_endpoint": "hub"}, "wgEndpoint"),
    ({"wg_allowed_ips": ["0.0.0.0/0", "x"]}, "wgAllowedIps[1]"),
    ({"transport": "wireguard", "wg_endpoint": "hub:1"}, "wgAddress"),
    ({"transport": "wireguard", "wg_address": "10.8.0.2"}, "wgEndpoint"),
]


@pytest.mark.parametrize(("changes", "field"), CLIENT_FAULTS)
def test_client_faults(changes: dict[str, Any], field: str) -> None:
    """A wrong value is refused by its JSON name."""
    with pytest.raises(ConfigError) as caught:
        client(**changes)
    assert caught.value.field == field


def test_required_secrets() -> None:
    """Connecting needs the keys of its transport; an exported config is a value without them."""
    wireguard = {"transport": "wireguard", "wg_address": "10.8.0.2", "wg_endpoint": "hub:51820"}
    for config, field in (
        (client(), "clientPrivateKey"),
        (client(client_private_key=HUB.private_key), "clientPublicKey"),
        (client(server_url=None, **wireguard), "wgPrivateKey"),
    ):
        with pytest.raises(ConfigError) as caught:
            config.require_secrets()
        assert caught.value.field == field
    full = client(
        client_private_key=HUB.private_key,
        client_public_key=HUB.public_key,
        wg_private_key=OTHER.private_key,
        wg_preshared_key=OTHER.public_key,
    )
    full.require_secrets()
    assert full.without_secrets() == client(client_public_key=HUB.public_key)


def test_secrets_are_not_shown() -> None:
    """repr() and messages leave out private and preshared keys."""
    config = server(
        wg_private_key=OTHER.private_key,
        tls_cert="-----BEGIN CERTIFICATE-----",
        tls_key="-----BEGIN PRIVATE KEY-----",
        wg_peers=[WgPeerConfig(public_key=HUB.public_key, preshared_key=OTHER.private_key, allowed_ips=[])],
    )
    for secret in (HUB.private_key, OTHER.private_key, "PRIVATE KEY"):
        assert secret not in repr(config)
    assert HUB.private_key not in repr(HUB)
    damaged = HUB.private_key[:-2]
    with pytest.raises(ConfigError) as caught:
        server(private_key=damaged)
    assert damaged[:8] not in str(caught.value)


# helpers


def test_hub_addresses() -> None:
    """The hub has the first address of each subnet, with the subnet's prefix length."""
    config = server(subnet6="fd00:1::/64")
    assert config.hub_address() == ipaddress.IPv4Interface("10.8.0.1/24")
    assert config.hub_address6() == ipaddress.IPv6Interface("fd00:1::1/64")
    assert config.client_address6("10.8.0.200") == "fd00:1::c8"
    assert (server().hub_address6(), server().client_address6("10.8.0.2")) == (None, None)


@pytest.mark.parametrize(
    ("changes", "routes"),
    [
        ({}, ("10.8.0.0/24",)),
        ({"subnet6": "fd00::/64"}, ("10.8.0.0/24", "fd00::/64")),
        ({"enable_nat": True}, ("0.0.0.0/0",)),
        ({"enable_nat": True, "subnet6": "fd00::/64"}, ("0.0.0.0/0", "::/0")),
        ({"enable_nat": True, "routes": ["192.168.0.0/16"]}, ("192.168.0.0/16",)),
        ({"routes": []}, ()),
    ],
)
def test_client_routes(changes: dict[str, Any], routes: tuple[str, ...]) -> None:
    """Clients send everything with NAT, else the subnets, else what is set."""
    assert server(**changes).client_routes() == routes


@pytest.mark.parametrize(
    ("rate", "burst", "expected"), [(10_000, None, 16_000), (1_000_000, None, 100_000), (10_000, 5, 5)]
)
def test_default_rate_limit(rate: int, burst: int | None, expected: int) -> None:
    """A burst that is left out is a tenth of the rate, 16 KB at least."""
    config = server(default_rate_limit_bytes_per_sec=rate, default_burst_bytes=burst)
    assert config.default_rate_limit() == RateLimit(bytes_per_sec=rate, burst_bytes=expected)


def test_no_default_rate_limit() -> None:
    """Without a rate clients are unlimited."""
    assert server().default_rate_limit() is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"listen_addr": "[::]:443"}, None),
        ({"listen_addr": ":443"}, None),
        ({"listen_addr": "192.0.2.1:443"}, ("192.0.2.1", None)),
        ({"server_endpoint": "vpn.example.com"}, ("vpn.example.com", None)),
        ({"server_endpoint": "vpn.example.com:8443"}, ("vpn.example.com", 8443)),
        ({"server_endpoint": "2001:db8::1"}, ("2001:db8::1", None)),
        ({"server_endpoint": "[2001:db8::1]:8443"}, ("2001:db8::1", 8443)),
        ({"listen_addr": None, "transport_mode": "wireguard"}, None),
    ],
)
def test_public_endpoint(changes: dict[str, Any], expected: tuple[str, int | None] | None) -> None:
    """The endpoint that is set wins over a listening address that is no wildcard."""
    assert server(**changes).public_endpoint() == expected


def test_quic_listen() -> None:
    """QUIC listens where WebSocket does unless told otherwise."""
    assert server().quic_listen_endpoint() == ("0.0.0.0", 443)
    assert server(quic_listen_addr="[::1]:8443").quic_listen_endpoint() == ("::1", 8443)


def test_wireguard_key_of_the_hub() -> None:
    """In mode wireguard the main pair is the WireGuard pair unless another is given."""
    assert server().configured_wg_private_key() is None
    assert server(transport_mode="wireguard").configured_wg_private_key() == HUB.private_key
    both = server(transport_mode="wireguard", wg_private_key=OTHER.private_key)
    assert both.configured_wg_private_key() == OTHER.private_key


@pytest.mark.parametrize(
    ("mode", "served"),
    [("websocket", "W"), ("quic", "Q"), ("both", "WQ"), ("wireguard", "G"), ("all", "WQG")],
)
def test_transport_modes(mode: str, served: str) -> None:
    """Each mode serves its transports."""
    kind = TransportMode(mode)
    flags = zip("WQG", (kind.websocket, kind.quic, kind.wireguard), strict=True)
    assert "".join(letter for letter, on in flags if on) == served


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("wss://hub.example.com", ServerUrl("wss", "hub.example.com", 443, "/")),
        ("WSS://hub/a/b?c=d", ServerUrl("wss", "hub", 443, "/a/b?c=d")),
        ("ws://hub:8080/path", ServerUrl("ws", "hub", 8080, "/path")),
        ("ws://[2001:db8::1]", ServerUrl("ws", "2001:db8::1", 80, "/")),
        ("wss://hub?x=1", ServerUrl("wss", "hub", 443, "/?x=1")),
        ("hub:443", ServerUrl("quic", "hub", 443, "/")),
        ("[2001:db8::1]:8443", ServerUrl("quic", "2001:db8::1", 8443, "/")),
    ],
)
def test_server_urls(text: str, url: ServerUrl) -> None:
    """Port and path may be left out; a bare host:port is QUIC."""
    assert parse_server_url(text) == url


def test_where_a_client_connects() -> None:
    """WebSocket uses wss at a bare host:port; QUIC uses the URL's host and port unless told otherwise."""
    bare = client(server_url="hub:8443")
    assert bare.websocket_url() == ServerUrl("wss", "hub", 8443, "/")
    assert bare.quic_endpoint() == ("hub", 8443)
    full = client(server_url="wss://hub/p", quic_server_url="[::1]:4433")
    assert full.websocket_url() == ServerUrl("wss", "hub", 443, "/p")
    assert full.quic_endpoint() == ("::1", 4433)
    assert full.transport is Transport.AUTO
    assert (full.url().tls, full.url().authority) == (True, "hub:443")


# patterns

V4 = st.ip_addresses(v=4)
V6 = st.ip_addresses(v=6).filter(lambda address: address.ipv4_mapped is None)


@given(st.one_of(V4, V6))
def test_address_pattern(address: Any) -> None:
    """An address is a range of one."""
    assert parse_pattern(str(address)) == (address, address)


@given(st.one_of(st.tuples(V4, st.integers(0, 32)), st.tuples(V6, st.integers(0, 128))))
def test_cidr_pattern(case: tuple[Any, int]) -> None:
    """A CIDR is its network from first to last, whatever host bits are set."""
    network = ipaddress.ip_network(f"{case[0]}/{case[1]}", strict=False)
    assert parse_pattern(f"{case[0]}/{case[1]}") == (network[0], network[-1])


@given(st.one_of(st.tuples(V4, V4), st.tuples(V6, V6)))
def test_range_pattern(case: tuple[Any, Any]) -> None:
    """A range holds both its ends, and refuses to run backwards."""
    low, high = sorted(case)
    assert parse_pattern(f"{low}-{high}") == (low, high)
    if low != high:
        with pytest.raises(ValueError, match="ends before it begins"):
            parse_pattern(f"{high}-{low}")


@given(V4, st.integers(1, 4))
def test_wildcard_pattern(address: ipaddress.IPv4Address, stars: int) -> None:
    """A wildcard is the network its stars leave open."""
    text = ".".join(str(address).split(".")[: 4 - stars] + ["*"] * stars)
    network = ipaddress.ip_network(f"{address}/{32 - 8 * stars}", strict=False)
    assert parse_pattern(text) == (network[0], network[-1])


@given(V6, st.integers(1, 8))
def test_wildcard_pattern_of_ipv6(address: ipaddress.IPv6Address, stars: int) -> None:
    """Stars stand for whole groups of IPv6 too."""
    text = ":".join(address.exploded.split(":")[: 8 - stars] + ["*"] * stars)
    network = ipaddress.ip_network(f"{address}/{128 - 16 * stars}", strict=False)
    assert parse_pattern(text) == (network[0], network[-1])


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("fd00::1:*", "fd00::1:0", "fd00::1:ffff"),
        ("::ffff:10.0.0.1", "10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.9/120", "10.0.0.0", "10.0.0.255"),
        ("::ffff:a00:*", "10.0.0.0", "10.0.255.255"),
        ("10.0.0.1-::ffff:10.0.0.9", "10.0.0.1", "10.0.0.9"),
        ("::ffff:0:0/95", "::fffe:0:0", "::ffff:ffff:ffff"),
    ],
)
def test_mapped_addresses_are_ipv4(text: str, first: str, last: str) -> None:
    """A pattern's ends are of one family, and what is written as IPv4-mapped means IPv4."""
    assert parse_pattern(text) == (ipaddress.ip_address(first), ipaddress.ip_address(last))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "*",
        "10.*",
        "10.*.0.1",
        "10.0.0.1*",
        "10.0.0.*/24",
        "fd00:*",
        "fd00::*:1",
        "::ffff:10.0.0.*",
        "::1-::ffff:10.0.0.1",
        "10.0.0.0/0008",
        "10.0.0.01",
        "10.0.0.0/",
        "10.0.0.0/-1",
        "10.0.0.0/255.0.0.0",
        "10.0.0.0/٨",
        "1.1.1.1-",
        "1.1.1.1-fd00::1",
        "1.1.1.1 - 1.1.1.2",
        "fe80::1%eth0",
        "10.0.0.1\n",
        "host",
    ],
)
def test_wrong_patterns(text: str) -> None:
    """What is none of the four forms is refused with its place in the list."""
    with pytest.raises(ConfigError) as caught:
        ClientSecurity(ip_allow_list=["10.0.0.1", text])
    assert caught.value.field == "ipAllowList[1]"


@given(st.text(max_size=40))
def test_any_pattern_is_judged(text: str) -> None:
    """Any text is a range in order, or a ValueError."""
    try:
        first, last = parse_pattern(text)
    except ValueError:
        return
    assert (first.version, first <= last) == (last.version, True)  # type: ignore[operator]


# entries and updates


@pytest.mark.parametrize("client_id", ["", "a" * 256, "a\nb", "\ud800", 5])
def test_wrong_client_ids(client_id: Any) -> None:
    """An id is printable and not too long."""
    with pytest.raises(ConfigError) as caught:
        entry(client_id=client_id)
    assert caught.value.field == "clientId"


def test_expiry_is_utc() -> None:
    """A time in any zone becomes UTC, one without zone is UTC."""
    local = datetime(2030, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    utc = datetime(2030, 1, 1, 10, tzinfo=UTC)
    assert entry(expires_at=local).expires_at == utc
    assert entry(expires_at=utc.replace(tzinfo=None)).expires_at == utc
    assert [entry(expires_at=utc).expired(utc + timedelta(seconds=s)) for s in (-1, 0)] == [False, True]
    assert not entry().expired(utc)


def test_update_keeps_resets_and_changes() -> None:
    """A missing field is kept, None is the default, a value is the value; security is merged."""
    limit = RateLimit(bytes_per_sec=1000, burst_bytes=2000)
    security = ClientSecurity(ip_allow_list=["10.0.0.1"], max_connections=3, rate_limit=limit)
    before = entry(security=security, tags=["a"], priority=5, enabled=False, description="old")
    update = ClientUpdate(
        tags=None,
        priority=7,
        enabled=None,
        security=SecurityUpdate(max_connections=None, ip_block_list=["::1"]),
    )
    assert update.apply(before) == attrs.evolve(
        before,
        tags=(),
        priority=7,
        enabled=True,
        security=attrs.evolve(security, max_connections=1, ip_block_list=("::1",)),
    )
    assert hash(update) == hash(attrs.evolve(update))
    assert ClientUpdate(security=None).apply(before).security == ClientSecurity()
    assert ClientUpdate().apply(before) == before


def test_update_of_the_address() -> None:
    """Another address drops the IPv6 one that went with it; the same address does not."""
    before = entry(assigned_ip6="FD00::2")
    assert before.assigned_ip6 == "fd00::2"
    assert ClientUpdate(assigned_ip="10.8.0.2").apply(before) == before
    after = ClientUpdate(assigned_ip="10.8.0.9").apply(before)
    assert (after.assigned_ip, after.assigned_ip6) == ("10.8.0.9", None)


def test_update_replaces_a_whole_security() -> None:
    """SecurityUpdate.of leaves exactly the given value."""
    new = ClientSecurity(destination_block_list=["10.0.0.0/8"])
    update = SecurityUpdate.of(new)
    assert update.apply(ClientSecurity(ip_allow_list=["1.1.1.1"], max_connections=9)) == new


def test_update_that_carries_the_rate_limit() -> None:
    """Only an update that names the limit, or resets all of security, ends an override."""
    limit = RateLimit(bytes_per_sec=1, burst_bytes=1)
    updates = {
        ClientUpdate(): False,
        ClientUpdate(security=SecurityUpdate()): False,
        ClientUpdate(security=SecurityUpdate(rate_limit=None)): True,
        ClientUpdate(security=SecurityUpdate(rate_limit=limit)): True,
        ClientUpdate(security=None): True,
    }
    assert {update: update.carries_rate_limit for update in updates} == updates
    assert repr(UNSET) == "UNSET"


@pytest.mark.parametrize(
    ("kind", "changes", "field"),
    [
        (SecurityUpdate, {"max_connections": 0}, "maxConnections"),
        (SecurityUpdate, {"ip_allow_list": ["x"]}, "ipAllowList[0]"),
        (ClientUpdate, {"priority": -1}, "priority"),
        (ClientUpdate, {"security": ClientSecurity()}, "security"),
        (ClientUpdate, {"assigned_ip": "x"}, "assignedIp"),
    ],
)
def test_wrong_updates(kind: type, changes: dict[str, Any], field: str) -> None:
    """An update is checked when it is made, as the entry would be."""
    with pytest.raises(ConfigError) as caught:
        kind(**changes)
    assert caught.value.field == field
