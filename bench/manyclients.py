#!/usr/bin/env python3
"""Many clients at one hub: what each costs while idle, how fast they come in.

    python3 bench/manyclients.py [--count N] [--rates R …] [--hold S] [--write]

Needs root and build/bench/clients. Each client has a source address of its own: the hub lets a source make
20 handshakes a second. `--write` puts the table into docs/benchmarks-hub.md. Ends with status 1 when a
client is lost or a target is missed.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import Lab, LabError, stop
from section import HUB_DOCUMENT, when_and_where, write_section
from tunnels import Management

ROOT = Path(__file__).resolve().parent.parent
IDLE_CPU_MOST = 0.01  # of a core, with all clients live

PORT = 7100
# Connects a second while latency and memory are measured: far from the hub's limit.
LATENCY_RATE = 100
HOLD_SECONDS = 5
# All of 10.210/16 is local, so each client connects to, and comes from, an address of its own, and the hub's
# limit per source does not bite.
_SOURCES = "10.210.0.0/16"
_FIRST = "10.210.1.0"
_HUB = "10.210.0.1"
_SUBNET = "10.220.0.0/16"


@dataclass
class Crowd:
    """What the load generator printed for one run, and how fast the hub made its entries."""

    rate: float
    result: dict[str, Any]
    creates_per_second: float

    @property
    def handshakes_per_core(self) -> float:
        """Handshakes in one second of one core of the hub."""
        return float(self.result["live"] / max(self.result["connect_cpu_seconds"], 0.01))

    @property
    def lost(self) -> int:
        """Clients that never came in, or not for as long as they wanted."""
        return int(self.result["failed"] + self.result["lost"])


def measure_crowds(
    lab: Lab,
    tool: Path,
    daemon: list[str],
    count: int,
    rates: tuple[float, ...] = (LATENCY_RATE, 0),
    hold: float = HOLD_SECONDS,
) -> list[Crowd]:
    """One run at each rate of connects a second (0: as fast as it goes), a fresh hub for each."""
    lab.crowd.ip("route", "replace", "local", _SOURCES, "dev", "lo")
    return [_one_crowd(lab, tool, daemon, count, rate, hold) for rate in rates]


def _one_crowd(lab: Lab, tool: Path, daemon: list[str], count: int, rate: float, hold: float) -> Crowd:
    hub = Management(lab, lab.crowd, daemon, "server")
    try:
        keys = hub.call("generateKeypair")
        hub.call(
            "start",
            {
                "listenAddr": f"0.0.0.0:{PORT}",
                "serverEndpoint": _HUB,
                "subnet": _SUBNET,
                "registry": ":memory:",
                **keys,
            },
        )
        return _run_generator(lab, tool, hub, keys["publicKey"], count, rate, hold)
    finally:
        stop(hub.process)


def _run_generator(
    lab: Lab, tool: Path, hub: Management, server_key: str, count: int, rate: float, hold: float
) -> Crowd:
    options = {
        "count": count,
        "rate": rate,
        "hold": hold,
        "server-key": base64.b64decode(server_key).hex(),
        "first-address": _FIRST,
        "port": PORT,
        "hub-pid": hub.process.pid,
    }
    argv = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    generator = lab.spawn(lab.crowd, tool, *argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert generator.stdin is not None
        assert generator.stdout is not None
        creates_per_second = _register(hub, [generator.stdout.readline().strip() for _ in range(count)])
        generator.stdin.write("go\n")
        line = generator.stdout.readline()
    finally:
        stop(generator)
    if not line:
        raise LabError(f"the load generator ended: {lab.log_of(generator)}")
    return Crowd(rate, json.loads(line), creates_per_second)


def _register(hub: Management, keys: list[str]) -> float:
    """Hands the keys to the hub; entries a second."""
    begin = time.perf_counter()
    for number, key in enumerate(keys):
        public_key = base64.b64encode(bytes.fromhex(key)).decode("ascii")
        hub.send("createClient", {"clientId": f"c{number}", "publicKey": public_key})
    for _ in keys:
        hub.result(60)
    return len(keys) / (time.perf_counter() - begin)


def _row(crowd: Crowd, hold: float) -> list[str]:
    result, ms = crowd.result, crowd.result["latency_ms"]
    return [
        str(result["clients"]),
        f"{crowd.rate:g}" if crowd.rate else "all at once",
        str(result["live"]),
        str(crowd.lost),
        f"{result['handshakes_per_second']:.0f}",
        f"{ms['p50']:.1f} / {ms['p99']:.1f} / {ms['max']:.1f}",
        f"{100 * result['hold_cpu_seconds'] / hold:.2f} %",
        f"{result['kb_per_client']:.1f}",
        f"{crowd.creates_per_second:.0f}",
    ]


_HEAD = [
    "clients",
    "connects/s",
    "live",
    "lost",
    "handshakes/s",
    "p50 / p99 / max ms",
    "CPU while idle",
    "KB per client",
    "created/s",
]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Many clients at one hub.")
    parser.add_argument("--count", type=int, default=2000, help="how many")
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[500, 0], help="connects a second; 0: no limit"
    )
    parser.add_argument("--hold", type=float, default=30, help="seconds of idleness")
    parser.add_argument("--write", action="store_true", help="write the table into docs/benchmarks-hub.md")
    return parser.parse_args()


def main() -> int:
    """Measures, prints, writes."""
    from report import aligned, markdown  # which uses Crowd

    options = arguments()
    os.environ["PYTHONPATH"] = str(ROOT)
    daemon = [sys.executable, "-m", "smartvpn.daemon"]
    tool = ROOT / "build" / "bench" / "clients"
    try:
        with Lab() as lab:
            crowds = measure_crowds(lab, tool, daemon, options.count, tuple(options.rates), options.hold)
    except LabError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    table = [_HEAD, *(_row(crowd, options.hold) for crowd in crowds)]
    print(aligned(table))
    if options.write:
        note = (
            "One load generator speaking the protocol over loopback, a fresh hub for each row, a source "
            f"address for each client; idle for {options.hold:g} s. Lost: never live, or ended early. "
            "KB: growth of the hub's proportional set size per client, without the kernel's socket memory."
        )
        write_section(HUB_DOCUMENT, "Many clients", f"{note} {when_and_where()}\n\n{markdown(table)}")
    idle = max(crowd.result["hold_cpu_seconds"] / options.hold for crowd in crowds)
    return 0 if all(not crowd.lost for crowd in crowds) and idle < IDLE_CPU_MOST else 1


if __name__ == "__main__":
    sys.exit(main())
