#!/usr/bin/env python3
"""The QUIC benchmark: one flow, pings under load, loss, failover and connects, all transports in one run.

    python3 bench/quic.py [--write] [--rounds N] [--seconds S]

Ends with status 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from lab import CLIENT_OUTER, HUB_OUTER, Lab, LabError, run, stop, wait_until
from measure import IPERF_PORT, Flow, ping_us, serve_iperf, tcp_flow
from report import Table, aligned, markdown
from section import when_and_where
from tunnels import INNER_MTU, SmartVpn, Tunnel, UnavailableError

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from smartvpn.keys import PrivateKey  # noqa: E402

DOCUMENT = ROOT / "docs" / "benchmarks-quic.md"
DAEMON = [sys.executable, "-P", "-m", "smartvpn.daemon"]
QUIC, WEBSOCKET, WIREGUARD, QUINCY = "QUIC", "WebSocket", "WireGuard", "quincy"
DATAGRAMS = "QUIC, datagrams"
FLOWS = 8
HALF_RTT_US, LOSS = 10_000, 100  # 20 ms there and back, 1 % each way


class OneHub(SmartVpn):
    """A hub that serves one transport, or several for `auto`, and its client."""

    def __init__(self, name: str, subnet: int, port: int, mode: str) -> None:
        super().__init__(name, DAEMON, subnet, port, tls=mode == "both")
        self.mode = mode

    def _server_config(self, lab: Lab, keys: dict[str, str]) -> dict[str, Any]:
        config = super()._server_config(lab, keys) | {"transportMode": self.mode}
        return config | ({"wgListenPort": self.port} if self.mode == "wireguard" else {})


class Quincy(Tunnel):
    """quincy (by cargo), Noise as in its own benchmarks, BBR as ours."""

    name = QUINCY
    hub_address, client_address = "10.229.0.1", "10.229.0.2"

    def open(self, lab: Lab) -> None:
        """Both ends from fresh keys."""
        programs = quincy_programs()
        keys = [PrivateKey.generate() for _ in range(2)]
        publics = [key.public_key.base64 for key in keys]
        (lab.folder / "users.toml").write_text(f'[users.bench]\nauthorized_keys = ["{publics[1]}"]\n')
        common = f"""[connection]
mtu = {INNER_MTU}
congestion_controller = "Bbr"
[log]
level = "error"
[protocol]
mode = "noise"
"""
        server = f"""name = "bench"
