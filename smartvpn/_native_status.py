"""Statuses of C become exceptions, by one table whose words are C's."""

from __future__ import annotations

from smartvpn import _native_read as read
from smartvpn._core import lib
from smartvpn.errors import (
    ConfigError,
    ConflictError,
    InvalidStateError,
    NativeError,
    NotFoundError,
    PermissionDeniedError,
    PoolExhaustedError,
    SmartVpnError,
    UnauthorizedError,
    UnreachableError,
    VpnTimeoutError,
)

_EXCEPTIONS: dict[int, type[SmartVpnError]] = {
    lib.SV_E_NOT_FOUND: NotFoundError,
    lib.SV_E_EXISTS: ConflictError,
    lib.SV_E_FULL: PoolExhaustedError,
    lib.SV_E_STATE: InvalidStateError,
    lib.SV_E_PERMISSION: PermissionDeniedError,
    lib.SV_E_IN_USE: ConflictError,
    lib.SV_E_TIMEOUT: VpnTimeoutError,
    lib.SV_E_REFUSED: UnauthorizedError,
    lib.SV_E_AUTH: UnauthorizedError,
    lib.SV_E_UNREACHABLE: UnreachableError,
    lib.SV_E_CLOSED: UnreachableError,
}


def error_of(status: int, words: str = "") -> SmartVpnError:
    """The exception for a status of C; `words` say more than the status does."""
    text = read.text(lib.sv_strerror(status))
    if status == lib.SV_E_INVALID and ": " in words:
        field, _, reason = words.partition(": ")
        return ConfigError(field, reason)
    kind = _EXCEPTIONS.get(status)
    message = words or text
    return NativeError(status, message) if kind is None else kind(message)


def check(status: int) -> None:
    """Raise what a status says, if it is not 0."""
    if status != 0:
        raise error_of(status, read.text(lib.sv_error_detail()))


def check_open(status: int, wg_kernel: bool) -> None:
    """The same of a hub's engine that was to be opened."""
    if wg_kernel and status == lib.SV_E_UNSUPPORTED:
        raise ConfigError("wgBackend", f"'kernel' cannot be: {read.text(lib.sv_error_detail())}")
    check(status)
