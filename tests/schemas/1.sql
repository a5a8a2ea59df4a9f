-- The registry's schema, version 1: as it was written, never changed.
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
