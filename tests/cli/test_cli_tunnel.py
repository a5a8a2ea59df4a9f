"""A hub and its clients by the command alone: real daemons, real tunnels, files as they come."""

from __future__ import annotations

import contextlib
import json
import re
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from smartvpn.keys import PrivateKey
from tests.cli.tool import COMMAND, Machine, environment, run, stock
from tests.netns.topology import Topology

GATEWAY = "10.8.0.1"


@pytest.fixture
def up(hub: Machine) -> Machine:
    """A hub that is up."""
    hub.init()
    hub.up()
    return hub


def ping(topology: Topology, role: str, address: str) -> bool:
    """Whether one of a few pings is answered."""
    command = ("ping", "-n", "-q", "-c", "5", "-i", "0.3", "-W", "2", address)
    return ", 0 received" not in topology.run(role, *command, check=False).stdout


def decoded(printed: str, folder: Path) -> str:
    """What a QR reader reads off the half blocks, light ones drawn."""
    rows: list[str] = []
    for line in [line for line in printed.splitlines() if set(line) <= set("█▀▄ ") and line.strip()]:
        rows.append("".join("0" if letter in "█▀" else "1" for letter in line))
        rows.append("".join("0" if letter in "█▄" else "1" for letter in line))
    scale = 4
    pixels = [" ".join(bit for bit in row for _ in range(scale)) for row in rows for _ in range(scale)]
    picture = folder / "code.pbm"
    picture.write_text(f"P1\n{len(rows[0]) * scale} {len(pixels)}\n" + "\n".join(pixels) + "\n")
    done = subprocess.run(
        ["zbarimg", "--quiet", "--raw", "-Sbinary", str(picture)], capture_output=True, check=True
    )
    return done.stdout.decode()


def mode(path: Path) -> int:
    """The file's rights."""
    return path.stat().st_mode & 0o777


def test_a_client_made_and_connected(up: Machine, client: Machine, topology: Topology) -> None:
    """`client add` on the hub, `up` on the client: a tunnel, seen by status and top on both sides."""
    made = up("client", "add", "alice", "--tag", "laptop", "--json").json()
    assert made["files"] == ["alice.json", "alice.conf"]
    assert made["entry"]["assignedIp"] == "10.8.0.2"
    assert [mode(up.folder / name) for name in made["files"]] == [0o600, 0o600]
    connected = client.up(up.folder / "alice.json")
    assert re.fullmatch(r"connected over \w+ as 10\.8\.0\.2\n", connected.out)
    assert ping(topology, "client", GATEWAY)

    status = up("status", "--json").json()
    assert (status["mode"], status["status"]["state"]) == ("server", "connected")
    assert (status["statistics"]["activeClients"], status["registeredClients"]) == (1, 1)
    assert client("status", "--json").json()["status"]["assignedIp"] == "10.8.0.2"
    assert "1 connected of 1" in up("status").out
    [row] = up("top", "--count", "1", "--json").json()
    assert (row["client"], row["address"]) == ("alice", "10.8.0.2")
    looks = up("top", "--count", "2", "--interval", "0.2").out
    assert looks.count("alice") == 2
    assert looks.count("CLIENT") == 2
    done, screen = up.types("top", "--count", "2", "--interval", "0.2")
    assert (done, "alice" in screen, "\x1b[?1049h" in screen) == (0, True, True)  # a screen of its own
    [row] = client("top", "--count", "1", "--json").json()
    assert row["address"] == "10.8.0.2"
    [listed] = up("client", "list", "--json").json()
    assert (listed["clientId"], listed["connected"]) == ("alice", True)
    shown = up("client", "show", "alice", "--json").json()
    assert len(shown["sessions"]) == 1
    assert shown["telemetry"]["clientId"] == "alice"

    assert up("client", "disable", "alice").status == 0
    assert not up("client", "list", "--json").json()[0]["connected"]
    assert client("down").status == 0
    assert client("status").status == 3


def test_init_asks_what_this_machine_cannot_tell(client: Machine) -> None:
    """Its address is a private one, so others reach it by a name: one that can be one."""
    words = ("init", "--config", client.config, "--registry", client.folder / "registry.db")
    done, screen = client.types(*words, typed="no host\nvpn.example.org\n")
    assert done == 0, screen
    assert "'no host' is not a host name" in screen
    assert screen.count("[10.99.0.2]") == 2
    assert json.loads(client.config.read_text())["serverEndpoint"] == "vpn.example.org"


