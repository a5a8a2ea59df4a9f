#!/usr/bin/env python3
"""The WireGuard benchmark: devices in user space between the same two namespaces, in turns, in one run.

    python3 bench/wireguard.py [--write] [--rounds N] [--seconds S] [--only NAME …]

The peers are wireguard-go as the distribution has it, the newest one by the Go proxy, and boringtun-cli by
Cargo; what cannot be had is told and left out. Ends with status 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from lab import HUB_OUTER, Lab, LabError, run, wait_until
from measure import (
    GSO_SEGMENTS,
    IPERF_PORT,
    Flow,
    Small,
    ping_us,
    serve_iperf,
    small_packets,
    tcp_flow,
)
from report import Table, aligned, markdown
from tunnels import BARE, INNER_MTU, Bare, Tunnel, UnavailableError
from wg_hub import Pass, measure_hub, median_ratio

ROOT = Path(__file__).resolve().parent.parent
BUILT = ROOT / "build" / "bench"
OURS, NO_CIPHER = "smartvpn-wg", "smartvpn-wg, no cipher"
DEBIAN, NEWEST, BORINGTUN = "wireguard-go, Debian", "wireguard-go, newest", "boringtun-cli"
DOCUMENT = ROOT / "docs" / "benchmarks-wireguard.md"
MANY_PEERS, MANY_ALLOWED, FLOWS_BESIDE = 10_000, 130_000, 5


def wg(*arguments: str, text: str | None = None) -> str:
    """What `wg` prints."""
    done = subprocess.run(["wg", *arguments], input=text, capture_output=True, text=True, check=True)
    return done.stdout.strip()


class Device(Tunnel):
    """One program as both ends."""

    def __init__(self, name: str, number: int, command: Callable[[], list[str]]) -> None:
        self.name = name
        self.hub_address, self.client_address = f"10.{210 + number}.0.1", f"10.{210 + number}.0.2"
        self.interfaces = f"svwg{number}h", f"svwg{number}c"
        self._ports = 52000 + 2 * number, 52001 + 2 * number
        self.command = command

    def open(self, lab: Lab) -> None:
        """Both ends, their keys and addresses."""
        command = self.command()
        self._clear_sockets()  # a run that was killed may have left some
        self.processes = (
            lab.spawn(lab.hub, *command, self.interfaces[0]),
            lab.spawn(lab.client, *command, self.interfaces[1]),
        )
        keys = [wg("genkey") for _ in range(2)]
        publics = [wg("pubkey", text=key) for key in keys]
        addresses = self.hub_address, self.client_address
        endpoint = ("endpoint", f"{HUB_OUTER}:{self._ports[0]}")
        for end, where in enumerate((lab.hub, lab.client)):
            path = Path("/var/run/wireguard") / f"{self.interfaces[end]}.sock"
            wait_until(path.exists, self.name)
            secret = lab.folder / f"{self.interfaces[end]}.key"
            secret.write_text(keys[end])
            peer = ("peer", publics[1 - end], "allowed-ips", f"{addresses[1 - end]}/32")
            settings = ("private-key", str(secret), "listen-port", str(self._ports[end]))
            run("wg", "set", self.interfaces[end], *settings, *peer, *(endpoint if end else ()))
            where.ip("address", "add", f"{addresses[end]}/24", "dev", self.interfaces[end])
            where.ip("link", "set", self.interfaces[end], "mtu", str(INNER_MTU), "up")
        wait_until(lambda: self._pings(lab), self.name)

    def _pings(self, lab: Lab) -> bool:
        lab.check_alive(self.processes or ())
        argv = lab.client.command("ping", "-n", "-q", "-c", "1", "-W", "1", self.hub_address)
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0

    def close(self) -> None:
        """Ends both; what they leave in the sockets' folder goes as well."""
        super().close()
        self._clear_sockets()

    def _clear_sockets(self) -> None:
        for name in self.interfaces:
            (Path("/var/run/wireguard") / f"{name}.sock").unlink(missing_ok=True)


# where the programs come from


def _debian() -> list[str]:
    if not shutil.which("wireguard-go"):
        run(str(ROOT / "tools" / "apt-install"), "wireguard-go", timeout=300)
    return ["wireguard-go", "-f"]


def _newest() -> list[str]:
    program = BUILT / "go" / "wireguard"
    if not program.exists():
        if not shutil.which("go"):
            raise UnavailableError("there is no go to build it with")
        env = {**os.environ, "GOBIN": str(program.parent)}
        command = ["go", "install", "golang.zx2c4.com/wireguard@latest"]
        if subprocess.run(command, env=env, capture_output=True, timeout=600, check=False).returncode:
            raise UnavailableError("go install golang.zx2c4.com/wireguard@latest failed")
    return [str(program), "-f"]


