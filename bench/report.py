"""Samples → medians, ratios and tables, for the terminal and for docs/benchmarks.md."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from manyclients import Crowd
from measure import GSO_SEGMENTS, PINGS, SMALL_BYTES, Flow, Small
from tunnels import BARE, BASELINE, INNER_MTU, WS, WSS

Table = list[list[str]]


@dataclass
class Round:
    """One path in one round."""

    up: Flow  # client to hub
    down: Flow
    ping_us: float
    least_ping_us: float
    small_up: Small
    small_down: Small
    gso_up: Small
    gso_down: Small


@dataclass
class Series:
    """All rounds of one path."""

    name: str
    congestion_control: str | None = None
    handshake_ms: float | None = None
    rounds: list[Round] = field(default_factory=list)

    def median(self, of: Callable[[Round], float]) -> float:
        """The middle of a figure over the rounds."""
        return statistics.median(of(one) for one in self.rounds)

    def ratio(self, other: Series, of: Callable[[Round], float]) -> float:
        """The middle of a figure's ratio to the other path's in the same round."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        return statistics.median(of(one) / of(two) for one, two in pairs)

    def added(self, other: Series, of: Callable[[Round], float]) -> float:
        """The middle of what a figure has over the other path's in the same round."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        return statistics.median(of(one) - of(two) for one, two in pairs)


@dataclass
class Target:
    """A figure that must reach a bound."""

    what: str
    value: float
    bound: float
    at_least: bool
    unit: str = ""

    @property
    def passed(self) -> bool:
        """Whether it does."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound


@dataclass
class Results:
    """A whole run."""

    series: dict[str, Series]
    crowds: list[Crowd]
    skipped: list[str]
    aead: str
    rounds: int
    seconds: float


# the machine


