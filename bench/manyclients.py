"""Many clients at one hub: what each costs while idle, how fast they come in."""

from __future__ import annotations

import base64
import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import Lab, LabError, stop
from tunnels import Management

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


def measure_crowds(lab: Lab, tool: Path, daemon: list[str], count: int) -> list[Crowd]:
    """One run at LATENCY_RATE, one as fast as it goes; a fresh hub for each."""
    lab.crowd.ip("route", "replace", "local", _SOURCES, "dev", "lo")
    return [_one_crowd(lab, tool, daemon, count, rate) for rate in (LATENCY_RATE, 0)]


def _one_crowd(lab: Lab, tool: Path, daemon: list[str], count: int, rate: float) -> Crowd:
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
        return _run_generator(lab, tool, hub, keys["publicKey"], count, rate)
    finally:
        stop(hub.process)


def _run_generator(lab: Lab, tool: Path, hub: Management, server_key: str, count: int, rate: float) -> Crowd:
    options = {
        "count": count,
        "rate": rate,
        "hold": HOLD_SECONDS,
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
