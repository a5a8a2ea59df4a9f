"""Every command over raw JSON lines against a running hub and its client: the fields of the protocol."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smartvpn.commands import CLIENT_COMMANDS, SERVER_COMMANDS
from smartvpn.keys import PrivateKey
from tests.netns.certificates import self_signed
from tests.netns.state import state
from tests.netns.topology import HUB_OUTER, Topology
from tests.netns.tunnel import TUN, hub_config
from tests.raw import IMPATIENT, Connection, DaemonProcess, Lines, SocketDaemon

LISTENER = (
    "import socket,time; s = socket.create_server(('10.99.0.1', 7443)); print(flush=True); time.sleep(99)"
)

SHAPES = {
    "Status": "state assignedIp? assignedIp6? serverAddr? transport? connectedSince? lastError?",
    "Statistics": "bytesSent bytesReceived packetsSent packetsReceived keepalivesSent keepalivesReceived"
    " uptimeSeconds quality?:ConnectionQuality",
    "ServerStatistics": "bytesSent bytesReceived packetsSent packetsReceived keepalivesSent"
    " keepalivesReceived uptimeSeconds quality?:ConnectionQuality activeClients totalConnections",
    "ConnectionQuality": "srttMs jitterMs minRttMs maxRttMs lossRatio consecutiveTimeouts linkHealth"
    " currentKeepaliveIntervalSecs",
    "ClientConfig": "serverUrl quicServerUrl? serverPublicKey clientPrivateKey? clientPublicKey? transport?"
    " serverCertHash? dns? mtu? keepaliveIntervalSecs? routes? wgPrivateKey? wgAddress? wgAddress6?"
    " wgAddressPrefix? wgPresharedKey? wgPersistentKeepalive? wgEndpoint? wgAllowedIps?",
    "ClientSecurity": "ipAllowList? ipBlockList? destinationAllowList? destinationBlockList?"
    " maxConnections? rateLimit?:RateLimit",
    "RateLimit": "bytesPerSec burstBytes",
    "MtuInfo": "tunMtu effectiveMtu linkMtu overheadBytes oversizedPacketsDropped icmpTooBigSent",
    "ClientInfo": "clientId sessionId assignedIp assignedIp6? transport remoteAddr authenticatedKey"
    " connectedSince bytesSent bytesReceived packetsDropped bytesDropped lastKeepaliveAt?"
    " keepalivesReceived rateLimitBytesPerSec? burstBytes?",
    "ClientTelemetry": "clientId assignedIp lastKeepaliveAt? keepalivesReceived packetsDropped bytesDropped"
    " bytesReceived bytesSent rateLimitBytesPerSec? burstBytes? drops:Drops quality?:ConnectionQuality",
    "Drops": "high normal low acl rateLimit",
    "ClientEntry": "clientId publicKey wgPublicKey security?:ClientSecurity priority? enabled tags?"
    " description? expiresAt? assignedIp assignedIp6?",
    "ConfigBundle": "entry:ClientEntry smartvpnConfig:ClientConfig wireguardConfig secrets:Secrets",
    "Secrets": "noisePrivateKey wgPrivateKey",
    "Keypair": "publicKey privateKey",
    "ClientKeypairs": "noise:Keypair wireguard:Keypair",
    "Started": "quicCertHash? listen:Listen",
    "Listen": "websocket? quic? wireguard?",
    "Connected": "assignedIp assignedIp6? transport mtu",
    "Clients": "clients:[ClientInfo]",
    "Registered": "clients:[ClientEntry] total",
    "Peers": "peers:[WgPeerInfo]",
    "WgPeerInfo": "publicKey allowedIps endpoint? persistentKeepalive? bytesSent bytesReceived packetsSent"
    " packetsReceived lastHandshakeTime?",
    "SmartvpnExport": "config:ClientConfig",
    "WireguardExport": "config",
    "Disconnected": "clientId sessionId reason",
}

FIELD = re.compile(r"(\w+)(\??)(?::(\[?)(\w+)\]?)?")
TIMES = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def assert_shape(value: Any, name: str) -> None:
    """Every required field is there, no unknown one is, null stands nowhere, and so on inside."""
    fields = [match.groups() for match in map(FIELD.fullmatch, SHAPES[name].split()) if match]
    required = {field for field, optional, _, _ in fields if not optional}
    assert required <= value.keys() <= {field for field, *_ in fields}, (name, value)
    assert None not in value.values()
    for field, _, is_list, kind in fields:
        if kind and field in value:
            for item in value[field] if is_list else [value[field]]:
                assert_shape(item, kind)
    for field in value.keys() & {"connectedSince", "lastKeepaliveAt", "expiresAt"}:
        assert TIMES.fullmatch(value[field]), value[field]


def machine_prefix(topology: Topology, role: str) -> tuple[str, ...]:
    """What runs a command on one of the machines, with a place of its own for what it keeps."""
    return tuple(topology.command(role, "env", f"STATE_DIRECTORY={topology.state_dir(role)}"))


def daemon_on(topology: Topology, role: str, mode: str, *more: str) -> DaemonProcess:
    """A daemon over its pipes on one of the machines."""
    prefix = machine_prefix(topology, role)
    return DaemonProcess.stdio(mode, "--tun-name", TUN, *more, prefix=prefix)


@pytest.fixture
def hub(topology: Topology) -> Iterator[DaemonProcess]:
    """A daemon in server mode on the hub's machine; `ready` has been read."""
    with daemon_on(topology, "hub", "server", "--log-level", "DEBUG") as daemon:
        assert daemon.lines.receive()["event"] == "ready"
        yield daemon
        assert daemon.end() == 0


