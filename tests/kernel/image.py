"""A root for a machine that shall sleep: an ext4 image with Python, the client, and what it calls.

The driver of a root by virtiofs refuses to be suspended; a block device does not mind.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAMS = ("sh", "env", "ip")
FOLDERS = ("dev", "proc", "sys", "tmp", "run", "root", "etc/netns", "var/lib")
LINKED = ("bin", "sbin", "lib", "lib64")  # into /usr, where the machine's are
OPT = "opt/smartvpn"
PYTHON = "/usr/bin/python3"
NEEDED = ("attrs", "cattrs", "cffi", "pynacl", "pyroute2", "typing-extensions")
UNUSED = ("test", "idlelib", "tkinter", "lib2to3", "ensurepip", "dist-packages", "config-*")
SPARE = 32 << 20


def make_image(folder: Path, scripts: Iterable[Path]) -> Path:
    """The image, in the folder, with the scripts under /opt/smartvpn."""
    tree, image = folder / "tree", folder / "image"
    _fill(tree, scripts)
    size = sum(path.lstat().st_size + 4096 for path in tree.rglob("*"))
    with image.open("wb") as file:
        file.truncate(size + size // 8 + SPARE)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-d", tree, image], check=True)
    shutil.rmtree(tree)
    return image


def _fill(tree: Path, scripts: Iterable[Path]) -> None:
    for name in FOLDERS:
        (tree / name).mkdir(parents=True)
    for name in LINKED:
        if Path("/", name).is_symlink():
            (tree / name).symlink_to(f"usr/{name}")
    stdlib, opt = Path(sysconfig.get_path("stdlib")), tree / OPT
    shutil.copytree(stdlib, _inside(tree, stdlib), symlinks=True, ignore=shutil.ignore_patterns(*UNUSED))
    _copy(Path(sys.executable).resolve(), tree / PYTHON.lstrip("/"))
    for name in NEEDED:
        for path, place in _distributed(name):
            _copy(path, opt / place)
    shutil.copytree(ROOT / "smartvpn", opt / "smartvpn")
    for script in scripts:
        _copy(script, opt / script.name)
    programs = [Path(str(shutil.which(name))) for name in PROGRAMS]
    for program in programs:
        _copy(program, _inside(tree, program))
    ours = [*opt.rglob("*.so"), *_inside(tree, stdlib).rglob("*.so"), Path(sys.executable), *programs]
    for library in _libraries(ours):
        _copy(library, _inside(tree, library))


def _inside(tree: Path, path: Path) -> Path:
    """The file's own place in the tree, whichever links led to it."""
    return tree / os.path.relpath(path.parent.resolve(), "/") / path.name


def _copy(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, to)


def _distributed(name: str) -> Iterator[tuple[Path, Path]]:
    """A distribution's files, each with its name in site-packages."""
    for file in importlib.metadata.files(name) or ():
        path = Path(str(file.locate()))
        if ".." not in file.parts and path.exists():
            yield path, Path(file)


def _libraries(files: Sequence[Path]) -> set[Path]:
    """The shared libraries that these files are linked with, and the one that links them."""
    told = subprocess.run(["ldd", *files], capture_output=True, text=True, check=False).stdout
    found = set(map(Path, re.findall(r"^\t(?:\S+ => )?(/\S+) \(", told, re.M)))
    return {path for path in found if not path.is_relative_to(sysconfig.get_path("platlib"))}
