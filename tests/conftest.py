"""Fixtures that several test modules share."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.netns.topology import Topology

# How long an example takes says something about the machine's other work, and nothing about what is tested.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# A shell's background jobs ignore it, and so would all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)  # those that are not asked for are gone then
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that wait long begin first: at the end nothing would run beside them."""
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    items[:] = itertools.chain(*shares(items, workers))


def seconds(item: pytest.Item) -> int:
    """How long it says that it takes; what says nothing takes a few."""
    marker = item.get_closest_marker("long")
    return int(marker.args[0]) if marker else 0


def shares(items: list[pytest.Item], workers: int) -> Iterator[list[pytest.Item]]:
    """The tests that each worker begins with, as `--dist worksteal` cuts the list.

    Half of the workers take those that wait long, since while all waited the processor would rest.
    """
    firsts: list[list[pytest.Item]] = [[] for _ in range(workers)]
    waiting = firsts[: max(1, workers // 2)]
    for item in sorted(filter(seconds, items), key=seconds, reverse=True):
        min(waiting, key=lambda first: sum(map(seconds, first))).append(item)
    rest = itertools.filterfalse(seconds, items)
    left = len(items)
    for number, first in enumerate(firsts):
        size = left // (workers - number)
        left -= size
        yield first + list(itertools.islice(rest, max(0, size - len(first))))


def missing_for_namespaces() -> str | None:
    """What this machine lacks for tests with real tunnels, in words."""
    if os.geteuid() != 0:
        return "tests with network namespaces need root: run `sudo make test`"
    if not Path("/dev/net/tun").exists():
        return "tests with tunnels need /dev/net/tun: run `modprobe tun`, or give the container the device"
    missing = [program for program in ("ip", "nft") if shutil.which(program) is None]
    return f"tests with namespaces need {' and '.join(missing)}: run `make deps`" if missing else None


def require_namespaces() -> None:
    """Fail, in words, where this machine has no namespaces for us."""
    missing = missing_for_namespaces()
    if missing:
        pytest.fail(missing, pytrace=False)


@pytest.fixture
def topology() -> Iterator[Topology]:
    """Fresh namespaces client - hub - internet."""
    require_namespaces()
    with Topology() as made:
        yield made