@pytest.fixture
def client(topology: Topology) -> Iterator[DaemonProcess]:
    """A daemon in client mode on the client's machine; `ready` has been read."""
    with daemon_on(topology, "client", "client", "--log-level", "DEBUG") as daemon:
        assert daemon.lines.receive()["event"] == "ready"
        yield daemon
        assert daemon.end() == 0


class Checked:
    """Asks, checks the result's shape, and remembers what was asked."""

    def __init__(self, lines: Lines) -> None:
        self.lines = lines
        self.asked: set[str] = set()

    def __call__(self, method: str, params: Any = None, shape: str | None = None) -> Any:
        self.asked.add(method)
        result = self.lines.result(method, params)
        if shape is None:
            assert result is None
        else:
            assert_shape(result, shape)
        return result

    def refused(self, method: str, params: Any, code: str, error: str) -> None:
        """The same for a command that must fail."""
        self.asked.add(method)
        assert self.lines.refusal(method, params) == (code, error)


def test_every_command_has_the_fields_of_the_protocol(hub: DaemonProcess, client: DaemonProcess) -> None:
    """Server and client commands, each at least once, with a live session between them."""
    server, tunnel = Checked(hub.lines), Checked(client.lines)
    alice = {"clientId": "alice"}
    started = server("start", {"config": hub_config()}, "Started")
    assert started["listen"] == {"websocket": "10.99.0.1:7443"}
    _registry_commands(server, alice)
    bundle = server("rotateClientKey", alice, "ConfigBundle")
    _client_commands(tunnel, bundle["smartvpnConfig"])
    _session_commands(server, alice)
    _key_commands(server)
    assert server("getStatus", shape="Status")["state"] == "connected"
    server("disconnectClient", alice)
    assert_shape(hub.lines.event("client-disconnected"), "Disconnected")
    tunnel("disconnect")
    server("removeClient", alice)
    server.refused("getClient", alice, "NOT_FOUND", "client 'alice' does not exist")
    server("stop")
    assert server("getStatus", shape="Status") == {"state": "disconnected"}
    assert server.asked == SERVER_COMMANDS.keys()
    assert tunnel.asked == CLIENT_COMMANDS.keys()


def _registry_commands(server: Checked, alice: dict[str, Any]) -> None:
    limit = {"bytesPerSec": 10**9, "burstBytes": 10**8}
    full = alice | {
        "tags": ["phone"],
        "description": "of Alice",
        "security": {"destinationBlockList": ["10.66.0.0/16"], "maxConnections": 2, "rateLimit": limit},
        "priority": 50,
        "expiresAt": "2036-01-01T00:00:00Z",
        "assignedIp": "10.8.0.9",
        "enabled": True,
    }
    entry = server("createClient", full, "ConfigBundle")["entry"]
    assert {name: entry[name] for name in full} == full
    assert server("getClient", alice, "ClientEntry") == entry
    server.refused("createClient", alice, "ALREADY_EXISTS", "client 'alice' exists already")
    page = server("listRegisteredClients", {"tag": "phone", "limit": 5}, "Registered")
    assert page == {"clients": [entry], "total": 1}
    server("disableClient", alice)
    server("enableClient", alice)
    update = alice | {"update": {"description": None, "tags": ["tablet"]}}
    assert server("updateClient", update, "ClientEntry")["tags"] == ["tablet"]
    config = server("exportClientConfig", alice | {"format": "smartvpn"}, "SmartvpnExport")["config"]
    assert "clientPrivateKey" not in config
    text = server("exportClientConfig", alice | {"format": "wireguard"}, "WireguardExport")["config"]
    assert "# PrivateKey =" in text


