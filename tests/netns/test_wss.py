"""The tunnel over wss://: who is believed to be the hub, and what is said when nobody is."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from smartvpn import ConfigError, Transport, UnauthorizedError, UnreachableError
from smartvpn.config import ClientConfig
from smartvpn.server import VpnServer
from tests.netns.certificates import Certificate, expired, self_signed
from tests.netns.topology import HUB_OUTER, Topology
from tests.netns.tunnel import GATEWAY, answers, client_on, hub_on, iperf, serve_iperf

PORT = 7443
URL = f"wss://{HUB_OUTER}:{PORT}/any/path?with=query"
WRONG_PIN = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="

# Accepts one TLS connection and prints, as a line, how many bytes came inside it before it ended.
RAW_TLS_SERVER = """
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
listener = socket.create_server((sys.argv[3], int(sys.argv[4])))
print("listening", flush=True)
connection, _ = listener.accept()
seen = 0
try:
    with context.wrap_socket(connection, server_side=True) as inside:
        while piece := inside.recv(4096):
            seen += len(piece)
except OSError:
    pass
print(seen, flush=True)
"""


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    """The hub's, signed by itself."""
    return self_signed(tmp_path, "hub", HUB_OUTER)


def trust(topology: Topology, certificate: Certificate) -> None:
    """Makes it one of the system's CAs, for the client's namespace only."""
    folder = topology.resolv_conf("client").parent / "ssl" / "certs"
    folder.mkdir(parents=True)
    (folder / "ca-certificates.crt").write_text(certificate.cert_text)


def wss_hub(topology: Topology, certificate: Certificate) -> VpnServer:
    """A hub with that certificate, to be entered with `async with`."""
    return hub_on(topology, tlsCert=certificate.cert_text, tlsKey=certificate.key_text)


async def client_config(server: VpnServer, **changes: Any) -> ClientConfig:
    """A new client's config for URL, with changes to its fields."""
    bundle = await server.create_client("alice")
    return evolve(bundle.smartvpn_config, **({"server_url": URL} | changes))


async def connect(topology: Topology, config: ClientConfig) -> None:
    """The client connects and reaches the hub through the tunnel. Raises what `connect` raises."""
    async with client_on(topology, config) as client:
        await client.connect()
        assert await answers(topology, GATEWAY)


async def test_wss_to_a_plain_port(topology: Topology) -> None:
    """The error says what may be wrong in the config."""
    async with hub_on(topology) as server:
        with pytest.raises(UnreachableError, match="does not speak TLS there: it may expect ws://"):
            await connect(topology, await client_config(server))


@pytest.mark.parametrize("as_path", [False, True], ids=["text", "path"])
async def test_pinned_tunnel(topology: Topology, certificate: Certificate, as_path: bool) -> None:
    """With the certificate's pin the tunnel comes up and carries pings and streams both ways."""
    cert = str(certificate.cert) if as_path else certificate.cert_text
    key = str(certificate.key) if as_path else certificate.key_text
    async with hub_on(topology, tlsCert=cert, tlsKey=key) as server:
        config = await client_config(server, transport=Transport.WEBSOCKET)
        assert config.server_cert_hash == certificate.pin
        async with client_on(topology, config) as client:
            result = await client.connect()
            assert result.transport == Transport.WEBSOCKET
            assert await answers(topology, GATEWAY)
            assert await answers(topology, result.assigned_ip, "hub")
            serve_iperf(topology, "hub", "-B", GATEWAY)
            for direction in ((), ("-R",)):
                report = await iperf(topology, GATEWAY, "-n", "10M", *direction)
                assert report["sum_received"]["bytes"] > 1_000_000


@pytest.mark.parametrize("transport", [Transport.WEBSOCKET, Transport.AUTO])
async def test_wrong_pin(topology: Topology, certificate: Certificate, transport: Transport) -> None:
    """Another certificate than the pinned one, that no CA vouches for either, is refused in words."""
    async with wss_hub(topology, certificate) as server:
        config = await client_config(server, transport=transport, server_cert_hash=WRONG_PIN)
        with pytest.raises(UnauthorizedError, match="certificate does not match serverCertHash"):
            await connect(topology, config)


async def test_nothing_is_sent_to_a_wrong_certificate(topology: Topology, certificate: Certificate) -> None:
    """The pin is judged within the TLS handshake: the server sees no byte of a request."""
    arguments = (str(certificate.cert), str(certificate.key), HUB_OUTER, "9443")
    raw = topology.popen(
        "hub", sys.executable, "-c", RAW_TLS_SERVER, *arguments, stdout=subprocess.PIPE, text=True
    )
    assert raw.stdout is not None
    assert await asyncio.to_thread(raw.stdout.readline) == "listening\n"
    async with wss_hub(topology, certificate) as server:
        config = await client_config(
            server,
            server_url=f"wss://{HUB_OUTER}:9443/",
            transport=Transport.WEBSOCKET,
            server_cert_hash=WRONG_PIN,
        )
        with pytest.raises(UnauthorizedError, match="serverCertHash"):
            await connect(topology, config)
    assert await asyncio.to_thread(raw.stdout.readline) == "0\n"


