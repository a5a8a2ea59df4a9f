"""The hub behind proxies: nginx in front of it, PROXY headers, and whose word about the source counts."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from smartvpn import Transport, UnauthorizedError, UnreachableError
from smartvpn.client import VpnClient
from smartvpn.config import ClientConfig
from smartvpn.server import VpnServer
from tests.netns.certificates import self_signed
from tests.netns.topology import CLIENT_OUTER, CLIENT_OUTER6, HUB_OUTER, HUB_OUTER6, Topology
from tests.netns.tunnel import GATEWAY, answers, client_on, hub_on, iperf, serve_iperf, sessions_of

NGINX_WS, NGINX_WSS, RELAY = 8080, 8443, 9090
LOCALHOST = ("127.0.0.1",)

NGINX = """
daemon off;
worker_processes 1;
error_log stderr;
pid {folder}/nginx.pid;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen {address}:{ws};
        listen [{address6}]:{ws};
        listen {address}:{wss} ssl;
        ssl_certificate {cert};
        ssl_certificate_key {key};
        location /some/path {{
            proxy_pass http://127.0.0.1:7443;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_read_timeout 300s;
        }}
    }}
}}
"""

# Relays TCP connections to the hub; each begins with the bytes given in hex, in pieces of the given size.
RELAY_PROGRAM = """
import socket, sys, threading, time
header, piece = bytes.fromhex(sys.argv[3]), int(sys.argv[4])
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("listening", flush=True)