def _boringtun() -> list[str]:
    program = BUILT / "cargo" / "bin" / "boringtun-cli"
    if not program.exists():
        if not shutil.which("cargo"):
            raise UnavailableError("there is no cargo to build it with")
        run("cargo", "install", "--root", str(BUILT / "cargo"), "boringtun-cli", timeout=1200)
    return [str(program), "-f", "--disable-drop-privileges"]


def candidates() -> list[Tunnel]:
    """All paths, in the order of the tables."""
    ours = ROOT / "build" / "smartvpn-wg"
    return [
        Bare(),
        Device(OURS, 1, lambda: [str(ours), "-f"]),
        Device(NO_CIPHER, 2, lambda: [str(BUILT / "wg_nocipher"), "-f"]),
        Device(DEBIAN, 3, _debian),
        Device(NEWEST, 4, _newest),
        Device(BORINGTUN, 5, _boringtun),
    ]


# a round


@dataclass
class Round:
    """What was measured of a path in one turn."""

    up: Flow
    down: Flow
    four: float  # Gbit/s of four flows
    both: float  # Gbit/s of a flow each way, summed
    ping: float
    small: Small
    small_gso: Small


def _flows(lab: Lab, tunnel: Tunnel, seconds: float, *options: str) -> float:
    argv = f"iperf3 -c {tunnel.hub_address} -p {IPERF_PORT} -C cubic -t {seconds:g} -J".split()
    end = json.loads(lab.client.run(*argv, *options, timeout=seconds + 30))["end"]
    sums = [end["sum_received"]["bits_per_second"]]
    if "sum_received_bidir_reverse" in end:
        sums.append(end["sum_received_bidir_reverse"]["bits_per_second"])
    return sum(sums) / 1e9


def measure_round(lab: Lab, path: Tunnel, seconds: float) -> Round:
    """Everything of one path, once."""
    tool = BUILT / "udp_pps"
    return Round(
        up=tcp_flow(lab, path, seconds, download=False),
        down=tcp_flow(lab, path, seconds, download=True),
        four=_flows(lab, path, seconds, "-P", "4"),
        both=_flows(lab, path, seconds, "--bidir"),
        ping=ping_us(lab, path),
        small=small_packets(lab, tool, path, 1, download=False),
        small_gso=small_packets(lab, tool, path, 1, download=False, segments=GSO_SEGMENTS),
    )


@dataclass
class Results:
    """All rounds by path, and what was left out."""

    rounds: dict[str, list[Round]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    many: Table = field(default_factory=list)
    many_facts: dict[str, float] = field(default_factory=dict)
    hub: list[Pass] = field(default_factory=list)

    def median(self, name: str, of: Callable[[Round], float]) -> float:
        """Of the path's rounds."""
        return statistics.median(of(one) for one in self.rounds[name])

    def ratio(self, name: str, other: str, of: Callable[[Round], float]) -> float | None:
        """Median of the rounds' ratios; None where one is not there."""
        if name not in self.rounds or other not in self.rounds:
            return None
        pairs = zip(self.rounds[name], self.rounds[other], strict=True)
        return statistics.median(of(a) / of(b) for a, b in pairs)


def measure(options: argparse.Namespace) -> Results:
    """The whole run."""
    results = Results()
    wanted = [p for p in candidates() if not options.only or isinstance(p, Bare) or p.name in options.only]
    with Lab() as lab:
        serve_iperf(lab)
        opened: list[Tunnel] = []
        try:
            for path in wanted:
                try:
                    path.open(lab)
                    opened.append(path)
                except (UnavailableError, LabError) as error:
                    path.close()
                    results.skipped.append(f"{path.name}: skipped: {error}")
                    print(results.skipped[-1], flush=True)
            for number in range(options.rounds):
                for path in opened:
                    print(f"round {number + 1} of {options.rounds}: {path.name}", flush=True)
                    results.rounds.setdefault(path.name, []).append(measure_round(lab, path, options.seconds))
            ours = next((p for p in opened if p.name == OURS), None)
            if isinstance(ours, Device):
                print("two clients through the hub", flush=True)
                program = ROOT / "build" / "smartvpn-wg"
                results.hub = measure_hub(lab, program, ours, options.seconds, options.rounds)
                print("many peers", flush=True)
                measure_many(lab, ours, options.seconds, results)
        finally:
            for path in opened:
                path.close()
    return results


# many peers


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _rss_kb(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0])


def _addconf(lab: Lab, device: str, text: str) -> None:
    path = lab.folder / "many.conf"
    path.write_text(text)
    run("wg", "addconf", device, str(path), timeout=120)


def _flow_beside(lab: Lab, loaded: Device, seconds: float) -> float:
    """Throughput of the loaded device by that of a fresh one, in turns."""
    fresh = Device("one peer", 7, loaded.command)
    try:
        fresh.open(lab)
        turns = range(FLOWS_BESIDE)
        pairs = [[tcp_flow(lab, one, seconds, download=False).gbit for one in (fresh, loaded)] for _ in turns]
        return statistics.median(many / alone for alone, many in pairs)
    finally:
        fresh.close()


