"""The write-ahead log goes into the database on a thread of its own, so that no write waits for it."""

from __future__ import annotations

import logging
import sqlite3
import threading

from smartvpn.registry._connection import connect

log = logging.getLogger(__name__)

_WRITES = 100


class Checkpointer:
    """Copies the log after every hundred writes. Where it cannot keep up, SQLite does it in a commit."""

    def __init__(self, path: str) -> None:
        self._connection = connect(path)
        self._written = 0
        self._wake = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="smartvpn-registry-log", daemon=True)
        self._thread.start()

    def wrote(self, count: int) -> None:
        """So many writes were committed."""
        self._written += count
        if self._written >= _WRITES:
            self._written = 0
            self._wake.set()

    def close(self) -> None:
        """Wait for the copying under way; the last connection that closes does the rest."""
        self._closed = True
        self._wake.set()
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._closed:
                return
            try:
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            except sqlite3.Error as error:
                log.warning("the registry's log is not copied yet: %s", error)
