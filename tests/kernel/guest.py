"""A machine of QEMU's that can be suspended: a root of its own, taps for cards, and a line to its program."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from tests.kernel.image import PYTHON, make_image
from tests.kernel.vm import NFT_MODULES, fetch_kernel, initramfs, qemu
from tests.netns.topology import Topology

MODULES = ["virtio_pci", "virtio_blk", "virtio_net", "tun", *NFT_MODULES]
SLEEPER = Path(__file__).parent / "sleeper.py"
BOARD = "pc"  # q35's firmware does not set power management up anew: it falls asleep only once
BOOT_SECS = 240
COMMAND = f"PYTHONPATH=/opt/smartvpn exec {PYTHON} -P /opt/smartvpn/{SLEEPER.name}"


class Guest:
    """The machine, its console, its monitor, and the line to the sleeper in it."""

    def __init__(self, folder: Path, cards: int) -> None:
        self._folder, self._cards = folder, cards
        self._console: deque[str] = deque(maxlen=60)
        self._seen: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def run(self, topology: Topology, role: str) -> AsyncIterator[Guest]:
        """It runs on that machine of the topology, and its cards are tap1, tap2 … there."""
        command = await asyncio.to_thread(self._command)
        process = await asyncio.create_subprocess_exec(
            *topology.command(role, *command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        tasks = [asyncio.create_task(self._follow(process))]
        try:
            self._monitor, self._to_monitor = await self._open("monitor")
            self._line, self._to_line = await self._open("line")
            tasks.append(asyncio.create_task(self._listen()))
            await self._tell("qmp_capabilities")
            await self._answer(BOOT_SECS)
            yield self
        except BaseException:
            print(*self._console, sep="\n", file=sys.stderr)
            raise
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _command(self) -> list[str]:
        kernels = fetch_kernel()
        [kernel] = (kernels / "boot").glob("vmlinuz-*")
        ram, image = self._folder / "initramfs", make_image(self._folder, [SLEEPER])
        ram.write_bytes(initramfs(kernels, COMMAND, MODULES, "/dev/vda ext4 rw"))
        devices = ["-drive", f"file={image},format=raw,if=virtio,cache=unsafe"]
        for number in range(1, self._cards + 1):
            devices += ["-netdev", f"tap,id=net{number},ifname=tap{number},script=no,downscript=no"]
            address = f"mac=52:54:00:00:00:{number:02x}"
            devices += ["-device", f"virtio-net-pci,netdev=net{number},romfile=,{address}"]
        for name in ("monitor", "line"):
            devices += ["-chardev", f"socket,id={name},path={self._folder / name},server=on,wait=off"]
        command = qemu(kernel, ram, *devices, board=BOARD)
        # The console has taken the first serial port.
        return [*command, "-serial", "chardev:line", "-mon", "chardev=monitor,mode=control"]

    async def _open(self, name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        path = self._folder / name
        await until(path.exists, f"QEMU's {name}")
        return await asyncio.open_unix_connection(path, limit=1 << 20)

    async def _follow(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            self._console.append(line.decode(errors="replace").rstrip())

    async def _tell(self, command: str) -> None:
        self._to_monitor.write(json.dumps({"execute": command}).encode())
        await self._to_monitor.drain()

    async def _listen(self) -> None:
        async for line in self._monitor:
            self._seen[json.loads(line).get("event", "")] += 1

    async def _answer(self, seconds: float) -> Any:
        line = await asyncio.wait_for(self._line.readline(), seconds)
        assert line, "the machine has ended"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    async def ask(self, call: str, patience: float = 120, **arguments: Any) -> Any:
        """Have the sleeper do something."""
        self._to_line.write(json.dumps({"call": call, **arguments}).encode() + b"\n")
        return await self._answer(patience)

    async def fall_asleep(self, seconds: int, away: bool) -> asyncio.Task[Any]:
        """Suspended when it returns; wakes up after so many seconds, or with 0 when it is woken.

        The task's result is what the sleeper tells of it.
        """
        before = self._seen["SUSPEND"]
        woken = asyncio.create_task(self.ask("sleep", 600, seconds=seconds, away=away))
        await until(lambda: woken.done() or self._seen["SUSPEND"] > before, "asleep", 60)
        assert not woken.done(), f"it does not sleep: {woken.exception()}"
        return woken

    async def wake_up(self) -> None:
        """As by its power button."""
        await self._tell("system_wakeup")

    async def is_awake(self) -> None:
        """Wait until it has woken up, whatever the reason."""
        await until(lambda: self._seen["WAKEUP"] == self._seen["SUSPEND"], "awake", 60)


async def until(condition: Callable[[], Any], what: str, seconds: float = 20) -> None:
    """Wait until the condition, which may be a coroutine, holds."""
    end = time.monotonic() + seconds
    while True:
        holds = condition()
        if await holds if asyncio.iscoroutine(holds) else holds:
            return
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.02)
