"""Every exception smartvpn raises, and the code each one has in the JSON protocol.

SmartVpnError                  INTERNAL
├── ConfigError                INVALID_PARAMS     a field of a config or command is wrong
├── InvalidKeyError            INVALID_PARAMS     text or bytes that are no key
├── BadRequestError            BAD_REQUEST        a line that is no request
├── UnknownMethodError         UNKNOWN_METHOD
├── NotFoundError              NOT_FOUND
├── AlreadyExistsError         ALREADY_EXISTS
├── ConflictError              CONFLICT           a key or address that somebody else has
├── InvalidStateError          INVALID_STATE      the command does not fit what is running
├── PoolExhaustedError         POOL_EXHAUSTED     no address is free
├── PermissionDeniedError      PERMISSION
├── VpnTimeoutError            TIMEOUT
├── UnauthorizedError          UNAUTHORIZED       the hub refused this client
├── UnreachableError           UNREACHABLE        the hub, or the daemon, cannot be reached
├── RegistryError              INTERNAL           the registry cannot be read or written
└── NativeError                INTERNAL           the C library failed with a status
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class ErrorCode(StrEnum):
    """The `code` of an error answer."""

    BAD_REQUEST = "BAD_REQUEST"
    UNKNOWN_METHOD = "UNKNOWN_METHOD"
    INVALID_PARAMS = "INVALID_PARAMS"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    CONFLICT = "CONFLICT"
    INVALID_STATE = "INVALID_STATE"
    POOL_EXHAUSTED = "POOL_EXHAUSTED"
    PERMISSION = "PERMISSION"
    TIMEOUT = "TIMEOUT"
    UNAUTHORIZED = "UNAUTHORIZED"
    UNREACHABLE = "UNREACHABLE"
    INTERNAL = "INTERNAL"


class SmartVpnError(Exception):
    """Base of all errors of this package; `code` is what an error answer carries."""

    code: ClassVar[ErrorCode] = ErrorCode.INTERNAL


class ConfigError(SmartVpnError, ValueError):
    """A field of a configuration or of a command's params is wrong.

    `field` is its JSON path, such as `clients[2].security.ipAllowList[0]`, empty when the
    value as a whole is wrong; `reason` says what was wrong and never repeats a secret.
    """

    code = ErrorCode.INVALID_PARAMS

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str, str]]:
        return type(self), (self.field, self.reason)

    @classmethod
    def from_message(cls, message: str) -> ConfigError:
        """The error whose text is `message`, as the other end of the JSON protocol sees it."""
        field, colon, reason = message.partition(": ")
        if colon and field and " " not in field:
            return cls(field, reason)
        return cls("", message)


class InvalidKeyError(SmartVpnError, ValueError):
    """Text or bytes that are no 32-byte key; the message never repeats them."""

    code = ErrorCode.INVALID_PARAMS


class BadRequestError(SmartVpnError):
    """A line that is no JSON request, or is too long."""

    code = ErrorCode.BAD_REQUEST


class UnknownMethodError(SmartVpnError):
    """A method this daemon mode does not have."""

    code = ErrorCode.UNKNOWN_METHOD


class NotFoundError(SmartVpnError):
    """The client, session or peer does not exist."""

    code = ErrorCode.NOT_FOUND


class AlreadyExistsError(SmartVpnError):
    """A client of that id, or a peer of that key, exists."""

    code = ErrorCode.ALREADY_EXISTS


class ConflictError(SmartVpnError):
    """A key or address belongs to somebody else."""

    code = ErrorCode.CONFLICT


class InvalidStateError(SmartVpnError):
    """The command does not fit the present state, such as a second `start`."""

    code = ErrorCode.INVALID_STATE


class PoolExhaustedError(SmartVpnError):
    """No address of the subnet is free."""

    code = ErrorCode.POOL_EXHAUSTED


class PermissionDeniedError(SmartVpnError):
    """The system or the daemon does not allow it."""

    code = ErrorCode.PERMISSION


class VpnTimeoutError(SmartVpnError, TimeoutError):
    """No answer came in time."""

    code = ErrorCode.TIMEOUT


class UnauthorizedError(SmartVpnError):
    """The hub refused this client; the message carries its reason."""

    code = ErrorCode.UNAUTHORIZED


class UnreachableError(SmartVpnError, ConnectionError):
    """The hub, or the daemon's socket, cannot be reached."""

    code = ErrorCode.UNREACHABLE


class RegistryError(SmartVpnError):
    """The registry cannot be opened, read or written."""


class NativeError(SmartVpnError):
    """The C library failed; `status` is its negative error number."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    def __reduce__(self) -> tuple[type[NativeError], tuple[int, str]]:
        return type(self), (self.status, str(self))


_BY_CODE: dict[ErrorCode, type[SmartVpnError]] = {
    error.code: error
    for error in (
        BadRequestError,
        UnknownMethodError,
        NotFoundError,
        AlreadyExistsError,
        ConflictError,
        InvalidStateError,
        PoolExhaustedError,
        PermissionDeniedError,
        VpnTimeoutError,
        UnauthorizedError,
        UnreachableError,
        SmartVpnError,
    )
}


def error_from_code(code: str, message: str) -> SmartVpnError:
    """The exception that stands for an error answer; an unknown code is a plain SmartVpnError."""
    if code == ErrorCode.INVALID_PARAMS:
        return ConfigError.from_message(message)
    if code in ErrorCode.__members__:
        return _BY_CODE[ErrorCode(code)](message)
    return SmartVpnError(f"{message} ({code})")