def copy(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        sink.close()

while True:
    near, _ = listener.accept()
    far = socket.create_connection(("127.0.0.1", 7443))
    far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for at in range(0, len(header), piece):
        far.sendall(header[at : at + piece])
        time.sleep(0.02 if piece < len(header) else 0)
    threading.Thread(target=copy, args=(near, far), daemon=True).start()
    threading.Thread(target=copy, args=(far, near), daemon=True).start()
"""


@pytest.fixture
def nginx(topology: Topology, tmp_path: Path) -> str:
    """nginx in the hub's namespace, ws and wss, in front of 127.0.0.1:7443; gives its certificate's pin."""
    certificate = self_signed(tmp_path, "nginx", HUB_OUTER)
    config = tmp_path / "nginx.conf"
    places = {"folder": tmp_path, "cert": certificate.cert, "key": certificate.key}
    hosts = {"address": HUB_OUTER, "address6": HUB_OUTER6, "ws": NGINX_WS, "wss": NGINX_WSS}
    config.write_text(NGINX.format(**places, **hosts))
    tmp_path.chmod(0o755)
    topology.popen("hub", "nginx", "-p", str(tmp_path), "-c", str(config))
    listens(topology, NGINX_WS)
    return certificate.pin


def listens(topology: Topology, port: int) -> None:
    """Wait until something in the hub's namespace listens on the port."""
    deadline = time.monotonic() + 30
    while not topology.run("hub", "ss", "-Hltn", f"sport = :{port}").stdout:
        assert time.monotonic() < deadline, f"nothing listens on port {port}"
        time.sleep(0.05)


def relay(topology: Topology, header: bytes, piece: int = 4096, port: int = RELAY) -> str:
    """A relay to the hub that puts the header in front of every connection; gives its URL."""
    options = (HUB_OUTER, str(port), header.hex(), str(piece))
    topology.popen("hub", sys.executable, "-c", RELAY_PROGRAM, *options, stdout=subprocess.DEVNULL)
    listens(topology, port)
    return f"ws://{HUB_OUTER}:{port}/"


def hub_behind(topology: Topology, trusted: Sequence[str] = LOCALHOST, **changes: Any) -> VpnServer:
    """A hub that only proxies on its own machine can reach."""
    return hub_on(topology, listenAddr="127.0.0.1:7443", trustedProxies=list(trusted), **changes)


async def alice(server: VpnServer, url: str, **security: Any) -> ClientConfig:
    """A registered client's config for that URL."""
    bundle = await server.create_client("alice", security=security)
    return evolve(bundle.smartvpn_config, server_url=url)


async def remote_of(server: VpnServer) -> str:
    """The address at which the hub thinks its only client is."""
    (client,) = await sessions_of(server)
    return client.remote_addr.rpartition(":")[0].strip("[]")


async def check_traffic(topology: Topology, client: VpnClient, config: ClientConfig | None = None) -> None:
    """Pings and streams pass both ways."""
    result = await client.connect(config)
    assert await answers(topology, GATEWAY)
    assert await answers(topology, result.assigned_ip, "hub")
    for direction in ((), ("-R",)):
        report = await iperf(topology, GATEWAY, "-n", "10M", *direction)
        assert report["sum_received"]["bytes"] > 1_000_000


async def test_ws_behind_nginx(topology: Topology, nginx: str) -> None:
    """Under any path, with traffic both ways; the source is what the trusted nginx forwards."""
    assert nginx
    async with hub_behind(topology) as server:
        config = await alice(server, f"ws://{HUB_OUTER}:{NGINX_WS}/some/path/below?and=query")
        serve_iperf(topology, "hub", "-B", GATEWAY)
        async with client_on(topology, config) as client:
            await check_traffic(topology, client)
            assert await remote_of(server) == CLIENT_OUTER


async def test_wss_ends_at_nginx(topology: Topology, nginx: str) -> None:
    """TLS of nginx's own, pinned by the client; the hub behind it speaks plain WebSocket."""
    async with hub_behind(topology) as server:
        config = await alice(server, f"wss://{HUB_OUTER}:{NGINX_WSS}/some/path")
        pinned = evolve(config, server_cert_hash=nginx, transport=Transport.WEBSOCKET)
        serve_iperf(topology, "hub", "-B", GATEWAY)
        async with client_on(topology, pinned) as client:
            await check_traffic(topology, client)
            assert await remote_of(server) == CLIENT_OUTER


async def test_ipv6_behind_nginx(topology: Topology, nginx: str) -> None:
    """An IPv6 source is forwarded too."""
    assert nginx
    async with hub_behind(topology) as server:
        config = await alice(server, f"ws://[{HUB_OUTER6}]:{NGINX_WS}/some/path")
        async with client_on(topology, config) as client:
            await client.connect()
            assert await remote_of(server) == CLIENT_OUTER6


async def test_untrusted_nginx_is_not_believed(topology: Topology, nginx: str) -> None:
    """Without trustedProxies the source is the proxy itself, whatever it forwards."""
    assert nginx
    async with hub_behind(topology, trusted=["192.0.2.0/24"]) as server:
        config = await alice(server, f"ws://{HUB_OUTER}:{NGINX_WS}/some/path")
        async with client_on(topology, config) as client:
            await client.connect()
            assert await remote_of(server) == "127.0.0.1"


SOURCE_RULES: list[tuple[dict[str, list[str]], bool]] = [
    ({"ipAllowList": [CLIENT_OUTER], "ipBlockList": []}, True),
    ({"ipAllowList": ["127.0.0.1"], "ipBlockList": []}, False),
    ({"ipAllowList": [], "ipBlockList": ["10.99.0.*"]}, False),
    ({"ipAllowList": [], "ipBlockList": ["127.0.0.1"]}, True),
]


async def test_source_rules_see_the_real_source(topology: Topology, nginx: str) -> None:
    """ipAllowList and ipBlockList are held against the client's address, not nginx's."""
    assert nginx
    async with hub_behind(topology) as server:
        config = await alice(server, f"ws://{HUB_OUTER}:{NGINX_WS}/some/path")
        async with client_on(topology, config) as client:
            for security, admitted in SOURCE_RULES:
                await server.update_client("alice", {"security": security})
                if admitted:
                    await client.connect()
                    assert await remote_of(server) == CLIENT_OUTER
                else:
                    with pytest.raises(UnauthorizedError, match="source"):
                        await client.connect()
                await client.disconnect()


V2 = b"\r\n\r\n\0\r\nQUIT\n"


def v2(command: int, family: int, block: bytes) -> bytes:
    """A version 2 header (proxy-protocol.txt, 2.2)."""
    return V2 + struct.pack("!BBH", 0x20 | command, family, len(block)) + block


def v2_from(source: str) -> bytes:
    """A version 2 header for a source, with a TLV behind the addresses."""
    six = ":" in source
    family = socket.AF_INET6 if six else socket.AF_INET
    addresses = socket.inet_pton(family, source) + socket.inet_pton(family, "::1" if six else "192.0.2.1")
    return v2(1, 0x21 if six else 0x11, addresses + struct.pack("!HH", 4321, 443) + b"\x04\0\x03abc")


HEADERS = {
    "v1": (b"PROXY TCP4 198.51.100.7 192.0.2.1 4321 443\r\n", "198.51.100.7"),
    "v1-ipv6": (b"PROXY TCP6 2001:db8::7 2001:db8::1 4321 443\r\n", "2001:db8::7"),
    "v1-unknown": (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    "v2": (v2_from("198.51.100.7"), "198.51.100.7"),
    "v2-ipv6": (v2_from("2001:db8::7"), "2001:db8::7"),
    "v2-local": (v2(0, 0, b""), "127.0.0.1"),
    "none": (b"", "127.0.0.1"),
}


async def test_proxy_header(topology: Topology) -> None:
    """A trusted proxy's header gives the source; without a source in it, or without it, the peer is."""
    async with hub_behind(topology) as server:
        config = await alice(server, "ws://192.0.2.1/")
        serve_iperf(topology, "hub", "-B", GATEWAY)
        async with client_on(topology, config) as client:
            for port, (header, source) in enumerate(HEADERS.values(), RELAY):
                url = relay(topology, header, port=port)
                await check_traffic(topology, client, evolve(config, server_url=url))
                assert await remote_of(server) == source, header
                await client.disconnect()


async def test_proxy_header_in_pieces(topology: Topology) -> None:
    """A header that comes byte by byte is as good as one that comes at once."""
    async with hub_behind(topology) as server:
        config = await alice(server, "ws://192.0.2.1/")
        async with client_on(topology, config) as client:
            for port, name in enumerate(("v1", "v2"), RELAY):
                header, source = HEADERS[name]
                await client.connect(evolve(config, server_url=relay(topology, header, 1, port)))
                assert await remote_of(server) == source
                await client.disconnect()


async def test_proxy_header_before_tls(topology: Topology, tmp_path: Path) -> None:
    """The header stands in front of the TLS handshake of the hub itself."""
    certificate = self_signed(tmp_path, "hub", HUB_OUTER)
    relay(topology, HEADERS["v2"][0])
    tls = {"tlsCert": certificate.cert_text, "tlsKey": certificate.key_text}
    async with hub_behind(topology, **tls) as server:
        config = await alice(server, f"wss://{HUB_OUTER}:{RELAY}/")
        serve_iperf(topology, "hub", "-B", GATEWAY)
        async with client_on(topology, config) as client:
            await check_traffic(topology, client)
            assert await remote_of(server) == HEADERS["v2"][1]


async def test_untrusted_proxy_header(topology: Topology) -> None:
    """From a peer that is not trusted a PROXY header is no HTTP request: no tunnel."""
    async with hub_behind(topology, trusted=["192.0.2.0/24"]) as server:
        config = await alice(server, "ws://192.0.2.1/")
        async with client_on(topology, config) as client:
            for port, name in enumerate(("v1", "v1-unknown", "v2", "v2-local"), RELAY):
                url = relay(topology, HEADERS[name][0], port=port)
                with pytest.raises((UnreachableError, UnauthorizedError)):
                    await client.connect(evolve(config, server_url=url))
                assert await server.list_clients() == []
                await client.disconnect()


async def test_source_rules_see_the_header(topology: Topology) -> None:
    """A source that the header names and the block list forbids is refused."""
    relay(topology, HEADERS["v2"][0])
    async with hub_behind(topology) as server:
        config = await alice(server, f"ws://{HUB_OUTER}:{RELAY}/", ipBlockList=["198.51.100.0/24"])
        async with client_on(topology, config) as client:
            with pytest.raises(UnauthorizedError, match="source"):
                await client.connect()
