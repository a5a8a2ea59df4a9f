#!/usr/bin/env python3
"""Run a command as root under a kernel that has WireGuard: python3 tests/kernel/vm.py [--init] COMMAND …

The kernel is Debian's for clouds, fetched by apt and unpacked under build/, never installed. QEMU runs it
with this machine's files as its own, read-only whatever is done in it; /tmp, /run, /root and /var/lib are
its own. Ends with the command's status; 77 when there is no QEMU. With --init the command becomes the first
process, and the status is what it writes to the console as `vm: status N`.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BUILT = ROOT / "build" / "kernel"
VIRTIOFSD = Path("/usr/lib/qemu/virtiofsd")
SKIPPED = 77
SECONDS = 2400
# A guest's root may make its view writable; what it sees is not, even so.
READ_ONLY = """
    mkdir -p "$2" && mount --bind / "$2" && mount -o remount,bind,ro "$2" || exit
    exec "$0" --socket-path="$1" -o source="$2" -o sandbox=chroot -o cache=auto
"""
NFT_MODULES = ["nf_tables", "nft_chain_nat", "nft_ct", "nft_masq", "nft_rt", "nft_exthdr"]
MODULES = ["virtio_pci", "virtiofs", "wireguard", "tun", "veth", *NFT_MODULES]
HOSTS_FILES = "host virtiofs ro"


def fetch_kernel() -> Path:
    """Where the package was unpacked; by apt, once."""
    unpacked = BUILT / "image"
    if not unpacked.exists():
        BUILT.mkdir(parents=True, exist_ok=True)
        text = _output("apt-cache", "depends", "linux-image-cloud-amd64")
        package = re.findall(r"Depends: (linux-image-\S+)", text)[0]
        subprocess.run(["apt-get", "download", "-q", package], cwd=BUILT, check=True, capture_output=True)
        [archive] = BUILT.glob(f"{package}_*.deb")
        fresh = BUILT / "fresh"
        subprocess.run(["dpkg-deb", "-x", archive, fresh], check=True)
        fresh.rename(unpacked)
    return unpacked


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


# the initramfs


def ordered_modules(image: Path, names: Sequence[str]) -> Iterator[Path]:
    """The modules, each behind those that it needs; what the kernel has built in is not among them."""
    [folder] = (image / "lib" / "modules").iterdir()
    files = {path.stem.replace("-", "_"): path for path in folder.rglob("*.ko")}
    seen: set[str] = set()

    def visit(name: str) -> Iterator[Path]:
        if name in seen or name not in files:
            return
        seen.add(name)
        found = re.search(rb"depends=([^\0]*)", files[name].read_bytes())
        for other in found[1].decode().split(",") if found and found[1] else ():
            yield from visit(other.replace("-", "_"))
        yield files[name]

    for name in names:
        yield from visit(name)


def cpio_entry(name: str, mode: int, data: bytes, major: int = 0, minor: int = 0) -> bytes:
    """One entry of an archive in the format newc (Documentation/driver-api/early-userspace/buffer-format)."""
    path = name.encode() + b"\0"
    numbers = (0, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(path), 0)
    head = b"070701" + b"".join(b"%08x" % number for number in numbers) + path
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def initramfs(image: Path, command: str, names: Sequence[str] = MODULES, root: str = HOSTS_FILES) -> bytes:
    """The init program, the modules, the command, and what becomes the root: device, type, ro or rw."""
    init = BUILT / "init"
    source = ROOT / "tests" / "kernel" / "init.c"
    subprocess.run(["cc", "-O1", "-static", "-D_GNU_SOURCE", source, "-o", init], check=True)
    modules = list(ordered_modules(image, names))
    entries = [cpio_entry("dev", stat.S_IFDIR | 0o755, b"")]
    entries.append(cpio_entry("dev/console", stat.S_IFCHR | 0o600, b"", 5, 1))
    entries.append(cpio_entry("init", stat.S_IFREG | 0o755, init.read_bytes()))
    entries.append(cpio_entry("command", stat.S_IFREG | 0o644, command.encode() + b"\n"))
    entries.append(cpio_entry("rootfs", stat.S_IFREG | 0o644, root.encode() + b"\n"))
    listed = "".join(f"/{path.name}\n" for path in modules)
    entries.append(cpio_entry("modules", stat.S_IFREG | 0o644, listed.encode()))
    entries += [cpio_entry(path.name, stat.S_IFREG | 0o644, path.read_bytes()) for path in modules]
    return b"".join([*entries, cpio_entry("TRAILER!!!", 0, b"")])


# the machine


def run(command: str) -> int:
    """The command's status. Raises RuntimeError when the machine ends without one."""
    image = fetch_kernel()
    [kernel] = (image / "boot").glob("vmlinuz-*")
    with tempfile.TemporaryDirectory() as folder:
        ram, link = Path(folder) / "initramfs", Path(folder) / "fs.sock"
        ram.write_bytes(initramfs(image, command))
        files = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", READ_ONLY, VIRTIOFSD, link, BUILT / "root"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_for(link)
            return _boot(kernel, ram, link)
        finally:
            files.kill()
            files.wait()


def _wait_for(path: Path) -> None:
    end = time.monotonic() + 10
    while not path.exists():
        if time.monotonic() > end:
            raise RuntimeError("virtiofsd does not listen")
        time.sleep(0.05)


def qemu(kernel: Path, ram: Path, *devices: str, board: str = "q35") -> list[str]:
    """The machine's command line; its console is the standard output."""
    machine = ["-machine", f"{board},accel=tcg", "-cpu", "max", "-smp", "2", "-m", "1024", *devices]
    machine += ["-nographic", "-nodefaults", "-no-reboot", "-kernel", str(kernel), "-initrd", str(ram)]
    return ["qemu-system-x86_64", *machine, "-serial", "stdio", "-append", "console=ttyS0 quiet panic=-1"]


def _boot(kernel: Path, ram: Path, link: Path) -> int:
    files = ["-object", "memory-backend-memfd,id=mem,size=1024M,share=on", "-machine", "memory-backend=mem"]
    files += ["-chardev", f"socket,id=fs,path={link}", "-device", "vhost-user-fs-pci,chardev=fs,tag=host"]
    command = qemu(kernel, ram, *files)
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        end = threading.Timer(SECONDS, process.kill)
        end.start()
        status = _follow(process)
        end.cancel()
    if status is None:
        raise RuntimeError("the machine ended without a status")
    return status


def _follow(process: subprocess.Popen[str]) -> int | None:
    """Shows what the machine says; the status that it tells."""
    status = None
    assert process.stdout is not None
    for line in process.stdout:
        print(line.rstrip(), flush=True)
        found = re.match(r"vm: status (\d+)", line)
        status = int(found[1]) if found else status
    return status


def main() -> int:
    """The command line."""
    if os.geteuid() != 0 or not shutil.which("qemu-system-x86_64") or not VIRTIOFSD.exists():
        print("vm: needs root and qemu-system-x86 (make kernel-test installs it)", file=sys.stderr)
        return SKIPPED
    init = sys.argv[1:2] == ["--init"]
    return run("exec " + shlex.join(sys.argv[2:]) if init else shlex.join(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
