"""The main job, shown: a hub, a client made by one call, and a host on the internet behind the hub's NAT.

    sudo make run            (or: sudo .venv/bin/python -m examples.demo)

Three network namespaces stand for the three machines. Ctrl-C ends it at any time; nothing stays behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from smartvpn import VpnClient, VpnServer
from smartvpn.keys import PrivateKey
from smartvpn.types import ConnectionQuality
from tests.netns.topology import CLIENT_OUTER, HUB_OUTER, INTERNET, Topology

TUNNEL_GATEWAY = "10.8.0.1"
FLOW_SECONDS = 5
BAR = 40


class HandshakeTime(logging.Handler):
    """Reads the handshake's time off the client daemon's log."""

    milliseconds = float("nan")

    def emit(self, record: logging.LogRecord) -> None:
        """logging: one line of a daemon."""
        found = re.search(r"handshake took ([\d.]+) ms", record.getMessage())
        if found:
            self.milliseconds = float(found[1])


def missing() -> str | None:
    """What this machine lacks, in words."""
    if sys.platform != "linux":
        return "the demonstration needs Linux (TUN devices and network namespaces)"
    if os.geteuid() != 0:
        return "network namespaces and TUN devices need root: run `sudo make run`"
    if not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun: run `modprobe tun`, or give the container the device"
    programs = [name for name in ("ip", "nft", "ping", "iperf3") if shutil.which(name) is None]
    return f"not installed: {', '.join(programs)} (run `make deps`)" if programs else None


def daemon(machine: Topology, role: str, mode: str) -> list[str]:
    """A daemon's command line on one of the machines."""
    return machine.command(role, sys.executable, "-m", "smartvpn.daemon", "--management", "--mode", mode)


def hub_config() -> dict[str, object]:
    """A hub on the plain WebSocket port, with NAT."""
    key = PrivateKey.generate()
    return {
        "listenAddr": f"{HUB_OUTER}:80",
        "privateKey": key.base64,
        "publicKey": key.public_key.base64,
        "subnet": "10.8.0.0/24",
        "enableNat": True,
        "registry": ":memory:",
    }


async def ping_ms(machine: Topology, address: str) -> float:
    """The median round trip from the client, in milliseconds."""
    command = machine.command("client", "ping", "-n", "-c", "100", "-i", "0.01", "-w", "10", address)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    times = [float(text) for text in re.findall(rb"time=([\d.]+)", output)]
    if not times:
        raise RuntimeError(f"{address} does not answer")
    return statistics.median(times)


HOST = """
import socket, sys
listener = socket.create_server((sys.argv[1], 7))
print("ready", flush=True)
print(listener.accept()[1][0])
"""
VISITOR = "import socket, sys; socket.create_connection((sys.argv[1], 7), 5)"


async def seen_source(machine: Topology) -> str:
    """As whom the internet's host sees the client, over TCP."""
    host = await asyncio.create_subprocess_exec(
        *machine.command("internet", sys.executable, "-c", HOST, INTERNET), stdout=asyncio.subprocess.PIPE
    )
    assert host.stdout is not None
    await host.stdout.readline()
    await asyncio.to_thread(machine.run, "client", sys.executable, "-c", VISITOR, INTERNET)
    return (await host.stdout.read()).decode().strip()


def serve_flows(machine: Topology) -> None:
    """The far end of the flows, on the hub. It stays a child of this program, to end with it."""
    process = machine.popen("hub", "iperf3", "-s", "--forceflush", stdout=subprocess.PIPE)
    assert process.stdout is not None
    while b"Server listening" not in (line := process.stdout.readline()):
        if not line:
            raise RuntimeError("iperf3 -s failed")


