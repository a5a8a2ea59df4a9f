"""The registry in a SQLite file.

WAL with synchronous=FULL: a commit that returned is on the disk. One thread writes, and commits
together what waits together; reads run on connections of their own, off the event loop. The
hub's secrets are sealed under a key file beside the database, `<database>.key`.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from smartvpn._files import sync_directory
from smartvpn.config import ClientEntry
from smartvpn.errors import AlreadyExistsError, NotFoundError, RegistryError
from smartvpn.registry import records
from smartvpn.registry._sealing import SealingKey
from smartvpn.registry._writer import Writer
from smartvpn.types import EntryPage

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

MEMORY = ":memory:"
_READERS = 2
_PORTION = 1000
_BUSY_SECS = 10.0
_KEY_CHECK = "key-check"


class SqliteRegistry:
    """A Registry in one file, or in memory; open it with `await SqliteRegistry.open(path)`."""

    def __init__(self, writer: Writer, readers: _Readers | None, key: SealingKey) -> None:
        self._writer = writer
        self._readers = readers
        self._key = key

    @classmethod
    async def open(
        cls, path: str | os.PathLike[str] = MEMORY, *, migrations: Sequence[str] = records.MIGRATIONS
    ) -> Self:
        """Open or create the registry at `path`, mode 0600; ':memory:' keeps everything in memory.

        An older database is migrated after a copy of it was put beside it. Raises RegistryError for
        a file that is no registry, is of a newer version, or whose key file is missing or another.
        """
        return await asyncio.to_thread(cls._open, os.fspath(path), migrations)

    @classmethod
    def _open(cls, path: str, migrations: Sequence[str]) -> Self:
        try:
            return cls._open_file(path, migrations)
        except (OSError, sqlite3.Error) as error:
            raise RegistryError(f"the registry {path} cannot be opened: {error}") from error

    @classmethod
    def _open_file(cls, path: str, migrations: Sequence[str]) -> Self:
        if path != MEMORY:
            _create_file(Path(path))
        connection = _connect(path)
        try:
            _migrate(connection, path, migrations)
            key = _sealing_key(connection, path)
        except BaseException:
            connection.close()
            raise
        return cls(Writer(connection), None if path == MEMORY else _Readers(path), key)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Finish the writes under way and close the file. More calls do nothing."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        if self._readers is not None:
            self._readers.close()
        self._writer.close()

    async def _read(self, work: Work[T]) -> T:
        future = self._writer.submit(work) if self._readers is None else self._readers.submit(work)
        return await asyncio.wrap_future(future)

    async def _write(self, work: Work[T]) -> T:
        return await asyncio.wrap_future(self._writer.submit(work))

    # reading

    async def get(self, client_id: str) -> ClientEntry:
        """The client. Raises NotFoundError."""
        entry = await self._read(lambda db: _find(db, "client_id", client_id))
        if entry is None:
            raise _not_found(client_id)
        return entry

    async def find_by_public_key(self, public_key: str) -> ClientEntry | None:
        """The client with this Noise key."""
        return await self._read(lambda db: _find(db, "public_key", public_key))

    async def find_by_wg_public_key(self, wg_public_key: str) -> ClientEntry | None:
        """The client with this WireGuard key."""
        return await self._read(lambda db: _find(db, "wg_public_key", wg_public_key))

    async def find_by_address(self, assigned_ip: str) -> ClientEntry | None:
        """The client with this address, IPv4 or IPv6."""
        column = "assigned_ip6" if ":" in assigned_ip else "assigned_ip"
        return await self._read(lambda db: _find(db, column, assigned_ip))

    async def list(
        self,
        *,
        tag: str | None = None,
        enabled: bool | None = None,
        offset: int = 0,
        limit: int | None = None,
    ) -> EntryPage:
        """A page of the clients that match, in the order of their ids, and how many match in all."""
        return await self._read(lambda db: _page(db, tag, enabled, offset, limit))

    async def entries(self) -> AsyncIterator[ClientEntry]:
        """All clients in the order of their ids, read in portions."""
        portion = await self._read(partial(_portion, after=None))
        while portion:
            for entry in portion:
                yield entry
            portion = await self._read(partial(_portion, after=portion[-1].client_id))

    # writing

    async def insert(self, entry: ClientEntry) -> None:
        """Add a client. Raises AlreadyExistsError for its id, ConflictError for a key or address."""
        await self._write(lambda db: _insert(db, entry))

    async def update(self, entry: ClientEntry) -> None:
        """Replace the client of that id. Raises NotFoundError, ConflictError."""
        await self._write(lambda db: _update(db, entry))

    async def remove(self, client_id: str) -> ClientEntry:
        """Remove a client and return what it was. Raises NotFoundError."""
        return await self._write(lambda db: _remove(db, client_id))

    # secrets

    async def get_secret(self, name: str) -> bytes | None:
        """A secret of the hub, unsealed. Raises RegistryError when it does not open."""
        sealed = await self._read(lambda db: _sealed(db, name))
        return None if sealed is None else self._key.unseal(name, sealed)

    async def put_secret(self, name: str, value: bytes) -> None:
        """Keep a secret of the hub, sealed."""
        sealed = self._key.seal(name, value)
        await self._write(lambda db: _put_sealed(db, name, sealed))

    async def remove_secret(self, name: str) -> None:
        """Forget a secret; one that is not there is no error."""
        await self._write(lambda db: _execute(db, "DELETE FROM secrets WHERE name = ?", name))


class _Readers:
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
            return _in_transaction(self._connection(), "BEGIN", work)
        except sqlite3.Error as error:
            raise RegistryError(f"the registry cannot be read: {error}") from error

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = _connect(self._path)
            connection.execute("PRAGMA query_only = ON")
            self._local.connection = connection
            self._connections.append(connection)
        return connection


# opening


def _create_file(path: Path) -> None:
    """The database's mode goes over to its WAL; its name must survive power loss as its content does."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    sync_directory(path.parent)


