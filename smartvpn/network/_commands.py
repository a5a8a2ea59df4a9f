"""Running the system's own tools, the few that have no better interface."""

from __future__ import annotations

import subprocess

from smartvpn.errors import NotFoundError, PermissionDeniedError, SmartVpnError, VpnTimeoutError

_TIMEOUT_SECONDS = 20


def run(*command: str, text: str = "") -> str:
    """Run a tool with `text` on its input and return its output. Raises SmartVpnError."""
    try:
        result = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
        )
    except FileNotFoundError:
        raise NotFoundError(f"the program {command[0]} is not installed") from None
    except PermissionError as error:
        raise PermissionDeniedError(f"cannot run {command[0]}: {error.strerror}") from error
    except subprocess.TimeoutExpired:
        raise VpnTimeoutError(f"{command[0]} did not end within {_TIMEOUT_SECONDS} s") from None
    if result.returncode:
        reason = (result.stderr or result.stdout).strip() or f"status {result.returncode}"
        raise SmartVpnError(f"{command[0]} failed: {reason.splitlines()[0]}")
    return result.stdout
