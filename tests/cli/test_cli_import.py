"""`smartvpn import`: files of wg-quick and wg-easy become a hub's or a client's config."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from smartvpn import VpnConfig
from smartvpn.cli._errors import ExitCode
from smartvpn.keys import PresharedKey, PrivateKey
from tests.cli.test_cli_tunnel import ping
from tests.cli.tool import Machine, run, stock
from tests.netns.topology import HUB_OUTER, Topology

HUB, ALICE, BOB, SITE = (PrivateKey.generate() for _ in range(4))
PRESHARED = PresharedKey.generate()

SERVER = f"""\
# Server
[Interface]
PrivateKey = {HUB.base64}
Address = 10.8.0.1/24
ListenPort = 51830
PostUp = iptables -A FORWARD -i wg0 -j ACCEPT

# Client: alice (3f2b8c6e-1111-2222-3333-444455556666)
[Peer]
PublicKey = {ALICE.public_key.base64}
AllowedIPs = 10.8.0.2/32

### Client bob
[Peer]
PublicKey = {BOB.public_key.base64}
PresharedKey = {PRESHARED.base64}
AllowedIPs = 10.8.0.3/32

[Peer]
PublicKey = {SITE.public_key.base64}
AllowedIPs = 192.168.7.0/24
Endpoint = 203.0.113.9:51820
PersistentKeepalive = 25
"""


def client_text(key: PrivateKey, address: str, more: str = "") -> str:
    """A stock client's file."""
    return (
        f"[Interface]\nPrivateKey = {key.base64}\nAddress = {address}/24\nDNS = 1.1.1.1, home.arpa\n\n"
        f"[Peer]\nPublicKey = {HUB.public_key.base64}\n{more}Endpoint = {HUB_OUTER}:51830\n"
        "AllowedIPs = 10.8.0.0/24\nPersistentKeepalive = 25\n"
    )


def test_a_server_becomes_a_hub(tmp_path: Path) -> None:
    """Keys, port and addresses stay; names come from the comments; others keep their preshared key."""
    source, config = tmp_path / "wg0.conf", tmp_path / "server.json"
    source.write_text(SERVER)
    words = ("import", source, "--config", config, "--endpoint", "vpn.example.org", "--registry", ":memory:")
    done = run(*words, "--json").json()
    assert done["clients"] == ["alice"]
    assert done["peers"] == [BOB.public_key.base64, SITE.public_key.base64]
    assert any("PostUp" in note for note in done["notes"])
    for reason in ("bob has a preshared key", "peer-3 has a network behind it (192.168.7.0/24)"):
        [note] = [note for note in done["notes"] if note.startswith(reason)]
        assert "WITHOUT limits" in note
    assert config.stat().st_mode & 0o777 == 0o600
    hub = VpnConfig.load_from_file(config, "server")
    assert (hub.wg_private_key, hub.wg_listen_port, hub.subnet) == (HUB.base64, 51830, "10.8.0.0/24")
    [alice] = hub.clients
    assert (alice.client_id, alice.assigned_ip) == ("alice", "10.8.0.2")
    assert alice.wg_public_key == ALICE.public_key.base64
    bob, site = hub.wg_peers
    assert bob.preshared_key == PRESHARED.base64
    assert (site.allowed_ips, site.persistent_keepalive) == (("192.168.7.0/24",), 25)
    assert run(*words).status == ExitCode.CONFLICT


SERVER_OF_BOTH = f"""\
[Interface]
PrivateKey = {HUB.base64}
Address = 10.8.0.1/24, fd00:8::1/64

# Client: alice
[Peer]
PublicKey = {ALICE.public_key.base64}
AllowedIPs = 10.8.0.2/32, fd00:8:0:0::2/128

# Client: bob
[Peer]
PublicKey = {BOB.public_key.base64}
AllowedIPs = 10.8.0.3/32, fd00:8::77/128
"""


@pytest.mark.parametrize("both", [True, False])
def test_a_peers_own_address_is_never_lost(both: bool, tmp_path: Path) -> None:
    """The IPv6 address that goes with the IPv4 one stays; with another it is no client, and that is said."""
    source, config = tmp_path / "wg0.conf", tmp_path / "server.json"
    source.write_text(SERVER_OF_BOTH if both else SERVER_OF_BOTH.replace(", fd00:8::1/64", ""))
    done = run("import", source, "--config", config, "--endpoint", "h.example", "--registry", ":memory:")
    assert done.status == 0
    hub = VpnConfig.load_from_file(config, "server")
    kept = {peer.public_key: peer.allowed_ips for peer in hub.wg_peers}
    assert kept.pop(BOB.public_key.base64) == ("10.8.0.3/32", "fd00:8::77/128")
    [note] = [line for line in done.err.splitlines() if line.startswith("smartvpn: bob has the IPv6 address")]
    assert ("fd00:8::3 goes with 10.8.0.3" if both else "the hub has no IPv6 network") in note
    assert "WITHOUT limits" in note
    if both:
        [alice] = hub.clients
        assert (alice.assigned_ip, alice.assigned_ip6, kept) == ("10.8.0.2", "fd00:8::2", {})
    else:
        assert kept == {ALICE.public_key.base64: ("10.8.0.2/32", "fd00:8:0:0::2/128")}