def _client_commands(tunnel: Checked, config: dict[str, Any]) -> None:
    result = tunnel("connect", config, "Connected")
    assert result == {
        "assignedIp": "10.8.0.9",
        "assignedIp6": "fd08::9",
        "transport": "websocket",
        "mtu": 1420,
    }
    assert tunnel("getStatus", shape="Status")["state"] == "connected"
    tunnel("getStatistics", shape="Statistics")
    tunnel("getConnectionQuality", shape="ConnectionQuality")
    tunnel("getMtuInfo", shape="MtuInfo")
    tunnel("generateKeypair", shape="Keypair")


def _session_commands(server: Checked, alice: dict[str, Any]) -> None:
    assert_shape(server.lines.event("client-connected"), "ClientInfo")
    (session,) = server("listClients", shape="Clients")["clients"]
    assert (session["clientId"], session["transport"]) == ("alice", "websocket")
    named = alice | {"sessionId": session["sessionId"]}
    server("setClientRateLimit", alice | {"rateBytesPerSec": 10**6, "burstBytes": 10**5})
    limited = server("getClientTelemetry", named, "ClientTelemetry")
    assert (limited["rateLimitBytesPerSec"], limited["burstBytes"]) == (10**6, 10**5)
    server("removeClientRateLimit", alice)
    assert "rateLimitBytesPerSec" not in server("getClientTelemetry", alice, "ClientTelemetry")
    statistics = server("getStatistics", shape="ServerStatistics")
    assert (statistics["activeClients"], statistics["totalConnections"]) == (1, 1)


def _key_commands(server: Checked) -> None:
    server("generateKeypair", shape="Keypair")
    server("generateWgKeypair", shape="Keypair")
    server("generateClientKeypair", shape="ClientKeypairs")
    assert server("listWgPeers", shape="Peers") == {"peers": []}  # this hub speaks WebSocket only
    key = PrivateKey.generate().public_key.base64
    reason = "the hub does not serve WireGuard"
    server.refused("addWgPeer", {"publicKey": key, "allowedIps": []}, "INVALID_STATE", reason)
    server.refused("removeWgPeer", {"publicKey": key}, "INVALID_STATE", reason)


def test_a_list_comes_in_chunks_when_asked(hub: DaemonProcess) -> None:
    """`stream: true`: the chunks hold the list, the final answer holds the rest."""
    hub.lines.result("start", hub_config())
    for name in ("a", "b"):
        hub.lines.result("createClient", {"clientId": name})
    hub.lines.send(id="s", method="listRegisteredClients", params={"stream": True})
    chunk, final = hub.lines.answer(), hub.lines.answer()
    assert (chunk["id"], chunk["stream"]) == ("s", True)
    assert [entry["clientId"] for entry in chunk["data"]["clients"]] == ["a", "b"]
    assert final == {"id": "s", "success": True, "result": {"clients": [], "total": 2}}


# start


def test_a_second_start_is_refused(hub: DaemonProcess) -> None:
    """INVALID_STATE, and the hub that runs is none the worse; after `stop` it starts again."""
    hub.lines.result("start", hub_config())
    assert hub.lines.refusal("start", hub_config()) == ("INVALID_STATE", "the hub is started already")
    assert hub.lines.result("getStatus")["state"] == "connected"
    hub.lines.result("stop")
    hub.lines.result("start", hub_config())


def test_two_starts_at_one_moment(hub: DaemonProcess) -> None:
    """Of two requests one wins, the other is told."""
    for request_id in ("a", "b"):
        hub.lines.send(id=request_id, method="start", params=hub_config())
    answers = [hub.lines.answer(), hub.lines.answer()]
    assert sorted(answer["success"] for answer in answers) == [False, True]
    assert {answer.get("code") for answer in answers} == {None, "INVALID_STATE"}


