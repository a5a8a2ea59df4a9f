"""The other end of `network_worker`: a process in a namespace that a test commands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import smartvpn.errors
from tests.netns.topology import Topology
from tests.raw import environment


class Worker:
    """A process on one of the machines that manages interfaces there."""

    def __init__(
        self, topology: Topology, role: str, folder: Path, *prefix: str, interface: str = "sv0"
    ) -> None:
        self._interface = interface
        program = (sys.executable, "-P", "-m", "tests.netns.network_worker", str(folder))
        self.process = topology.popen(
            role,
            *prefix,
            *program,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            text=True,
        )

    def __call__(self, call: str, **arguments: Any) -> Any:
        """What the method returns. Raises the SmartVpnError that it raises, by its name and text."""
        return self._ask(call=call, arguments=arguments)

    def dies(self, at: int, call: str, **arguments: Any) -> bool:
        """Whether a process that does this dies in it, when it is killed at that step."""
        return not self._ask(call=call, arguments=arguments, die_at=at)

    def _ask(self, **request: Any) -> Any:
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps({"interface": self._interface, **request}) + "\n")
        stdin.flush()
        line = stdout.readline()
        assert line, self.log
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(getattr(smartvpn.errors, answer["error"]), answer["message"])
        return answer["result"]

    def kill(self) -> None:
        """As kill -9."""
        self.process.kill()
        self.process.wait()

    @property
    def log(self) -> str:
        """What it has written to stderr; it has ended then."""
        self.kill()
        assert self.process.stderr is not None
        text: str = self.process.stderr.read()
        return text


class WorkerError(Exception):
    """What went wrong in the worker."""

    def __init__(self, kind: type[Exception], message: str) -> None:
        super().__init__(f"{kind.__name__}: {message}")
        self.kind = kind
        self.message = message
