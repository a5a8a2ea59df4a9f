"""What `smartvpn doctor` looks at. Each check says what it found, and what to do where that is not well."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from pathlib import Path

from attrs import frozen

import smartvpn
from smartvpn._address import join_host_port
from smartvpn.config import ServerConfig
from smartvpn.wgconfig import default_interface

_TUN = Path("/dev/net/tun")
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_FORWARDING = {
    "IPv4": Path("/proc/sys/net/ipv4/ip_forward"),
    "IPv6": Path("/proc/sys/net/ipv6/conf/all/forwarding"),
}
_PROBES, _PROBE_SECS = 3, 1.0
_PINGED_MTUS = (1500, 1480, 1440, 1400, 1280)
_LEAST_MTU = 576
_TOLD_MTU = re.compile(r"mtu ?[:=] ?(\d+)")
_IP_AND_ICMP = {socket.AF_INET: 28, socket.AF_INET6: 48}
_IP_VERSIONS = {socket.AF_INET: 4, socket.AF_INET6: 6}
_TRANSPORTS = {"quic": "QUIC", "websocket": "WebSocket", "wireguard": "WireGuard"}
_WORST_CLOCK_SECS = 60
_QUIC_MIN_DATAGRAM = 1200


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@frozen
class Check:
    """What was looked at, how it is, and what to do."""

    name: str
    verdict: Verdict
    detail: str
    fix: str | None = None


def _ok(name: str, detail: str) -> Check:
    return Check(name, Verdict.OK, detail)


def _warn(name: str, detail: str, fix: str | None = None) -> Check:
    return Check(name, Verdict.WARN, detail, fix)


def _fail(name: str, detail: str, fix: str) -> Check:
    return Check(name, Verdict.FAIL, detail, fix)


# this machine


def platform() -> Check:
    """Tunnels need Linux."""
    if sys.platform != "linux":
        return _fail("platform", f"{sys.platform} has no TUN devices of Linux", "run the hub on Linux")
    release = os.uname().release
    return _ok("platform", f"Linux {release}")


def tun() -> Check:
    """Whether a device can be made; it is gone again at once."""
    try:
        handle = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return _fail("tun", f"{_TUN} is missing", "run `modprobe tun`, or give the container the device")
    except PermissionError:
        return _fail("tun", f"{_TUN} cannot be opened", "run it as root, or `chmod 666 /dev/net/tun`")
    except OSError as error:
        return _fail("tun", f"{_TUN}: {error.strerror}", "run `modprobe tun`")
    try:
        fcntl.ioctl(handle, _TUNSETIFF, struct.pack("16sH22x", b"svdoctor%d", _IFF_TUN | _IFF_NO_PI))
    except OSError as error:
        return _fail("tun", f"no device can be made: {error.strerror}", "run it as root (CAP_NET_ADMIN)")
    finally:
        os.close(handle)
    return _ok("tun", "a device can be made")


def forwarding(config: ServerConfig | None) -> list[Check]:
    """Whether packets are forwarded; a hub turns it on by itself, if it may write there."""
    checks = []
    for family, path in _FORWARDING.items():
        if config is None or (family == "IPv6" and config.subnet6 is None):
            continue
        name = f"forwarding {family}"
        try:
            on = path.read_text().strip() == "1"
        except OSError:
            checks.append(_fail(name, f"{path} cannot be read", "use a kernel with that family"))
            continue
        if on:
            checks.append(_ok(name, "on"))
        elif os.access(path, os.W_OK):
            checks.append(_ok(name, "off; the hub turns it on when it starts"))
        else:
            checks.append(
                _fail(name, "off, and this user cannot turn it on", f"run `sysctl -w {_key(path)}=1`")
            )
    return checks


def _key(path: Path) -> str:
    return ".".join(path.parts[3:])


def nftables() -> Check:
    """Whether rules can be made."""
    program = shutil.which("nft") or shutil.which("nft", path="/usr/sbin:/sbin")
    if program is None:
        return _fail("nftables", "the program nft is missing", "run `apt-get install nftables`")
    done = _run(program, "-c", "-f", "-", text="table inet smartvpn_doctor { }\n")
    if done is None or done.returncode:
        reason = "no answer" if done is None else _first(done.stderr)
        return _fail("nftables", f"nft: {reason}", "run it as root; the kernel needs nf_tables")
    return _ok("nftables", "rules can be made")


def default_route() -> Check:
    """Where packets to the internet go."""
    interface = default_interface()
    if interface is None:
        return _warn("route", "there is no default route", "clients reach this machine's networks only")
    return _ok("route", f"default by {interface}")


def clock() -> Check:
    """Expiry and certificates need the time of day."""
    built = datetime.fromtimestamp(Path(smartvpn.__file__).stat().st_mtime, UTC)
    if datetime.now(UTC) < built:
        return _fail(
            "clock", "it is set before this program was installed", "set it: `timedatectl set-ntp true`"
        )
    program = shutil.which("timedatectl")
    done = _run(program, "show", "--property=NTPSynchronized", "--value") if program else None
    if done is not None and done.returncode == 0 and done.stdout.strip() == "no":
        return _warn("clock", "it is not synchronised", "run `timedatectl set-ntp true`")
    synchronised = done is not None and done.stdout.strip() == "yes"
    return _ok("clock", "synchronised" if synchronised else "plausible")


def files(path: Path) -> Check:
    """Whether others could read the config's keys."""
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        return _fail("config", f"{path} is readable by others ({mode:o})", f"run `chmod 600 {path}`")
    return _ok("config", f"{path}: no fault, mode {mode:o}")


