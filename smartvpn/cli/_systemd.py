"""systemd's part: units of ours started and stopped by it, and told why where they do not start."""

from __future__ import annotations

from contextlib import suppress

from smartvpn.cli import _process
from smartvpn.cli._errors import Failure

_SECS = 120.0
_JOURNAL_SECS = 10.0
_OURS = ("smartvpn_daemon: ", "smartvpn-dashboard: ")


def systemctl(*words: str) -> None:
    """Have systemd do it. Raises Failure with the words of the program that did not start, else its own."""
    done = _process.ran(_SECS, "systemctl", *words)
    if done.returncode == 0:
        return
    if words[0] in ("start", "restart") and (reason := _last_complaint(words[-1])):
        raise Failure(f"{words[-1]} does not start: {reason}", f"see `journalctl -u {words[-1]}`")
    lines = (done.stderr or done.stdout).strip().splitlines() or [f"status {done.returncode}"]
    raise Failure(f"systemctl {words[0]}: {lines[0]}", "see `smartvpn logs`")


def is_active(unit: str) -> bool:
    """Whether systemd runs it now."""
    return _process.ran(_SECS, "systemctl", "is-active", "--quiet", unit).returncode == 0


def start_at_each_boot(unit: str, *, again: bool = False) -> None:
    """Now too; `again` where what runs is an older one. Raises Failure."""
    systemctl("daemon-reload")
    systemctl("enable", unit)
    systemctl("restart" if again else "start", unit)


def forget(unit: str) -> None:
    """Stopped, and started at no boot, as well as that can be done; its file is still there."""
    with suppress(Failure):
        systemctl("disable", "--now", unit)


def _last_complaint(unit: str) -> str | None:
    words = ("journalctl", f"--unit={unit}", "--lines=30", "--output=cat", "--no-pager")
    try:
        lines = _process.ran(_JOURNAL_SECS, *words).stdout.splitlines()
    except (OSError, Failure):
        return None
    complaints = [line.partition(": ")[2] for line in lines if line.startswith(_OURS)]
    return complaints[-1] if complaints else None