def test_a_taken_port_is_named(topology: Topology, hub: DaemonProcess) -> None:
    """The error says which port, nothing stays behind, and another port works."""
    before = state(topology, "hub")
    taken = topology.popen("hub", "python3", "-c", LISTENER, stdout=-1)
    assert taken.stdout is not None
    assert taken.stdout.readline() == b"\n"
    code, error = hub.lines.refusal("start", hub_config())
    assert code == "CONFLICT"
    assert "7443" in error
    assert state(topology, "hub") == before
    assert hub.lines.result("getStatus") == {"state": "disconnected"}
    result = hub.lines.result("start", hub_config(listenAddr=f"{HUB_OUTER}:0"))
    assert result["listen"]["websocket"] != f"{HUB_OUTER}:0"


def test_a_hub_from_a_file(topology: Topology, tmp_path: Path) -> None:
    """`--config` starts it, with pipes or without, and a signal ends it with nothing left behind."""
    before = state(topology, "hub")
    path = tmp_path / "server.json"
    path.write_text(json.dumps(hub_config()))
    with daemon_on(topology, "hub", "server", "--config", str(path)) as daemon:
        assert daemon.lines.receive()["event"] == "ready"
        assert daemon.lines.event("status")["state"] == "connected"
        assert daemon.lines.result("getStatus")["serverAddr"] == "10.99.0.1:7443"
        assert daemon.end() == 0
    assert state(topology, "hub") == before


def test_a_client_from_a_file_waits_for_its_hub(
    topology: Topology, hub: DaemonProcess, tmp_path: Path
) -> None:
    """At boot the hub may come later: the daemon tries again, says so, and connects when it is there."""
    config = hub_config(registry=str(tmp_path / "hub.db"))
    hub.lines.result("start", config)
    bundle = hub.lines.result("createClient", {"clientId": "alice"})
    hub.lines.result("stop")
    path = tmp_path / "client.json"
    path.write_text(json.dumps(bundle["smartvpnConfig"]))
    with daemon_on(topology, "client", "client", "--config", str(path)) as client:
        assert client.lines.receive()["event"] == "ready"
        while (status := client.lines.event("status"))["state"] != "error":
            pass
        assert "10.99.0.1:7443" in status["lastError"]
        hub.lines.result("start", config)
        while client.lines.event("status")["state"] != "connected":
            pass
        assert client.lines.result("getStatus")["assignedIp"] == "10.8.0.2"
        assert client.end() == 0


def test_why_a_connect_fails(topology: Topology, hub: DaemonProcess, client: DaemonProcess) -> None:
    """Each reason has its code, and words; afterwards the client connects as if nothing had been."""
    key = PrivateKey.generate()
    nobody = {"clientPrivateKey": key.base64, "clientPublicKey": key.public_key.base64}
    config = hub_config()
    unknown = nobody | {"serverUrl": f"ws://{HUB_OUTER}:7443/", "serverPublicKey": config["publicKey"]}
    unknown["transport"] = "websocket"
    assert client.lines.refusal("connect", unknown)[0] == "UNREACHABLE"
    hub.lines.result("start", config)
    bundle = hub.lines.result("createClient", {"clientId": "alice"})
    assert client.lines.refusal("connect", unknown)[0] == "UNAUTHORIZED"
    hub.lines.result("disableClient", {"clientId": "alice"})
    code, error = client.lines.refusal("connect", bundle["smartvpnConfig"])
    assert (code, "disabled" in error) == ("UNAUTHORIZED", True)
    hub.lines.result("enableClient", {"clientId": "alice"})
    client.lines.result("connect", bundle["smartvpnConfig"])
    again = client.lines.refusal("connect", bundle["smartvpnConfig"])
    assert again[0] == "INVALID_STATE"


SILENT_HUBS = """
import asyncio, socket, sys, websockets
from aioquic.asyncio import serve
from aioquic.quic.configuration import QuicConfiguration

async def main(host, certificate, key):
    tcp, udp = socket.create_server((host, 7443)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((host, 7443))
    await websockets.serve(lambda _: asyncio.sleep(99), host, 7444, subprotocols=["smartvpn.v1"])
    quic = QuicConfiguration(is_client=False, alpn_protocols=["smartvpn"], max_datagram_frame_size=65535)
    quic.load_cert_chain(certificate, key)
    await serve(host, 7444, configuration=quic)
    print(flush=True)
    await asyncio.sleep(99)

asyncio.run(main(*sys.argv[1:]))
"""