def measure_many(lab: Lab, path: Device, seconds: float, results: Results) -> None:
    """10,000 peers beside the one that is used, then 130,000 allowed IPs on one of them."""
    assert path.processes is not None
    hub, pid = path.interfaces[0], path.processes[0].pid
    memory = _rss_kb(pid)
    keys = [os.urandom(32) for _ in range(MANY_PEERS + 1)]
    import base64

    texts = [base64.b64encode(key).decode() for key in keys]
    peers = "".join(
        f"[Peer]\nPublicKey = {key}\nAllowedIPs = 100.{i >> 16 & 63}.{i >> 8 & 255}.{i & 255}/32\n"
        for i, key in enumerate(texts[:-1])
    )
    adding = _timed(lambda: _addconf(lab, hub, peers))
    per_peer = (_rss_kb(pid) - memory) / MANY_PEERS
    show = statistics.median(_timed(lambda: wg("show", hub)) for _ in range(5))
    one = _timed(lambda: run("wg", "set", hub, "peer", texts[-1], "allowed-ips", "100.64.0.0/32"))
    beside = _flow_beside(lab, path, seconds)
    allowed = ", ".join(f"{11 + (i >> 16)}.{i >> 8 & 255}.{i & 255}.0/24" for i in range(MANY_ALLOWED))
    setting = _timed(lambda: _addconf(lab, hub, f"[Peer]\nPublicKey = {texts[-1]}\nAllowedIPs = {allowed}\n"))
    listing = _timed(lambda: wg("show", hub, "allowed-ips"))
    facts = {
        "show ms": show * 1000,
        "add ms": one * 1000,
        "flow": beside,
        "kb": per_peer,
        "set s": setting,
        "list s": listing,
    }
    results.many_facts = facts
    results.many = [
        ["what", "measured"],
        [f"{MANY_PEERS} peers by one `wg addconf`", f"{adding * 1000:.0f} ms"],
        [f"`wg show` with {MANY_PEERS} peers", f"{facts['show ms']:.0f} ms"],
        ["one peer more, by `wg set`", f"{facts['add ms']:.1f} ms"],
        ["one flow beside them, of one between devices with a peer each", f"{facts['flow']:.2f}"],
        ["memory per idle peer", f"{per_peer:.2f} KB"],
        [f"{MANY_ALLOWED} allowed IPs set on one peer", f"{setting:.2f} s"],
        ["listed", f"{listing:.2f} s"],
    ]


# the report


def throughput(results: Results) -> Table:
    """One row a path."""
    table = [
        ["path", "up", "down", "4 flows", "both ways", "up CPU s/GB sender + receiver", "ping over bare µs"]
    ]
    for name in results.rounds:
        cpu = (
            f"{results.median(name, lambda r: r.up.client_cpu_per_gb):.2f} + "
            f"{results.median(name, lambda r: r.up.hub_cpu_per_gb):.2f}"
        )
        over = results.median(name, lambda r: r.ping) - results.median(BARE, lambda r: r.ping)
        table.append(
            [
                name,
                *(
                    f"{results.median(name, of):.2f}"
                    for of in (lambda r: r.up.gbit, lambda r: r.down.gbit, lambda r: r.four, lambda r: r.both)
                ),
                "-" if name == BARE else cpu,
                "-" if name == BARE else f"{over:.0f}",
            ]
        )
    return table


def packets(results: Results) -> Table:
    """Small packets."""
    table = [["path", "arrived k/s", "GSO sender: arrived k/s"]]
    for name in results.rounds:
        plain = results.median(name, lambda r: r.small.received) / 1000
        gso = results.median(name, lambda r: r.small_gso.received) / 1000
        table.append([name, f"{plain:.0f}", f"{gso:.0f}"])
    return table


def through_hub(results: Results) -> Table:
    """Two clients of a hub, beside two devices."""
    hub, direct = results.hub, [one.direct for one in results.hub]
    return [
        ["path", "Gbit/s", "CPU s/GB"],
        [
            "client, hub, client: the hub's process",
            f"{statistics.median(one.gbit for one in hub):.2f}",
            f"{statistics.median(one.hub_cpu_per_gb for one in hub):.2f}",
        ],
        [
            "device to device: one sender + one receiver",
            f"{statistics.median(one.gbit for one in direct):.2f}",
            f"{statistics.median(one.client_cpu_per_gb + one.hub_cpu_per_gb for one in direct):.2f}",
        ],
    ]


