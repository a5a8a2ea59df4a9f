"""Who carries WireGuard's packets: this process, or the kernel, which knows no rules about packets."""

from __future__ import annotations

import logging

from smartvpn._native import NativeServer, QuicIdentity
from smartvpn.config import ClientEntry, ServerConfig, TransportMode, WgBackend
from smartvpn.errors import ConfigError
from smartvpn.registry.sqlite import SqliteRegistry

log = logging.getLogger(__name__)


async def wanted_backend(config: ServerConfig, registry: SqliteRegistry) -> WgBackend:
    """The config's backend; `userspace` where `auto` finds what the kernel could not hold.

    Raises ConfigError naming `wgBackend` where it is `kernel` and something of the config or the
    registry cannot be held there.
    """
    backend = config.wg_backend
    if backend is WgBackend.USERSPACE or not config.transport_mode.wireguard:
        return WgBackend.USERSPACE
    obstacle = await _obstacle(config, registry)
    if obstacle is None:
        return backend
    if backend is WgBackend.KERNEL:
        raise ConfigError("wgBackend", f"'kernel' cannot be: {obstacle}")
    log.info("WireGuard's packets go through this process: %s", obstacle)
    return WgBackend.USERSPACE


def open_engine(
    config: ServerConfig,
    backend: WgBackend,
    wg_private_key: str | None,
    tun_name: str | None,
    workers: int,
    quic: QuicIdentity | None = None,
) -> tuple[NativeServer, bool]:
    """The hub's engine, and whether the kernel carries WireGuard. Raises SmartVpnError with words."""
    if backend is not WgBackend.USERSPACE:
        try:
            return _open(config, wg_private_key, tun_name, workers, quic, kernel=True), True
        except ConfigError as error:
            if backend is WgBackend.KERNEL or error.field != "wgBackend":
                raise
            log.info("WireGuard's packets go through this process: %s", error)
    return _open(config, wg_private_key, tun_name, workers, quic, kernel=False), False


def _open(
    config: ServerConfig,
    wg_private_key: str | None,
    tun_name: str | None,
    workers: int,
    quic: QuicIdentity | None,
    *,
    kernel: bool,
) -> NativeServer:
    return NativeServer.open(
        config,
        wg_private_key=wg_private_key,
        wg_kernel=kernel,
        quic=quic,
        tun_name=tun_name,
        workers=workers,
    )


async def _obstacle(config: ServerConfig, registry: SqliteRegistry) -> str | None:
    if config.transport_mode is not TransportMode.WIREGUARD:
        return f"it holds transportMode 'wireguard' alone, not '{config.transport_mode}'"
    if config.default_rate_limit() is not None:
        return "it cannot hold defaultRateLimitBytesPerSec"
    for entry in config.clients:
        if rule := _rule(entry):
            return f"it cannot hold {rule} of client '{entry.client_id}'"
    async for portion in registry.portions():
        for entry in portion:
            if rule := _rule(entry):
                return f"it cannot hold {rule} of client '{entry.client_id}'"
    return None


def _rule(entry: ClientEntry) -> str | None:
    """The first rule of the entry that is about packets or sources."""
    security = entry.security
    rules = {
        "ipAllowList": security.ip_allow_list,
        "ipBlockList": security.ip_block_list,
        "destinationAllowList": security.destination_allow_list,
        "destinationBlockList": security.destination_block_list,
        "rateLimit": security.rate_limit,
    }
    return next((name for name, value in rules.items() if value), None)