def test_a_hub_that_never_answers(topology: Topology, tmp_path: Path) -> None:
    """TIMEOUT, on each transport, whether it accepts the connection or not even that; nothing is left."""
    certificate = self_signed(tmp_path, "hub", HUB_OUTER)
    files = (str(certificate.cert), str(certificate.key))
    hubs = topology.popen("hub", sys.executable, "-c", SILENT_HUBS, HUB_OUTER, *files, stdout=-1)
    assert hubs.stdout is not None
    assert hubs.stdout.readline() == b"\n"
    key = PrivateKey.generate()
    native = {"clientPrivateKey": key.base64, "clientPublicKey": key.public_key.base64}
    wireguard = {"wgPrivateKey": key.base64, "wgAddress": "10.8.0.2", "wgEndpoint": f"{HUB_OUTER}:7443"}
    before = state(topology, "client")
    prefix = machine_prefix(topology, "client")
    arguments = ("--management", "--mode", "client", "--tun-name", TUN)
    with DaemonProcess(*arguments, prefix=prefix, program=IMPATIENT) as client:
        assert client.lines.receive()["event"] == "ready"
        for config in (
            native | {"transport": "websocket", "serverUrl": f"ws://{HUB_OUTER}:7443/"},
            native | {"transport": "websocket", "serverUrl": f"ws://{HUB_OUTER}:7444/"},
            native | {"transport": "quic", "serverUrl": f"{HUB_OUTER}:7443"},
            native | {"transport": "quic", "serverUrl": f"{HUB_OUTER}:7444"},
            native
            | {"transport": "auto", "serverUrl": f"{HUB_OUTER}:7443"},  # longer than a connect may take
            wireguard | {"transport": "wireguard"},
        ):
            config |= {"serverPublicKey": PrivateKey.generate().public_key.base64}
            code, error = client.lines.refusal("connect", config)
            assert code == "TIMEOUT", error
            assert re.search(f"{HUB_OUTER}:744[34].* (in time|does not answer)", error)
            assert client.lines.result("getStatus") == {"state": "error", "lastError": error}
        assert client.end() == 0
    assert state(topology, "client") == before


HASTY = (
    sys.executable,
    "-P",
    "-c",
    "import sys\n"
    "from smartvpn import daemon\n"
    "from smartvpn.network import _commands\n"
    "_commands._TIMEOUT_SECONDS = 0.3\n"
    "sys.exit(daemon.main())\n",
)
"""a daemon that soon gives up a tool of the system's"""


def test_a_tool_that_does_not_end(topology: Topology, tmp_path: Path) -> None:
    """TIMEOUT names it, and the command has left nothing; without need of the tool all is well."""
    tool = tmp_path / "nft"
    tool.write_text("#!/bin/sh\nexec sleep 60\n")
    tool.chmod(0o755)
    before = state(topology, "hub")
    prefix = (*machine_prefix(topology, "hub"), f"PATH={tmp_path}:{os.environ['PATH']}")
    arguments = ("--management", "--mode", "server", "--tun-name", TUN)
    with DaemonProcess(*arguments, prefix=prefix, program=HASTY) as hub:
        assert hub.lines.receive()["event"] == "ready"
        refusal = hub.lines.refusal("start", hub_config(enableNat=True))
        assert refusal == ("TIMEOUT", "nft did not end within 0.3 s")
        assert state(topology, "hub") == before
        hub.lines.result("start", hub_config())
        assert hub.end() == 0


def test_a_connect_that_waits_holds_up_nobody(topology: Topology, client: DaemonProcess) -> None:
    """Other requests overtake it, and the end of the daemon does not wait for it."""
    silent = topology.popen("hub", "python3", "-c", LISTENER, stdout=-1)
    assert silent.stdout is not None
    assert silent.stdout.readline() == b"\n"
    key = PrivateKey.generate()
    config = {
        "serverUrl": "ws://10.99.0.1:7443/",
        "serverPublicKey": key.public_key.base64,
        "clientPrivateKey": key.base64,
        "clientPublicKey": key.public_key.base64,
        "transport": "websocket",
    }
    client.lines.send(id="slow", method="connect", params=config)
    assert client.lines.event("status")["state"] == "connecting"
    assert client.lines.result("generateKeypair").keys() == {"publicKey", "privateKey"}
    client.process.terminate()
    assert client.process.wait(10) == 0