# the way to a hub


def mtu_path(host: str, transports: Collection[str] = tuple(_TRANSPORTS), mtu: int | None = None) -> Check:
    """The largest packet that passes uncut, by pings that must not be fragmented.

    What that leaves for a packet inside depends on the transport. `mtu` is what the config has.
    """
    program = shutil.which("ping")
    if program is None:
        return _warn("mtu path", "the program ping is missing", "run `apt-get install iputils-ping`")
    try:
        family, address = _first_address(host)
    except OSError as error:
        return _warn("mtu path", f"{host}: {error.strerror}", "check the name")
    passes = _largest_ping(program, family, address)
    if passes is None:
        return _warn("mtu path", f"{host} answers no ping", "nothing is known of the way's MTU")
    if passes == _PINGED_MTUS[0]:
        return _ok("mtu path", f"packets of {passes} bytes pass to {host}")
    found = f"no more than {passes} bytes pass to {host}"
    fitting = _fitting(passes, _IP_VERSIONS[family], transports)
    if mtu is not None and mtu <= min(fitting.values()):
        return _ok("mtu path", f'{found}, and "mtu": {mtu} fits')
    return _warn("mtu path", found, f'set "mtu": {_one_or_each(fitting)}')


def _largest_ping(program: str, family: socket.AddressFamily, address: str) -> int | None:
    """What the way itself names is tried next: a router of it, or this machine that asked one before."""
    options = ("-n", "-c", "2", "-i", "0.2", "-W", "1", "-M", "do", "-s")
    size: int | None = _PINGED_MTUS[0]
    while size is not None:
        done = _run(program, *options, str(size - _IP_AND_ICMP[family]), address)
        if done is not None and done.returncode == 0:
            return size
        told = () if done is None else map(int, _TOLD_MTU.findall(done.stdout + done.stderr))
        size = _largest_below(size, told) or _largest_below(size, _PINGED_MTUS)
    return None


def _largest_below(size: int, sizes: Iterable[int]) -> int | None:
    return max((smaller for smaller in sizes if _LEAST_MTU <= smaller < size), default=None)


