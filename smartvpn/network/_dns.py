"""Name servers of the tunnel: systemd-resolved, resolvconf, or /etc/resolv.conf itself."""

from __future__ import annotations

import logging
import os
import re
import shutil
import socket
import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar

from attrs import frozen

from smartvpn.network import _commands
from smartvpn.network._changes import Change, Record, recorded
from smartvpn.network._journal import namespace_inode

_log = logging.getLogger(__name__)

RESOLV_CONF = Path("/etc/resolv.conf")
_RESOLVED_SOCKET = "/run/systemd/resolve/io.systemd.Resolve"
# Of Debian's resolvconf, and of openresolv in its older and newer form.
_RESOLVCONF_ENTRIES = [Path("/run/resolvconf") / name for name in ("interface", "interfaces", "keys")]
_MOST_SERVERS = 3  # MAXNS of resolv.conf(5)
_HEADING = re.compile(r"(?:Global|Link (\d+) \((.*?)\)):")
_KEPT = ("search", "domain", "options", "sortlist")


def dns_changes(interface: str, index: int, servers: Sequence[str]) -> list[Change]:
    """What makes `servers` answer this machine's questions, by the way that fits it."""
    if not servers:
        return []
    if shutil.which("resolvectl") and _resolved_is_here():
        return [Resolved(interface, index, tuple(servers))]
    if belongs_to_another_network():
        _log.warning("DNS is left alone: %s is shared with another network namespace", RESOLV_CONF)
        return []
    if _resolvconf_is_real() and not _is_mounted(RESOLV_CONF):
        return [Resolvconf(interface, tuple(servers))]
    return [ResolvFile(str(RESOLV_CONF), tuple(servers[:_MOST_SERVERS]))]


def system_servers() -> list[str]:
    """The servers that are asked now, as far as they are no program on this machine."""
    if shutil.which("resolvectl") and _resolved_is_here():
        return _resolved_servers(_commands.run("resolvectl", "dns"))
    return _servers_in(_read(str(RESOLV_CONF)))


