"""The SQLite registry: durable, unique, sealed, and never an empty answer for a failed read."""

import asyncio
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from smartvpn.config import ClientEntry, ClientSecurity, RateLimit
from smartvpn.errors import (
    AlreadyExistsError,
    ConflictError,
    NotFoundError,
    RegistryError,
    SmartVpnError,
)
from smartvpn.keys import encode_key
from smartvpn.registry import Registry
from smartvpn.registry._sealing import SealingKey
from smartvpn.registry.records import MIGRATIONS
from smartvpn.registry.sqlite import SqliteRegistry


def entry(number: int, **changes: Any) -> ClientEntry:
    """A client that shares nothing with those of other numbers."""
    fields = {
        "client_id": f"client-{number:06}",
        "public_key": encode_key(number.to_bytes(32)),
        "wg_public_key": encode_key((1 << 255 | number).to_bytes(32)),
        "assigned_ip": f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}",
    }
    return ClientEntry(**{**fields, **changes})


@pytest.fixture(params=["file", "memory"])
async def registry(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Registry]:
    """An empty registry of either kind."""
    path = ":memory:" if request.param == "memory" else tmp_path / "registry.db"
    async with await SqliteRegistry.open(path) as opened:
        yield opened


FULL = entry(
    7,
    security=ClientSecurity(
        ip_allow_list=["10.0.0.0/8"],
        destination_block_list=["192.168.1.*"],
        max_connections=3,
        rate_limit=RateLimit(bytes_per_sec=1000, burst_bytes=2000),
    ),
    priority=5,
    enabled=False,
    tags=["b", "a", "b"],
    description="it's a \u2603\x00",
    expires_at=datetime(2030, 1, 31, 12, 0, 0, 123456, tzinfo=UTC),
    assigned_ip6="fd00::7",
)


@pytest.mark.parametrize("kept", [FULL, entry(1)])
async def test_insert_and_find(registry: Registry, kept: ClientEntry) -> None:
    """An entry comes back equal by its id, either key and either address."""
    await registry.insert(kept)
    assert await registry.get(kept.client_id) == kept
    assert await registry.find_by_public_key(kept.public_key) == kept
    assert await registry.find_by_wg_public_key(kept.wg_public_key) == kept
    assert await registry.find_by_address(kept.assigned_ip) == kept
    if kept.assigned_ip6 is not None:
        assert await registry.find_by_address(kept.assigned_ip6) == kept


async def test_what_is_not_there(registry: Registry) -> None:
    """An id that is not there is an error; a key or address is None."""
    for missing in (registry.get("x"), registry.remove("x"), registry.update(entry(1))):
        with pytest.raises(NotFoundError, match=r"^client '.*' does not exist$"):
            await missing
    assert await registry.find_by_public_key(entry(1).public_key) is None
    assert await registry.find_by_wg_public_key(entry(1).wg_public_key) is None
    assert await registry.find_by_address("10.0.0.1") is None


SHARED = ["public_key", "wg_public_key", "assigned_ip", "assigned_ip6"]


@pytest.mark.parametrize("name", SHARED)
async def test_conflicts(registry: Registry, name: str) -> None:
    """Keys and addresses belong to one client, and a refused write changes nothing."""
    first, second = entry(1, assigned_ip6="fd00::1"), entry(2, assigned_ip6="fd00::2")
    await registry.insert(first)
    thief = attrs.evolve(second, **{name: getattr(first, name)})
    with pytest.raises(ConflictError):
        await registry.insert(thief)
    await registry.insert(second)
    with pytest.raises(ConflictError):
        await registry.update(thief)
    assert await registry.list() == [first, second]


async def test_same_id(registry: Registry) -> None:
    """An id exists once."""
    await registry.insert(entry(1))
    with pytest.raises(AlreadyExistsError, match="client 'client-000001' exists already"):
        await registry.insert(entry(2, client_id="client-000001"))
    assert await registry.list() == [entry(1)]


