"""A hub and clients as real daemons on the topology's machines, and what is measured between them."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from smartvpn.client import VpnClient
from smartvpn.keys import PrivateKey
from smartvpn.server import VpnServer
from smartvpn.types import ClientInfo, TunnelState
from tests.netns.topology import HUB_OUTER, Topology
from tests.raw import IMPATIENT

SUBNET, GATEWAY = "10.8.0.0/24", "10.8.0.1"
SUBNET6, GATEWAY6 = "fd08::/64", "fd08::1"
TUN = "smartvpn0"
STDIO = {"transport": "stdio"}
# Between two clients an iperf3 server is still busy, does not listen, or ends the connection that waits.
NOT_LISTENING = ("server is busy", "Connection refused", "control message: Connection reset")


def daemon(machine: Topology, role: str, mode: str, *more: str) -> list[str]:
    """A daemon's command line on one of the machines, with an installation name of its own there."""
    module = ("-m", "smartvpn.daemon", "--management", "--mode", mode, "--tun-name", TUN, *more)
    state = f"STATE_DIRECTORY={machine.state_dir(role)}"
    return machine.command(role, "env", state, sys.executable, "-P", *module)


def hub_config(**changes: Any) -> dict[str, Any]:
    """A hub on ws://10.99.0.1:7443/, IPv4 and IPv6 inside."""
    key = PrivateKey.generate()
    config = {
        "listenAddr": f"{HUB_OUTER}:7443",
        "privateKey": key.base64,
        "publicKey": key.public_key.base64,
        "subnet": SUBNET,
        "subnet6": SUBNET6,
        "registry": ":memory:",
    }
    return config | changes


def hub_on(machine: Topology, **changes: Any) -> VpnServer:
    """A hub to be entered with `async with`."""
    return VpnServer(STDIO, hub_config(**changes), command=daemon(machine, "hub", "server"))


def client_on(machine: Topology, config: Any, role: str = "client") -> VpnClient:
    """A client to be entered with `async with`; `connect` is up to the test."""
    return VpnClient(STDIO, config, command=daemon(machine, role, "client"))


def impatient_client_on(machine: Topology, config: Any) -> VpnClient:
    """One that soon gives up a hub which says nothing."""
    command = daemon(machine, "client", "client")
    first, last = command.index(sys.executable), command.index("smartvpn.daemon")
    return VpnClient(STDIO, config, command=[*command[:first], *IMPATIENT, *command[last + 1 :]])


@asynccontextmanager
async def tunnel_on(
    machine: Topology, security: dict[str, Any] | None = None, **changes: Any
) -> AsyncIterator[tuple[VpnServer, VpnClient]]:
    """A hub, its client alice, and the tunnel between them."""
    async with hub_on(machine, **changes) as server:
        bundle = await server.create_client("alice", security=security or {})
        async with client_on(machine, bundle.smartvpn_config) as client:
            await client.connect()
            await sessions_of(server)
            yield server, client


async def sessions_of(server: VpnServer, count: int = 1) -> list[ClientInfo]:
    """The hub's sessions, once there are that many: it learns of one after the client has it."""

    async def reached() -> bool:
        return len(await server.list_clients()) == count

    await eventually(reached)
    return await server.list_clients()


async def answers(machine: Topology, address: str, role: str = "client", *options: str) -> bool:
    """Whether one of a few pings is answered."""
    command = ("ping", "-n", "-q", "-c", "3", "-i", "0.2", "-W", "2", *options, address)
    return await ping_loss(machine, role, *command) < 1.0


async def ping_loss(machine: Topology, role: str, *command: str) -> float:
    """The part of a ping command's packets that was lost, 0 to 1."""
    result = await asyncio.to_thread(machine.run, role, *command, check=False, timeout=150)
    found = re.search(r"([\d.]+)% packet loss", result.stdout)
    return float(found[1]) / 100 if found else 1.0


async def eventually(condition: Callable[[], Awaitable[object]], seconds: float = 40) -> None:
    """Wait until the condition holds. Raises TimeoutError when it does not."""
    async with asyncio.timeout(seconds):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.05)


async def state_is(client: VpnClient, state: TunnelState, seconds: float = 40) -> None:
    """Wait until the client's tunnel is in that state."""

    async def reached() -> bool:
        return (await client.get_status()).state is state

    await eventually(reached, seconds)


def serve_iperf(machine: Topology, role: str, *options: str) -> None:
    """An iperf3 server on a machine until the end of the test."""
    process = machine.popen(role, "iperf3", "-s", "--forceflush", *options, stdout=-1, stderr=-1)
    assert process.stdout is not None
    while b"Server listening" not in process.stdout.readline():
        assert process.poll() is None


async def iperf(machine: Topology, address: str, *options: str, role: str = "client") -> dict[str, Any]:
    """One iperf3 run against `serve_iperf`; the `end` part of its JSON report."""
    command = ("iperf3", "-J", "-c", address, "-C", "cubic", "--connect-timeout", "5000", *options)
    for _ in range(100):
        result = await asyncio.to_thread(machine.run, role, *command, check=False, timeout=120)
        report = json.loads(result.stdout)
        if not any(words in report.get("error", "") for words in NOT_LISTENING):
            break
        await asyncio.sleep(0.1)
    assert "error" not in report, report["error"]
    end: dict[str, Any] = report["end"]
    return end


async def within_5_percent(measure: Callable[[], Awaitable[float]], limit: float) -> bool:
    """Whether a rate is as high as its limit. The machine's other work takes from what is measured and
    never adds to it: nothing may be above, and one of three within."""
    for _ in range(3):
        rate = await measure()
        assert rate < 1.05 * limit
        if rate > 0.95 * limit:
            return True
        print(f"measured {rate:.0f} of {limit:.0f}")
    return False


def _overflowed(machine: Topology, role: str) -> int:
    """Datagrams that arrived at a machine and found a program's socket full."""
    total = 0
    lines = machine.run(role, "cat", "/proc/net/snmp", "/proc/net/snmp6").stdout.splitlines()
    for names, values in itertools.pairwise(lines):
        if names.startswith("Udp:") and "RcvbufErrors" in names:
            total += int(values.split()[names.split().index("RcvbufErrors")])
    return total + sum(int(line.split()[1]) for line in lines if line.startswith("Udp6RcvbufErrors"))


async def udp_loss(machine: Topology, address: str, *options: str) -> float:
    """The part of an iperf3 UDP flow that the tunnel lost, 0 to 1: not what iperf3 was too slow to read."""
    receiver = "client" if "-R" in options else "hub"
    before = _overflowed(machine, receiver)
    end = await iperf(machine, address, "-u", *options)
    lost = end["sum"]["lost_packets"] - (_overflowed(machine, receiver) - before)
    return max(0, lost) / int(end["sum"]["packets"])


def cpu_seconds(pid: int) -> float:
    """What the process has used of the CPU so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