async def test_auto_takes_a_valid_chain_for_the_pin(topology: Topology, certificate: Certificate) -> None:
    """Under `auto` a CDN's certificate, not the pinned one but good to the system, will do."""
    trust(topology, certificate)
    async with wss_hub(topology, certificate) as server:
        config = await client_config(server, transport=Transport.AUTO, server_cert_hash=WRONG_PIN)
        await connect(topology, config)


async def test_websocket_takes_nothing_but_the_pin(topology: Topology, certificate: Certificate) -> None:
    """Under `websocket` the pin is strict: a valid chain does not help."""
    trust(topology, certificate)
    async with wss_hub(topology, certificate) as server:
        config = await client_config(server, transport=Transport.WEBSOCKET, server_cert_hash=WRONG_PIN)
        with pytest.raises(UnauthorizedError, match="serverCertHash"):
            await connect(topology, config)


async def test_auto_asks_for_the_name_too(topology: Topology, tmp_path: Path) -> None:
    """A valid chain for somebody else is not a valid chain: a trusted CA's certificate for another host."""
    other = self_signed(tmp_path, "other", "192.0.2.7")
    trust(topology, other)
    async with wss_hub(topology, other) as server:
        config = await client_config(server, transport=Transport.AUTO, server_cert_hash=WRONG_PIN)
        with pytest.raises(UnauthorizedError, match="serverCertHash"):
            await connect(topology, config)


async def test_without_a_pin_a_chain_is_asked(topology: Topology, certificate: Certificate) -> None:
    """No pin and no CA: refused in words; the same with the CA trusted: up."""
    async with wss_hub(topology, certificate) as server:
        config = await client_config(server, server_cert_hash=None)
        with pytest.raises(UnauthorizedError, match="certificate"):
            await connect(topology, config)
        trust(topology, certificate)
        await connect(topology, config)


async def test_an_expired_certificate(topology: Topology, tmp_path: Path) -> None:
    """Where a chain is asked for it is refused in words, however trusted; a pin asks for no date."""
    certificate = expired(tmp_path, "old", HUB_OUTER)
    trust(topology, certificate)
    async with hub_on(
        topology, transportMode="both", tlsCert=certificate.cert_text, tlsKey=certificate.key_text
    ) as server:
        config = await client_config(server, transport=Transport.WEBSOCKET, server_cert_hash=None)
        with pytest.raises(UnauthorizedError, match="expired"):
            await connect(topology, config)
        with pytest.raises(UnauthorizedError, match="serverCertHash"):
            await connect(topology, evolve(config, transport=Transport.AUTO, server_cert_hash=WRONG_PIN))
        for transport in (Transport.WEBSOCKET, Transport.QUIC):
            await connect(topology, evolve(config, transport=transport, server_cert_hash=certificate.pin))


async def test_old_tls_is_refused(topology: Topology, certificate: Certificate) -> None:
    """TLS 1.2 and 1.3 are spoken, 1.1 is not."""
    async with wss_hub(topology, certificate):
        outcome = {}
        for version in ("tls1_1", "tls1_2", "tls1_3"):
            command = ("openssl", "s_client", f"-{version}", "-cipher", "DEFAULT@SECLEVEL=0")
            target = ("-connect", f"{HUB_OUTER}:{PORT}", "-brief")
            run = topology.command("client", *command, *target)
            done = await asyncio.to_thread(
                subprocess.run, run, input="", capture_output=True, text=True, timeout=60, check=False
            )
            outcome[version] = "CONNECTION ESTABLISHED" in done.stdout + done.stderr
    assert outcome == {"tls1_1": False, "tls1_2": True, "tls1_3": True}


async def test_ws_to_a_wss_port(topology: Topology, certificate: Certificate) -> None:
    """Plain WebSocket where TLS is expected fails with words that lead to the cause."""
    async with wss_hub(topology, certificate) as server:
        config = await client_config(server, server_url=f"ws://{HUB_OUTER}:{PORT}/")
        with pytest.raises(UnreachableError, match="wss://"):
            await connect(topology, config)


async def test_wss_to_a_ws_port(topology: Topology) -> None:
    """TLS where plain WebSocket is expected fails with words that lead to the cause."""
    async with hub_on(topology) as server:
        config = await client_config(server)
        with pytest.raises(UnreachableError, match=r"TLS|SSL"):
            await connect(topology, config)


async def test_faults_name_their_field(topology: Topology, certificate: Certificate, tmp_path: Path) -> None:
    """A certificate that is none, a key that is none, one that is locked, and one of another certificate."""
    other = self_signed(tmp_path, "other")
    cases = {
        ("not PEM", certificate.key_text): "tlsCert",
        (certificate.key_text, certificate.key_text): "tlsCert",
        ("/nonexistent/hub.crt", certificate.key_text): "tlsCert",
        (certificate.cert_text, certificate.cert_text): "tlsKey",
        (certificate.cert_text, other.key_text): "tlsKey",
        (other.cert_text, other.locked_key_text()): "tlsKey",
        (certificate.cert_text, "/nonexistent/hub.key"): "tlsKey",
    }
    for (cert, key), field in cases.items():
        assert await faulty_field(topology, cert, key) == field


async def faulty_field(topology: Topology, cert: str, key: str) -> str:
    """The field that a hub's start complains about."""
    server = hub_on(topology, tlsCert=cert, tlsKey=key)
    with pytest.raises(ConfigError) as caught:
        async with server:
            pass
    return caught.value.field
