"""Two WireGuard clients that speak to each other through a smartvpn hub: what its process spends on it."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import HUB_OUTER, Lab, LabError, Namespace, run, stop, wait_until
from measure import IPERF_PORT, Flow, cpu_seconds, tcp_flow
from tunnels import INNER_MTU, Management, Tunnel

_SECOND_HUB, _SECOND_CLIENT = "10.202.0.1", "10.202.0.2"
_PORT = 53000
_SUBNET = "10.230.0.0/24"
_NAMES = "svwghub1", "svwghub2"


@dataclass
class Pass:
    """One flow through the hub beside one between two devices, one right after the other."""

    gbit: float
    hub_cpu_per_gb: float
    direct: Flow

    @property
    def cpu_ratio(self) -> float:
        """The hub's CPU time by that of one sender and one receiver."""
        return self.hub_cpu_per_gb / (self.direct.hub_cpu_per_gb + self.direct.client_cpu_per_gb)


@dataclass
class Hub:
    """The hub's daemon, and a device in `client` and one in `crowd`, each its client."""

    lab: Lab
    program: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)

    def open(self) -> None:
        """All of it, until packets cross. Raises LabError."""
        lab = self.lab
        lab.hub.ip("link", "add", "eth1", "type", "veth", "peer", "name", "eth0", "netns", lab.crowd.name)
        for where, link, address in ((lab.hub, "eth1", _SECOND_HUB), (lab.crowd, "eth0", _SECOND_CLIENT)):
            where.ip("address", "add", f"{address}/24", "dev", link)
            where.ip("link", "set", link, "up")
        lab.crowd.ip("route", "add", f"{HUB_OUTER}/32", "via", _SECOND_HUB)
        daemon = Management(lab, lab.hub, [sys.executable, "-m", "smartvpn.daemon"], "server")
        self.processes.append(daemon.process)
        daemon.call("start", self._config(daemon.call("generateWgKeypair")))
        for where, name in zip((lab.client, lab.crowd), _NAMES, strict=True):
            self._join(where, name, daemon.call("createClient", {"clientId": name}))
        wait_until(self._pings, "two clients of a hub")
        lab.spawn(lab.crowd, "iperf3", "-s", "-p", str(IPERF_PORT))
        wait_until(lambda: lab.crowd.listens(IPERF_PORT), "iperf3 -s")

    def _config(self, keys: dict[str, str]) -> dict[str, Any]:
        return {
            "transportMode": "wireguard",
            "serverEndpoint": HUB_OUTER,
            "wgListenPort": _PORT,
            "subnet": _SUBNET,
            "mtu": INNER_MTU,
            "registry": ":memory:",
            **keys,
        }

    def _join(self, where: Namespace, name: str, bundle: dict[str, Any]) -> None:
        (Path("/var/run/wireguard") / f"{name}.sock").unlink(missing_ok=True)
        self.processes.append(self.lab.spawn(where, self.program, "-f", name))
        wait_until((Path("/var/run/wireguard") / f"{name}.sock").exists, name)
        path = self.lab.folder / f"{name}.conf"
        path.touch(0o600)
        path.write_text(bundle["wireguardConfig"])
        path.write_text(run("wg-quick", "strip", str(path)))
        run("wg", "setconf", name, str(path))
        self.addresses.append(bundle["entry"]["assignedIp"])
        where.ip("address", "add", f"{self.addresses[-1]}/24", "dev", name)
        where.ip("link", "set", name, "mtu", str(INNER_MTU), "up")

    def _pings(self) -> bool:
        argv = self.lab.client.command("ping", "-n", "-q", "-c", "1", "-W", "1", self.addresses[1])
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0

    def flow(self, seconds: float) -> tuple[float, float]:
        """Gbit/s from one client to the other, and the hub's CPU seconds per GB."""
        pid = self.processes[0].pid
        before = cpu_seconds(pid)
        argv = f"iperf3 -c {self.addresses[1]} -p {IPERF_PORT} -C cubic -t {seconds:g} -J".split()
        received = json.loads(self.lab.client.run(*argv, timeout=seconds + 30))["end"]["sum_received"]
        if not received["bytes"]:
            raise LabError("nothing came through the hub")
        return received["bits_per_second"] / 1e9, (cpu_seconds(pid) - before) / (received["bytes"] / 1e9)

    def close(self) -> None:
        """Ends what was opened."""
        for process in self.processes:
            stop(process)
        for name in _NAMES:
            (Path("/var/run/wireguard") / f"{name}.sock").unlink(missing_ok=True)


def measure_hub(lab: Lab, program: Path, direct: Tunnel, seconds: float, rounds: int) -> list[Pass]:
    """The hub's flow and the direct one in turns."""
    hub = Hub(lab, program)
    try:
        hub.open()
        passes = []
        for _ in range(rounds):
            beside = tcp_flow(lab, direct, seconds, download=False)
            passes.append(Pass(*hub.flow(seconds), beside))
        return passes
    finally:
        hub.close()


def median_ratio(passes: list[Pass]) -> float:
    """Of the hub's CPU time to one sender's and one receiver's."""
    return statistics.median(one.cpu_ratio for one in passes)