def test_a_second_up_changes_nothing(up: Machine, client: Machine) -> None:
    """The hub is up already, with status 0; so is a tunnel."""
    assert json.loads(up("up", up.config, "--json").out)["already"] is True
    up("client", "add", "alice")
    client.up(up.folder / "alice.json")
    assert client("up", up.folder / "alice.json", "--json").json()["already"] is True


def test_a_phone_by_its_qr_code(up: Machine, topology: Topology, tmp_path: Path) -> None:
    """The code holds the file's text, and wg-quick connects with what a reader reads."""
    done = up("client", "add", "phone", "--qr")
    text = decoded(done.out, tmp_path)
    assert text.strip() == (up.folder / "phone.conf").read_text().strip()
    with stock(topology, text, tmp_path):
        assert ping(topology, "client", GATEWAY)


def test_the_life_of_a_client(up: Machine) -> None:
    """edit, reset, export, rotate, enable, remove: each is seen in the registry."""
    options = ("--rate", "10mbit", "--allow-to", "10.8.0.0/24", "--expires", "30d", "--description", "a b")
    assert up("client", "add", "bob", *options).status == 0
    entry = up("client", "show", "bob", "--json").json()["entry"]
    assert entry["security"]["rateLimit"] == {"bytesPerSec": 1_250_000, "burstBytes": 125_000}
    assert entry["security"]["destinationAllowList"] == ["10.8.0.0/24"]
    assert entry["description"] == "a b"
    assert "expiresAt" in entry
    edited = up("client", "edit", "bob", "--rate", "2MB", "--burst", "1MB", "--reset", "expires", "--json")
    entry = edited.json()["entry"]
    assert entry["security"]["rateLimit"] == {"bytesPerSec": 2_000_000, "burstBytes": 1_000_000}
    assert entry["security"]["destinationAllowList"] == ["10.8.0.0/24"]
    assert "expiresAt" not in entry
    wrong = up("client", "edit", "bob", "--allow-to", "10.8.0.0/99")
    assert (wrong.status, "--allow-to: '10.8.0.0/99' is not a CIDR" in wrong.one_line()) == (2, True)
    taken = up("client", "add", "eve", "--ip", "10.8.0.2")
    assert (taken.status, "--ip: '10.8.0.2' is taken" in taken.one_line()) == (6, True)
    again = up("client", "add", "bob")
    assert (again.status, "client 'bob' exists already" in again.one_line()) == (6, True)
    up("client", "edit", "bob", "--reset", "rate", "--reset", "allow-to")
    assert "rateLimit" not in up("client", "show", "bob", "--json").json()["entry"].get("security", {})

    exported = up("client", "export", "bob", "--format", "wireguard").out
    assert "# PrivateKey =" in exported
    assert json.loads(up("client", "export", "bob").out).get("clientPrivateKey") is None
    assert "clientPrivateKey" not in up("client", "export", "bob", "--json").json()["config"]
    before = (up.folder / "bob.json").read_text()
    refused = up("client", "rotate", "bob")
    assert (refused.status, (up.folder / "bob.json").read_text()) == (6, before)
    assert up("client", "show", "bob", "--json").json()["entry"]["publicKey"] == entry["publicKey"]
    assert up("client", "rotate", "bob", "--force", "--json").json()["files"] == ["bob.json", "bob.conf"]
    assert (up.folder / "bob.json").read_text() != before
    assert mode(up.folder / "bob.json") == 0o600
    assert up("client", "disable", "bob", "--json").json() == {"clientId": "bob", "enabled": False}
    assert up("client", "list", "--disabled", "--json").json()[0]["clientId"] == "bob"
    up("client", "enable", "bob")
    assert up("client", "list", "--disabled", "--json").json() == []
    assert "without a terminal" in up("client", "remove", "bob").one_line()
    done, screen = up.types("client", "remove", "bob", typed="n\n")
    assert (done, "nothing was changed" in screen) == (1, True)
    assert up.types("client", "remove", "bob", typed="y\n")[0] == 0
    assert up("client", "list", "--json").json() == []
    assert up("client", "show", "bob").status == 5


def test_a_file_in_the_way_leaves_no_client(up: Machine) -> None:
    """Neither a client without its files, nor a file lost."""
    (up.folder / "carol.conf").write_text("mine")
    done = up("client", "add", "carol")
    assert (done.status, "carol.conf exists" in done.one_line()) == (6, True)
    assert (up.folder / "carol.conf").read_text() == "mine"
    assert not (up.folder / "carol.json").exists()
    assert up("client", "list", "--json").json() == []
    assert up("client", "add", "carol", "--out", up.folder / "missing").status == 5
    assert up("client", "list", "--json").json() == []


