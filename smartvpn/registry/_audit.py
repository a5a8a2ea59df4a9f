"""Who changed what, and when."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from attrs import Factory, field, frozen

KEPT_RECORDS = 100_000


@frozen(kw_only=True)
class Origin:
    """Where a change comes from: the user id behind it, and the name of the command."""

    uid: int = Factory(os.geteuid)
    action: str


@frozen(kw_only=True)
class AuditRecord:
    """One change. `id` grows with time; `detail` holds the new values of what changed, never a secret.

    Where the values would be longer than 2048 characters, `detail` is `{"tooLong": [the fields' names]}`.
    The newest 100,000 records are kept.
    """

    id: int
    at: datetime
    uid: int
    action: str
    client_id: str | None = None
    detail: Mapping[str, Any] = field(factory=dict)
