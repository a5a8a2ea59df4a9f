-- The registry's schema, version 2: as it was written, never changed.
CREATE TABLE audit (
    id INTEGER PRIMARY KEY,
    at TEXT NOT NULL,
    uid INTEGER NOT NULL,
    action TEXT NOT NULL,
    client_id TEXT,
    detail TEXT NOT NULL
) STRICT;
CREATE TABLE client_tags (
    client_id TEXT NOT NULL REFERENCES clients ON DELETE CASCADE,
    tag TEXT NOT NULL,
    enabled INTEGER NOT NULL,
    PRIMARY KEY (client_id, tag)
) STRICT, WITHOUT ROWID;
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
, tags TEXT NOT NULL DEFAULT '[]') STRICT;
CREATE TABLE secrets (
    name TEXT PRIMARY KEY,
    sealed BLOB NOT NULL
) STRICT;
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
CREATE INDEX audit_by_client ON audit (client_id, id);
CREATE INDEX client_tags_by_enabled ON client_tags (tag, enabled, client_id);
CREATE INDEX client_tags_by_tag ON client_tags (tag, client_id);
CREATE INDEX clients_by_enabled ON clients (enabled, client_id);
