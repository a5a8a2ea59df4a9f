"""The registry's file: durable, private, migrated with a copy, and clear about what is wrong with it."""

import asyncio
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from smartvpn._fields import camel_case
from smartvpn.config import ClientSecurity
from smartvpn.errors import NotFoundError, RegistryError
from smartvpn.registry import DamagedClientError
from smartvpn.registry._schema import MIGRATIONS
from smartvpn.registry._sealing import SealingKey
from smartvpn.registry.sqlite import SqliteRegistry, read_audit, read_totals
from smartvpn.types import ClientTotals
from tests.entries import FULL, entry, everyone

ROOT = Path(__file__).resolve().parent.parent
SCHEMAS = ROOT / "tests" / "schemas"
NOW = len(MIGRATIONS)


async def reopen(path: Path, **options: Any) -> SqliteRegistry:
    """The registry at `path`."""
    return await SqliteRegistry.open(path, **options)


async def test_files(tmp_path: Path) -> None:
    """Directory, database, WAL and key are the owner's alone, and no secret is in plain sight."""
    path = tmp_path / "var" / "registry.db"
    async with await reopen(path) as registry:
        await registry.insert(entry(1))
        await registry.put_secret("hub", b"the secret of the hub")
        await registry.get("client-000001")
        files = {child.name: stat.S_IMODE(child.stat().st_mode) for child in path.parent.iterdir()}
        contents = b"".join(child.read_bytes() for child in path.parent.iterdir())
    names = ["registry.db", "registry.db-shm", "registry.db-wal", "registry.db.key"]
    assert files == dict.fromkeys(names, 0o600)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert b"client-000001" in contents
    assert b"the secret of the hub" not in contents
    assert sorted(child.name for child in path.parent.iterdir()) == ["registry.db", "registry.db.key"]


async def test_reopen(tmp_path: Path) -> None:
    """What was written is there after closing."""
    path = tmp_path / "registry.db"
    async with await reopen(path) as registry:
        await registry.insert(FULL)
        await registry.put_secret("hub", b"secret")
    async with await reopen(path) as registry:
        assert await registry.list() == [FULL]
        assert await registry.get_secret("hub") == b"secret"


def pragma(database: sqlite3.Connection, name: str) -> object:
    """The value of a setting."""
    return database.execute(f"PRAGMA {name}").fetchone()[0]


async def test_durability_settings(tmp_path: Path) -> None:
    """Every connection writes ahead and waits for the disk."""
    async with await reopen(tmp_path / "registry.db") as registry:
        for run in (registry._read, registry._write):
            pragmas = [
                await run(partial(pragma, name=name))
                for name in ("journal_mode", "synchronous", "foreign_keys")
            ]
            assert pragmas == ["wal", 2, 1]


async def test_key_file_faults(tmp_path: Path) -> None:
    """A key file that is missing, another, short or open to others stops the opening."""
    path, key = tmp_path / "registry.db", tmp_path / "registry.db.key"
    await (await reopen(path)).close()
    good = key.read_bytes()
    for content, mode, reason in (
        (bytes(32), 0o600, "does not open with the key file"),
        (good[:31], 0o600, "is damaged"),
        (good + b"x", 0o600, "is damaged"),
        (good, 0o640, "is open to others"),
    ):
        key.write_bytes(content)
        key.chmod(mode)
        with pytest.raises(RegistryError, match=reason):
            await reopen(path)
    key.unlink()
    with pytest.raises(RegistryError, match="is missing"):
        await reopen(path)
    key.write_bytes(good)
    key.chmod(0o600)
    await (await reopen(path)).close()


def test_sealing() -> None:
    """The form is nonce, ciphertext, tag; a changed bit, name or length does not open."""
    key = SealingKey.in_memory()
    sealed = key.seal("name", b"secret")
    assert len(sealed) == 24 + 6 + 16
    assert sealed != key.seal("name", b"secret")
    assert key.unseal("name", sealed) == b"secret"
    changed = [sealed[:i] + bytes([sealed[i] ^ 1]) + sealed[i + 1 :] for i in range(len(sealed))]
    for name, value in (
        ("other", sealed),
        ("name", sealed[:-1]),
        ("name", b""),
        *(("name", c) for c in changed),
    ):
        with pytest.raises(RegistryError, match="does not open"):
            key.unseal(name, value)


