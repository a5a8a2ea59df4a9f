"""Machines with the command on them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.tool import Machine
from tests.netns.topology import Topology


@pytest.fixture
def hub(topology: Topology, tmp_path: Path) -> Iterator[Machine]:
    """The machine `hub`; a daemon that is left there is ended."""
    machine = Machine(topology, "hub", tmp_path)
    yield machine
    machine.down()


@pytest.fixture
def client(topology: Topology, tmp_path: Path) -> Iterator[Machine]:
    """The machine `client`."""
    machine = Machine(topology, "client", tmp_path)
    yield machine
    machine.down()