def _resolved_is_here() -> bool:
    """Whether systemd-resolved runs, in this very network namespace: it knows links by index only."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(_RESOLVED_SOCKET)
            credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            return _namespace_of(struct.unpack("3i", credentials)[0]) == namespace_inode()
        except PermissionError:
            return shared_with_first_process()
        except OSError:
            return False


@cache
def shared_with_first_process() -> bool:
    """Whether this is process 1's network; yes where that cannot be told, as in a service without rights.

    The answer is kept: the rights to look may be given up.
    """
    try:
        return _namespace_of(1) == namespace_inode()
    except OSError:
        return True


@cache
def belongs_to_another_network() -> bool:
    """Whether resolv.conf is that of a machine whose network is not ours, as in a bare `ip netns exec`."""
    try:
        return not shared_with_first_process() and Path("/proc/1/root/etc/resolv.conf").samefile(RESOLV_CONF)
    except OSError:
        return False


def _namespace_of(pid: int) -> int:
    return Path(f"/proc/{pid}/ns/net").stat().st_ino


def _resolvconf_is_real() -> bool:
    program = shutil.which("resolvconf")
    return program is not None and Path(program).resolve().name != "resolvectl"


def _is_mounted(path: Path) -> bool:
    mounts = Path("/proc/thread-self/mountinfo").read_text().splitlines()
    return str(path) in {line.split()[4] for line in mounts}


class NameServers(Change):
    """Servers that answer for all names."""

    def others(self, before: str | None) -> list[str]:
        """Those that would be asked without ours, as far as is known now; link-local ones with a scope."""
        raise NotImplementedError


@recorded
@frozen
class Resolved(NameServers):
    """systemd-resolved asks these servers about every name."""

    kind: ClassVar[str] = "resolved"
    interface: str
    index: int
    servers: tuple[str, ...]

    @property
    def slot(self) -> tuple[object, ...]:
        return self.kind, self.index

    def apply(self, before: str | None) -> None:
        _commands.run("resolvectl", "dns", self.interface, *self.servers)
        _commands.run("resolvectl", "domain", self.interface, "~.")
        _commands.run("resolvectl", "default-route", self.interface, "yes")

    def undo(self, before: str | None, others: Sequence[Record]) -> None:
        try:
            same = socket.if_nametoindex(self.interface) == self.index
        except OSError:
            return  # resolved forgot it together with the interface
        if same:
            _commands.run("resolvectl", "revert", self.interface)

    def others(self, before: str | None) -> list[str]:
        return _resolved_servers(_commands.run("resolvectl", "dns"), self.interface)


@recorded
@frozen
class Resolvconf(NameServers):
    """resolvconf has an entry of ours with these servers."""

    kind: ClassVar[str] = "resolvconf"
    outlives_namespace: ClassVar[bool] = True
    interface: str
    servers: tuple[str, ...]

    @property
    def slot(self) -> tuple[object, ...]:
        return self.kind, self.interface

    def apply(self, before: str | None) -> None:
        _commands.run("resolvconf", "-a", f"tun.{self.interface}", text=_nameservers(self.servers))

    def undo(self, before: str | None, others: Sequence[Record]) -> None:
        _commands.run("resolvconf", "-d", f"tun.{self.interface}")

    def others(self, before: str | None) -> list[str]:
        entries = [entry for folder in _RESOLVCONF_ENTRIES for entry in sorted(folder.glob("*"))]
        theirs = [entry for entry in entries if entry.name != f"tun.{self.interface}" and entry.is_file()]
        return [server for entry in theirs for server in _servers_in(_read(str(entry)))]


@recorded
@frozen
class ResolvFile(NameServers):
    """The file names these servers.

    It is written in place: it may be a symlink or a mount, which a rename would break. Of several
    tunnels the newest one's servers stand in it, and the last to go brings back what was there, or what
    others have written meanwhile, as after a change of the network.
    """

    kind: ClassVar[str] = "resolv-file"
    outlives_namespace: ClassVar[bool] = True
    path: str
    servers: tuple[str, ...]

    def capture(self, others: Sequence[Record]) -> str | None:
        return next((record.before for record in self._same_file(others)), _read(self.path))

    def recapture(self, before: str | None, others: Sequence[Record]) -> str | None:
        found = _read(self.path)
        return before if found is None or found in self._known(before, others) else found

    def is_lost(self, before: str | None, others: Sequence[Record]) -> bool:
        return os.access(self.path, os.W_OK) and _read(self.path) not in self._known(before, others)

    def apply(self, before: str | None) -> None:
        try:
            _write_in_place(self.path, self.text(before))
        except OSError as error:
            _log.warning("DNS is left alone: cannot write %s: %s", self.path, error.strerror)

    def undo(self, before: str | None, others: Sequence[Record]) -> None:
        heirs = self._same_file(others)
        found = _read(self.path)
        if found is None or found == before or found in [_text(heir) for heir in heirs]:
            return
        if found not in self._left_by_us(before):
            _log.warning("%s is not restored: somebody else changed it since", self.path)
        elif heirs:
            _write_in_place(self.path, _text(heirs[-1]))
        elif before is None:
            Path(self.path).unlink()
        else:
            _write_in_place(self.path, before)

    def others(self, before: str | None) -> list[str]:
        found = _read(self.path)
        ours = found is None or found in self._left_by_us(before)
        return _servers_in(before if ours else found)

    def text(self, before: str | None) -> str:
        """The file's new text; what says nothing about servers is kept."""
        kept = [line for line in (before or "").splitlines() if line.split()[:1] and line.split()[0] in _KEPT]
        lines = "".join(line + "\n" for line in kept)
        return "# Written by smartvpn, which restores it at its end.\n" + lines + _nameservers(self.servers)

    def _left_by_us(self, before: str | None) -> tuple[str, str]:
        """What we write, whole, or cut off by our death before the old text's tail was."""
        ours = self.text(before)
        return ours, ours + (before or "")[len(ours) :]

    def _known(self, before: str | None, others: Sequence[Record]) -> list[str]:
        """What the file says while one of the tunnels has it."""
        return [*self._left_by_us(before), *(_text(record) for record in self._same_file(others))]

    def _same_file(self, others: Sequence[Record]) -> list[Record]:
        return [
            record
            for record in others
            if isinstance(record.change, ResolvFile) and record.change.path == self.path
        ]


def _text(record: Record) -> str:
    change = record.change
    return change.text(record.before) if isinstance(change, ResolvFile) else ""


def _servers_in(text: str | None) -> list[str]:
    lines = (line.split() for line in (text or "").splitlines())
    return [fields[1] for fields in lines if fields[:1] == ["nameserver"] and len(fields) > 1]


def _resolved_servers(listed: str, without: str | None = None) -> list[str]:
    """What `resolvectl dns` lists under headings such as `Link 2 (eth0):`, in one line or more."""
    found, index, link = [], "", ""
    for line in listed.splitlines():
        if heading := _HEADING.match(line):
            index, link = heading[1] or "", heading[2] or ""
        if link != without or not link:
            servers = line[heading.end() if heading else 0 :].split()
            found += [_scoped(server.partition("#")[0], index) for server in servers]
    return found


def _scoped(server: str, index: str) -> str:
    return f"{server}%{index}" if index and server.startswith("fe80:") and "%" not in server else server


def _nameservers(servers: Sequence[str]) -> str:
    return "".join(f"nameserver {server}\n" for server in servers)


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(errors="surrogateescape")
    except OSError:
        return None


def _write_in_place(path: str, text: str) -> None:
    data = text.encode(errors="surrogateescape")
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.pwrite(handle, data, 0)
        os.ftruncate(handle, len(data))
        os.fsync(handle)
    finally:
        os.close(handle)