async def test_migration_with_a_backup(tmp_path: Path) -> None:
    """An older database is copied first, then brought forward in one step a version."""
    path = tmp_path / "registry.db"
    async with await reopen(path) as registry:
        await registry.insert(FULL)
    later = (*MIGRATIONS, "CREATE TABLE extra (x TEXT)", "INSERT INTO extra VALUES ('y')")
    async with await reopen(path, migrations=later) as registry:
        assert await registry.list() == [FULL]
        assert await registry._read(lambda db: db.execute("SELECT x FROM extra").fetchall()) == [("y",)]
    backup = tmp_path / f"registry.db.v{NOW}.bak"
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    with closing(sqlite3.connect(backup)) as copy:
        assert copy.execute("PRAGMA user_version").fetchone() == (NOW,)
        assert copy.execute("SELECT client_id FROM clients").fetchall() == [(FULL.client_id,)]
    with pytest.raises(RegistryError, match=f"is of version {NOW + 2}, newer than {NOW}"):
        await reopen(path)


async def test_failed_migration_changes_nothing(tmp_path: Path) -> None:
    """A step that fails is undone whole."""
    path = tmp_path / "registry.db"
    await (await reopen(path)).close()
    with pytest.raises(RegistryError, match="cannot be opened"):
        await reopen(path, migrations=(*MIGRATIONS, "CREATE TABLE extra (x TEXT); NONSENSE"))
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (NOW,)
        assert not database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'extra'").fetchall()


async def test_other_files(tmp_path: Path) -> None:
    """Neither another program's database nor a text file is taken for a registry."""
    other, text = tmp_path / "other.db", tmp_path / "text"
    with closing(sqlite3.connect(other)) as database:
        database.execute("CREATE TABLE songs (title TEXT)")
        database.commit()
    text.write_text("no database, long enough to be looked at" * 10)
    for path, reason in (
        (other, "but no registry"),
        (text, "not a database"),
        (tmp_path, "cannot be opened: Is a directory$"),
    ):
        with pytest.raises(RegistryError, match=reason):
            await reopen(path)


DAMAGES = {
    "public_key": ("'damaged'", "publicKey: is not a key"),
    "wg_public_key": ("CAST(x'61ff' AS TEXT)", "wgPublicKey: is not valid Unicode"),
    "assigned_ip": ("'10.0.0.300'", "assignedIp: "),
    "assigned_ip6": ("'fd00'", "assignedIp6: "),
    "security": ("'{\"maxConnections\":0}'", "security.maxConnections: 0 is not between"),
    "priority": ("-5000000000", "priority: -5000000000 is not between"),
    "description": ("CAST(x'ff' AS TEXT)", "description: is not valid Unicode"),
    "expires_at": ("'soon'", "expiresAt: is not a time"),
    "tags": ("replace(hex(zeroblob(5000)), '0', '[')", "tags: nested too deeply"),
}


def damage(path: Path, column: str, value: str, number: int = 2) -> None:
    """Another program writes that into a client's row."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f"UPDATE clients SET {column} = {value} WHERE client_id = 'client-{number:06}'")


@pytest.mark.parametrize("column", DAMAGES)
async def test_a_damaged_client(tmp_path: Path, column: str) -> None:
    """It is named with what is wrong, keeps nobody from the others, is mended by what is right, and goes."""
    path, (value, words) = tmp_path / "registry.db", DAMAGES[column]
    async with await reopen(path) as registry:
        for number in (1, 2, 3):
            await registry.insert(entry(number, tags=["t"]))
        damage(path, column, value)
        with pytest.raises(DamagedClientError) as caught:
            await registry.get("client-000002")
        assert str(caught.value).startswith(f"client 'client-000002' is damaged in the registry: {words}")
        assert caught.value.wrong == {column}
        page = await registry.list(tag="t")
        assert (page, page.total) == ([entry(1, tags=["t"]), entry(3, tags=["t"])], 3)
        assert [error.reason for error in page.damaged] == [caught.value.reason]
        assert {client.client_id for client in await everyone(registry)} >= {"client-000001", "client-000003"}
        await registry.update(entry(2, priority=7))
        assert await registry.get("client-000002") == entry(2, priority=7)
        (record, *_) = await registry.audit("client-000002")
        assert camel_case(column) in record.detail
        damage(path, column, value)
        await registry.remove("client-000002")
        assert await registry.list() == [entry(1, tags=["t"]), entry(3, tags=["t"])]


@pytest.mark.parametrize(
    "name", ["CAST(x'636cff' AS TEXT)", "'cl' || char(0) || 'x'", "''", "hex(zeroblob(65))"]
)
async def test_a_client_whose_name_is_damaged(tmp_path: Path, name: str) -> None:
    """It is called by its row's number, and goes by that; a client of such a name is another."""
    path = tmp_path / "registry.db"
    async with await reopen(path) as registry:
        for number in (1, 2, 3):
            await registry.insert(entry(number))
        damage(path, "client_id", name)
        portions = [portion async for portion in registry.portions()]
        assert [client for portion in portions for client in portion] == [entry(1), entry(3)]
        assert [error.entry for portion in portions for error in portion.damaged] == [
            entry(2, client_id="row 2")
        ]
        with pytest.raises(DamagedClientError, match="client 'row 2' is damaged in the registry: clientId: "):
            await registry.get("row 2")
        for other in ("row 1", "row 4", f"row {10**17}"):
            with pytest.raises(NotFoundError):
                await registry.remove(other)
        await registry.insert(entry(4, client_id="row 2"))
        await registry.remove("row 2")
        await registry.remove("row 2")
        assert await registry.list() == [entry(1), entry(3)]
        assert (await registry.list()).damaged == ()