interface_name = "quincy0"
bind_address = "{HUB_OUTER}"
tunnel_network = "{self.hub_address}/24"
users_file = "{lab.folder}/users.toml"
{common}private_key = "{keys[0].base64}"
"""
        client = f"""connection_string = "{HUB_OUTER}:55555"
{common}server_public_key = "{publics[0]}"
private_key = "{keys[1].base64}"
[network]
routes = []
dns_servers = []
interface_name = "quincy0"
"""
        ends = []
        for where, program, text in ((lab.hub, programs[0], server), (lab.client, programs[1], client)):
            path = lab.folder / f"{program.name}.toml"
            path.write_text(text)
            ends.append(lab.spawn(where, program, "--config-path", path))
            time.sleep(1)
        self.processes = (ends[0], ends[1])
        wait_until(lambda: self._answers(lab), f"{self.name}: {lab.log_of(ends[0])}{lab.log_of(ends[1])}", 15)

    def _answers(self, lab: Lab) -> bool:
        try:
            return bool(lab.client.run("ping", "-c1", "-W1", self.hub_address))
        except LabError:
            return False


def quincy_programs() -> list[Path]:
    """Server and client, built by Cargo where they are not there. Raises UnavailableError."""
    names = "quincy-server", "quincy-client"
    root = ROOT / "build" / "bench" / "quincy"
    if not all((root / "bin" / name).exists() for name in names):
        if shutil.which("cargo") is None:
            raise UnavailableError("quincy: cargo is not installed")
        run("cargo", "install", "--quiet", "--root", str(root), *names, timeout=3000)
    return [root / "bin" / name for name in names]


def flows(lab: Lab, tunnel: SmartVpn, seconds: float, count: int) -> float:
    """So many cubic flows from hub to client together, Mbit/s."""
    port = IPERF_PORT + 1 + (tunnel.port or 0) % 100  # a server that waits for flows of a path that is gone
    lab.spawn(lab.hub, "iperf3", "-s", "-1", "-p", str(port))
    wait_until(lambda: lab.hub.listens(port), "iperf3 -s")
    argv = f"iperf3 -c {tunnel.hub_address} -p {port} -C cubic -P {count} -O 1 -t {seconds:g} -R -J"
    report = json.loads(lab.client.run(*argv.split(), timeout=seconds + 60))
    if "error" in report or "sum_received" not in report["end"]:
        raise LabError(f"{tunnel.name}: iperf3: {report.get('error', 'no sums')}")
    return float(report["end"]["sum_received"]["bits_per_second"]) / 1e6


def ping_under_load(lab: Lab, tunnel: Tunnel, seconds: float) -> float:
    """The median ping beside a flow towards the hub, ms."""
    argv = f"iperf3 -c {tunnel.hub_address} -p {IPERF_PORT} -C cubic -t {seconds + 2:g}".split()
    load = lab.spawn(lab.client, *argv)
    time.sleep(1)
    count = int(seconds / 0.05)
    output = lab.client.run("ping", "-n", "-c", str(count), "-i", "0.05", tunnel.hub_address, timeout=60)
    load.wait(30)
    times = [float(text) for text in re.findall(r"time=([\d.]+) ms", output)]
    if len(times) < count * 0.8:
        raise LabError(f"{tunnel.name}: {count - len(times)} of {count} pings lost")
    return statistics.median(times)


class Lossy:
    """While entered, the two hosts reach each other by a path with delay and loss."""

    def __init__(self, lab: Lab, *, websocket: str | None = None) -> None:
        self._lab, self._congestion = lab, websocket

    def __enter__(self) -> None:
        lab = self._lab
        argv = (lab.hub.name, lab.client.name, "loss0", HALF_RTT_US, LOSS)
        relay = lab.spawn(lab.crowd, ROOT / "build/bench/lossy_path", *map(str, argv), stdout=subprocess.PIPE)
        self._relay = relay
        assert relay.stdout is not None
        if relay.stdout.readline() != "ready\n":
            raise LabError(f"lossy_path: {lab.log_of(relay)}")
        for host, own, other in ((lab.hub, HUB_OUTER, CLIENT_OUTER), (lab.client, CLIENT_OUTER, HUB_OUTER)):
            host.run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.loss0.rp_filter=0")
            host.ip("link", "set", "loss0", "mtu", "1500", "up")
            fixed = ("congctl", "lock", self._congestion) if self._congestion else ()
            host.ip("route", "add", f"{other}/32", "dev", "loss0", "src", own, *fixed)

    def __exit__(self, *_: object) -> None:
        stop(self._relay)


def failover(lab: Lab) -> tuple[float, str]:
    """Seconds from a drop of all UDP until pings are answered again, and what carries them then."""
    tunnel = OneHub("auto", 230, 7470, "both")
    tunnel.open(lab)
    client = tunnel._client
    if client.call("getStatus")["transport"] != "quic":
        raise LabError("auto did not take QUIC")
    ping = lab.spawn(
        lab.client, "ping", "-n", "-D", "-i", "0.02", "-W", "1", tunnel.hub_address, stdout=subprocess.PIPE
    )
    time.sleep(1)
    lab.hub.run("nft", "add table inet b; add chain inet b i { type filter hook input priority -300; }")
    begin = time.time()
    lab.hub.run("nft", f"add rule inet b i udp dport {tunnel.port} drop")
    wait_until(lambda: client.call("getStatus")["transport"] == "websocket", "failover", 20)
    time.sleep(0.5)
    stop_at = time.time()
    ping.terminate()
    assert ping.stdout is not None
    answers = [float(text) for text in re.findall(r"\[([\d.]+)\].*time=", ping.stdout.read())]
    lab.hub.run("nft", "delete table inet b")
    gaps = [b - a for a, b in itertools.pairwise(answers) if b > begin]
    tunnel.close()
    if not gaps or answers[-1] < stop_at - 1:
        raise LabError("no ping was answered after the failover")
    return max(gaps), "websocket"


def connect_blocked(lab: Lab) -> list[float]:
    """Connects of `auto` with UDP blocked, ms: the first, and those that know."""
    lab.hub.run("nft", "add table inet b; add chain inet b i { type filter hook input priority -300; }")
    lab.hub.run("nft", "add rule inet b i udp dport 7471 drop")
    tunnel = OneHub("auto", 231, 7471, "both")
    took: list[float] = []
    original = tunnel._connect
    tunnel._connect = lambda config: took.append(original(config)) or took[-1]  # type: ignore[method-assign]
    tunnel.open(lab)
    lab.hub.run("nft", "delete table inet b")
    tunnel.close()
    return took


def resumes() -> list[tuple[str, str]]:
    """What tests/netns/test_resume.py sees of a dropped link on a slow path: round trips, by transport."""
    argv = (
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rP",
        "-p",
        "no:cacheprovider",
        "tests/netns/test_resume.py",
    )
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    found = re.findall(r"^resumed over (\w+): ([\d.]+) round trips", done.stdout, re.MULTILINE)
    if done.returncode:
        raise LabError(f"resume: {done.stdout}")
    return sorted(found)


def cpu(flows_: list[Flow]) -> str:
    """Medians of client and hub, s/GB."""
    client = statistics.median(f.client_cpu_per_gb for f in flows_)
    hub = statistics.median(f.hub_cpu_per_gb for f in flows_)
    return f"{client:.2f} + {hub:.2f}"


def measure(lab: Lab, rounds: int, seconds: float) -> tuple[list[tuple[str, Table]], list[str], bool]:
    """Tables, verdicts, and whether all targets were met."""
    run("modprobe", "-q", "tcp_bbr", timeout=10) if Path("/sbin/modprobe").exists() else None
    serve_iperf(lab)
    paths: list[Tunnel] = [
        OneHub(QUIC, 221, 7461, "quic"),
        OneHub(WEBSOCKET, 222, 7462, "websocket"),
        OneHub(WIREGUARD, 223, 7463, "wireguard"),
        Quincy(),
    ]
    up: dict[str, list[Flow]] = {}
    down: dict[str, list[Flow]] = {}
    idle: dict[str, list[float]] = {}
    loaded: dict[str, list[float]] = {}
    connect: dict[str, float] = {}
    for path in list(paths):
        try:
            path.open(lab)
        except UnavailableError as error:
            print(f"left out: {error}")
            paths.remove(path)
        connect[path.name] = path.handshake_ms or 0.0
    for _ in range(rounds):
        for path in paths:
            up.setdefault(path.name, []).append(tcp_flow(lab, path, seconds, download=False))
            down.setdefault(path.name, []).append(tcp_flow(lab, path, seconds, download=True))
            idle.setdefault(path.name, []).append(ping_us(lab, path))
            loaded.setdefault(path.name, []).append(ping_under_load(lab, path, seconds))
    for path in paths:
        path.close()
    median = statistics.median
    gbit = {name: median(f.gbit for f in up[name]) for name in up}
    gbit_down = {name: median(f.gbit for f in down[name]) for name in down}
    ratio = median(a.gbit / b.gbit for a, b in zip(up[QUIC], up[WIREGUARD], strict=True))
    ratio_down = median(a.gbit / b.gbit for a, b in zip(down[QUIC], down[WIREGUARD], strict=True))
    table: Table = [
        [
            "transport",
            "up Gbit/s",
            "down Gbit/s",
            "up CPU s/GB client + hub",
            "idle ping µs",
            "ping under load ms",
            "connect ms",
        ]
    ]
    for name in up:
        figures = f"{gbit[name]:.2f}", f"{gbit_down[name]:.2f}", cpu(up[name]), f"{median(idle[name]):.0f}"
        table.append(
            [name, *figures, f"{median(loaded[name]):.2f}", f"{connect[name]:.1f}" if connect[name] else "-"]
        )
    lossy = loss_table(lab, seconds)
    datagrams, cubic = lossy[DATAGRAMS], lossy["WebSocket, cubic"]
    gap, carrier = failover(lab)
    blocked = connect_blocked(lab)
    survival: Table = [
        ["what", "measured"],
        ["UDP dropped under pings: longest silence, then over " + carrier, f"{gap:.2f} s"],
        ["connect on auto with UDP blocked, first", f"{blocked[0]:.0f} ms"],
        ["… again, median", f"{median(blocked[1:]):.0f} ms"],
        *(
            [f"a dropped link resumed over {name}, from the new transport on", f"{count} round trips"]
            for name, count in resumes()
        ),
    ]
    targets = [
        ("QUIC / WireGuard, one flow up", ratio, 0.5, True),
        ("QUIC / WireGuard, one flow down", ratio_down, 0.5, True),
        *(((f"QUIC / quincy, one flow {way}", other, 2, True) for way, other in beside(up, down))),
        ("QUIC datagrams / WebSocket on cubic, 8 flows at 1 % loss", datagrams / cubic, 3, True),
        ("failover, s", gap, 5, False),
        ("connect with UDP blocked, s", max(blocked) / 1000, 1, False),
    ]
    verdicts = []
    for what, value, bound, at_least in targets:
        good = value >= bound if at_least else value <= bound
        relation = "at least" if at_least else "at most"
        verdicts.append(f"{'pass' if good else 'FAIL'}  {what}: {value:.2f}, {relation} {bound:g}")
    loss_rows: Table = [
        ["transport", f"{FLOWS} flows Mbit/s"],
        *([name, f"{value:.1f}"] for name, value in lossy.items()),
    ]
    sections = [
        ("One flow", table),
        ("Loss: 1 % each way, 20 ms round trip, cubic inside", loss_rows),
        ("Survival", survival),
    ]
    return sections, verdicts, all(line.startswith("pass") for line in verdicts)


def beside(up: dict[str, list[Flow]], down: dict[str, list[Flow]]) -> list[tuple[str, float]]:
    """Medians of the rounds' ratios to quincy, where that was there."""
    if QUINCY not in up:
        return []
    ratios = []
    for way, all_flows in (("up", up), ("down", down)):
        pairs = zip(all_flows[QUIC], all_flows[QUINCY], strict=True)
        ratios.append((way, statistics.median(a.gbit / b.gbit for a, b in pairs)))
    return ratios


