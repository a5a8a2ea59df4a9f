"""The journal: one file per interface and network namespace, holding what is to be undone.

It is written before each change, so a process that dies leaves behind all that is needed to clean
up after it. The owner is known by pid and start time, since pids are used again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attrs import evolve, field, frozen, mutable

from smartvpn._files import sync_directory
from smartvpn.errors import PermissionDeniedError, SmartVpnError
from smartvpn.network._changes import Record, record_from_json, record_to_json

_log = logging.getLogger(__name__)

_SO_NETNS_COOKIE = 71
_FORMAT = 1


def namespace_inode() -> int:
    """The inode of the calling thread's network namespace."""
    return Path("/proc/thread-self/ns/net").stat().st_ino


def namespace_identity() -> str:
    """A name of this network namespace that is never used again, unlike its inode."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            cookie = int.from_bytes(probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), "little")
        except OSError:  # before Linux 5.14
            cookie = namespace_inode()
    return f"{boot}:{cookie}"


@frozen
class Owner:
    """A process."""

    pid: int
    start_time: int

    @classmethod
    def current(cls) -> Owner:
        """This process."""
        return cls(os.getpid(), _start_time(os.getpid()) or 0)

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        return _start_time(self.pid) == self.start_time


def _start_time(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else int(fields[18])  # field 22 of proc(5)


@mutable
class Journal:
    """The records of one interface. Use it only while `locked`."""

    path: Path
    interface: str
    namespace: str
    owner: Owner
    records: list[Record] = field(factory=list)
    inherited: bool = False
    """The records are of a process that died, perhaps before it had applied the last of them."""

    @classmethod
    def at(cls, state_dir: Path, interface: str) -> Journal:
        """The journal of an interface of this namespace, as it is on disk, else an empty one of ours."""
        path = state_dir / f"{namespace_inode()}-{interface}.json"
        return cls.read(path) or cls(path, interface, namespace_identity(), Owner.current())

    @classmethod
    def read(cls, path: Path) -> Journal | None:
        """The journal in a file; None if there is none, or nothing that can be read."""
        try:
            return cls._parse(path, json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _log.warning("%s is no journal: %s", path, error)
            return None

    @classmethod
    def _parse(cls, path: Path, data: Any) -> Journal:
        records = [record_from_json(item) for item in data["records"]]
        owner = Owner(int(data["owner"]["pid"]), int(data["owner"]["startTime"]))
        known = [record for record in records if record is not None]
        return cls(path, str(data["interface"]), str(data["namespace"]), owner, known)

    def taken_over(self) -> Journal:
        """The same as ours."""
        return evolve(self, namespace=namespace_identity(), owner=Owner.current(), inherited=True)

    @property
    def stale(self) -> bool:
        """Whether its namespace, or the boot it was in, is gone and with it what the kernel held."""
        return self.namespace != namespace_identity()

    def save(self) -> None:
        """Write the records, or remove the file when there are none. Survives power loss."""
        try:
            if self.records:
                _write(self.path, json.dumps(self._data(), indent=1).encode())
            else:
                self.path.unlink(missing_ok=True)
        except OSError as error:
            raise SmartVpnError(f"cannot write the journal {self.path}: {error.strerror}") from error

    def _data(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "interface": self.interface,
            "namespace": self.namespace,
            "owner": {"pid": self.owner.pid, "startTime": self.owner.start_time},
            "records": [record_to_json(record) for record in self.records],
        }

    def others(self) -> list[Record]:
        """The records of this namespace's other journals, the newest journal last.

        Those of another namespace speak of other interfaces, and of other files under the same path.
        """
        paths = [path for path in self.path.parent.glob("*.json") if path != self.path]
        paths.sort(key=lambda path: path.stat().st_mtime_ns)
        found = [journal for path in paths if (journal := Journal.read(path)) is not None]
        return [
            record for journal in found if journal.namespace == self.namespace for record in journal.records
        ]


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(handle)
    temporary.replace(path)
    sync_directory(path.parent)


@contextlib.contextmanager
def locked(state_dir: Path) -> Iterator[None]:
    """Hold the one lock of all journals, against other threads and processes."""
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except PermissionError as error:
        raise PermissionDeniedError(f"cannot write to {state_dir}: {error.strerror}") from error
    except OSError as error:
        raise SmartVpnError(f"cannot use {state_dir}: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def journals(state_dir: Path) -> list[Journal]:
    """The journals of this network namespace."""
    found = (Journal.read(path) for path in sorted(state_dir.glob(f"{namespace_inode()}-*.json")))
    return [journal for journal in found if journal is not None]
