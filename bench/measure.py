"""The single measurements: throughput, CPU time, ping, packets a second."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lab import Lab, LabError, Namespace, stop, wait_until
from tunnels import Tunnel

IPERF_PORT = 5201
PPS_PORT = 5300
SMALL_BYTES = 64
GSO_SEGMENTS = 64
PINGS = 100
PING_INTERVAL = 0.02
_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


@dataclass
class Flow:
    """One TCP flow through a tunnel; CPU is of the tunnel's two processes."""

    gbit: float
    hub_cpu_per_gb: float
    client_cpu_per_gb: float


@dataclass
class Small:
    """Small UDP packets a second that arrived, and that were sent."""

    received: float
    sent: float


def serve_iperf(lab: Lab) -> None:
    """The iperf3 server for all flows."""
    lab.spawn(lab.hub, "iperf3", "-s", "-p", str(IPERF_PORT))
    wait_until(lambda: lab.hub.listens(IPERF_PORT), "iperf3 -s")


def _cpu_of(tunnel: Tunnel) -> tuple[float, float]:
    if tunnel.processes is None:
        return 0.0, 0.0
    hub, client = tunnel.processes
    return cpu_seconds(hub.pid), cpu_seconds(client.pid)


def tcp_flow(lab: Lab, tunnel: Tunnel, seconds: float, *, download: bool) -> Flow:
    """One cubic flow, client to hub, or hub to client with `download`."""
    before = _cpu_of(tunnel)
    argv = f"iperf3 -c {tunnel.hub_address} -p {IPERF_PORT} -C cubic -t {seconds:g} -J".split()
    output = lab.client.run(*argv, *(["-R"] if download else []), timeout=seconds + 30)
    after = _cpu_of(tunnel)
    received = json.loads(output)["end"]["sum_received"]
    gigabytes = received["bytes"] / 1e9
    if not gigabytes:
        raise LabError(f"{tunnel.name}: nothing came through")
    return Flow(
        gbit=received["bits_per_second"] / 1e9,
        hub_cpu_per_gb=(after[0] - before[0]) / gigabytes,
        client_cpu_per_gb=(after[1] - before[1]) / gigabytes,
    )


def pings_us(lab: Lab, tunnel: Tunnel) -> list[float]:
    """The round trips of an otherwise idle path in µs."""
    output = lab.client.run("ping", "-n", "-c", str(PINGS), "-i", str(PING_INTERVAL), tunnel.hub_address)
    times = [float(text) for text in re.findall(r"time=([\d.]+) ms", output)]
    if len(times) < PINGS * 0.9:
        raise LabError(f"{tunnel.name}: {PINGS - len(times)} of {PINGS} pings lost")
    return [1000 * time for time in times]


def ping_us(lab: Lab, tunnel: Tunnel) -> float:
    """Their median."""
    return statistics.median(pings_us(lab, tunnel))


def small_packets(
    lab: Lab, tool: Path, tunnel: Tunnel, seconds: float, *, download: bool, segments: int = 1
) -> Small:
    """UDP packets of SMALL_BYTES payload as fast as one sender can, `segments` of them in one send."""
    source, target, address = lab.client, lab.hub, tunnel.hub_address
    if download:
        source, target, address = lab.hub, lab.client, tunnel.client_address
    receiver = lab.spawn(target, tool, "receive", str(PPS_PORT), stdout=subprocess.PIPE)
    try:
        _read_line(lab, receiver)
        sent = _send(source, tool, address, seconds, segments)
        received = json.loads(_read_line(lab, receiver))
    finally:
        stop(receiver)
    return Small(received=received["received"] / max(received["seconds"], seconds), sent=sent)


def _send(source: Namespace, tool: Path, address: str, seconds: float, segments: int) -> float:
    arguments = (address, PPS_PORT, f"{seconds:g}", SMALL_BYTES, segments)
    result = json.loads(source.run(tool, "send", *map(str, arguments)))
    return float(result["sent"] / result["seconds"])


def _read_line(lab: Lab, process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise LabError(f"{process.args!r} ended: {lab.log_of(process)}")
    return line


def outer_congestion_control(lab: Lab, tunnel: Tunnel) -> str | None:
    """The algorithm of the tunnel's own TCP socket; None for what does not run over TCP."""
    if tunnel.port is None:
        return None
    lines = lab.client.run("ss", "-Htin", "dport", "=", f":{tunnel.port}").splitlines()
    details = [line.split()[0] for line in lines if line[:1].isspace() and line.strip()]
    return details[0] if details else None
