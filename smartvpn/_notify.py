"""Telling systemd how the daemon is, sd_notify(3): ready, alive, stopping. Without systemd nobody is told."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from typing import Self

_log = logging.getLogger(__name__)

_SIGNS_IN_A_WATCH = 3


class Notifier:
    """Datagrams to the service manager."""

    def __init__(self, address: str | None, watchdog_secs: float | None = None) -> None:
        self._address = address
        self._watchdog_secs = watchdog_secs if address else None

    @classmethod
    def from_environment(cls) -> Self:
        """What the manager asks for; taken out of the environment, so that no program we start answers it."""
        address = os.environ.pop("NOTIFY_SOCKET", None)
        micros = os.environ.pop("WATCHDOG_USEC", "")
        pid = os.environ.pop("WATCHDOG_PID", str(os.getpid()))
        watched = micros.isdecimal() and int(micros) > 0 and pid == str(os.getpid())
        return cls(address, int(micros) / 1e6 if watched else None)

    def ready(self) -> None:
        """The daemon does what it was started for."""
        self._tell("READY=1")

    def stopping(self) -> None:
        """The daemon takes everything down."""
        self._tell("STOPPING=1")

    async def watch(self) -> None:
        """Give signs of life for as long as the loop turns."""
        if self._watchdog_secs is None:
            return
        while True:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_secs / _SIGNS_IN_A_WATCH)

    def _tell(self, message: str) -> None:
        if self._address is None:
            return
        # The first letter "@" stands for the abstract namespace's zero byte.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as way:
                way.setblocking(False)
                way.sendto(message.encode(), address)
        except OSError as error:
            _log.warning("the service manager does not hear %s: %s", message, error.strerror)
