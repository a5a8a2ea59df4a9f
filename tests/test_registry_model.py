"""The registry against a model: any sequence of calls leaves what two dictionaries would hold."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from attrs import evolve
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from smartvpn.config import ClientEntry
from smartvpn.errors import AlreadyExistsError, ConflictError, NotFoundError, SmartVpnError
from smartvpn.registry import Origin
from smartvpn.registry.sqlite import SqliteRegistry
from smartvpn.types import ClientTotals
from tests.entries import entry, everyone

NUMBERS = st.integers(0, 4)
TAGS = st.lists(st.sampled_from("ab"), max_size=3)
UNIQUE = ("public_key", "wg_public_key", "assigned_ip", "assigned_ip6")


class RegistryMachine(RuleBasedStateMachine):
    """Clients and their counters; ids, keys and addresses are few, so that they clash often."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp())
        self.registry = self.runner.run(SqliteRegistry.open(self.folder / "registry.db"))
        self.clients: dict[str, ClientEntry] = {}
        self.sent: Counter[str] = Counter()
        self.actions: list[tuple[str, str]] = []

    def teardown(self) -> None:
        """Close what was opened."""
        self.runner.run(self.registry.close())
        self.runner.close()
        shutil.rmtree(self.folder)

    def outcome(self, call: Any) -> type | None:
        """The error class of a call."""
        try:
            self.runner.run(call)
        except SmartVpnError as error:
            return type(error)
        return None

    def clashes(self, new: ClientEntry) -> bool:
        """Whether another client has one of its keys or addresses."""
        others = [old for old in self.clients.values() if old.client_id != new.client_id]
        return any(getattr(old, name) == getattr(new, name) is not None for old in others for name in UNIQUE)

    @rule(number=NUMBERS, key=NUMBERS, address=NUMBERS, tags=TAGS, enabled=st.booleans())
    def insert(self, number: int, key: int, address: int, tags: list[str], enabled: bool) -> None:
        """Ids, keys and addresses exist once."""
        shared = {"public_key": entry(key).public_key, "assigned_ip": entry(address).assigned_ip}
        new = entry(number, **shared, tags=tags, enabled=enabled)
        exists, clashes = new.client_id in self.clients, self.clashes(new)
        actual = self.outcome(self.registry.insert(new))
        assert actual is (AlreadyExistsError if exists else ConflictError if clashes else None)
        if actual is None:
            self.clients[new.client_id] = new
            self.actions.append(("createClient", new.client_id))

    @rule(number=NUMBERS, key=NUMBERS, address=NUMBERS, tags=TAGS, enabled=st.booleans())
    def update(self, number: int, key: int, address: int, tags: list[str], enabled: bool) -> None:
        """Only what exists can change, and only to what is free."""
        shared = {"wg_public_key": entry(key).wg_public_key, "assigned_ip6": f"fd00::{address + 1}"}
        new = entry(number, **shared, tags=tags, enabled=enabled)
        exists, clashes = new.client_id in self.clients, self.clashes(new)
        actual = self.outcome(self.registry.update(new, Origin(uid=5, action="enableClient")))
        assert actual is (NotFoundError if not exists else ConflictError if clashes else None)
        if actual is None:
            self.clients[new.client_id] = new
            self.actions.append(("enableClient", new.client_id))

    @rule(number=NUMBERS)
    def remove(self, number: int) -> None:
        """What is removed is gone, its counters too."""
        client_id = entry(number).client_id
        actual = self.outcome(self.registry.remove(client_id))
        assert actual is (None if client_id in self.clients else NotFoundError)
        if actual is None:
            del self.clients[client_id], self.sent[client_id]
            self.actions.append(("removeClient", client_id))

    @rule(numbers=st.sets(NUMBERS), count=st.integers(0, 9))
    def count(self, numbers: set[int], count: int) -> None:
        """Counters add up, for those who exist."""
        ids = [entry(number).client_id for number in numbers]
        counted = ClientTotals(bytes_sent=count)
        self.runner.run(self.registry.add_totals([(client_id, counted) for client_id in ids]))
        self.sent.update({client_id: count for client_id in ids if client_id in self.clients})

    @rule(numbers=st.sets(NUMBERS), shift=st.integers(1, 3))
    def readdress(self, numbers: set[int], shift: int) -> None:
        """IPv6 addresses rotate among those that change."""
        for number in numbers:
            client_id = entry(number).client_id
            if client_id in self.clients:
                self.clients[client_id] = evolve(
                    self.clients[client_id], assigned_ip6=f"fd00:{shift}::{number + 1}"
                )
        wanted = {entry(number).client_id: f"fd00:{shift}::{number + 1}" for number in numbers}
        self.runner.run(self.registry.readdress(wanted))

    @rule()
    def reopen(self) -> None:
        """Nothing hangs on the process."""
        self.runner.run(self.registry.close())
        self.registry = self.runner.run(SqliteRegistry.open(self.folder / "registry.db"))

    @invariant()
    def lists_what_the_model_holds(self) -> None:
        """Under each filter and in each page."""
        run, clients = self.runner.run, [self.clients[client_id] for client_id in sorted(self.clients)]
        assert run(everyone(self.registry)) == clients
        for tag in (None, "a"):
            for enabled in (None, True, False):
                wanted = [
                    client
                    for client in clients
                    if (tag is None or tag in client.tags) and enabled in (None, client.enabled)
                ]
                page = run(self.registry.list(tag=tag, enabled=enabled, offset=1, limit=2))
                assert (page, page.total) == (wanted[1:3], len(wanted))

    @invariant()
    def counts_what_the_model_counts(self) -> None:
        """And has on record what was done, in its order."""
        for client_id in self.clients:
            assert self.runner.run(self.registry.totals(client_id)).bytes_sent == self.sent[client_id]
        records = self.runner.run(self.registry.audit())
        assert [(record.action, record.client_id) for record in reversed(records)] == self.actions


RegistryMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestRegistryMachine = RegistryMachine.TestCase
