"""Who gave the command that is being carried out: known at the socket, asked for in the audit log."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_UID: ContextVar[int | None] = ContextVar("smartvpn_caller_uid", default=None)


def caller_uid() -> int:
    """The user id behind the command; outside of one, this process's own."""
    uid = _UID.get()
    return os.geteuid() if uid is None else uid


@contextmanager
def calling_as(uid: int) -> Iterator[None]:
    """Commands that this task, and tasks it starts, carry out meanwhile are the user's."""
    token = _UID.set(uid)
    try:
        yield
    finally:
        _UID.reset(token)
