"""WireGuard texts, byte for byte, and no way to smuggle a line into them."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from smartvpn import ConfigError, WgConfigGenerator, WgPeerConfig, wgconfig
from smartvpn.keys import PresharedKey, PrivateKey

PRIVATE = PrivateKey(bytes(range(32))).base64
PUBLIC = PrivateKey(bytes(range(32))).public_key.base64
PSK = PresharedKey(bytes(range(1, 33))).base64
PEER = {"public_key": PUBLIC, "endpoint": "vpn.example.com:51820", "allowed_ips": ["0.0.0.0/0", "::/0"]}

FULL = f"""[Interface]
PrivateKey = {PRIVATE}
Address = 10.8.0.2/24, fd00::2/64
DNS = 1.1.1.1, 2606:4700::1111
MTU = 1420

[Peer]
PublicKey = {PUBLIC}
PresharedKey = {PSK}
Endpoint = vpn.example.com:51820
AllowedIPs = 0.0.0.0/0, ::/0
PersistentKeepalive = 25
"""

SMALL = f"""[Interface]
# PrivateKey =
Address = 10.8.0.2/24

[Peer]
PublicKey = {PUBLIC}
Endpoint = vpn.example.com:51820
AllowedIPs = 0.0.0.0/0, ::/0
"""

SERVER = f"""[Interface]
PrivateKey = {PRIVATE}
Address = 10.8.0.1/24, fd00::1/64
ListenPort = 51820
PostUp = sysctl -q -w net.ipv4.ip_forward=1
PostUp = sysctl -q -w net.ipv6.conf.all.forwarding=1
PostUp = iptables -t nat -A POSTROUTING -s 10.8.0.0/24 -o eth0 -j MASQUERADE
PostUp = iptables -A FORWARD -i %i -s 10.8.0.0/24 -j ACCEPT
PostUp = iptables -A FORWARD -o %i -d 10.8.0.0/24 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
PostUp = ip6tables -t nat -A POSTROUTING -s fd00::/64 -o eth0 -j MASQUERADE
PostUp = ip6tables -A FORWARD -i %i -s fd00::/64 -j ACCEPT
PostUp = ip6tables -A FORWARD -o %i -d fd00::/64 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
PostDown = iptables -t nat -D POSTROUTING -s 10.8.0.0/24 -o eth0 -j MASQUERADE
PostDown = iptables -D FORWARD -i %i -s 10.8.0.0/24 -j ACCEPT
PostDown = iptables -D FORWARD -o %i -d 10.8.0.0/24 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
PostDown = ip6tables -t nat -D POSTROUTING -s fd00::/64 -o eth0 -j MASQUERADE
PostDown = ip6tables -D FORWARD -i %i -s fd00::/64 -j ACCEPT
PostDown = ip6tables -D FORWARD -o %i -d fd00::/64 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT

[Peer]
PublicKey = {PUBLIC}
AllowedIPs = 10.8.0.2/32

[Peer]
PublicKey = {PUBLIC}
PresharedKey = {PSK}
Endpoint = [2001:db8::1]:51820
AllowedIPs = 10.8.0.3/32
"""


def test_full_client() -> None:
    """Every option in its place."""
    text = WgConfigGenerator.generate_client_config(
        PRIVATE,
        ["10.8.0.2/24", "fd00::2/64"],
        ["1.1.1.1", "2606:4700::1111"],
        1420,
        peer={**PEER, "preshared_key": PSK, "persistent_keepalive": 25},
    )
    assert text == FULL


def test_client_without_options() -> None:
    """What is absent leaves no line; a key that is not there leaves a comment."""
    assert WgConfigGenerator.generate_client_config(None, "10.8.0.2/24", peer=PEER) == SMALL


def test_one_text_or_many() -> None:
    """Lists may come as text with commas, a peer as an object."""
    peer = WgPeerConfig(
        public_key=PUBLIC,
        preshared_key=PSK,
        endpoint="vpn.example.com:51820",
        allowed_ips=["0.0.0.0/0", "::/0"],
        persistent_keepalive=25,
    )
    text = WgConfigGenerator.generate_client_config(
        PRIVATE, "10.8.0.2/24, fd00::2/64", "1.1.1.1,2606:4700::1111", 1420, peer=peer
    )
    assert text == FULL


def test_server_with_nat() -> None:
    """NAT for each family, undone rule by rule on the way down."""
    text = WgConfigGenerator.generate_server_config(
        PRIVATE,
        ["10.8.0.1/24", "fd00::1/64"],
        enable_nat=True,
        nat_interface="eth0",
        peers=[
            {"public_key": PUBLIC, "allowed_ips": "10.8.0.2/32"},
            WgPeerConfig(
                public_key=PUBLIC,
                preshared_key=PSK,
                endpoint="[2001:db8::1]:51820",
                allowed_ips=["10.8.0.3/32"],
            ),
        ],
    )
    assert text == SERVER


def test_server_without_nat() -> None:
    """Without NAT nothing is run."""
    text = WgConfigGenerator.generate_server_config(PRIVATE, "10.8.0.1/24", 1234, "10.8.0.1", 1400)
    lines = ["[Interface]", f"PrivateKey = {PRIVATE}", "Address = 10.8.0.1/24", "ListenPort = 1234"]
    assert text == "\n".join([*lines, "DNS = 10.8.0.1", "MTU = 1400", ""])


ROUTE = """Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT
wlan0\t00000000\t0102A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
eth7\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""
ZERO = "0" * 32
ROUTE6 = f"""{ZERO} 00 {ZERO} 00 fe800000000000000000000000000001 00000400 00000003 00000000 00000003     eth6
{ZERO} 00 {ZERO} 00 {ZERO} ffffffff 00000001 00000000 00200200       lo
fd000000000000000000000000000000 40 {ZERO} 00 {ZERO} 00000100 00000001 00000000 00000001     eth0
"""