def test_its_clients_go_on_as_they_are(hub: Machine, topology: Topology, tmp_path: Path) -> None:
    """The files that alice and bob have connect to the hub, through stock tools; alice is in the registry."""
    source = hub.folder / "wg0.conf"
    source.write_text(SERVER)
    words = ("--config", hub.config, "--endpoint", HUB_OUTER, "--registry", hub.folder / "registry.db")
    assert hub("import", source, *words).status == 0
    hub.up()
    files = {
        "alice": client_text(ALICE, "10.8.0.2"),
        "bob": client_text(BOB, "10.8.0.3", f"PresharedKey = {PRESHARED.base64}\n"),
    }
    for name, text in files.items():
        with stock(topology, text, tmp_path):
            assert ping(topology, "client", "10.8.0.1"), name
    [entry] = hub("client", "list", "--json").json()
    assert (entry["clientId"], entry["tags"]) == ("alice", ["imported"])


def test_a_client_becomes_a_client(hub: Machine, client: Machine, topology: Topology) -> None:
    """Its file connects by `smartvpn up`."""
    source = hub.folder / "wg0.conf"
    source.write_text(SERVER)
    words = ("--config", hub.config, "--endpoint", HUB_OUTER, "--registry", hub.folder / "registry.db")
    hub("import", source, *words)
    hub.up()
    stock = client.folder / "alice.conf"
    stock.write_text(client_text(ALICE, "10.8.0.2").replace("DNS = 1.1.1.1, home.arpa\n", ""))
    done = client("import", stock, "--config", client.config, "--json").json()
    assert done["mode"] == "client"
    assert client.up().out == "connected over wireguard as 10.8.0.2\n"
    assert ping(topology, "client", "10.8.0.1")


WHOLE = f"[Interface]\nPrivateKey = {HUB.base64}\nAddress = 10.8.0.1/24\n"
FAULTS = {
    "": "has 0 [Interface] sections",
    "[Interface]\n[Interface]\n": "has 2 [Interface] sections",
    "PrivateKey = x\n": "line 1: stands before any section",
    "[Nonsense]\n": "line 1: is neither",
    "[Interface]\nColour = red\n": "line 2: is no setting of [Interface]",
    "[Interface]\nPrivateKey = secret-of-mine\n": "line 2: PrivateKey is not a key",
    f"[Interface]\nAddress = 10.8.0.1/24\n[Peer]\nPublicKey = {ALICE.public_key}\n": "has no PrivateKey",
    f"[Interface]\nPrivateKey = {HUB.base64}\n": "Address: is missing",
    f"[Interface]\nPrivateKey = {HUB.base64}\nAddress = fd00::1/64\n": "has no IPv4 network",
    WHOLE + "MTU = big\n": "is no number",
    WHOLE + "[Peer]\nAllowedIPs = 10.8.0.2/32\n": "no PublicKey",
    WHOLE + "[Peer]\nAllowedIPs = x\n": "AllowedIPs",
}


@pytest.mark.parametrize(("text", "words"), FAULTS.items(), ids=map(str, range(len(FAULTS))))
def test_faults_are_named_by_file_and_line(text: str, words: str, tmp_path: Path) -> None:
    """Status 7, nothing is written, and no value of a key is repeated."""
    source, config = tmp_path / "wg0.conf", tmp_path / "server.json"
    source.write_text(text)
    done = run("import", source, "--config", config, "--endpoint", "vpn.example.org")
    line = done.one_line()
    assert (done.status, words in line, str(source) in line) == (ExitCode.CONFIG, True, True), line
    assert "secret-of-mine" not in line
    assert HUB.base64 not in line
    assert not config.exists()


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    """A picture is no config: status 7."""
    (tmp_path / "wg0.conf").write_bytes(bytes(range(256)))
    assert run("import", tmp_path / "wg0.conf", "--config", tmp_path / "x.json").status == ExitCode.CONFIG


def test_what_wg_quick_takes_is_taken(tmp_path: Path) -> None:
    """`wg-quick strip` and we agree that the server's text is right."""
    source = tmp_path / "wg0.conf"
    source.write_text(SERVER)
    source.chmod(0o600)
    done = subprocess.run(["wg-quick", "strip", str(source)], capture_output=True, text=True, check=True)
    assert ALICE.public_key.base64 in done.stdout
    words = ("import", source, "--config", tmp_path / "s.json", "--endpoint", "h.example", "--json")
    assert json.loads(run(*words).out)["mode"] == "server"
