"""The C library as `make install` lays it out, and programs built with what pkg-config says of it."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PREFIX = "/opt/smartvpn"


def run(*command: str | Path, cwd: Path = ROOT, **env: str) -> str:
    """The program's output; its complaints when it fails."""
    result = subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def install(root: Path) -> Path:
    """Install below `root`; returns where PREFIX is there."""
    run("make", "install", f"PREFIX={PREFIX}", f"DESTDIR={root}")
    return root / PREFIX[1:]


def pkg_config(installed: Path, *options: str) -> list[str]:
    """Flags as the installed file has them, from where it lies now."""
    root = str(installed)[: -len(PREFIX)]
    path = str(installed / "lib/pkgconfig")
    text = run("pkg-config", *options, "smartvpn", PKG_CONFIG_PATH=path)
    return shlex.split(text.replace(PREFIX, root + PREFIX))


def build_example(installed: Path, name: str, folder: Path) -> Path:
    """`examples/NAME.c` as its reader builds it; the program finds the library where it was installed."""
    program = folder / name
    flags = pkg_config(installed, "--cflags", "--libs")
    rpath = f"-Wl,-rpath,{installed / 'lib'}"
    run("cc", "-Wall", "-Wextra", "-Werror", ROOT / "examples" / f"{name}.c", *flags, rpath, "-o", program)
    return program