async def test_update_and_remove(registry: Registry) -> None:
    """An update replaces everything, tags too; a removed client leaves its keys and address free."""
    await registry.insert(FULL)
    changed = entry(7, tags=["c"], assigned_ip="10.9.9.9")
    await registry.update(changed)
    assert await registry.get(FULL.client_id) == changed
    assert (await registry.list(tag="a"), await registry.list(tag="c")) == ([], [changed])
    assert await registry.remove(FULL.client_id) == changed
    assert await registry.list() == []
    await registry.insert(FULL)
    assert await registry.get(FULL.client_id) == FULL


async def test_list(registry: Registry) -> None:
    """Filters combine, pages are in the order of ids, the total counts all that match."""
    clients = [entry(n, enabled=n % 2 == 0, tags=["all"] + ["big"] * (n >= 6)) for n in range(10)]
    for client in reversed(clients):
        await registry.insert(client)
    for arguments, expected in (
        ({}, clients),
        ({"tag": "big"}, clients[6:]),
        ({"tag": "none"}, []),
        ({"enabled": True}, clients[::2]),
        ({"enabled": False, "tag": "big"}, clients[7::2]),
    ):
        page = await registry.list(**arguments)
        assert (page, page.total) == (expected, len(expected))
    page = await registry.list(tag="all", offset=3, limit=4)
    assert (page, page.total) == (clients[3:7], 10)
    assert (await registry.list(limit=0)).total == 10
    assert await registry.list(offset=99) == []


async def test_entries(registry: Registry) -> None:
    """All clients come, once each, over more than one portion."""
    clients = [entry(n) for n in range(1001)]
    await asyncio.gather(*map(registry.insert, clients))
    assert [client async for client in registry.entries()] == clients


