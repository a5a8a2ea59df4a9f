"""What went wrong, in one line with what to do about it, and as an exit status."""

from __future__ import annotations

import json
from enum import IntEnum

import click
from attrs import frozen

from smartvpn.errors import ConfigError, ErrorCode, SmartVpnError


class ExitCode(IntEnum):
    """The command's exit status."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    PERMISSION = 4
    NOT_FOUND = 5
    CONFLICT = 6
    CONFIG = 7
    INTERRUPTED = 130


class Failure(Exception):  # noqa: N818 - not every end without success is an error
    """An error of the command itself: its cause, what to do, and the exit status."""

    def __init__(self, cause: str, fix: str | None = None, status: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(cause)
        self.cause, self.fix, self.status = cause, fix, status


@frozen
class Explained:
    """What is shown of an error."""

    cause: str
    fix: str | None
    status: ExitCode

    def line(self) -> str:
        """One line for people."""
        text = self.cause if self.fix is None else f"{self.cause}; {self.fix}"
        return "smartvpn: " + one_line(text)

    def json(self) -> str:
        """One line for programs."""
        fix = {} if self.fix is None else {"fix": one_line(self.fix)}
        return json.dumps({"error": one_line(self.cause), **fix, "status": int(self.status)})


_STATUS = {
    ErrorCode.NOT_FOUND: ExitCode.NOT_FOUND,
    ErrorCode.ALREADY_EXISTS: ExitCode.CONFLICT,
    ErrorCode.CONFLICT: ExitCode.CONFLICT,
    ErrorCode.INVALID_STATE: ExitCode.CONFLICT,
    ErrorCode.POOL_EXHAUSTED: ExitCode.CONFLICT,
    ErrorCode.PERMISSION: ExitCode.PERMISSION,
    ErrorCode.UNAUTHORIZED: ExitCode.PERMISSION,
    ErrorCode.UNREACHABLE: ExitCode.UNREACHABLE,
    ErrorCode.TIMEOUT: ExitCode.UNREACHABLE,
    ErrorCode.INVALID_PARAMS: ExitCode.CONFIG,
}

_FIXES = {
    ErrorCode.NOT_FOUND: "see `smartvpn client list`",
    ErrorCode.ALREADY_EXISTS: "choose another name, or see `smartvpn client show`",
    ErrorCode.POOL_EXHAUSTED: "remove clients, or give the hub a larger subnet",
    ErrorCode.PERMISSION: "run it as root (sudo)",
    ErrorCode.UNAUTHORIZED: "ask whoever runs the hub",
    ErrorCode.UNREACHABLE: "see `smartvpn doctor`",
    ErrorCode.TIMEOUT: "see `smartvpn doctor` and `smartvpn logs`",
}


def one_line(text: str) -> str:
    """The text on one line, without anything a terminal would obey."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def explain(error: BaseException) -> Explained:
    """Cause, fix and status of any error."""
    match error:
        case Failure():
            return Explained(error.cause, error.fix, error.status)
        case click.UsageError():
            where = error.ctx.command_path if error.ctx else "smartvpn"
            text = error.format_message().rstrip(".")
            return Explained(text[:1].lower() + text[1:], f"see `{where} --help`", ExitCode.USAGE)
        case click.ClickException():
            return Explained(error.format_message(), None, ExitCode.USAGE)
        case ConfigError():
            return Explained(str(error), "correct it and try again", ExitCode.CONFIG)
        case SmartVpnError():
            status = _STATUS.get(error.code, ExitCode.FAILED)
            return Explained(str(error), _FIXES.get(error.code), status)
        case PermissionError():
            return Explained(_of_system(error), "run it as root (sudo)", ExitCode.PERMISSION)
        case FileNotFoundError():
            return Explained(_of_system(error), "check the path", ExitCode.NOT_FOUND)
        case OSError():
            return Explained(_of_system(error), None, ExitCode.FAILED)
        case _:
            # The text of an error that nobody foresaw may hold anything, a key too.
            return Explained(f"internal error ({type(error).__name__})", "please report it", ExitCode.FAILED)


def _of_system(error: OSError) -> str:
    reason = error.strerror or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename else reason