async def flow(machine: Topology, title: str, *options: str) -> float:
    """One TCP flow through the tunnel, with a progress bar. Returns Gbit/s."""
    command = [
        "iperf3",
        "-c",
        TUNNEL_GATEWAY,
        "-t",
        str(FLOW_SECONDS),
        "-i",
        "0.25",
        "-f",
        "m",
        "--forceflush",
    ]
    process = await asyncio.create_subprocess_exec(
        *machine.command("client", *command, *options), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    rate = 0.0
    async for line in process.stdout:
        found = re.search(rb"-(\d+\.\d+) +sec.* ([\d.]+) Mbits/sec", line)
        if found:
            rate = float(found[2]) / 1000
            if sys.stdout.isatty():
                show_bar(title, min(1.0, float(found[1]) / FLOW_SECONDS), rate)
    if await process.wait():
        raise RuntimeError("iperf3 failed")
    show_bar(title, 1.0, rate)
    print()
    return rate


def show_bar(title: str, done: float, rate: float) -> None:
    """One line, drawn over the last one on a terminal."""
    filled = round(BAR * done)
    bar = "█" * filled + "░" * (BAR - filled)
    print(f"\r  {title:<10} {bar} {rate:6.2f} Gbit/s", end="", flush=True)


def show_table(rows: list[tuple[str, str]]) -> None:
    """What was measured, at the end."""
    width = max(len(name) for name, _ in rows)
    print()
    for name, value in rows:
        print(f"  {name:<{width}}   {value}")


def quality_text(quality: ConnectionQuality) -> str:
    """The link's quality in one line."""
    return (
        f"{quality.link_health}, round trip {quality.srtt_ms:.2f} ms, "
        f"jitter {quality.jitter_ms:.2f} ms, loss {quality.loss_ratio:.1%}"
    )


@contextlib.asynccontextmanager
async def tunnel(machine: Topology) -> AsyncIterator[VpnClient]:
    """The hub, a client that `create_client` made, and the tunnel between them."""
    stdio = {"transport": "stdio"}
    async with VpnServer(stdio, hub_config(), command=daemon(machine, "hub", "server")) as server:
        bundle = await server.create_client("alice")
        entry, config = bundle.entry, bundle.smartvpn_config
        print(f"  created    {entry.client_id}, {entry.assigned_ip}, hub {config.server_url}")
        async with VpnClient(stdio, config, command=daemon(machine, "client", "client")) as client:
            result = await client.connect()
            print(f"  connected  {result.assigned_ip} over {result.transport}, MTU {result.mtu}")
            yield client
            await client.disconnect()


async def show(machine: Topology, handshake: HandshakeTime) -> None:
    """Everything, once."""
    bare = await ping_ms(machine, HUB_OUTER)
    serve_flows(machine)
    async with tunnel(machine) as client:
        inner = await ping_ms(machine, TUNNEL_GATEWAY)
        far = await ping_ms(machine, INTERNET)
        source = await seen_source(machine)
        print(f"  reached    {INTERNET} on the internet, which saw {source} (the client is {CLIENT_OUTER})\n")
        up = await flow(machine, "upload")
        down = await flow(machine, "download", "-R")
        show_table(
            [
                ("handshake", f"{handshake.milliseconds:.1f} ms, TCP open to session"),
                ("round trip", f"{inner:.3f} ms through the tunnel, {bare:.3f} ms without"),
                ("to the internet", f"{far:.3f} ms through tunnel and NAT"),
                ("one TCP flow", f"{up:.2f} Gbit/s up, {down:.2f} Gbit/s down"),
                ("link quality", quality_text(await client.get_connection_quality())),
            ]
        )


def main() -> int:
    """Run the demonstration. Returns the exit status."""
    reason = missing()
    if reason:
        print(f"make run: {reason}", file=sys.stderr)
        return 1
    handshake = HandshakeTime()
    log = logging.getLogger("smartvpn.daemon")
    log.addHandler(handshake)
    log.setLevel(logging.INFO)
    log.propagate = False
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as state, Topology("smartvpn") as machine:
        os.environ["STATE_DIRECTORY"] = state
        try:
            asyncio.run(show(machine, handshake))
        except KeyboardInterrupt:
            print("\n  stopped")
            return 130
    print(f"\n  all of it took {time.monotonic() - started:.0f} s; nothing is left behind")
    return 0


if __name__ == "__main__":
    sys.exit(main())
