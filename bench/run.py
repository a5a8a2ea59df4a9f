#!/usr/bin/env python3
"""The benchmark: every tunnel between the same two namespaces, in turns, in one run.

    python3 bench/run.py [--write] [--rounds N] [--seconds S] [--only NAME …] [--clients N …]

Needs root, /dev/net/tun and what `make bench` builds. Ends with status 1 when a target is missed, 2 when it
could not be run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import sys
from pathlib import Path

from lab import Lab, LabError, run
from manyclients import Crowd, measure_crowds
from measure import GSO_SEGMENTS, outer_congestion_control, pings_us, serve_iperf, small_packets, tcp_flow
from report import Results, Round, Series, markdown_report, targets, text_report
from tunnels import WS, WSS, Bare, Baseline, OpenVpn, SmartVpn, Tunnel, UnavailableError

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ("baseline_tcp", "udp_pps", "clients")
SMALL_SECONDS = 2.0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measures every tunnel between two namespaces.")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    parser.add_argument("--rounds", type=int, default=3, help="how often each path is measured")
    parser.add_argument("--seconds", type=float, default=5, help="length of each TCP flow")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these paths (and the bare one)")
    parser.add_argument("--clients", type=int, nargs="*", default=[1000, 2000], help="sizes of the crowd")
    parser.add_argument("--tools", type=Path, default=ROOT / "build" / "bench", help="the built tools")
    parser.add_argument("--daemon", help="the daemon's command; else smartvpn.daemon by this Python")
    return parser.parse_args()


def check_machine(tools: Path) -> None:
    """Raises LabError naming what is missing."""
    if os.geteuid() != 0:
        raise LabError("namespaces and TUN devices need root")
    if not Path("/dev/net/tun").exists():
        raise LabError("there is no /dev/net/tun")
    missing = [name for name in TOOLS if not (tools / name).exists()]
    if missing:
        raise LabError(f"{', '.join(missing)} not in {tools}: run `make bench`")
    for command in ("ip", "ss", "ping", "iperf3", "openssl", "setpriv"):
        if not shutil.which(command):
            raise LabError(f"the command {command} is not installed")


def candidates(options: argparse.Namespace, daemon: list[str]) -> list[Tunnel]:
    """All paths, in the order of the tables."""
    paths: list[Tunnel] = [
        Bare(),
        Baseline(options.tools / "baseline_tcp", 202),
        SmartVpn(WS, daemon, 203, 7001, tls=False),
        SmartVpn(WSS, daemon, 204, 7002, tls=True),
        OpenVpn(205, 7003, tcp=True),
        OpenVpn(206, 7004, tcp=False),
    ]
    return [path for path in paths if not options.only or isinstance(path, Bare) or path.name in options.only]


def open_paths(lab: Lab, paths: list[Tunnel], skipped: list[str]) -> list[Tunnel]:
    """Brings up what can be had; the rest is told and left out."""
    opened = []
    for path in paths:
        try:
            path.open(lab)
            opened.append(path)
        except (UnavailableError, LabError) as error:
            path.close()
            skipped.append(f"{path.name}: skipped: {error}")
            print(skipped[-1], flush=True)
    return opened


def measure_round(lab: Lab, tool: Path, path: Tunnel, seconds: float) -> Round:
    """All figures of one path, once."""
    small = [
        small_packets(lab, tool, path, SMALL_SECONDS, download=download, segments=segments)
        for segments in (1, GSO_SEGMENTS)
        for download in (False, True)
    ]
    pings = pings_us(lab, path)
    return Round(
        up=tcp_flow(lab, path, seconds, download=False),
        down=tcp_flow(lab, path, seconds, download=True),
        ping_us=statistics.median(pings),
        least_ping_us=min(pings),
        small_up=small[0],
        small_down=small[1],
        gso_up=small[2],
        gso_down=small[3],
    )


def measure_paths(lab: Lab, paths: list[Tunnel], options: argparse.Namespace) -> dict[str, Series]:
    """Rounds over all paths, so that a slow moment of the machine falls on all of them."""
    series = {path.name: Series(path.name) for path in paths}
    for number in range(1, options.rounds + 1):
        for path in paths:
            print(f"round {number} of {options.rounds}: {path.name}", flush=True)
            one = series[path.name]
            one.rounds.append(measure_round(lab, options.tools / "udp_pps", path, options.seconds))
            one.congestion_control = outer_congestion_control(lab, path)
            one.handshake_ms = path.handshake_ms
    return series


def measure_all_crowds(
    lab: Lab, options: argparse.Namespace, daemon: list[str], skipped: list[str]
) -> list[Crowd]:
    """Every size of crowd."""
    crowds: list[Crowd] = []
    for count in options.clients:
        print(f"{count} clients", flush=True)
        try:
            crowds += measure_crowds(lab, options.tools / "clients", daemon, count)
        except LabError as error:
            skipped.append(f"{count} clients: skipped: {error}")
            print(skipped[-1], flush=True)
    return crowds


def measure(options: argparse.Namespace) -> Results:
    """The whole run."""
    check_machine(options.tools)
    os.environ["PYTHONPATH"] = str(ROOT)
    daemon = options.daemon.split() if options.daemon else [sys.executable, "-m", "smartvpn.daemon"]
    skipped: list[str] = []
    with Lab() as lab:
        serve_iperf(lab)
        paths = open_paths(lab, candidates(options, daemon), skipped)
        series = measure_paths(lab, paths, options)
        for path in paths:
            path.close()
        crowds = measure_all_crowds(lab, options, daemon, skipped)
    aead = run(str(options.tools / "clients"), "--aead").strip()
    return Results(series, crowds, skipped, aead, options.rounds, options.seconds)


def main() -> int:
    """Measures, prints, writes."""
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    try:
        results = measure(options)
    except LabError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    print(f"\n{text_report(results)}")
    if options.write:
        (ROOT / "docs" / "benchmarks.md").write_text(markdown_report(results))
    return 0 if all(target.passed for target in targets(results)) else 1


if __name__ == "__main__":
    sys.exit(main())