def _fitting(passes: int, ip_version: int, transports: Collection[str]) -> dict[str, int]:
    from smartvpn._native import overhead_bytes  # the C library, which no other command loads

    return {
        name: passes - overhead_bytes(transport, ip_version)
        for transport, name in _TRANSPORTS.items()
        if transport in transports
    }


def _one_or_each(fitting: dict[str, int]) -> str:
    if len(fitting) == 1:
        return str(*fitting.values())
    return ", ".join(f"{mtu} for {name}" for name, mtu in fitting.items())


def _first_address(host: str) -> tuple[socket.AddressFamily, str]:
    family, *_, address = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)[0]
    return family, str(address[0])


def udp(host: str, port: int) -> Check:
    """Whether UDP comes through: a QUIC hub answers a version nobody has (RFC 9000, section 6)."""
    name = f"udp {join_host_port(host, port)}"
    try:
        answered = _udp_answer(host, port)
    except ConnectionRefusedError:
        return _fail(name, "nobody listens there", "check port and transportMode; is the hub up?")
    except OSError as error:
        return _fail(name, error.strerror or str(error), "check the name and the route")
    if answered:
        return _ok(name, "QUIC answers")
    return _warn(name, "no answer", "as it is for WireGuard alone; for QUIC let the firewall pass UDP there")


def _udp_answer(host: str, port: int) -> bool:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.settimeout(_PROBE_SECS)
        probe.connect(address)
        for _ in range(_PROBES):
            probe.send(_unknown_version())
            with contextlib.suppress(TimeoutError):
                answer = probe.recv(2048)
                # Version Negotiation: the form bit, then version 0.
                if len(answer) >= 7 and answer[0] & 0x80 and answer[1:5] == bytes(4):
                    return True
    return False


def _unknown_version() -> bytes:
    """An Initial of a reserved version (0x?a?a?a?a), padded to the size a server answers."""
    ids = b"\x08" + secrets.token_bytes(8) + b"\x08" + secrets.token_bytes(8)
    return (b"\xc0\x1a\x2a\x3a\x4a" + ids).ljust(_QUIC_MIN_DATAGRAM, b"\0")


def tcp(host: str, port: int) -> Check:
    """Whether a TCP connection comes about."""
    name = f"tcp {join_host_port(host, port)}"
    try:
        with socket.create_connection((host, port), timeout=_PROBES * _PROBE_SECS):
            return _ok(name, "answers")
    except ConnectionRefusedError:
        return _fail(name, "nobody listens there", "check the port; is the hub up?")
    except OSError as error:
        timed_out = isinstance(error, TimeoutError) or error.errno == errno.ETIMEDOUT
        reason = "no answer" if timed_out else error.strerror or str(error)
        return _fail(name, reason, "check the name, the route and the firewall")


def clock_beside(host: str, port: int) -> Check | None:
    """This clock beside that of a web server in front of the hub, where one tells its time."""
    request = f"HEAD / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    try:
        with socket.create_connection((host, port), timeout=_PROBES * _PROBE_SECS) as way:
            way.sendall(request.encode())
            answer = way.recv(4096).decode("latin-1")
    except OSError:
        return None
    found = re.search(r"^date:\s*(.+?)\r?$", answer, re.IGNORECASE | re.MULTILINE)
    if found is None:
        return None
    try:
        apart = abs(parsedate_to_datetime(found[1]).timestamp() - time.time())
    except ValueError:
        return None
    if apart > _WORST_CLOCK_SECS:
        return _fail("clock beside hub", f"{apart:.0f} s apart", "set both: `timedatectl set-ntp true`")
    return _ok("clock beside hub", f"{apart:.0f} s apart")


def guarded(check: Callable[[], Check], name: str) -> Check:
    """The check, or the system's reason why it could not be made."""
    try:
        return check()
    except OSError as error:
        return _fail(name, error.strerror or str(error), "run it as root")


def _run(*command: str, text: str = "") -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=20, check=False, env=_plain()
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def _plain() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C"}


def _first(text: str) -> str:
    return (text.strip().splitlines() or ["failed"])[0]
