"""Client entries as rows, and the schema they live in."""

from __future__ import annotations

import json
import sqlite3
from datetime import datetime
from functools import lru_cache
from typing import Any

from smartvpn._json import dump, from_json, to_json
from smartvpn.config import ClientEntry, ClientSecurity
from smartvpn.errors import ConflictError, RegistryError, SmartVpnError

# Each script takes a database from the version of its index to the next one.
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
)

COLUMNS = (
    "client_id",
    "public_key",
    "wg_public_key",
    "assigned_ip",
    "assigned_ip6",
    "security",
    "priority",
    "enabled",
    "description",
    "expires_at",
)

_TAGS = """(SELECT json_group_array(tag) FROM
    (SELECT tag FROM client_tags WHERE client_id = clients.client_id ORDER BY position))"""
SELECT = f"SELECT {', '.join(COLUMNS)}, {_TAGS} FROM clients"
INSERT = f"INSERT INTO clients ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"
UPDATE = f"UPDATE clients SET {', '.join(name + ' = ?' for name in COLUMNS[1:])} WHERE client_id = ?"

_CONFLICTS = {
    "public_key": "the public key belongs to another client",
    "wg_public_key": "the WireGuard public key belongs to another client",
    "assigned_ip": "the address {ip} belongs to another client",
    "assigned_ip6": "the address {ip6} belongs to another client",
}


def row_of(entry: ClientEntry) -> tuple[Any, ...]:
    """The values of COLUMNS."""
    return (
        entry.client_id,
        entry.public_key,
        entry.wg_public_key,
        entry.assigned_ip,
        entry.assigned_ip6,
        dump(entry.security),
        entry.priority,
        int(entry.enabled),
        entry.description,
        None if entry.expires_at is None else to_json(entry.expires_at),
    )


def entry_of(row: tuple[Any, ...]) -> ClientEntry:
    """The entry of a row of SELECT. Raises RegistryError when the row holds what no entry may."""
    *values, tags = row
    fields = dict(zip(COLUMNS, values, strict=True))
    try:
        return ClientEntry(**_restored(fields), tags=json.loads(tags))
    except (ValueError, TypeError) as error:
        raise RegistryError(f"client '{fields['client_id']}' is damaged in the registry: {error}") from None


def _restored(fields: dict[str, Any]) -> dict[str, Any]:
    expires_at = fields["expires_at"]
    return {
        **fields,
        "security": _security(fields["security"]),
        "enabled": bool(fields["enabled"]),
        "expires_at": None if expires_at is None else from_json(expires_at, datetime),
    }


@lru_cache(maxsize=1024)
def _security(text: str) -> ClientSecurity:
    return from_json(json.loads(text), ClientSecurity, "security")


def conflict(error: sqlite3.IntegrityError, entry: ClientEntry) -> SmartVpnError:
    """What a broken UNIQUE constraint means."""
    column = str(error).rpartition("clients.")[2]
    if column in _CONFLICTS:
        return ConflictError(_CONFLICTS[column].format(ip=entry.assigned_ip, ip6=entry.assigned_ip6))
    return RegistryError(f"the registry refused the client: {error}")
