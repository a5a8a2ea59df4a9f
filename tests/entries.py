"""Clients for tests of the registry."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from smartvpn.config import ClientEntry, ClientSecurity, RateLimit
from smartvpn.keys import encode_key
from smartvpn.registry import Registry


def entry(number: int, **changes: Any) -> ClientEntry:
    """A client that shares nothing with those of other numbers."""
    fields = {
        "client_id": f"client-{number:06}",
        "public_key": encode_key((1 << 254 | number).to_bytes(32)),
        "wg_public_key": encode_key((1 << 255 | number).to_bytes(32)),
        "assigned_ip": f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}",
    }
    return ClientEntry(**{**fields, **changes})


async def everyone(registry: Registry) -> list[ClientEntry]:
    """All clients, as a hub that starts reads them."""
    return [client async for portion in registry.portions() for client in portion]


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
