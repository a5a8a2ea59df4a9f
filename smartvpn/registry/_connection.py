"""Connections to SQLite, and the threads that read through them."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias, TypeVar

from smartvpn.errors import RegistryError

T = TypeVar("T")
Work: TypeAlias = Callable[[sqlite3.Connection], T]

MEMORY = ":memory:"
_READERS = 2
_BUSY_SECS = 10.0
_KEPT_WAL_BYTES = 64 << 20
_MOST_WAL_PAGES = 16384
_SETTINGS = (
    "journal_mode = WAL",
    "synchronous = FULL",
    "foreign_keys = ON",
    "temp_store = MEMORY",
    f"journal_size_limit = {_KEPT_WAL_BYTES}",
    f"wal_autocheckpoint = {_MOST_WAL_PAGES}",
)


def connect(path: str) -> sqlite3.Connection:
    """A connection that writes ahead and waits for the disk; transactions are the caller's."""
    connection = sqlite3.connect(path, timeout=_BUSY_SECS, isolation_level=None, check_same_thread=False)
    for setting in _SETTINGS:
        connection.execute(f"PRAGMA {setting}").fetchall()
    return connection


def in_transaction(connection: sqlite3.Connection, begin: str, work: Work[T]) -> T:
    """What `work` returns, committed; nothing of it when it fails."""
    connection.execute(begin)
    try:
        result = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return result


class Readers:
    """Threads that each read through a connection of their own."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._pool = ThreadPoolExecutor(_READERS, "smartvpn-registry-read")

    def submit(self, work: Work[T]) -> Future[T]:
        """Run `work` in one read transaction. Raises RegistryError after `close`."""
        try:
            return self._pool.submit(self._run, work)
        except RuntimeError:
            raise RegistryError("the registry is closed") from None

    def close(self) -> None:
        """Wait for the reads under way."""
        self._pool.shutdown(wait=True)
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    def _run(self, work: Work[T]) -> T:
        try:
            return in_transaction(self._connection(), "BEGIN", work)
        except sqlite3.Error as error:
            raise RegistryError(f"the registry cannot be read: {error}") from error

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = connect(self._path)
            connection.execute("PRAGMA query_only = ON")
            self._local.connection = connection
            self._connections.append(connection)
        return connection
