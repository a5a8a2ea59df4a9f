#!/usr/bin/env python3
"""What the hub's rules cost and how well they hold: rate limits, small packets beside a flood, long lists.

    python3 bench/limits.py WHAT … [--seconds S] [--mbit M …] [--over ws quic wireguard] [--write]

WHAT is tcp, udp, latency or acl. Needs root and /dev/net/tun. Goodput counts IP bytes inside the
tunnel, as the limiter does. `--write` puts each table into docs/benchmarks-hub.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import HUB_OUTER, Lab, LabError, wait_until
from measure import IPERF_PORT, serve_iperf
from report import Table, aligned, markdown
from section import HUB_DOCUMENT, when_and_where, write_section
from tunnels import INNER_MTU, SmartVpn

ROOT = Path(__file__).resolve().parent.parent
MBIT = 125_000  # bytes per second
HEADERS = 52  # IPv4 and TCP with timestamps
WG_PORT = 51850
ALL = ["ws", "quic", "wireguard"]
RULES = 10_000
PROBES = 300
PROBE_INTERVAL = 0.01
SHAPED_MBIT = 100


class Ws(SmartVpn):
    """Over ws://, with its hub at hand."""

    label = "ws"

    def limit(self, mbit: float) -> None:
        """Of the client, both ways; 0: none."""
        if mbit:
            rate = int(mbit * MBIT)
            burst = max(rate // 100, 16_000)
            params = {"clientId": "bench", "rateBytesPerSec": rate, "burstBytes": burst}
            self.hub.call("setClientRateLimit", params)
        else:
            self.hub.call("removeClientRateLimit", {"clientId": "bench"})

    def rules(self, count: int) -> None:
        """That many allow patterns on the client, of which the last one matches."""
        patterns = [f"172.{16 + i // 32768}.{i // 128 % 256}.{i % 128 * 2}" for i in range(count - 1)]
        security = {"destinationAllowList": [*patterns, self.subnet]} if count else None
        self.hub.call("updateClient", {"clientId": "bench", "update": {"security": security}})


class WireGuard(Ws):
    """Over WireGuard, both ends ours."""

    label = "wireguard"

    def _server_config(self, lab: Lab, keys: dict[str, str]) -> dict[str, Any]:
        config = super()._server_config(lab, keys)
        return config | {"transportMode": "wireguard", "serverEndpoint": HUB_OUTER, "wgListenPort": WG_PORT}


class Quic(Ws):
    """Over QUIC, packets as datagrams."""

    label = "quic"

    def _server_config(self, lab: Lab, keys: dict[str, str]) -> dict[str, Any]:
        return super()._server_config(lab, keys) | {"transportMode": "quic"}


# the measures


@dataclass
class Goodput:
    """IP Mbit/s inside, and what TCP did for it."""

    mbit: float
    retransmits: int


def tcp(lab: Lab, path: Ws, seconds: float, cc: str, *, download: bool) -> Goodput:
    """One TCP flow; its first second does not count."""
    way = ["-R"] if download else []
    argv = f"iperf3 -c {path.hub_address} -p {IPERF_PORT} -C {cc} -O 1 -t {seconds:g} -J".split()
    end = json.loads(lab.client.run(*argv, *way, timeout=seconds + 30))["end"]
    payload = INNER_MTU - HEADERS
    inside = end["sum_received"]["bits_per_second"] * INNER_MTU / payload
    return Goodput(inside / 1e6, end["sum_sent"].get("retransmits", 0))


def udp(lab: Lab, path: Ws, seconds: float, mbit: float, *, download: bool) -> float:
    """What arrives of twice the limit, in Mbit/s, by the receiving interface's own counter."""
    receiver = lab.client if download else lab.hub
    way = ["-R"] if download else []
    argv = f"iperf3 -c {path.hub_address} -p {IPERF_PORT} -u -b {2 * mbit}M -l 1372 -t {seconds + 2:g} -J"
    lab.client.run("sleep", "0.5")  # the server may still be busy with the flow before
    flood = subprocess.Popen(
        lab.client.command(*argv.split(), *way), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    device = _device(
        receiver.run("ip", "route", "get", path.hub_address if download else path.client_address)
    )
    try:
        script = f"cd /sys/class/net/{device}/statistics; date +%s%N; cat rx_bytes"
        again = f"sleep 1; {script}; sleep {seconds:g}; {script}"
        times = [int(text) for text in receiver.run("sh", "-c", again, timeout=60).split()]
    finally:
        failed = flood.wait(60)
    if failed:
        raise LabError(f"iperf3 -u over {path.label} at {mbit:g} Mbit/s ended with {failed}")
    return (times[3] - times[1]) * 8e3 / (times[2] - times[0])


def _device(route: str) -> str:
    found = re.search(r"dev (\S+)", route)
    if not found:
        raise LabError(f"no device in: {route}")
    return found[1]


@dataclass
class Probed:
    """Round trips in ms."""

    times: list[float]
    sent: int

    def at(self, part: float) -> float:
        """A percentile, 0 to 1."""
        ordered = sorted(self.times)
        return ordered[min(int(part * len(ordered)), len(ordered) - 1)] if ordered else float("nan")


def ping(lab: Lab, path: Ws) -> Probed:
    """ICMP."""
    argv = ("ping", "-n", "-c", str(PROBES), "-i", str(PROBE_INTERVAL), "-W", "2", path.hub_address)
    done = subprocess.run(lab.client.command(*argv), capture_output=True, text=True, check=False)
    return Probed([float(text) for text in re.findall(r"time=([\d.]+) ms", done.stdout)], PROBES)


DNS_SERVER = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", 53))
print("ready", flush=True)
while True:
    data, to = s.recvfrom(2000)
    s.sendto(data + b"a" * 150, to)
"""

DNS_CLIENT = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect((sys.argv[1], 53))
s.settimeout(2)
for number in range(int(sys.argv[2])):
    begin = time.perf_counter()
    s.send(b"%6d" % number * 6)
    try:
        while s.recv(2000)[:6] != b"%6d" % number: pass
        print(1000 * (time.perf_counter() - begin))
    except TimeoutError:
        pass
    time.sleep(float(sys.argv[3]))
"""


def dns(lab: Lab, path: Ws) -> Probed:
    """Datagrams to port 53 and their answers of 186 bytes."""
    argv = (sys.executable, "-c", DNS_CLIENT, path.hub_address, str(PROBES), str(PROBE_INTERVAL))
    return Probed([float(text) for text in lab.client.run(*argv).split()], PROBES)


# the tables


def _tcp_table(lab: Lab, paths: list[Ws], options: argparse.Namespace) -> Table:
    table = [["over", "limit Mbit/s", "way", "inside", "goodput Mbit/s", "of the limit", "retransmits"]]
    for path in paths:
        for mbit in options.mbit:
            path.limit(mbit)
            for download in (False, True):
                for cc in ("cubic", "bbr"):
                    got = tcp(lab, path, options.seconds, cc, download=download)
                    row = [path.label, f"{mbit:g}", "down" if download else "up", cc]
                    table.append([*row, f"{got.mbit:.2f}", f"{got.mbit / mbit:.3f}", str(got.retransmits)])
                    print(*table[-1], flush=True)
        path.limit(0)
    return table


def _udp_table(lab: Lab, paths: list[Ws], options: argparse.Namespace) -> Table:
    table = [["over", "limit Mbit/s", "way", "arrived Mbit/s", "of the limit"]]
    for path in paths:
        for mbit in options.mbit:
            path.limit(mbit)
            for download in (False, True):
                got = udp(lab, path, options.seconds, mbit, download=download)
                row = [path.label, f"{mbit:g}", "down" if download else "up"]
                table.append([*row, f"{got:.2f}", f"{got / mbit:.3f}"])
                print(*table[-1], flush=True)
        path.limit(0)
    return table


def _beside_a_flood(lab: Lab, path: Ws, probe: Callable[[Lab, Ws], Probed], way: list[str]) -> Probed:
    argv = f"iperf3 -c {path.hub_address} -p {IPERF_PORT} -C cubic -t 30".split()
    flood = subprocess.Popen(
        lab.client.command(*argv, *way), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        lab.client.run("sleep", "1.5")
        return probe(lab, path)
    finally:
        flood.terminate()
        flood.wait(10)
        lab.client.run("sleep", "0.5")


def _shape(lab: Lab, mbit: int) -> None:
    """A bottleneck of the outer path, both ways, with a short queue of its own."""
    for where in (lab.hub, lab.client):
        if mbit:
            rule = f"rate {mbit}mbit burst 32kb latency 5ms".split()
            where.run("tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", *rule)
        else:
            where.run("tc", "qdisc", "del", "dev", "eth0", "root")


def _latency_rows(lab: Lab, path: Ws, name: str) -> Table:
    rows = []
    for label, probe in (("ping", ping), ("DNS", dns)):
        idle = probe(lab, path)
        for way, flags in (("up", []), ("down", ["-R"])):
            busy = _beside_a_flood(lab, path, probe, flags)
            added = [f"{busy.at(part) - idle.at(0.5):.2f}" for part in (0.5, 0.95, 0.99)]
            lost = f"{busy.sent - len(busy.times)} of {busy.sent}"
            rows.append([f"{path.label}, {name}", label, way, f"{idle.at(0.5):.2f}", *added, lost])
            print(*rows[-1], flush=True)
    return rows


def _latency_table(lab: Lab, paths: list[Ws], options: argparse.Namespace) -> Table:
    table = [["path", "probe", "flood", "idle ms", "added p50", "p95", "p99", "lost"]]
    for path in paths:
        table += _latency_rows(lab, path, "plain")
        path.limit(SHAPED_MBIT)
        table += _latency_rows(lab, path, f"limited to {SHAPED_MBIT} Mbit/s")
        path.limit(0)
        _shape(lab, SHAPED_MBIT)
        table += _latency_rows(lab, path, f"{SHAPED_MBIT} Mbit/s outside")
        _shape(lab, 0)
    return table


def _acl_table(lab: Lab, paths: list[Ws], options: argparse.Namespace) -> Table:
    table = [["over", "Gbit/s without", f"with {RULES}", "ratio"]]
    for path in paths:
        got: dict[int, list[float]] = {0: [], RULES: []}
        for _ in range(3):
            for count, figures in got.items():
                path.rules(count)
                figures.append(tcp(lab, path, options.seconds, "cubic", download=False).mbit / 1000)
        path.rules(0)
        ratio = statistics.median(b / a for a, b in zip(got[0], got[RULES], strict=True))
        medians = [f"{statistics.median(figures):.2f}" for figures in got.values()]
        table.append([path.label, *medians, f"{ratio:.2f}"])
        print(*table[-1], flush=True)
    return table


TABLES: dict[str, tuple[str, str, Callable[[Lab, list[Ws], argparse.Namespace], Table]]] = {
    "tcp": (
        "Rate limits: one TCP flow",
        "A burst of 10 ms (16 KB at least), spent before it counts. Goodput in IP bytes, as the limiter "
        "counts.",
        _tcp_table,
    ),
    "udp": ("Rate limits: UDP", "Twice the limit is offered.", _udp_table),
    "latency": (
        "Small packets beside a flood",
        f"{PROBES} pings, and as many datagrams to port 53, {1000 * PROBE_INTERVAL:g} ms apart, beside one "
        "TCP flow (cubic) that fills the tunnel. Added: to the idle median, in ms. All programs share the "
        "cores.",
        _latency_table,
    ),
    "acl": (
        "Access lists",
        f"One TCP flow, cubic, to the hub; {RULES} allowed destinations on the client against none, in "
        "turns, medians of 3.",
        _acl_table,
    ),
}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measures the hub's rules.")
    parser.add_argument("what", nargs="+", choices=list(TABLES))
    parser.add_argument("--seconds", type=float, default=4, help="length of each flow")
    parser.add_argument("--mbit", type=float, nargs="+", default=[1, 10, 100, 1000], help="the limits")
    parser.add_argument("--over", nargs="+", choices=ALL, default=ALL)
    parser.add_argument("--write", action="store_true", help="write the tables into docs/benchmarks-hub.md")
    return parser.parse_args()


def measure(options: argparse.Namespace) -> None:
    """All that was asked for, on one pair of hubs."""
    os.environ["PYTHONPATH"] = str(ROOT)
    daemon = [sys.executable, "-m", "smartvpn.daemon"]
    made = {
        "ws": Ws("smartvpn ws", daemon, 207, 7011, tls=False),
        "quic": Quic("smartvpn quic", daemon, 209, 7013, tls=False),
        "wireguard": WireGuard("smartvpn WireGuard", daemon, 208, 7012, tls=False),
    }
    with Lab() as lab:
        serve_iperf(lab)
        server = lab.spawn(lab.hub, sys.executable, "-c", DNS_SERVER)
        paths = [made[name] for name in options.over]
        for path in paths:
            path.open(lab)
        wait_until(lambda: bool(lab.hub.run("ss", "-Hlun", "sport", "=", ":53").strip()), "the DNS server")
        lab.check_alive([server])
        for what in options.what:
            title, note, build = TABLES[what]
            table = build(lab, paths, options)
            print(f"\n{title}\n{aligned(table)}\n", flush=True)
            if options.write:
                write_section(HUB_DOCUMENT, title, f"{note} {when_and_where()}\n\n{markdown(table)}")
        for path in paths:
            path.close()


def main() -> int:
    """Measures, prints, writes."""
    try:
        measure(arguments())
    except LabError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
