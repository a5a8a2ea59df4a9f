"""Metrics: sums that only grow, a bounded number of series, and an endpoint that withstands its visitors."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from prometheus_client.parser import text_string_to_metric_families

from smartvpn.client import VpnClient
from smartvpn.metrics.ledger import OTHER, Ledger, Reading
from smartvpn.server import VpnServer
from tests.netns.topology import HUB_OUTER, Topology
from tests.netns.tunnel import GATEWAY, answers, client_on, daemon, hub_config, hub_on
from tests.raw import run_daemon

ROOT = Path(__file__).resolve().parent.parent
DASHBOARD = ROOT / "docs" / "grafana-dashboard.json"
PORT = 9586
ODD = 'al"i\\ce'
LIMIT = {"bytesPerSec": 10**7, "burstBytes": 10**6}


def reading(owner: str, source: str, count: int) -> Reading:
    """One source with one counter."""
    return Reading(owner, source, {"sent": count})


def sums(ledger: Ledger) -> dict[str, int]:
    """What each account has, that of all others too."""
    named = {name: account.totals.get("sent", 0) for name, account in ledger.accounts.items()}
    return {**named, OTHER: ledger.other.totals.get("sent", 0)}


def test_a_client_is_the_sum_of_its_sessions() -> None:
    """Those that ended count on; one that begins anew counts from zero."""
    ledger = Ledger(10)
    ledger.update([reading("alice", "1", 100), reading("alice", "2", 5)])
    ledger.update([reading("alice", "2", 7)])
    ledger.update([reading("alice", "3", 1)])
    assert sums(ledger) == {"alice": 108, OTHER: 0}
    ledger.update([reading("alice", "3", 0)])
    ledger.update([reading("alice", "3", 4)])
    assert sums(ledger) == {"alice": 112, OTHER: 0}


def test_the_busiest_have_accounts() -> None:
    """The others are one account together, and are counted."""
    ledger = Ledger(2)
    ledger.update([reading(name, name, count) for name, count in (("a", 1), ("b", 30), ("c", 20), ("d", 4))])
    assert sums(ledger) == {"b": 30, "c": 20, OTHER: 5}
    assert ledger.folded == 2
    assert ledger.other.live == 2


def test_a_client_that_left_makes_room() -> None:
    """But only when somebody needs it."""
    ledger = Ledger(1)
    ledger.update([reading("a", "a", 9)])
    ledger.update([])
    assert sums(ledger) == {"a": 9, OTHER: 0}
    ledger.update([reading("b", "b", 1)])
    assert sums(ledger) == {"b": 1, OTHER: 0}


def test_nobody_can_pose_as_all_others() -> None:
    """A client of that name is one of them."""
    ledger = Ledger(5)
    ledger.update([reading(OTHER, "x", 3), reading("a", "a", 1)])
    assert sums(ledger) == {"a": 1, OTHER: 3}


@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 3), st.integers(0, 50)), max_size=12),
        max_size=8,
    ),
    st.integers(0, 4),
)
def test_bounded_and_complete(looks: list[list[tuple[str, int, int]]], most: int) -> None:
    """Never more accounts than allowed; a series never falls while it exists; nothing is kept of the gone."""
    ledger = Ledger(most)
    before: dict[str, int] = {}
    for look in looks:
        readings = {f"{owner}{number}": reading(owner, f"{owner}{number}", n) for owner, number, n in look}
        kept = dict(ledger.accounts)
        ledger.update(readings.values())
        now = sums(ledger)
        assert len(ledger.accounts) <= most
        for name, count in before.items():
            if name == OTHER or ledger.accounts.get(name) is kept.get(name, object()):
                assert now[name] >= count
        assert len(ledger._seen) == len(readings)
        before = now


# the endpoint


def scrape(machine: Topology, accept: str = "*/*", role: str = "hub") -> str:
    """What Prometheus would get on the hub's machine, or on another."""
    program = (
        "import sys, urllib.request as u;"
        f"r = u.Request('http://127.0.0.1:{PORT}/metrics', headers={{'Accept': '{accept}'}});"
        "sys.stdout.write(u.urlopen(r, timeout=10).read().decode())"
    )
    return machine.run(role, sys.executable, "-c", program).stdout


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every series; a name or a label pair that occurs twice is a fault."""
    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found
            found[key] = sample.value
    return found


def value(text: str, name: str, **labels: str) -> float:
    """One series."""
    return samples(text)[name, frozenset(labels.items())]


@pytest.fixture
async def hub(topology: Topology) -> Any:
    """A hub that serves metrics, and room for two clients of their own."""
    command = daemon(
        topology,
        "hub",
        "server",
        "--metrics",
        "--metrics-clients",
        "2",
        "--metrics-host",
        "prometheus.example",
    )
    config = hub_config(transportMode="all", serverEndpoint=HUB_OUTER)
    async with VpnServer({"transport": "stdio"}, config, command=command) as server:
        yield server


async def test_what_is_measured_is_told(topology: Topology, hub: VpnServer) -> None:
    """Traffic through a tunnel shows at the hub's and at the client's series, on this machine alone."""
    [listener] = topology.run("hub", "ss", "-Htln", "sport", "=", f":{PORT}").stdout.splitlines()
    assert f" 127.0.0.1:{PORT} " in listener
    bundle = await hub.create_client(
        'al"i\\ce', security={"rateLimit": {"bytesPerSec": 10**7, "burstBytes": 10**6}}
    )
    await hub.create_client("bob", enabled=False)
    await hub.add_wg_peer(
        {"publicKey": (await hub.generate_wg_keypair()).public_key, "allowedIps": ["10.77.0.0/24"]}
    )
    config = bundle.smartvpn_config
    async with client_on(topology, config) as client:
        await client.connect()
        assert await answers(topology, GATEWAY)
        text = scrape(topology)
    assert value(text, "smartvpn_running") == 1
    assert value(text, "smartvpn_registered_clients", enabled="true") == 1
    assert value(text, "smartvpn_registered_clients", enabled="false") == 1
    assert value(text, "smartvpn_client_bytes_total", client=ODD, direction="received") >= 3 * 84
    assert value(text, "smartvpn_client_bytes_total", client=ODD, direction="sent") >= 3 * 84
    assert value(text, "smartvpn_bytes_total", direction="received") >= 3 * 84
    assert value(text, "smartvpn_client_rate_limit_bytes_per_second", client=ODD) == 10**7
    assert value(text, "smartvpn_handshakes_total", outcome="opened") == 1
    assert value(text, "smartvpn_sessions_started_total") == 1
    assert sum(v for (name, _), v in samples(text).items() if name == "smartvpn_sessions") == 1
    assert await hub.list_clients() == []
    after = scrape(topology)
    assert value(after, "smartvpn_client_sessions", client=ODD) == 0
    assert "# EOF" in scrape(topology, "application/openmetrics-text; version=1.0.0")


async def test_strangers_of_wireguard_are_told(topology: Topology, hub: VpnServer) -> None:
    """What is nothing of ours, handshakes over the limits, cookies: all are counted."""
    bundle = await hub.create_client("alice")
    key = re.search(r"^PublicKey = (\S+)$", bundle.wireguard_config, re.MULTILINE)
    port = re.search(r"^Endpoint = \S+:(\d+)$", bundle.wireguard_config, re.MULTILINE)
    assert key
    assert port
    text = scrape(topology)
    assert value(text, "smartvpn_drops_total", cause="malformed") == 0
    config = {
        "private": (await hub.generate_wg_keypair()).private_key,
        "peer": key[1],
        "endpoint": [HUB_OUTER, int(port[1])],
        "seconds": 1,
    }
    raw = [sys.executable, "-m", "tests.netns.wg_raw"]
    await asyncio.to_thread(topology.run, "client", *raw, "nonsense", json.dumps(config), timeout=60)
    strange = value(scrape(topology), "smartvpn_drops_total", cause="malformed")
    assert strange > 0
    flood = await asyncio.to_thread(topology.run, "client", *raw, "flood", json.dumps(config), timeout=60)
    text = scrape(topology)
    assert (
        value(text, "smartvpn_handshakes_total", outcome="cookie") >= json.loads(flood.stdout)["cookies"] > 0
    )
    assert value(text, "smartvpn_handshakes_total", outcome="bad") > 0


STRANGERS = r"""
import socket, sys
way = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
way.connect((sys.argv[1], int(sys.argv[2])))
way.settimeout(10)
ids = b"\x08whatever\x08whoever!"
for garbage in b"\x40", b"\xc0\0\0\0\1", b"\xc0\0\0\0\1" + ids, b"\xc0\x1a\x2a\x3a\x4a" + ids:
    way.send(garbage)