def test_the_dashboard_of_the_running_hub(up: Machine, topology: Topology) -> None:
    """`smartvpn dashboard` serves it, says where and in which file the token is, and ends with a signal."""
    words = [sys.executable, "-P", "-m", "smartvpn.cli", "dashboard", "--socket", str(up.socket)]
    words += ["--listen", "127.0.0.1:8799", "--token-file", str(up.folder / "token")]
    process = topology.popen("hub", *words, stderr=subprocess.PIPE, env=environment())
    assert process.stderr is not None
    try:
        lines = iter(process.stderr.readline, b"")
        told = next(line for line in lines if b"dashboard on http://127.0.0.1:8799/" in line)
        assert str(up.folder / "token").encode() in told
        login = (
            "import sys, time, urllib.request as u, urllib.parse as p\n"
            "body = p.urlencode({'token': open(sys.argv[1]).read().strip()}).encode()\n"
            "opener = u.build_opener(u.HTTPCookieProcessor())\n"
            "for _ in range(300):\n"
            "    try: opener.open('http://127.0.0.1:8799/login', body, timeout=30); break\n"
            "    except OSError: time.sleep(0.1)\n"
            "with opener.open('http://127.0.0.1:8799/api/events', timeout=30) as events:\n"
            "    print(next(line for line in events if b'10.8.0.0/24' in line or b'connected' in line)[:5])\n"
        )
        assert (
            topology.run("hub", sys.executable, "-c", login, str(up.folder / "token")).stdout == "b'data:'\n"
        )
        process.terminate()
        assert process.wait(30) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.stderr.close()
        process.wait()


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Path]:
    """A file system of its own."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_costs_no_key(up: Machine) -> None:
    """There is no room for the files: neither a client is made nor a key changed, and the old files stay."""
    with small_disk(up.folder / "disk", "size=160k") as disk:
        assert up("client", "add", "alice", "--out", disk).status == 0
        before = {path.name: path.read_text() for path in disk.iterdir()}
        entry = up("client", "show", "alice", "--json").json()["entry"]
        with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        done = up("client", "rotate", "alice", "--out", disk, "--force")
        assert (done.status, "No space left" in done.one_line()) == (1, True)
        assert "nothing was changed" in done.err
        assert up("client", "show", "alice", "--json").json()["entry"] == entry
        done = up("client", "add", "bob", "--out", disk)
        assert (done.status, "No space left" in done.one_line()) == (1, True)
        assert [one["clientId"] for one in up("client", "list", "--json").json()] == ["alice"]
        (disk / "filler").unlink()
        assert {path.name: path.read_text() for path in disk.iterdir()} == before


def test_fresh_keys_are_kept_elsewhere(up: Machine) -> None:
    """Their place takes them no more, although it looked as if: they lie at home, and the line says so."""
    up("client", "add", "alice")
    with small_disk(up.folder / "disk", "nr_inodes=3") as disk:  # itself, and two files under one name each
        done = up("client", "rotate", "alice", "--out", disk, HOME=str(up.folder))
        assert (done.status, "No space left" in done.one_line()) == (1, True)
        assert list(disk.iterdir()) == []
    [folder] = up.folder.glob("smartvpn-*")
    assert str(folder) in done.err
    assert mode(folder) == 0o700
    assert {(path.name, mode(path)) for path in folder.iterdir()} == {
        ("alice.json", 0o600),
        ("alice.conf", 0o600),
    }
    entry = up("client", "show", "alice", "--json").json()["entry"]
    kept = json.loads((folder / "alice.json").read_text())
    assert PrivateKey(kept["clientPrivateKey"]).public_key.base64 == entry["publicKey"]
    assert kept["clientPrivateKey"] not in done.err


def test_no_place_at_all_for_fresh_keys(up: Machine) -> None:
    """The line says that they are lost and how to go on, and no key: the next rotation works."""
    assert up("client", "add", "alice").status == 0
    read_only = "".join(
        f"mount --rbind {place} {place} && mount -o remount,bind,ro {place} && "
        for place in sorted({"/tmp", "/var/tmp", "/dev/shm", tempfile.gettempdir()})
    )
    command = up.topology.command("hub", "sh", "-c", f'{read_only} exec "$@"', "sh")
    with small_disk(up.folder / "disk", "nr_inodes=3") as disk:
        words = ("client", "rotate", "alice", "--out", disk, "--socket", up.socket)
        done = run(*words, prefix=tuple(command), cwd=Path("/proc"), HOME=str(disk))
        assert (done.status, "No space left" in done.one_line()) == (1, True)
        assert "its old keys have ended and the fresh ones are lost: make room and rotate again" in done.err
        assert list(disk.iterdir()) == []
    assert not list(up.folder.glob("smartvpn-*"))
    assert up("client", "rotate", "alice", "--force").status == 0
    entry = up("client", "show", "alice", "--json").json()["entry"]
    kept = json.loads((up.folder / "alice.json").read_text())
    assert PrivateKey(kept["clientPrivateKey"]).public_key.base64 == entry["publicKey"]


def test_names_lead_nowhere_and_steer_nothing(up: Machine) -> None:
    """A path in a name stays a file here; a description's escapes reach no terminal; a tag is no markup."""
    done = up("client", "add", "../../etc/x", "--description", "\x1b[31mred", "--tag", "[bold]", "--json")
    assert done.json()["files"] == ["_.._etc_x.json", "_.._etc_x.conf"]
    assert "[bold]" in up("client", "list").out
    assert up("client", "show", "../../etc/x").status == 0  # Done looks for escapes


