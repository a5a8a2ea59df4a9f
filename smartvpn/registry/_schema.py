"""The database's schema, and how a file comes to be of the newest version of it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from smartvpn._files import sync_directory
from smartvpn.errors import RegistryError
from smartvpn.registry._connection import MEMORY, in_transaction

# Each script takes a database from the version of its index to the next one. Those that shipped never change.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE clients (
        client_id TEXT PRIMARY KEY,
        public_key TEXT NOT NULL UNIQUE,
        wg_public_key TEXT NOT NULL UNIQUE,
        assigned_ip TEXT NOT NULL UNIQUE,
        assigned_ip6 TEXT UNIQUE,
        security TEXT NOT NULL,
        priority INTEGER NOT NULL,
        enabled INTEGER NOT NULL,
        description TEXT,
        expires_at TEXT
    ) STRICT;
    CREATE TABLE client_tags (
        client_id TEXT NOT NULL REFERENCES clients ON DELETE CASCADE,
        position INTEGER NOT NULL,
        tag TEXT NOT NULL,
        PRIMARY KEY (client_id, position)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX client_tags_by_tag ON client_tags (tag, client_id);
    CREATE TABLE secrets (
        name TEXT PRIMARY KEY,
        sealed BLOB NOT NULL
    ) STRICT;
    """,
    # Tags as they are stand in the client's row; client_tags is there to find and to count by.
    """
    ALTER TABLE clients ADD COLUMN tags TEXT NOT NULL DEFAULT '[]';
    UPDATE clients SET tags = (
        SELECT json_group_array(tag) FROM
            (SELECT tag FROM client_tags WHERE client_id = clients.client_id ORDER BY position)
    );
    CREATE INDEX clients_by_enabled ON clients (enabled, client_id);
    ALTER TABLE client_tags RENAME TO client_tags_1;
    CREATE TABLE client_tags (
        client_id TEXT NOT NULL REFERENCES clients ON DELETE CASCADE,
        tag TEXT NOT NULL,
        enabled INTEGER NOT NULL,
        PRIMARY KEY (client_id, tag)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO client_tags
        SELECT DISTINCT client_id, tag, clients.enabled FROM client_tags_1 JOIN clients USING (client_id);
    DROP TABLE client_tags_1;
    CREATE INDEX client_tags_by_tag ON client_tags (tag, client_id);
    CREATE INDEX client_tags_by_enabled ON client_tags (tag, enabled, client_id);
    CREATE TABLE audit (
        id INTEGER PRIMARY KEY,
        at TEXT NOT NULL,
        uid INTEGER NOT NULL,
        action TEXT NOT NULL,
        client_id TEXT,
        detail TEXT NOT NULL
    ) STRICT;
    CREATE INDEX audit_by_client ON audit (client_id, id);
    CREATE TABLE totals (
        client_id TEXT PRIMARY KEY REFERENCES clients ON DELETE CASCADE,
        bytes_sent INTEGER NOT NULL,
        bytes_received INTEGER NOT NULL,
        packets_sent INTEGER NOT NULL,
        packets_received INTEGER NOT NULL,
        keepalives_received INTEGER NOT NULL,
        packets_dropped INTEGER NOT NULL,
        bytes_dropped INTEGER NOT NULL,
        dropped_high INTEGER NOT NULL,
        dropped_normal INTEGER NOT NULL,
        dropped_low INTEGER NOT NULL,
        dropped_acl INTEGER NOT NULL,
        dropped_rate_limit INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    """,
)


def create_file(path: Path) -> None:
    """The database's mode goes over to its WAL; its name must survive power loss as its content does."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    sync_directory(path.parent)


def version_of(connection: sqlite3.Connection) -> int:
    """The version of the schema; 0 of a new database."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def migrate(connection: sqlite3.Connection, path: str, migrations: Sequence[str]) -> None:
    """Bring the database forward, after a copy of it was put beside it. Raises RegistryError."""
    version = version_of(connection)
    if version > len(migrations):
        raise RegistryError(f"the registry {path} is of version {version}, newer than {len(migrations)}")
    if version == 0 and connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        raise RegistryError(f"{path} is a database, but no registry")
    if 0 < version < len(migrations) and path != MEMORY:
        _back_up(connection, Path(f"{path}.v{version}.bak"))
    for target in range(version + 1, len(migrations) + 1):
        step = partial(_step, script=migrations[target - 1], version=target)
        in_transaction(connection, "BEGIN IMMEDIATE", step)


def _step(connection: sqlite3.Connection, script: str, version: int) -> None:
    """Another process may have been faster; the version is looked at again under the lock."""
    if version_of(connection) >= version:
        return
    for statement in script.split(";"):
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {version}")


def _back_up(connection: sqlite3.Connection, path: Path) -> None:
    """The copy is whole and on the disk before its name appears; it replaces the one of an attempt before."""
    aside = path.with_name(f".{path.name}")
    os.close(os.open(aside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
    with closing(sqlite3.connect(aside)) as copy:
        connection.backup(copy)
    handle = os.open(aside, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    aside.replace(path)
    sync_directory(path.parent)