@pytest.fixture
def routes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for /proc/net, without routes at first."""
    monkeypatch.setattr(wgconfig, "_ROUTES", tmp_path / "route")
    monkeypatch.setattr(wgconfig, "_ROUTES6", tmp_path / "ipv6_route")
    return tmp_path


def test_interface_is_detected(routes: Path) -> None:
    """The default route of the lowest metric names the interface, for each family."""
    (routes / "route").write_text(ROUTE)
    (routes / "ipv6_route").write_text(ROUTE6)
    assert (wgconfig.default_interface(), wgconfig.default_interface(ipv6=True)) == ("eth7", "eth6")
    text = WgConfigGenerator.generate_server_config(PRIVATE, "10.8.0.1/24,fd00::1/64", enable_nat=True)
    assert "PostUp = iptables -t nat -A POSTROUTING -s 10.8.0.0/24 -o eth7 -j MASQUERADE\n" in text
    assert "PostUp = ip6tables -t nat -A POSTROUTING -s fd00::/64 -o eth6 -j MASQUERADE\n" in text


@pytest.mark.usefixtures("routes")
def test_no_default_route() -> None:
    """Without a default route every other interface is a way out."""
    assert wgconfig.default_interface() is None
    text = WgConfigGenerator.generate_server_config(PRIVATE, "10.8.0.1/24", enable_nat=True)
    assert "PostUp = iptables -t nat -A POSTROUTING -s 10.8.0.0/24 ! -o %i -j MASQUERADE\n" in text


CLIENT_FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"private_key": "x"}, "privateKey"),
    ({"address": []}, "address"),
    ({"address": ["10.8.0.2/24", "x"]}, "address[1]"),
    ({"dns": "example.com"}, "dns[0]"),
    ({"mtu": 1}, "mtu"),
    ({"peer": {**PEER, "public_key": "x"}}, "publicKey"),
    ({"peer": {**PEER, "endpoint": "host"}}, "endpoint"),
    ({"peer": {**PEER, "allowed_ips": ["x"]}}, "allowedIps[0]"),
    ({"peer": {**PEER, "colour": 1}}, "colour"),
    ({"peer": {"public_key": PUBLIC}}, "allowedIps"),
]


@pytest.mark.parametrize(("changes", "field"), CLIENT_FAULTS)
def test_client_faults(changes: dict[str, Any], field: str) -> None:
    """A wrong value is refused by name."""
    arguments = {"private_key": PRIVATE, "address": "10.8.0.2/24", "peer": PEER, **changes}
    with pytest.raises(ConfigError) as caught:
        WgConfigGenerator.generate_client_config(**arguments)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"listen_port": 65536}, "listenPort"),
        ({"enable_nat": True, "nat_interface": "eth0; reboot"}, "natInterface"),
        ({"enable_nat": True, "nat_interface": ""}, "natInterface"),
        ({"peers": [PEER, {**PEER, "public_key": "x"}]}, "peers[1].publicKey"),
        ({"peers": [{**PEER, "x": 1}]}, "peers[0].x"),
    ],
)
def test_server_faults(changes: dict[str, Any], field: str) -> None:
    """A wrong value is refused by name, a peer's by its place."""
    with pytest.raises(ConfigError) as caught:
        WgConfigGenerator.generate_server_config(PRIVATE, "10.8.0.1/24", **changes)
    assert caught.value.field == field


@given(st.sampled_from(["address", "dns", "endpoint", "allowed_ips"]), st.text(max_size=30))
def test_nothing_adds_a_line(name: str, text: str) -> None:
    """Whatever a value holds, it is refused or stays one value of its own line."""
    peer = {**PEER, **({name: text} if name in PEER else {})}
    address, dns = (text if name == own else "10.8.0.2/24" for own in ("address", "dns"))
    try:
        made = WgConfigGenerator.generate_client_config(
            None, address, dns if name == "dns" else None, peer=peer
        )
    except ConfigError:
        return
    names = [line.partition(" = ")[0] for line in made.splitlines()]
    head = ["[Interface]", "# PrivateKey =", "Address", *(["DNS"] if name == "dns" else []), ""]
    assert names == [*head, "[Peer]", "PublicKey", "Endpoint", "AllowedIPs"]


@pytest.mark.parametrize("text", [FULL, SMALL, SERVER])
def test_wg_quick_reads_it(tmp_path: Path, text: str) -> None:
    """The real wg-quick accepts the text and leaves what `wg setconf` takes."""
    path = tmp_path / "wg0.conf"
    path.write_text(text)
    path.chmod(0o600)
    stripped = subprocess.run(["wg-quick", "strip", str(path)], capture_output=True, text=True, check=True)
    assert f"PublicKey = {PUBLIC}" in stripped.stdout
    assert "Address" not in stripped.stdout