async def test_all_of_a_portion_is_damaged(tmp_path: Path) -> None:
    """What comes behind it is read."""
    path = tmp_path / "registry.db"
    async with await reopen(path) as registry:
        await asyncio.gather(*(registry.insert(entry(number)) for number in range(1, 1002)))
        await registry._write(
            lambda db: db.execute("UPDATE clients SET priority = -1 WHERE client_id < 'client-001001'")
        )
        assert await everyone(registry) == [entry(1001)]


READS: dict[str, Callable[[SqliteRegistry], Awaitable[object]]] = {
    "get": lambda registry: registry.get("client-000001"),
    "get nobody": lambda registry: registry.get("nobody"),
    "find": lambda registry: registry.find_by_public_key(entry(1).public_key),
    "list": lambda registry: registry.list(),
    "list a tag": lambda registry: registry.list(tag="t", enabled=True),
    "everyone": everyone,
    "totals": lambda registry: registry.totals("client-000001"),
    "audit": lambda registry: registry.audit(),
    "secret": lambda registry: registry.get_secret("hub"),
}


async def test_a_read_that_fails_is_an_error(tmp_path: Path) -> None:
    """Where the disk gave other pages back than it was given: never an empty answer, nor another's."""
    path = tmp_path / "registry.db"
    async with await reopen(path) as registry:
        await registry.insert(entry(1, tags=["t"]))
        await registry.put_secret("hub", b"secret")
    async with await reopen(path) as registry:
        with path.open("r+b") as file:
            file.seek(4096)  # behind the first page, which has the schema
            file.write(b"\xa5" * (path.stat().st_size - 4096))
        for read in READS.values():
            with pytest.raises(RegistryError, match=r"cannot be read: .*malformed"):
                await read(registry)
        with pytest.raises(RegistryError, match=r"cannot be written: .*malformed"):
            await registry.insert(entry(2))


async def test_full_disk(tmp_path: Path) -> None:
    """A write that finds no room fails clearly; what was there stays, and smaller writes go on."""
    async with await reopen(tmp_path / "registry.db") as registry:
        await registry.insert(entry(1))
        await registry._write(lambda db: None)
        pages = await registry._read(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
        registry._writer._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        rules = [f"10.{n // 256}.{n % 256}.1" for n in range(10_000)]
        big = entry(2, security=ClientSecurity(ip_block_list=rules))
        results = await asyncio.gather(
            registry.insert(big), registry.insert(entry(3)), return_exceptions=True
        )
        assert isinstance(results[0], RegistryError)
        assert "full" in str(results[0])
        registry._writer._connection.execute("PRAGMA max_page_count = 100000")
        await registry.update(entry(1, priority=1))
        kept = await registry.list()
    assert entry(1, priority=1) in kept
    assert big not in kept
    assert (entry(3) in kept) == (results[1] is None)


CRASHING = """
    import asyncio, sys
    sys.path.insert(0, sys.argv[2])
    from tests.entries import entry
    from smartvpn.registry.sqlite import SqliteRegistry

    async def main():
        registry = await SqliteRegistry.open(sys.argv[1])
        for n in range(int(sys.argv[3]), 100_000):
            await registry.insert(entry(n, tags=["t"]))
            print(n, flush=True)

    asyncio.run(main())
"""


def acknowledged_until_killed(path: Path, start: int, writes: int) -> int:
    """The last write a process saw acknowledged before kill -9 met it after `writes` of them."""
    command = [sys.executable, "-c", textwrap.dedent(CRASHING), str(path), str(ROOT), str(start)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline()) for _ in range(writes)]
        process.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in process.stdout]
    return acknowledged[-1]


async def test_kill_9(tmp_path: Path) -> None:
    """Every acknowledged write is there after kill -9, and at most the one under way besides."""
    path, start = tmp_path / "registry.db", 0
    for writes in (1, 20, 57):
        last = await asyncio.to_thread(acknowledged_until_killed, path, start, writes)
        async with await reopen(path) as registry:
            kept = await everyone(registry)
        start = len(kept)
        assert kept == [entry(n, tags=["t"]) for n in range(start)]
        assert last + 1 <= start <= last + 2