way.send(b"\xc0\0\0\0\0" + ids + bytes(1200))
for _ in range(2):
    way.send(b"\xc0\x1a\x2a\x3a\x4a" + ids + bytes(1200))
    assert way.recv(2000)[1:5] == bytes(4)
way.send(b"\x40\xff" + bytes(40))
assert len(way.recv(2000)) == 41
"""


async def test_strangers_of_quic_are_told(topology: Topology, hub: VpnServer) -> None:
    """Garbage, versions that nobody speaks, packets of no connection: each is counted under its cause."""
    port = str((await hub.create_client("alice")).smartvpn_config.server_url).rpartition(":")[2].strip("/")

    def counted() -> dict[str, float]:
        family = "smartvpn_quic_rejects_total"
        return {
            dict(labels)["cause"]: n
            for (name, labels), n in samples(scrape(topology)).items()
            if name == family
        }

    assert set(counted().values()) == {0}
    topology.run("client", sys.executable, "-c", STRANGERS, HUB_OUTER, port)
    expected = {
        "garbage": 4,
        "version": 3,
        "unknown": 1,
        "busy": 0,
        "retry": 0,
        "refused": 0,
        "stray": 0,
        "broken": 0,
    }
    async with asyncio.timeout(20):
        while (seen := counted()) != expected:
            assert all(seen[cause] <= count for cause, count in expected.items()), seen
            await asyncio.sleep(0.05)


def queries() -> Iterator[str]:
    """Every expression of the Grafana dashboard."""
    board = json.loads(DASHBOARD.read_text())
    for panel in board["panels"]:
        for target in panel["targets"]:
            yield target["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"]


async def test_the_dashboard_asks_for_what_is_there(topology: Topology, hub: VpnServer) -> None:
    """Every metric and label that docs/grafana-dashboard.json names is served by a hub."""
    bundle = await hub.create_client("alice")
    await hub.add_wg_peer(
        {"publicKey": (await hub.generate_wg_keypair()).public_key, "allowedIps": ["10.77.0.0/24"]}
    )
    async with client_on(topology, bundle.smartvpn_config) as client:
        await client.connect()
        text = scrape(topology)
    families = {sample for sample, _ in samples(text)}
    described = set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE))
    labels: dict[str, set[str]] = {}
    for name, pairs in samples(text):
        labels.setdefault(name, set()).update(label for label, _ in pairs)
    asked = set()
    for query in queries():
        for name in re.findall(r"smartvpn_\w+", query):
            assert name in families | described, name
            asked.add(name)
        for name, matchers in re.findall(r"(smartvpn_\w+)\{([^}]*)\}", query):
            wanted = set(re.findall(r"(\w+)=", matchers)) - {"instance"}
            assert wanted <= labels.get(name, wanted), query
    assert len(asked) >= 15


async def test_a_client_tells_too(topology: Topology) -> None:
    """The tunnel's counters, quality and sizes, by a client's daemon."""
    async with hub_on(topology) as server:
        bundle = await server.create_client("alice")
        command = daemon(topology, "client", "client", "--metrics", f"127.0.0.1:{PORT}")
        async with VpnClient({"transport": "stdio"}, bundle.smartvpn_config, command=command) as client:
            text = scrape(topology, role="client")
            assert value(text, "smartvpn_running") == 0
            await client.connect()
            assert await answers(topology, GATEWAY)
            text = scrape(topology, role="client")
    assert value(text, "smartvpn_tunnel_connected") == 1
    assert value(text, "smartvpn_bytes_total", direction="sent") >= 3 * 84
    assert value(text, "smartvpn_tunnel_mtu_bytes", of="tun") == 1420
    assert value(text, "smartvpn_tunnel_mtu_bytes", of="overhead") == 79


VISIT = """
import socket, sys
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 10)
s.sendall(eval(sys.argv[2]))
s.settimeout(10)
answer = b""
try:
    while piece := s.recv(65536):
        answer += piece