def machine(results: Results) -> list[str]:
    """What the figures depend on, a line each."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    outer = {one.name: one.congestion_control for one in results.series.values() if one.congestion_control}
    return [
        f"Date: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        f"CPU: {model}, {os.cpu_count()} cores",
        f"Kernel: {platform.system()} {platform.release()}",
        f"AEAD: {results.aead}",
        f"Inner: iperf3, one TCP flow, cubic, MTU {INNER_MTU}, {results.seconds:g} s",
        f"Medians of {results.rounds} rounds; ratios and differences are taken within a round",
        "Outer congestion control: " + ", ".join(f"{name}: {cc}" for name, cc in outer.items()),
        "Path: two namespaces joined by veth as the kernel sets it up (no GRO); both ends share the cores",
    ]


# tables


def throughput_table(results: Results) -> Table:
    """One row a path: Gbit/s and CPU."""
    rows = [["path", "up Gbit/s", "down Gbit/s", "up CPU s/GB client + hub", "down CPU s/GB hub + client"]]
    for one in results.series.values():
        rows.append(
            [
                one.name,
                f"{one.median(lambda r: r.up.gbit):.2f}",
                f"{one.median(lambda r: r.down.gbit):.2f}",
                _cpu(one, lambda r: r.up.client_cpu_per_gb, lambda r: r.up.hub_cpu_per_gb),
                _cpu(one, lambda r: r.down.hub_cpu_per_gb, lambda r: r.down.client_cpu_per_gb),
            ]
        )
    return rows


def _cpu(one: Series, sender: Callable[[Round], float], receiver: Callable[[Round], float]) -> str:
    if one.name == BARE:
        return "-"
    return f"{one.median(sender):.2f} + {one.median(receiver):.2f}"


def latency_table(results: Results) -> Table:
    """One row a path: ping, and the time of a connect."""
    bare = results.series[BARE]
    rows = [["path", "ping µs", "over bare µs", "least µs", "connect command ms"]]
    for one in results.series.values():
        added = "-" if one is bare else f"{one.added(bare, lambda r: r.ping_us):.0f}"
        connect = "-" if one.handshake_ms is None else f"{one.handshake_ms:.1f}"
        median, least = one.median(lambda r: r.ping_us), one.median(lambda r: r.least_ping_us)
        rows.append([one.name, f"{median:.0f}", added, f"{least:.0f}", connect])
    return rows


def packets_table(results: Results) -> Table:
    """One row a path: small packets a second, arrived of sent."""
    rows = [["path", "up k/s", "down k/s", "up k/s, GSO sender", "down k/s, GSO sender"]]
    columns: list[Callable[[Round], Small]] = [
        lambda r: r.small_up,
        lambda r: r.small_down,
        lambda r: r.gso_up,
        lambda r: r.gso_down,
    ]
    for one in results.series.values():
        rows.append([one.name, *(_arrived(one, column) for column in columns)])
    return rows


def _arrived(one: Series, of: Callable[[Round], Small]) -> str:
    received, sent = one.median(lambda r: of(r).received), one.median(lambda r: of(r).sent)
    return f"{received / 1e3:.0f} of {sent / 1e3:.0f}"


def crowd_table(results: Results) -> Table:
    """One row a run of the load generator."""
    head = "clients|connects/s|live|handshakes/s|per hub core|p50 / p99 ms|KB per idle client|created/s"
    rows = [head.split("|")]
    for crowd in results.crowds:
        figures, latency = crowd.result, crowd.result["latency_ms"]
        rows.append(
            [
                str(figures["clients"]),
                f"{crowd.rate:g}" if crowd.rate else "all at once",
                str(figures["live"]),
                f"{figures['handshakes_per_second']:.0f}",
                f"{crowd.handshakes_per_core:.0f}",
                f"{latency['p50']:.1f} / {latency['p99']:.1f}",
                f"{figures['kb_per_client']:.1f}",
                f"{crowd.creates_per_second:.0f}",
            ]
        )
    return rows


# targets


def targets(results: Results) -> list[Target]:
    """The bounds that hold for what was measured."""
    return [*_ratio_targets(results), *_latency_targets(results)]


def _ratio_targets(results: Results) -> Iterator[Target]:
    baseline = results.series.get(BASELINE)
    for name, bound in ((WS, 0.6), (WSS, 0.45)):
        one = results.series.get(name)
        if one and baseline:
            what = f"{name} / {BASELINE}"
            yield Target(f"{what}, up", one.ratio(baseline, lambda r: r.up.gbit), bound, True)
            yield Target(f"{what}, down", one.ratio(baseline, lambda r: r.down.gbit), bound, True)


def _latency_targets(results: Results) -> Iterator[Target]:
    one, bare = results.series.get(WS), results.series.get(BARE)
    if one and bare:
        yield Target(f"{WS}: ping over bare", one.added(bare, lambda r: r.ping_us), 150, False, " µs")
    for crowd in results.crowds:
        if crowd.rate:
            p50 = crowd.result["latency_ms"]["p50"]
            yield Target("handshake on loopback, TCP open to first packet, p50", p50, 10, False, " ms")


def verdict(target: Target) -> str:
    """A target in one line."""
    relation = "at least" if target.at_least else "at most"
    figures = f"{target.value:.2f}{target.unit}, {relation} {target.bound:g}{target.unit}"
    return f"{'pass' if target.passed else 'FAIL'}  {target.what}: {figures}"


# output


SECTIONS: Sequence[tuple[str, str, Callable[[Results], Table]]] = (
    (
        "Throughput",
        "“Up” is client to hub. CPU is of the two tunnel processes, sender first, in seconds per 10^9 bytes "
        "of payload.",
        throughput_table,
    ),
    (
        "Latency",
        f"Median of {PINGS} pings on an idle path, and the least of them. What lies between is processors "
        "that wake up: a ping through a tunnel is handed on four times, and where a virtual machine has "
        "halted the next processor, waking it takes longer than the tunnel's work. The connect command is "
        "timed at its caller: TCP, handshake, TUN device, addresses and routes.",
        latency_table,
    ),
    (
        "Small packets",
        f"UDP with {SMALL_BYTES} bytes of payload, unpaced, thousands a second: arrived of sent. The plain "
        f"sender uses sendmmsg, the GSO sender {GSO_SEGMENTS} packets in each UDP_SEGMENT send. Sender and "
        "receiver share the cores with the tunnel.",
        packets_table,
    ),
    (
        "Many clients",
        "One load generator speaking the protocol over loopback, a fresh hub for each row. KB: growth of the "
        "hub's proportional set size from before the first connect to the end of the idle time, without the "
        "kernel's socket memory. Per hub core: live clients by the hub's CPU seconds while they came in.",
        crowd_table,
    ),
)


def text_report(results: Results) -> str:
    """For the terminal."""
    parts = ["\n".join(machine(results))]
    for title, _, build in _sections(results):
        parts.append(f"{title}\n{aligned(build(results))}")
    parts.append("\n".join(verdict(target) for target in targets(results)))
    return "\n\n".join(parts)


def markdown_report(results: Results) -> str:
    """For docs/benchmarks.md."""
    parts = [
        "# Benchmarks",
        "Written by `bench/run.py --write`. Figures of one run on one machine: compare only within it.",
        "\n".join(f"- {line}" for line in [*machine(results), *results.skipped]),
    ]
    for title, note, build in _sections(results):
        parts += [f"## {title}", note, markdown(build(results))]
    parts += ["## Targets", "\n".join(f"- {verdict(target)}" for target in targets(results))]
    return "\n\n".join(parts) + "\n"


def _sections(results: Results) -> Iterator[tuple[str, str, Callable[[Results], Table]]]:
    for section in SECTIONS:
        if results.crowds or section[2] is not crowd_table:
            yield section


def aligned(table: Table) -> str:
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = []
    for row in table:
        figures = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        lines.append("  ".join([row[0].ljust(widths[0]), *figures]))
    return "\n".join(lines)


def markdown(table: Table) -> str:
    head, *rows = ("| " + " | ".join(row) + " |" for row in table)
    rule = "|" + "---|" + "---:|" * (len(table[0]) - 1)
    return "\n".join([head, rule, *rows])
