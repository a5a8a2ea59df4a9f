"""The hub's registry, measured from outside: a daemon with 100,000 clients, commanded through its socket.

    bench/registry.py [--clients N] [--write docs/benchmarks-registry.md]

Needs root, for the TUN device; everything happens in a network namespace of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from smartvpn._json import to_json  # noqa: E402
from smartvpn.config import ClientEntry  # noqa: E402
from smartvpn.keys import PrivateKey, encode_key  # noqa: E402
from smartvpn.registry.sqlite import SqliteRegistry  # noqa: E402

FEW = 100
CALLS = 2000
OUTSTANDING = 32
PAGE = 100
PATTERNS = 100_000
DAEMON = (sys.executable, "-P", "-m", "smartvpn.daemon")
DEADLINE_SECS = 120


class Hub:
    """A daemon in a namespace of its own, with a registry of `count` clients."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        folder.mkdir()
        asyncio.run(_fill(folder / "registry.db", count))
        path = folder / "s.sock"
        command = f"ip link set lo up && exec {' '.join(DAEMON)} --management-socket {path} --mode server"
        self.process = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", command],
            env={**os.environ, "PYTHONPATH": str(ROOT), "STATE_DIRECTORY": str(folder)},
            stderr=(folder / "log").open("w"),
        )
        self._connect()

    def _connect(self) -> None:
        self.socket = _connected(self.folder / "s.sock", self.process)
        self._lines = self.socket.makefile("rb")
        self._number = 0
        self.receive()

    def disconnect(self) -> None:
        """End the connection alone."""
        self._lines.close()
        self.socket.close()

    def close(self) -> None:
        """End it."""
        self.disconnect()
        self.process.terminate()
        self.process.wait(DEADLINE_SECS)

    def receive(self) -> dict[str, Any]:
        """The next message."""
        return dict(json.loads(self._lines.readline()))

    def send(self, method: str, params: Any) -> str:
        """A request; its id."""
        self._number += 1
        line = json.dumps({"id": str(self._number), "method": method, "params": params})
        self.socket.sendall(line.encode() + b"\n")
        return str(self._number)

    def answer(self) -> dict[str, Any]:
        """The next answer, which must be a success."""
        while "event" in (message := self.receive()):
            pass
        if not message["success"]:
            raise SystemExit(f"{self.folder}: {message}")
        return message

    def call(self, method: str, params: Any = None) -> Any:
        """The result of a command."""
        self.send(method, params)
        return self.answer()["result"]

    @classmethod
    def again(cls, hub: Hub) -> Hub:
        """Another connection to the same daemon."""
        other = cls.__new__(cls)
        other.folder, other.process = hub.folder, hub.process
        other._connect()
        return other

    def ask(self, method: str, params: Any) -> int:
        """Bytes of the command or its answer, whichever is more; it may be refused."""
        self._number += 1
        request = json.dumps({"id": str(self._number), "method": method, "params": params}).encode() + b"\n"
        self.socket.sendall(request)
        size = 0
        while True:
            line = self._lines.readline()
            size += len(line)
            if line.startswith(b'{"id":"%d","success"' % self._number):
                return max(size, len(request))

    def start(self) -> float:
        """Seconds that the command `start` takes."""
        key = PrivateKey.generate()
        config = {
            "listenAddr": "127.0.0.1:7443",
            "privateKey": key.base64,
            "publicKey": key.public_key.base64,
            "subnet": "10.0.0.0/8",
            "registry": str(self.folder / "registry.db"),
        }
        began = time.perf_counter()
        self.call("start", config)
        return time.perf_counter() - began

    @property
    def memory(self) -> int:
        """Resident bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:"))


def _connected(path: Path, process: subprocess.Popen[bytes]) -> socket.socket:
    deadline = time.monotonic() + DEADLINE_SECS
    while time.monotonic() < deadline and process.poll() is None:
        made = socket.socket(socket.AF_UNIX)
        try:
            made.connect(str(path))
        except OSError:
            made.close()
            time.sleep(0.02)
        else:
            return made
    raise SystemExit("the daemon did not come up")


def _entry(number: int) -> ClientEntry:
    return ClientEntry(
        client_id=f"client-{number:06}",
        public_key=encode_key((1 << 254 | number).to_bytes(32)),
        wg_public_key=encode_key((1 << 255 | number).to_bytes(32)),
        assigned_ip=f"10.{number + 2 >> 16}.{number + 2 >> 8 & 255}.{number + 2 & 255}",
        enabled=number % 10 != 0,
        tags=["all", "even"] if number % 2 == 0 else ["all"],
        description=f"client number {number}",
    )


async def _fill(path: Path, count: int) -> None:
    async with await SqliteRegistry.open(path) as registry:
        for first in range(0, count, 1000):
            numbers = range(first, min(first + 1000, count))
            await asyncio.gather(*(registry.insert(_entry(number)) for number in numbers))


# figures


@dataclass
class Times:
    """Seconds of single calls."""

    seconds: list[float]

    @property
    def median_ms(self) -> float:
        """The middle one."""
        return statistics.median(self.seconds) * 1000

    @property
    def p99_ms(self) -> float:
        """99 of 100 are faster."""
        return statistics.quantiles(self.seconds, n=100)[98] * 1000


def timed(call: Callable[[int], object], count: int) -> Times:
    """Calls one after the other."""
    seconds = []
    for number in range(count):
        began = time.perf_counter()
        call(number)
        seconds.append(time.perf_counter() - began)
    return Times(seconds)


def created_at_once(hub: Hub) -> tuple[float, Times]:
    """createClient with some outstanding all the time: clients a second, and what each waited."""
    names = iter(range(CALLS * 2))
    sent: dict[str, float] = {}
    seconds: list[float] = []

    def send() -> None:
        for name in names:
            sent[hub.send("createClient", {"clientId": f"many-{name}"})] = time.perf_counter()
            return

    began = time.perf_counter()
    for _ in range(OUTSTANDING):
        send()
    while sent:
        seconds.append(time.perf_counter() - sent.pop(hub.answer()["id"]))
        send()
    return len(seconds) / (time.perf_counter() - began), Times(seconds)


def disk(folder: Path) -> Times:
    """One block appended and synced: what a durable write costs at least."""
    with closing((folder / "disk").open("wb", buffering=0)) as file:

        def append(_: int) -> None:
            file.write(b"x" * 4096)
            os.fdatasync(file.fileno())

        return timed(append, 1000)


PAGES: dict[str, Callable[[int], dict[str, Any]]] = {
    "the first": lambda count: {},
    "the last": lambda count: {"offset": count - PAGE},
    "`tag` of all, the last": lambda count: {"tag": "all", "offset": count - PAGE},
    "`tag` of half and `enabled`, in the middle": lambda count: {
        "tag": "even",
        "enabled": True,
        "offset": count // 5,
    },
    "`enabled: false`, the last": lambda count: {"enabled": False, "offset": count // 10 - PAGE},
}


def measure(folder: Path, count: int) -> Iterator[tuple[str, str, str]]:
    """Rows: what, measured, wanted."""
    raw = disk(folder)
    yield (
        "disk alone: append 4 KB and fdatasync, median · p99",
        f"{raw.median_ms:.2f} · {raw.p99_ms:.2f} ms",
        "",
    )
    with ExitStack() as stack:
        few = stack.enter_context(closing(Hub(folder / "few", FEW)))
        many = stack.enter_context(closing(Hub(folder / "many", count)))
        few.start()
        yield f"`start` with {count:,} clients", f"{many.start():.2f} s", "< 5 s"
        yield "memory of the daemon then", f"{many.memory / 2**20:.0f} MB", ""
        yield from _reads(many, count)
        yield from _beside_long_ones(many, count)
        yield from _updates(few, many, count)
        yield from _creates(many)


def _reads(hub: Hub, count: int) -> Iterator[tuple[str, str, str]]:
    times = timed(lambda n: hub.call("getClient", {"clientId": f"client-{n * 7919 % count:06}"}), CALLS)
    yield "`getClient`, median · p99", f"{times.median_ms:.2f} · {times.p99_ms:.2f} ms", "< 1 ms"
    for name, params in PAGES.items():
        asked = {**params(count), "limit": PAGE}
        times = timed(lambda _, asked=asked: hub.call("listRegisteredClients", asked), 40)
        figures = f"{times.median_ms:.1f} · {max(times.seconds) * 1000:.1f} ms"
        yield f"`listRegisteredClients`, a page of {PAGE}: {name}, median · longest", figures, "< 50 ms"


class Bystander:
    """Asks for the status all the time, over a connection of its own; `longest` is its longest wait."""

    def __init__(self, hub: Hub) -> None:
        self._hub = Hub.again(hub)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.longest = 0.0

    def _run(self) -> None:
        while not self._ended.is_set():
            began = time.perf_counter()
            self._hub.call("getStatus")
            self.longest = max(self.longest, time.perf_counter() - began)

    def __enter__(self) -> Bystander:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._hub.disconnect()


def _long_commands(count: int) -> Iterator[tuple[str, str, Any]]:
    """What takes long: words, method, params; the last one is refused."""
    patterns = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(PATTERNS)]
    security = {"destinationBlockList": patterns}
    yield (
        f"`createClient` with {PATTERNS:,} patterns",
        "createClient",
        {"clientId": "l", "security": security},
    )
    yield "`getClient` of that one", "getClient", {"clientId": "l"}
    yield "`removeClient` of it", "removeClient", {"clientId": "l"}
    yield "`listClients`", "listClients", None
    yield f"`listRegisteredClients`, all {count:,}", "listRegisteredClients", None
    yield "the same as a stream", "listRegisteredClients", {"stream": True}
    seeds = [to_json(_entry(number)) for number in range(count)]
    yield f"`start` with {count:,} clients, refused", "start", {"clients": seeds}


def _beside_long_ones(hub: Hub, count: int) -> Iterator[tuple[str, str, str]]:
    for words, method, params in _long_commands(count):
        with Bystander(hub) as bystander:
            began = time.perf_counter()
            size = hub.ask(method, params)
            took = time.perf_counter() - began
        figures = f"{size / 1e6:.1f} MB · {took:.2f} s · {bystander.longest * 1000:.0f} ms"
        yield f"longest wait of `getStatus` beside {words}: size, time, wait", figures, ""


def _updates(few: Hub, many: Hub, count: int) -> Iterator[tuple[str, str, str]]:
    """In turns, so that what disturbs one disturbs the other."""
    seconds: dict[Hub, list[float]] = {few: [], many: []}
    for turn in range(CALLS // 50):
        for hub, clients in ((few, FEW), (many, count)):

            def update(n: int, hub: Hub = hub, clients: int = clients, turn: int = turn) -> None:
                number = (turn * 50 + n) * 7919 % clients
                update = {"priority": (turn + n) % 1000, "tags": ["all", f"turn-{turn}"]}
                hub.call("updateClient", {"clientId": f"client-{number:06}", "update": update})

            seconds[hub] += timed(update, 50).seconds
    one, two = Times(seconds[few]), Times(seconds[many])
    yield f"`updateClient` at {FEW}, median · p99", f"{one.median_ms:.2f} · {one.p99_ms:.2f} ms", ""
    yield f"`updateClient` at {count:,}, median · p99", f"{two.median_ms:.2f} · {two.p99_ms:.2f} ms", ""
    yield "ratio of the medians", f"{two.median_ms / one.median_ms:.2f}", "1"


def _creates(hub: Hub) -> Iterator[tuple[str, str, str]]:
    times = timed(lambda n: hub.call("createClient", {"clientId": f"new-{n}"}), CALLS)
    rate = len(times.seconds) / sum(times.seconds)
    yield "`createClient`, one after the other", f"{rate:.0f}/s", ">= 500/s"
    yield "… median · p99", f"{times.median_ms:.2f} · {times.p99_ms:.2f} ms", "< 10 ms p99"
    rate, times = created_at_once(hub)
    yield f"`createClient`, {OUTSTANDING} outstanding", f"{rate:.0f}/s", ">= 500/s"
    yield "… median · p99", f"{times.median_ms:.2f} · {times.p99_ms:.2f} ms", ""


def page(rows: list[tuple[str, str, str]]) -> str:
    """The page for docs/."""
    table = "\n".join(f"| {what} | {measured} | {wanted} |" for what, measured, wanted in rows)
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    return f"""# The hub's registry

Written by `bench/registry.py --write`. Figures of one run: compare only within it.

- Date: {now}
- Kernel: {platform.system()} {platform.release()}, {os.cpu_count()} cores
- Everything through the daemon's Unix socket, one connection; every write is on the disk before its answer
- The two hubs of `updateClient` were asked in turns of 50
- The longest waits: of a second connection, which asks for the status all the time

| what | measured | wanted |
|---|---:|---:|
{table}
"""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=100_000)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="smartvpn-bench-", dir=ROOT / "build"))
    try:
        rows = []
        for row in measure(folder, arguments.clients):
            print(" | ".join(row), flush=True)
            rows.append(row)
    finally:
        shutil.rmtree(folder)
    if arguments.write is not None:
        arguments.write.write_text(page(rows))


if __name__ == "__main__":
    main()
