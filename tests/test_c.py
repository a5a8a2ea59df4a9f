"""The C core's own test programs, one per module, as the Makefile built them."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "tests" / "c"
SOURCES = sorted([*FOLDER.glob("test_*.c"), *FOLDER.glob("sim*.c")])


@pytest.mark.parametrize("name", [source.stem for source in SOURCES])
def test_program(name: str) -> None:
    """Every check of the program holds, and it made at least one."""
    done = subprocess.run(
        [ROOT / "build" / "tests" / name], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-1000:]
    passed = int(done.stdout.rsplit(":", 1)[1].split()[0])
    assert passed > 0