except ConnectionResetError:
    pass
print(answer[:60])
"""


ODD_VISITS = [
    (r"b'POST /metrics HTTP/1.1\r\n\r\n'", "405"),
    (r"b'GET /../etc/passwd HTTP/1.1\r\n\r\n'", "404"),
    (r"b'GET /metrics HTTP/1.1\r\nX: ' + b'y' * 100000", "b''"),
    (r"b'\xff\x00\r\n\r\n'", "405"),
    (r"b'GET /metrics HTTP/1.1\r\n'", "b''"),
    (r"b'HEAD /metrics HTTP/1.1\r\n\r\n'", "200"),
]


async def test_odd_visitors(topology: Topology, hub: VpnServer) -> None:
    """A wrong method, a wrong path, too much, nonsense, half a request: answered or dropped."""
    for sent, answer in ODD_VISITS:
        assert answer in topology.run("hub", sys.executable, "-c", VISIT, str(PORT), sent).stdout, sent
        assert "smartvpn_running 1.0" in scrape(topology)


HALF_OPEN = """
import socket, sys, time, urllib.request
sent = eval(sys.argv[2])
held = []
for _ in range(200):
    way = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 60)
    way.sendall(sent)
    held.append(way)
url = f"http://127.0.0.1:{sys.argv[1]}/metrics"
print(urllib.request.urlopen(url, timeout=60).status)
ended = 0
for way in held:
    try:
        ended += way.recv(1) == b""
    except ConnectionResetError:
        ended += 1