# events


def test_events_go_to_every_connection(topology: Topology, tmp_path: Path) -> None:
    """A burst of hundreds reaches all whole, in the same order, whoever asked for what caused it."""
    with _socket_daemon(topology, tmp_path) as daemon:
        moved = _config_that_leaves_out(daemon, tmp_path, 500)
        with daemon.connect() as one, daemon.connect() as two, daemon.connect() as three:
            one.result("start", moved)
            assert one.result("stop") is None
            messages = [_events_until_stopped(reader) for reader in (one, two, three)]
            assert [message["event"] for message in messages[0]] == ["error"] * 500 + ENDING
            assert messages[0] == messages[1] == messages[2]


def test_a_slow_subscriber_is_told_what_it_lost(topology: Topology, tmp_path: Path) -> None:
    """It loses the oldest, holds up nobody, and what waits for it is bounded."""
    count = 3500
    with _socket_daemon(topology, tmp_path) as daemon:
        moved = _config_that_leaves_out(daemon, tmp_path, count)
        with daemon.connect() as sleeper, daemon.connect() as other:
            other.result("start", moved)
            assert other.result("stop") is None
            messages = _events_until_stopped(sleeper)
            names = [message["event"] for message in messages]
            (place,) = [place for place, name in enumerate(names) if name == "events-lost"]
            assert names[:place] == ["error"] * place
            assert names[place + 1 :] == ["error"] * (1024 - len(ENDING)) + ENDING
            assert messages[place]["data"] == {"count": count - place - (1024 - len(ENDING))}


ENDING = ["started", "status", "stopped", "status"]


def _socket_daemon(topology: Topology, folder: Path) -> SocketDaemon:
    prefix = machine_prefix(topology, "hub")
    return SocketDaemon(folder / "s.sock", "--tun-name", TUN, prefix=prefix)


def _config_that_leaves_out(daemon: SocketDaemon, folder: Path, count: int) -> dict[str, Any]:
    """A hub whose registry holds `count` clients of another subnet: its start tells of each."""
    kept = {"registry": str(folder / "registry.db"), "subnet6": None}
    with daemon.connect() as first:
        first.result("start", hub_config(clients=_entries(count), subnet="10.8.0.0/16", **kept))
        first.result("stop")
    return hub_config(subnet="10.77.0.0/16", **kept)


def _events_until_stopped(reader: Connection) -> list[dict[str, Any]]:
    messages = reader.events
    while [message["event"] for message in messages[-2:]] != ENDING[-2:]:
        messages.append(reader.receive())
    return messages


def _entries(count: int) -> list[dict[str, Any]]:
    return [
        {
            "clientId": f"client-{number}",
            "publicKey": PrivateKey.generate().public_key.base64,
            "wgPublicKey": PrivateKey.generate().public_key.base64,
            "enabled": True,
            "assignedIp": f"10.8.{1 + number // 250}.{number % 250}",
        }
        for number in range(count)
    ]


# secrets


def test_no_secret_is_ever_logged(
    topology: Topology, hub: DaemonProcess, client: DaemonProcess, tmp_path: Path
) -> None:
    """At DEBUG, through start, createClient, connect, rekeying commands and errors, of both daemons."""
    certificate = self_signed(tmp_path, "hub", HUB_OUTER)
    config = hub_config(
        tlsCert=certificate.cert_text,
        tlsKey=certificate.key_text,
        wgPrivateKey=PrivateKey.generate().base64,
    )
    hub.lines.result("start", config)
    hub.lines.refusal("start", config)
    bundle = hub.lines.result("createClient", {"clientId": "alice"})
    client.lines.result("connect", bundle["smartvpnConfig"])
    client.lines.refusal("connect", bundle["smartvpnConfig"])
    rotated = hub.lines.result("rotateClientKey", {"clientId": "alice"})
    pairs = [hub.lines.result("generateKeypair"), client.lines.result("generateKeypair")]
    client.lines.result("disconnect")
    hub.lines.result("stop")
    secrets = [config["privateKey"], config["wgPrivateKey"], *certificate.key_text.splitlines()[1:-1]]
    secrets += [*bundle["secrets"].values(), *rotated["secrets"].values()]
    secrets += [pair["privateKey"] for pair in pairs]
    for daemon in (hub, client):
        assert daemon.errors != ""
        assert [secret for secret in secrets if secret in daemon.errors] == []
