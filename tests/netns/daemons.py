"""Real daemons in a topology's namespaces, a tunnel between them, and what is sent through it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from attrs import evolve

from smartvpn.client import VpnClient
from smartvpn.config import ClientConfig, ServerConfig
from smartvpn.server import VpnServer
from smartvpn.types import ConnectResult, Keypair
from tests.netns.topology import HUB_OUTER, Topology

SUBNET, GATEWAY = "10.77.0.0/24", "10.77.0.1"
PORT = 8443
STDIO = {"transport": "stdio"}


def daemon_command(topology: Topology, role: str, mode: str) -> Sequence[str]:
    """The daemon as started in a namespace, over stdio."""
    daemon = (sys.executable, "-P", "-m", "smartvpn.daemon")
    return topology.command(role, *daemon, "--management", "--mode", mode)


def server_config(**changes: Any) -> ServerConfig:
    """A hub on its outer address with a registry in memory; `changes` are fields of ServerConfig."""
    keys = Keypair.generate()
    usual = {
        "listen_addr": f"{HUB_OUTER}:{PORT}",
        "private_key": keys.private_key,
        "public_key": keys.public_key,
        "subnet": SUBNET,
        "registry": ":memory:",
    }
    return ServerConfig(**(usual | changes))


def new_server(topology: Topology) -> VpnServer:
    """A daemon in the hub's namespace, not started yet."""
    return VpnServer(STDIO, command=daemon_command(topology, "hub", "server"))


def new_client(topology: Topology) -> VpnClient:
    """A daemon in the client's namespace, not started yet."""
    return VpnClient(STDIO, command=daemon_command(topology, "client", "client"))


@asynccontextmanager
async def running_hub(topology: Topology, **changes: Any) -> AsyncIterator[VpnServer]:
    """A hub that listens."""
    async with new_server(topology) as server:
        await server.start(server_config(**changes))
        yield server


async def client_config(server: VpnServer, client_id: str = "alice", **changes: Any) -> ClientConfig:
    """Registers a client; its config, with `changes` to its fields."""
    bundle = await server.create_client(client_id)
    return evolve(bundle.smartvpn_config, **changes)


@asynccontextmanager
async def tunnel(topology: Topology, config: ClientConfig) -> AsyncIterator[ConnectResult]:
    """A client's tunnel that is up."""
    async with new_client(topology) as client:
        yield await client.connect(config)


async def connect(topology: Topology, config: ClientConfig) -> None:
    """Brings a tunnel up and down again. Raises what `connect` raises."""
    async with tunnel(topology, config):
        pass


async def ping(topology: Topology, role: str, address: str) -> None:
    """Raises AssertionError unless each of three pings is answered."""
    command = ("ping", "-c", "3", "-i", "0.2", "-W", "5", address)
    await asyncio.to_thread(topology.run, role, *command)


async def bytes_through(topology: Topology, *, from_hub: bool, seconds: int = 1) -> int:
    """Bytes that iperf3's receiver got through the tunnel, from the client or from the hub."""
    listening = topology.popen("hub", "iperf3", "-s", "-1", "-B", GATEWAY, "--forceflush", stdout=subprocess.PIPE)
    assert listening.stdout is not None
    await asyncio.to_thread(_read_until, listening.stdout, b"Server listening")
    command = ("iperf3", "-c", GATEWAY, "-t", str(seconds), "-J", *(("-R",) if from_hub else ()))
    done = await asyncio.to_thread(topology.run, "client", *command, timeout=60)
    return int(json.loads(done.stdout)["end"]["sum_received"]["bytes"])


def _read_until(stream: Any, words: bytes) -> None:
    for line in stream:
        if words in line:
            return
    raise AssertionError(f"ended without {words!r}")