def _connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_SECS, isolation_level=None, check_same_thread=False)
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    return connection


def _in_transaction(connection: sqlite3.Connection, begin: str, work: Work[T]) -> T:
    connection.execute(begin)
    try:
        result = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return result


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _migrate(connection: sqlite3.Connection, path: str, migrations: Sequence[str]) -> None:
    version = _version(connection)
    if version > len(migrations):
        raise RegistryError(f"the registry {path} is of version {version}, newer than {len(migrations)}")
    if version == 0 and connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        raise RegistryError(f"{path} is a database, but no registry")
    if 0 < version < len(migrations) and path != MEMORY:
        _back_up(connection, Path(f"{path}.v{version}.bak"))
    for target in range(version + 1, len(migrations) + 1):
        step = partial(_step, script=migrations[target - 1], version=target)
        _in_transaction(connection, "BEGIN IMMEDIATE", step)


def _step(connection: sqlite3.Connection, script: str, version: int) -> None:
    """Another process may have been faster; the version is looked at again under the lock."""
    if _version(connection) >= version:
        return
    for statement in script.split(";"):
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {version}")


def _back_up(connection: sqlite3.Connection, path: Path) -> None:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
    with closing(sqlite3.connect(path)) as copy:
        connection.backup(copy)
    sync_directory(path.parent)


def _sealing_key(connection: sqlite3.Connection, path: str) -> SealingKey:
    """The key that opens the check value; a registry without one is new and gets it."""
    check = _sealed(connection, _KEY_CHECK)
    if path == MEMORY:
        return SealingKey.in_memory()
    key = SealingKey.from_file(Path(f"{path}.key"), create=check is None)
    if check is None:
        sealed = key.seal(_KEY_CHECK, b"")
        _in_transaction(connection, "BEGIN IMMEDIATE", lambda db: _put_sealed(db, _KEY_CHECK, sealed))
    else:
        key.unseal(_KEY_CHECK, check)
    return key


# statements


def _execute(connection: sqlite3.Connection, statement: str, *values: Any) -> int:
    return connection.execute(statement, values).rowcount


def _find(connection: sqlite3.Connection, column: str, value: str) -> ClientEntry | None:
    row = connection.execute(f"{records.SELECT} WHERE {column} = ?", (value,)).fetchone()
    return None if row is None else records.entry_of(row)


def _page(
    connection: sqlite3.Connection, tag: str | None, enabled: bool | None, offset: int, limit: int | None
) -> EntryPage:
    conditions: list[str] = []
    values: list[Any] = []
    if tag is not None:
        conditions.append("client_id IN (SELECT client_id FROM client_tags WHERE tag = ?)")
        values.append(tag)
    if enabled is not None:
        conditions.append("enabled = ?")
        values.append(int(enabled))
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    total = connection.execute(f"SELECT count(*) FROM clients{where}", values).fetchone()[0]
    statement = f"{records.SELECT}{where} ORDER BY client_id LIMIT ? OFFSET ?"
    rows = connection.execute(statement, (*values, -1 if limit is None else limit, offset))
    return EntryPage(map(records.entry_of, rows), total)


def _portion(connection: sqlite3.Connection, after: str | None) -> Sequence[ClientEntry]:
    where, values = ("", ()) if after is None else (" WHERE client_id > ?", (after,))
    rows = connection.execute(f"{records.SELECT}{where} ORDER BY client_id LIMIT {_PORTION}", values)
    return [records.entry_of(row) for row in rows]


def _insert(connection: sqlite3.Connection, entry: ClientEntry) -> None:
    if connection.execute("SELECT 1 FROM clients WHERE client_id = ?", (entry.client_id,)).fetchone():
        raise AlreadyExistsError(f"client '{entry.client_id}' exists already")
    try:
        connection.execute(records.INSERT, records.row_of(entry))
    except sqlite3.IntegrityError as error:
        raise records.conflict(error, entry) from None
    _insert_tags(connection, entry)


def _insert_tags(connection: sqlite3.Connection, entry: ClientEntry) -> None:
    rows = [(entry.client_id, position, tag) for position, tag in enumerate(entry.tags)]
    connection.executemany("INSERT INTO client_tags (client_id, position, tag) VALUES (?, ?, ?)", rows)


def _update(connection: sqlite3.Connection, entry: ClientEntry) -> None:
    client_id, *values = records.row_of(entry)
    try:
        changed = _execute(connection, records.UPDATE, *values, client_id)
    except sqlite3.IntegrityError as error:
        raise records.conflict(error, entry) from None
    if not changed:
        raise _not_found(entry.client_id)
    _execute(connection, "DELETE FROM client_tags WHERE client_id = ?", entry.client_id)
    _insert_tags(connection, entry)


def _remove(connection: sqlite3.Connection, client_id: str) -> ClientEntry:
    entry = _find(connection, "client_id", client_id)
    if entry is None:
        raise _not_found(client_id)
    _execute(connection, "DELETE FROM clients WHERE client_id = ?", client_id)
    return entry


def _not_found(client_id: str) -> NotFoundError:
    return NotFoundError(f"client '{client_id}' does not exist")


def _sealed(connection: sqlite3.Connection, name: str) -> bytes | None:
    row = connection.execute("SELECT sealed FROM secrets WHERE name = ?", (name,)).fetchone()
    return None if row is None else bytes(row[0])


def _put_sealed(connection: sqlite3.Connection, name: str, sealed: bytes) -> None:
    _execute(connection, "INSERT OR REPLACE INTO secrets (name, sealed) VALUES (?, ?)", name, sealed)
