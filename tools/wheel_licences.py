"""tools/wheel_licences.py WHEEL CACHE [SYSROOT]: the licences of what a wheel carries go into it.

Of shared libraries they are those of the Debian packages they came from, one file a package; of what became
part of the extension itself, ngtcp2 (built in CACHE) and the embeddable WireGuard library, its own. A library
without a known package ends it: what may not be told apart may not be passed on.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

EMBEDDABLE = Path("/usr/share/doc/wireguard-tools/copyright")


def carried(folder: Path) -> list[str]:
    """The names that the wheel's libraries had before they got a hash."""
    names = [path.name for path in folder.iterdir() if ".so" in path.name]
    return [re.sub(r"-[0-9a-f]{8}(?=[.\d]*\.so|\.)", "", name, count=1) for name in sorted(names)]


def owners(sysroot: Path | None) -> dict[str, str]:
    """Which package each shared library is from: the host's, or those beside the sysroot."""
    found: dict[str, str] = {}
    if sysroot is None:
        lines = subprocess.run(
            ["dpkg-query", "-S", "*.so.*"], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        for line in lines:
            package, _, path = line.partition(": ")
            found.setdefault(Path(path).name, package.partition(":")[0])
        return found
    for archive in sorted((sysroot.parent / "cache" / "archives").glob("*.deb")):
        listing = subprocess.run(
            ["dpkg-deb", "--contents", str(archive)], capture_output=True, text=True, check=True
        ).stdout
        for path in re.findall(r"\./(\S+\.so\.\S+)", listing):
            found.setdefault(Path(path).name, archive.name.partition("_")[0])
    return found


def licence(package: str, sysroot: Path | None) -> str:
    """Debian's copyright file of the package."""
    root = sysroot or Path("/")
    return (root / "usr/share/doc" / package / "copyright").read_text(encoding="utf-8", errors="replace")


def main() -> None:
    """Rewrites the wheel in its place."""
    wheel = Path(sys.argv[1]).resolve()
    ngtcp2 = Path(sys.argv[2]) / "ngtcp2"
    sysroot = Path(sys.argv[3]).resolve() if len(sys.argv) > 3 else None
    known = owners(sysroot)
    with tempfile.TemporaryDirectory() as scratch:
        run = [sys.executable, "-m", "wheel"]
        subprocess.run([*run, "unpack", "-d", scratch, str(wheel)], check=True, stdout=subprocess.DEVNULL)
        (tree,) = Path(scratch).iterdir()
        libraries = tree / "smartvpn.libs"
        packages = sorted({known[name] for name in carried(libraries)})
        (libraries / "licences").mkdir()
        for package in packages:
            text = licence(package, sysroot)
            (libraries / "licences" / f"{package}.txt").write_text(text, encoding="utf-8")
        if ngtcp2.exists():
            shutil.copy(ngtcp2 / "COPYING", libraries / "licences" / "ngtcp2.txt")
        if EMBEDDABLE.exists():
            shutil.copy(EMBEDDABLE, libraries / "licences" / "wireguard-tools.txt")
        pack = [*run, "pack", "-d", str(wheel.parent), str(tree)]
        subprocess.run(pack, check=True, stdout=subprocess.DEVNULL)
    print(f"  licences of {len(packages)} packages in {wheel.name}")


if __name__ == "__main__":
    main()
