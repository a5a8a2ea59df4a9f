"""The SQLite registry: unique, sealed, every change on record; a failed read is never an empty answer."""

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import attrs
import pytest

from smartvpn.config import ClientEntry, ClientSecurity
from smartvpn.errors import (
    AlreadyExistsError,
    ConflictError,
    NotFoundError,
    RegistryError,
)
from smartvpn.registry import Origin, Registry, _statements as statements
from smartvpn.registry.sqlite import SqliteRegistry
from smartvpn.types import ClientTotals, DropCounters
from tests.entries import FULL, entry, everyone


@pytest.fixture(params=["file", "memory"])
async def registry(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Registry]:
    """An empty registry of either kind."""
    path = ":memory:" if request.param == "memory" else tmp_path / "registry.db"
    async with await SqliteRegistry.open(path) as opened:
        yield opened


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
    assert await everyone(registry) == clients


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


# the audit log

ALICE = entry(1, client_id="alice")
BY_BOB = Origin(uid=1234, action="enableClient")


async def test_every_change_is_on_record(registry: Registry) -> None:
    """Who, when, by which command, to whom, and the new values of what changed; the newest comes first."""
    began = datetime.now(UTC)
    await registry.insert(attrs.evolve(ALICE, tags=["a"], description="d"))
    await registry.update(attrs.evolve(ALICE, tags=["b"], description="d", enabled=False), BY_BOB)
    await registry.note(Origin(uid=7, action="addWgPeer"), publicKey="x")
    await registry.remove("alice", Origin(uid=0, action="removeClient"))
    records = await registry.audit()
    assert [(record.uid, record.action, record.client_id) for record in records] == [
        (0, "removeClient", "alice"),
        (7, "addWgPeer", None),
        (1234, "enableClient", "alice"),
        (os.geteuid(), "createClient", "alice"),
    ]
    assert [record.detail for record in records[:3]] == [
        {},
        {"publicKey": "x"},
        {"enabled": False, "tags": ["b"]},
    ]
    assert records[3].detail["publicKey"] == ALICE.public_key
    moments = [began, *(record.at for record in reversed(records)), datetime.now(UTC)]
    assert moments == sorted(moments)


async def test_the_log_in_pages(registry: Registry) -> None:
    """Of one client or of all; the id of the oldest one known leads to those before it."""
    for number in range(3):
        await registry.insert(entry(number))
        await registry.update(entry(number, priority=1))
    records = await registry.audit(limit=4)
    assert [record.client_id for record in records] == ["client-000002"] * 2 + ["client-000001"] * 2
    assert [record.client_id for record in await registry.audit(before=records[-1].id)] == [
        "client-000000"
    ] * 2
    mine = await registry.audit("client-000001")
    assert [record.action for record in mine] == ["updateClient", "createClient"]
    assert await registry.audit("client-000001", before=mine[-1].id) == []


async def test_what_is_refused_is_not_on_record(registry: Registry) -> None:
    """A write that failed has no record, whatever it waited with."""
    calls = (registry.insert(entry(1)), registry.insert(entry(1)), registry.update(entry(2)))
    await asyncio.gather(*calls, return_exceptions=True)
    assert [record.action for record in await registry.audit()] == ["createClient"]


async def test_a_long_change_is_told_by_its_fields(registry: Registry) -> None:
    """A record is bounded, whatever somebody writes into an entry."""
    rules = ClientSecurity(ip_block_list=[f"10.0.{n // 256}.{n % 256}" for n in range(1000)])
    await registry.insert(entry(1))
    await registry.update(entry(1, security=rules, priority=1))
    (record,) = await registry.audit(limit=1)
    assert record.detail == {"tooLong": ["priority", "security"]}


async def test_the_log_is_bounded(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest records make room, one for one."""
    monkeypatch.setattr(statements, "KEPT_RECORDS", 10)
    for number in range(25):
        await registry.insert(entry(number))
    records = await registry.audit()
    assert [record.client_id for record in records] == [f"client-{n:06}" for n in range(24, 14, -1)]


# counters

SOME = ClientTotals(bytes_sent=1, packets_received=1 << 62, drops=DropCounters(acl=3))


async def test_counters_add_up(registry: Registry) -> None:
    """Each write adds; a client without any has zeros, one that does not exist is an error."""
    await registry.insert(entry(1))
    await registry.insert(entry(2))
    assert await registry.totals("client-000001") == ClientTotals()
    await registry.add_totals([("client-000001", SOME), ("client-000002", SOME)])
    await registry.add_totals([("client-000001", ClientTotals(bytes_sent=4, drops=DropCounters(acl=1)))])
    assert await registry.totals("client-000001") == attrs.evolve(
        SOME, bytes_sent=5, drops=DropCounters(acl=4)
    )
    assert await registry.totals("client-000002") == SOME
    with pytest.raises(NotFoundError):
        await registry.totals("x")


async def test_counters_go_with_their_client(registry: Registry) -> None:
    """One that was removed counts no more, and another of its name starts at 0."""
    await registry.insert(entry(1))
    await registry.add_totals([("client-000001", SOME)])
    await registry.remove("client-000001")
    await registry.add_totals([("client-000001", SOME)])
    await registry.insert(entry(1))
    assert await registry.totals("client-000001") == ClientTotals()


async def test_readdress(registry: Registry) -> None:
    """IPv6 addresses may change hands in one write, and leave no record: they follow from the subnet."""
    await registry.insert(entry(1, assigned_ip6="fd00::1"))
    await registry.insert(entry(2, assigned_ip6="fd00::2"))
    await registry.insert(entry(3, assigned_ip6="fd00::3"))
    await registry.readdress({"client-000001": "fd00::2", "client-000002": "fd00::1", "client-000003": None})
    found = [client.assigned_ip6 for client in await everyone(registry)]
    assert found == ["fd00::2", "fd00::1", None]
    assert len(await registry.audit()) == 3