def targets(results: Results) -> Iterator[tuple[bool, str]]:
    """Whether each holds, in words."""

    def up(one: Round) -> float:
        return (one.up.gbit + one.down.gbit) / 2

    def cpu(one: Round) -> float:
        return one.up.client_cpu_per_gb + one.up.hub_cpu_per_gb

    def fastest(one: Round) -> float:
        return max(one.small.received, one.small_gso.received)

    least = [
        (DEBIAN, up, 8),
        (NEWEST, up, 2),
        (BORINGTUN, up, 3),
        (NO_CIPHER, up, 0.55),
        (DEBIAN, fastest, 5),
    ]
    for other, of, factor in least:
        ratio = results.ratio(OURS, other, of)
        what = "64-byte packets/s" if of is fastest else "one flow"
        if ratio is not None:
            yield ratio >= factor, f"{what}, {OURS} / {other}: {ratio:.2f}, at least {factor}"
    ratio = results.ratio(OURS, NEWEST, cpu)
    if ratio is not None:
        yield ratio <= 0.5, f"CPU s/GB, {OURS} / {NEWEST}: {ratio:.2f}, at most 0.5"
    if OURS not in results.rounds:
        return
    over = results.median(OURS, lambda r: r.ping) - results.median(BARE, lambda r: r.ping)
    yield over <= 150, f"ping over bare: {over:.0f} µs, at most 150"
    for what, of in (("4 flows", lambda r: r.four / r.up.gbit), ("both ways", lambda r: r.both / r.up.gbit)):
        value = results.median(OURS, of)
        yield value >= 0.85, f"{what} / one flow: {value:.2f}, at least 0.85"
    if results.hub:
        ratio = median_ratio(results.hub)
        yield ratio <= 1.15, f"hub's CPU s/GB / (one sender + one receiver): {ratio:.2f}, at most 1.15"
    facts = results.many_facts
    if facts:
        yield (
            facts["show ms"] <= 100,
            f"`wg show` with {MANY_PEERS} peers: {facts['show ms']:.0f} ms, at most 100",
        )
        yield facts["add ms"] <= 100, f"one peer more: {facts['add ms']:.0f} ms, at most 100"
        yield facts["flow"] >= 0.95, f"one flow beside {MANY_PEERS} peers: {facts['flow']:.2f}, at least 0.95"
        yield facts["kb"] <= 4, f"memory per idle peer: {facts['kb']:.2f} KB, at most 4"
        yield facts["set s"] <= 2, f"{MANY_ALLOWED} allowed IPs set: {facts['set s']:.2f} s, at most 2"
        yield facts["list s"] <= 2, f"and listed: {facts['list s']:.2f} s, at most 2"


def document(results: Results, options: argparse.Namespace) -> str:
    """All of it as Markdown."""
    verdicts = [f"- {'pass' if ok else 'FAIL'}  {text}" for ok, text in targets(results)]
    return "\n".join(
        [
            "# WireGuard benchmarks",
            "",
            "Written by `bench/wireguard.py --write`. Figures of one run: compare only within it.",
            "",
            f"- Date: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            f"- Kernel: {platform.system()} {platform.release()}, {os.cpu_count()} cores",
            f"- Inner: iperf3, cubic, MTU {INNER_MTU}, {options.seconds:g} s; the same program at both ends",
            f"- Medians of {options.rounds} rounds; ratios are taken within a round",
            "- Path: two namespaces joined by veth as the kernel sets it up; both ends share the cores",
            *(f"- {line}" for line in results.skipped),
            "",
            "## Throughput (Gbit/s) and latency",
            "",
            markdown(throughput(results)),
            "",
            "## Small packets: UDP with 64 bytes of payload, unpaced",
            "",
            markdown(packets(results)),
            "",
            "## Two clients through the hub",
            "",
            markdown(through_hub(results)) if results.hub else "Not measured.",
            "",
            "## Many peers",
            "",
            markdown(results.many) if results.many else "Not measured.",
            "",
            "## Targets",
            "",
            *verdicts,
            "",
        ]
    )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measures WireGuard devices between two namespaces.")
    parser.add_argument("--write", action="store_true", help=f"write {DOCUMENT.relative_to(ROOT)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--only", nargs="+", metavar="NAME")
    return parser.parse_args()


def main() -> int:
    """Measure, print, write."""
    options = arguments()
    if os.geteuid() != 0:
        print("bench: namespaces and TUN devices need root", file=sys.stderr)
        return 2
    results = measure(options)
    print(aligned(throughput(results)), aligned(packets(results)), sep="\n\n")
    if results.hub:
        print("\n" + aligned(through_hub(results)))
    if results.many:
        print("\n" + aligned(results.many))
    verdicts = list(targets(results))
    print("\n" + "\n".join(f"{'pass' if ok else 'FAIL'}  {text}" for ok, text in verdicts))
    if options.write:
        DOCUMENT.write_text(document(results, options))
    return 0 if all(ok for ok, _ in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
