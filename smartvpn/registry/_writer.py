"""One thread that owns a SQLite connection and commits what waits in its queue together."""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from attrs import field, frozen

from smartvpn.errors import RegistryError

T = TypeVar("T")

_BATCH = 256


@frozen
class _Task(Generic[T]):
    work: Callable[[sqlite3.Connection], T]
    future: Future[T] = field(factory=Future)


@frozen
class _Outcome:
    result: Any = None
    error: BaseException | None = None

    def settle(self, future: Future[Any]) -> None:
        if self.error is None:
            future.set_result(self.result)
        else:
            future.set_exception(self.error)


class Writer:
    """Runs work on the connection in order; a future is done only once its work is committed.

    Work that fails is undone alone. When the commit fails, all work of the batch has failed.
    """

    def __init__(self, connection: sqlite3.Connection, wrote: Callable[[int], None] | None = None) -> None:
        """`wrote` is told after each commit how much work was in it."""
        self._connection = connection
        self._wrote = wrote
        self._queue: queue.SimpleQueue[_Task[Any] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="smartvpn-registry", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[sqlite3.Connection], T]) -> Future[T]:
        """Queue `work`. Raises RegistryError after `close`."""
        task = _Task(work)
        with self._lock:
            if self._closed:
                raise RegistryError("the registry is closed")
            self._queue.put(task)
        return task.future

    def close(self) -> None:
        """Finish what is queued, then close the connection."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        open_ = True
        while open_:
            batch, open_ = self._next_batch()
            if batch:
                self._commit(batch)
        self._connection.close()

    def _next_batch(self) -> tuple[list[_Task[Any]], bool]:
        """At least one entry of the queue, and what else waits; False at the end of the queue."""
        batch: list[_Task[Any]] = []
        item = self._queue.get()
        while item is not None:
            if item.future.set_running_or_notify_cancel():
                batch.append(item)
            if len(batch) == _BATCH or self._queue.empty():
                return batch, True
            item = self._queue.get()
        return batch, False

    def _commit(self, batch: list[_Task[Any]]) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            outcomes = [self._attempt(task) for task in batch]
            self._connection.execute("COMMIT")
            if self._wrote is not None:
                self._wrote(len(batch))
        except sqlite3.Error as error:
            self._roll_back()
            outcomes = [_Outcome(error=_failure(error)) for _ in batch]
        for task, outcome in zip(batch, outcomes, strict=True):
            outcome.settle(task.future)

    def _attempt(self, task: _Task[Any]) -> _Outcome:
        self._connection.execute("SAVEPOINT task")
        try:
            outcome = _Outcome(result=task.work(self._connection))
        except Exception as error:
            if not self._connection.in_transaction:
                raise  # a full disk has undone the whole batch
            self._connection.execute("ROLLBACK TO task")
            outcome = _Outcome(error=_failure(error) if isinstance(error, sqlite3.Error) else error)
        self._connection.execute("RELEASE task")
        return outcome

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


def _failure(error: sqlite3.Error) -> RegistryError:
    return RegistryError(f"the registry cannot be written: {error}")