# what shipped


def schema_of(database: sqlite3.Connection) -> list[str]:
    """What was created, in words that spaces do not change."""
    rows = database.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name")
    return [" ".join(sql.split()) for (sql,) in rows]


async def test_the_newest_schema_is_the_one_on_record(tmp_path: Path) -> None:
    """Another schema is another version, with a script of its own and its text in tests/schemas."""
    await (await reopen(tmp_path / "registry.db")).close()
    with (
        closing(sqlite3.connect(tmp_path / "registry.db")) as made,
        closing(sqlite3.connect(":memory:")) as old,
    ):
        old.executescript((SCHEMAS / f"{NOW}.sql").read_text())
        assert schema_of(made) == schema_of(old)
    assert len(list(SCHEMAS.glob("*.sql"))) == NOW


ROW = """
    INSERT INTO clients (client_id, public_key, wg_public_key, assigned_ip, assigned_ip6, security, priority,
        enabled, description, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


def as_version_1(path: Path) -> None:
    """A registry as the first release wrote it: FULL and a plain client."""
    with closing(sqlite3.connect(path)) as database:
        database.executescript((SCHEMAS / "1.sql").read_text())
        security = (
            '{"ipAllowList":["10.0.0.0/8"],"destinationBlockList":["192.168.1.*"],"maxConnections":3,'
            '"rateLimit":{"bytesPerSec":1000,"burstBytes":2000}}'
        )
        keys = (FULL.client_id, FULL.public_key, FULL.wg_public_key, FULL.assigned_ip, FULL.assigned_ip6)
        rest = (5, 0, FULL.description, "2030-01-31T12:00:00.123456Z")
        database.execute(ROW, (*keys, security, *rest))
        one = entry(1)
        keys = (one.client_id, one.public_key, one.wg_public_key, one.assigned_ip, None)
        database.execute(ROW, (*keys, '{"maxConnections":1}', 100, 1, None, None))
        tags = [(FULL.client_id, position, tag) for position, tag in enumerate(FULL.tags)]
        database.executemany("INSERT INTO client_tags VALUES (?, ?, ?)", tags)
        database.execute("PRAGMA user_version = 1")
        database.commit()


async def test_version_1_is_opened(tmp_path: Path) -> None:
    """Everything in it is there, found by every filter, writable; a copy as it was lies beside it."""
    path = tmp_path / "registry.db"
    as_version_1(path)
    path.chmod(0o600)
    async with await reopen(path) as registry:
        assert await registry.list() == [entry(1), FULL]
        assert await registry.list(tag="b", enabled=False) == [FULL]
        assert await registry.list(tag="b", enabled=True) == []
        assert await everyone(registry) == [entry(1), FULL]
        assert await registry.totals(FULL.client_id) == ClientTotals()
        assert await registry.audit() == []
        await registry.update(entry(1, tags=["b"]))
        assert (await registry.list(tag="b")).total == 2
    with closing(sqlite3.connect(tmp_path / "registry.db.v1.bak")) as copy:
        assert copy.execute("PRAGMA user_version").fetchone() == (1,)
        assert copy.execute("SELECT count(*) FROM clients").fetchone() == (2,)


# from outside


async def test_reading_from_outside(tmp_path: Path) -> None:
    """The log and the counters are read from the file, while a hub holds it and after."""
    path = tmp_path / "registry.db"
    before = datetime.now(UTC)
    async with await reopen(path) as registry:
        await registry.insert(entry(1))
        await registry.insert(entry(2))
        await registry.add_totals([("client-000002", ClientTotals(bytes_sent=9))])
        for _ in range(2):
            records = read_audit(path)
            assert [record.client_id for record in records] == ["client-000002", "client-000001"]
            assert before <= records[1].at <= records[0].at
            assert read_totals(path) == {"client-000002": ClientTotals(bytes_sent=9)}
            await registry.close()
    assert [record.client_id for record in read_audit(path, "client-000001")] == ["client-000001"]
    assert read_audit(path, before=records[0].id, limit=5) == records[1:]


def test_reading_what_is_no_registry(tmp_path: Path) -> None:
    """An error says so; nothing is made or migrated."""
    missing, old = tmp_path / "missing.db", tmp_path / "old.db"
    as_version_1(old)
    (tmp_path / "text").write_text("no database, long enough to be looked at" * 10)
    for path, reason in (
        (missing, "unable to open"),
        (old, "is of version 1"),
        (tmp_path / "text", "not a database"),
    ):
        with pytest.raises(RegistryError, match=reason):
            read_audit(path)
    assert sorted(child.name for child in tmp_path.iterdir()) == ["old.db", "text"]
