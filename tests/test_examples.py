"""The Python examples run, not only type-check."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tests.netns.topology import Topology

ROOT = Path(__file__).resolve().parent.parent


def test_a_thousand_clients(topology: Topology) -> None:
    """All of its steps, on a machine of its own; the example itself checks what the hub then has."""
    command = ("env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "examples.thousand_clients", "1000")
    done = topology.run("hub", *command, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = re.findall(r"^  (\w[\w, /]+?) +(\d+) in", done.stdout, re.MULTILINE)
    assert [int(count) for _, count in steps] == [1000, 1000, 1000, 100, 100, 100, 100]
