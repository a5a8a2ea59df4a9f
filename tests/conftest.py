"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.netns.topology import Topology

# How long an example takes says something about the machine's other work, and nothing about what is tested.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that wait long begin first: at the end nothing would run beside them."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


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