def test_an_up_that_fails_leaves_nothing(hub: Machine) -> None:
    """A port that is taken: one line, status 6, and no daemon is left."""
    hub.init("--listen", "10.99.0.1:7000")
    listener = (
        "import socket, time; s = socket.create_server(('10.99.0.1', 7000));"
        "print(flush=True); time.sleep(600)"
    )
    taker = hub.topology.popen("hub", "python3", "-c", listener, stdout=subprocess.PIPE)
    assert taker.stdout is not None
    taker.stdout.readline()
    done = hub("up", hub.config, "--log", hub.log)
    assert (done.status, "10.99.0.1:7000: Address already in use; `ss" in done.one_line()) == (6, True)
    assert hub("status").status == 3
    assert not hub.socket.exists()


def test_secrets_stay_in_files(up: Machine) -> None:
    """No key of hub or client on a command line, in the log, or on the screen."""
    shown = "".join(
        done.out + done.err
        for done in (
            up("client", "add", "dave"),
            up("client", "add", "erin", "--json"),
            up("client", "show", "dave"),
            up("status", "--json"),
            up("logs", "--file", up.log),
        )
    )
    config = json.loads(up.config.read_text())
    dave, erin = (json.loads((up.folder / f"{name}.json").read_text()) for name in ("dave", "erin"))
    lines = Path("/proc").glob("[0-9]*/cmdline")
    everything = shown + up.log.read_text() + "".join(map(_text, lines))
    for secret in (config["privateKey"], config["wgPrivateKey"], *map(_secret, (dave, erin))):
        assert secret not in everything


def _secret(config: dict[str, Any]) -> str:
    return str(config.get("clientPrivateKey") or config["wgPrivateKey"])


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def test_run_serves_until_it_is_interrupted(hub: Machine) -> None:
    """In the foreground: Ctrl-C ends it with status 0 and takes the socket away."""
    hub.init()
    command = ("-m", "smartvpn.cli", "run", str(hub.config), "--socket", str(hub.socket))
    process = hub.topology.popen("hub", sys.executable, "-P", *command, env=environment())
    for _ in range(600):
        if hub("status").status == 0 and hub("status", "--json").json()["status"]["state"] == "connected":
            break
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert not hub.socket.exists()


def test_the_log_is_shown(up: Machine) -> None:
    """The last lines, as text and as JSON lines."""
    lines = up("logs", "--file", up.log, "-n", "2").out.splitlines()
    assert lines == up.log.read_text().splitlines()[-2:]
    as_json = up("logs", "--file", up.log, "-n", "2", "--json").out.splitlines()
    assert [json.loads(line)["line"] for line in as_json] == lines
    words = [*COMMAND, "logs", "--file", str(up.log), "-n", "0", "--follow"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment()) as follower:
        assert follower.stdout is not None
        try:
            with up.log.open("a") as log:
                while not select.select([follower.stdout], [], [], 0.2)[0]:
                    assert follower.poll() is None
                    print("once more", file=log, flush=True)
            assert follower.stdout.readline() == "once more\n"
            follower.send_signal(signal.SIGINT)
            assert follower.wait(60) == 130
        finally:
            follower.kill()