def loss_table(lab: Lab, seconds: float) -> dict[str, float]:
    """Eight flows on the lossy path by each way."""
    result: dict[str, float] = {}
    for name, number, mode, congestion in (
        (DATAGRAMS, 1, "quic", None),
        ("WebSocket, cubic", 2, "websocket", "cubic"),
        ("WebSocket, BBR", 3, "websocket", "bbr"),
        (WIREGUARD, 4, "wireguard", None),
    ):
        with Lossy(lab, websocket=congestion):
            path = OneHub(name, 240 + number, 7480 + number, mode)
            try:
                path.open(lab)
                # Until both ends know what the path carries, packets go by QUIC's stream, which hides loss.
                lab.client.run("ping", "-n", "-q", "-c", "30", "-i", "0.1", path.hub_address)
                result[name] = flows(lab, path, 2 * seconds, FLOWS)
            finally:
                path.close()
    return result


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {DOCUMENT.relative_to(ROOT)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    arguments = parser.parse_args()
    os.environ["PYTHONPATH"] = str(ROOT)
    with Lab() as lab:
        os.environ["STATE_DIRECTORY"] = str(lab.folder)
        sections, verdicts, good = measure(lab, arguments.rounds, arguments.seconds)
    print(when_and_where())
    for title, table in sections:
        print(f"\n{title}\n{aligned(table)}")
    print("\n" + "\n".join(verdicts))
    if arguments.write:
        parts = ["# Benchmarks of QUIC", "Written by `bench/quic.py --write`. " + when_and_where()]
        for title, table in sections:
            parts += [f"## {title}", markdown(table)]
        parts += ["## Targets", "\n".join(f"- {line}" for line in verdicts)]
        DOCUMENT.write_text("\n\n".join(parts) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