async def test_writes_that_fail_do_not_take_others_along(registry: Registry) -> None:
    """Writes that wait together are committed together, and refused one by one."""
    await registry.insert(entry(0))
    results = await asyncio.gather(
        *(registry.insert(entry(n // 2)) for n in range(2, 200)), return_exceptions=True
    )
    assert [type(result) for result in results] == [type(None), AlreadyExistsError] * 99
    assert (await registry.list(limit=0)).total == 100


async def test_cancelled_writes(registry: Registry) -> None:
    """A caller that gives up neither blocks nor breaks the writer."""
    tasks = [asyncio.ensure_future(registry.insert(entry(n))) for n in range(50)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await registry.insert(entry(99))
    assert await registry.get("client-000099") == entry(99)


async def test_closed(registry: Registry) -> None:
    """After closing every call is an error; closing again is none."""
    await registry.close()
    await registry.close()
    for call in (registry.get("x"), registry.insert(entry(1)), registry.get_secret("x")):
        with pytest.raises(RegistryError, match="closed"):
            await call


async def test_secrets(registry: Registry) -> None:
    """Secrets come back, can be replaced and forgotten."""
    assert await registry.get_secret("hub") is None
    await registry.put_secret("hub", b"one")
    await registry.put_secret("hub", b"two")
    assert await registry.get_secret("hub") == b"two"
    await registry.remove_secret("hub")
    await registry.remove_secret("hub")
    assert await registry.get_secret("hub") is None


# files


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
    backup = tmp_path / "registry.db.v1.bak"
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    with closing(sqlite3.connect(backup)) as copy:
        assert copy.execute("PRAGMA user_version").fetchone() == (1,)
        assert copy.execute("SELECT client_id FROM clients").fetchall() == [(FULL.client_id,)]
    with pytest.raises(RegistryError, match="is of version 3, newer than 1"):
        await reopen(path)


async def test_failed_migration_changes_nothing(tmp_path: Path) -> None:
    """A step that fails is undone whole."""
    path = tmp_path / "registry.db"
    await (await reopen(path)).close()
    with pytest.raises(RegistryError, match="cannot be opened"):
        await reopen(path, migrations=(*MIGRATIONS, "CREATE TABLE extra (x TEXT); NONSENSE"))
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (1,)
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
        (tmp_path, "cannot be opened"),
    ):
        with pytest.raises(RegistryError, match=reason):
            await reopen(path)


async def test_damaged_row(tmp_path: Path) -> None:
    """A row that no entry could have written is an error that names the client."""
    path = tmp_path / "registry.db"
    async with await reopen(path) as registry:
        await registry.insert(entry(1))
        await registry._write(
            lambda db: db.execute("UPDATE clients SET security = '{\"maxConnections\": 0}'")
        )
        with pytest.raises(
            RegistryError, match=r"client 'client-000001' is damaged .*security\.maxConnections"
        ):
            await registry.get("client-000001")


async def test_full_disk(tmp_path: Path) -> None:
    """A write that finds no room fails clearly; what was there stays, and smaller writes go on."""
    async with await reopen(tmp_path / "registry.db") as registry:
        await registry.insert(entry(1))
        await registry._write(lambda db: None)
        pages = await registry._read(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
        registry._writer._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        big = entry(2, description="x" * 100_000)
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
    from test_registry import entry
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
    tests = str(Path(__file__).parent)
    command = [sys.executable, "-c", textwrap.dedent(CRASHING), str(path), tests, str(start)]
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
            kept = [client async for client in registry.entries()]
        start = len(kept)
        assert kept == [entry(n, tags=["t"]) for n in range(start)]
        assert last + 1 <= start <= last + 2


# against a model

NUMBERS = st.integers(0, 4)


class RegistryMachine(RuleBasedStateMachine):
    """Any sequence of writes leaves what a dictionary would hold."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.registry = self.runner.run(SqliteRegistry.open(":memory:"))
        self.model: dict[str, ClientEntry] = {}

    def teardown(self) -> None:
        """Close what was opened."""
        self.runner.run(self.registry.close())
        self.runner.close()

    def outcome(self, call: Any) -> type | None:
        """The error class of a call."""
        try:
            self.runner.run(call)
        except SmartVpnError as error:
            return type(error)
        return None

    def clashes(self, new: ClientEntry) -> bool:
        """Whether another client has one of its keys or addresses."""
        others = [old for old in self.model.values() if old.client_id != new.client_id]
        return any(getattr(old, name) == getattr(new, name) for old in others for name in SHARED[:3])

    @rule(number=NUMBERS, key=NUMBERS, tags=st.lists(st.sampled_from("ab"), max_size=3))
    def insert(self, number: int, key: int, tags: list[str]) -> None:
        """Ids and keys exist once."""
        new = entry(number, public_key=entry(key).public_key, tags=tags)
        exists, clashes = new.client_id in self.model, self.clashes(new)
        actual = self.outcome(self.registry.insert(new))
        assert actual is (AlreadyExistsError if exists else ConflictError if clashes else None)
        if actual is None:
            self.model[new.client_id] = new

    @rule(number=NUMBERS, key=NUMBERS, enabled=st.booleans())
    def update(self, number: int, key: int, enabled: bool) -> None:
        """Only what exists can change, and only to what is free."""
        new = entry(number, public_key=entry(key).public_key, enabled=enabled)
        exists, clashes = new.client_id in self.model, self.clashes(new)
        actual = self.outcome(self.registry.update(new))
        assert actual is (ConflictError if exists and clashes else None if exists else NotFoundError)
        if actual is None:
            self.model[new.client_id] = new

    @rule(number=NUMBERS)
    def remove(self, number: int) -> None:
        """What is removed is gone."""
        client_id = entry(number).client_id
        actual = self.outcome(self.registry.remove(client_id))
        assert actual is (None if client_id in self.model else NotFoundError)
        self.model.pop(client_id, None)

    @invariant()
    def same_as_the_model(self) -> None:
        """The registry lists what the model holds, under each filter."""
        everyone = [self.model[client_id] for client_id in sorted(self.model)]
        assert self.runner.run(self.registry.list()) == everyone
        tagged = [client for client in everyone if "a" in client.tags]
        assert self.runner.run(self.registry.list(tag="a")) == tagged
        enabled = [client for client in everyone if client.enabled]
        assert self.runner.run(self.registry.list(enabled=True)) == enabled


RegistryMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestRegistryMachine = RegistryMachine.TestCase