print(ended)
"""


@pytest.mark.parametrize("sent", [b"", b"GET /metrics HTTP/1.1\r\nHo"])
async def test_those_who_dawdle_are_in_nobodys_way(topology: Topology, hub: VpnServer, sent: bytes) -> None:
    """200 connections without a whole request: another's is answered meanwhile, and all of them are ended."""
    program = (sys.executable, "-c", HALF_OPEN, str(PORT), repr(sent))
    assert topology.run("hub", *program).stdout == "200\n200\n"


async def test_those_who_do_not_read_are_in_nobodys_way(topology: Topology, hub: VpnServer) -> None:
    """Requests whose answers nobody takes are few at a time."""
    sent = b"GET /metrics HTTP/1.1\r\n\r\n"
    program = (sys.executable, "-c", HALF_OPEN.partition("ended =")[0], str(PORT), repr(sent))
    assert topology.run("hub", *program).stdout == "200\n"


HOSTS = {
    "evil.example": "421",
    f"evil.example:{PORT}": "421",
    "127.0.0.1.evil.example": "421",
    "[::1": "421",
    f"127.0.0.1:{PORT}": "200",
    "10.1.2.3": "200",
    f"[::1]:{PORT}": "200",
    f"LOCALHOST:{PORT}": "200",
    "Prometheus.example:80": "200",
}


async def test_only_known_names_are_answered(topology: Topology, hub: VpnServer) -> None:
    """A page whose name was pointed here reads nothing; addresses need no name, others are given."""
    for host, status in HOSTS.items():
        sent = f"GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        seen = topology.run("hub", sys.executable, "-c", VISIT, str(PORT), repr(sent)).stdout
        assert f"HTTP/1.1 {status} " in seen, host


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    """One line that says which, status 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run_daemon("--management", "--mode", "server", "--metrics", address)
    assert done.returncode == 1
    assert f"metrics cannot listen on {address}: " in done.stderr


def test_a_wrong_address_is_named() -> None:
    """The option's field and the reason, status 1."""
    done = run_daemon("--management", "--mode", "server", "--metrics", "nowhere")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("smartvpn_daemon: metrics: ")
