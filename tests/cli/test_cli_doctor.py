"""`smartvpn doctor`: what is missing is found, with what to do."""

from __future__ import annotations

import json
import socket
import threading
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from smartvpn.cli import _checks
from smartvpn.cli._checks import Verdict
from smartvpn.keys import PrivateKey
from tests.cli.tool import Done, Machine, run
from tests.netns.hub import in_namespace
from tests.netns.topology import HUB_OUTER, HUB_OUTER6, Topology


def verdicts(done: Done) -> dict[str, Any]:
    """Each check's verdict by its name."""
    return {item["check"]: item["verdict"] for item in json.loads(done.out)}


def test_a_hub_that_has_everything(hub: Machine) -> None:
    """Status 0, no failure, and the running daemon is seen."""
    hub.init()
    hub.up()
    done = hub("doctor", hub.config, "--json")
    found = verdicts(done)
    assert (done.status, found["daemon"]) == (0, "ok")
    assert {"platform", "tun", "nftables", "clock", "config", "forwarding IPv4"} <= found.keys()
    assert "fail" not in found.values()
    for colour, setting in ((True, {}), (False, {"NO_COLOR": "1"})):
        done, screen = hub.types("doctor", hub.config, **setting)
        assert (done, "WHAT TO DO" in screen, "\x1b[32m" in screen) == (0, True, colour)


def test_a_config_that_others_can_read(hub: Machine) -> None:
    """Status 1, and the command that mends it."""
    hub.init()
    hub.config.chmod(0o644)
    done = hub("doctor", hub.config, "--json")
    [check] = [item for item in json.loads(done.out) if item["check"] == "config"]
    assert (done.status, check["verdict"], check["fix"]) == (1, "fail", f"run `chmod 600 {hub.config}`")


def test_a_config_with_a_fault(tmp_path: Path) -> None:
    """It is a check like the others: all of them are still shown."""
    config = tmp_path / "server.json"
    config.write_text('{"subnet": "10.8.0.0/24"}')
    done = run("doctor", config, "--json")
    assert (done.status, verdicts(done)["config"]) == (1, "fail")
    assert "privateKey: is missing" in done.out


def test_without_rights(tmp_path: Path) -> None:
    """A user without CAP_NET_ADMIN hears that no device and no rule can be made."""
    words = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    keep = ("--bounding-set=-all,+dac_read_search", "--inh-caps=-all,+dac_read_search")
    done = run("doctor", "--json", prefix=(*words, *keep, "--ambient-caps=+dac_read_search"), cwd=tmp_path)
    found = verdicts(done)
    assert (done.status, found["tun"], found["nftables"]) == (1, "fail", "fail")


def test_the_way_to_a_hub(hub: Machine, client: Machine) -> None:
    """From the client: packets pass uncut, TCP answers, nobody listens on another port."""
    hub.init("--listen", f"{HUB_OUTER}:7443")
    hub.up()
    found = verdicts(client("doctor", "--target", f"{HUB_OUTER}:7443", "--json"))
    assert (found["mtu path"], found[f"tcp {HUB_OUTER}:7443"]) == ("ok", "ok")
    done = client("doctor", "--target", f"{HUB_OUTER}:7", "--json")
    found = verdicts(done)
    assert (done.status, found[f"tcp {HUB_OUTER}:7"], found[f"udp {HUB_OUTER}:7"]) == (1, "fail", "fail")


def mtu_check(done: Done) -> tuple[str, str, str | None]:
    """How the check of the way's MTU ended."""
    [check] = [item for item in json.loads(done.out) if item["check"] == "mtu path"]
    return check["verdict"], check["detail"], check.get("fix")


def test_a_way_that_swallows_what_is_too_long(client: Machine, topology: Topology) -> None:
    """It is measured, and the mtu that fits it told for each transport, as getMtuInfo counts it."""
    topology.run(
        "hub", "nft", "add table ip narrow; add chain ip narrow in { type filter hook input priority 0; }"
    )
    topology.run("hub", "nft", "add rule ip narrow in ip length > 1440 drop")
    found = f"no more than 1440 bytes pass to {HUB_OUTER}"
    fix = 'set "mtu": 1354 for QUIC, 1361 for WebSocket, 1380 for WireGuard'
    assert mtu_check(client("doctor", "--target", f"{HUB_OUTER}:7", "--json")) == ("warn", found, fix)


def test_a_narrow_way_of_a_client(client: Machine, topology: Topology) -> None:
    """What the way names counts, for the config's transports; by IPv6 20 bytes less. What fits is well."""
    for role in ("hub", "client"):
        topology.run(role, "ip", "link", "set", "outer", "mtu", "1390")
    key = PrivateKey.generate()
    keys = {"clientPrivateKey": key.base64, "clientPublicKey": key.public_key.base64}
    config = {"serverUrl": f"[{HUB_OUTER6}]:7", "serverPublicKey": key.public_key.base64, **keys}

    def looked_at(**more: str | int) -> tuple[str, str, str | None]:
        client.config.write_text(json.dumps(config | more))
        return mtu_check(client("doctor", client.config, "--json"))

    found = f"no more than 1390 bytes pass to {HUB_OUTER6}"
    assert looked_at(mtu=1285) == ("warn", found, 'set "mtu": 1284 for QUIC, 1291 for WebSocket')
    assert looked_at(transport="websocket") == ("warn", found, 'set "mtu": 1291')
    assert looked_at(mtu=1284) == ("ok", f'{found}, and "mtu": 1284 fits', None)


def test_the_hub_itself_answers_quic(hub: Machine, client: Machine) -> None:
    """The probe is one that a real hub answers; a hub without QUIC does not listen there."""
    hub.init("--mode", "both", "--listen", f"{HUB_OUTER}:7443")
    hub.up()
    done = client("doctor", "--target", f"{HUB_OUTER}:7443", "--json")
    [check] = [item for item in json.loads(done.out) if item["check"] == f"udp {HUB_OUTER}:7443"]
    assert (check["verdict"], check["detail"]) == ("ok", "QUIC answers")


def test_a_clock_that_goes_wrong(topology: Topology) -> None:
    """A web server before the hub tells its time: an hour apart is a failure, no date is no check."""
    listener = in_namespace(topology, "hub", lambda: socket.create_server((HUB_OUTER, 8080)))
    dates = [f"Date: {formatdate(time.time() + apart, usegmt=True)}\r\n" for apart in (0, 3600)]

    def serve() -> None:
        for date in (*dates, ""):
            way, _ = listener.accept()
            with way:
                way.recv(4096)
                way.sendall(f"HTTP/1.1 404 Not Found\r\n{date}\r\n".encode())

    thread = threading.Thread(target=serve)
    thread.start()
    checks = [
        in_namespace(topology, "client", lambda: _checks.clock_beside(HUB_OUTER, 8080)) for _ in range(3)
    ]
    thread.join()
    listener.close()
    assert [check and check.verdict for check in checks] == [Verdict.OK, Verdict.FAIL, None]


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (b"\xd3" + bytes(4) + b"\x08" + bytes(8) + b"\x08" + bytes(8) + b"\x00\x00\x00\x01", Verdict.OK),
        (b"hello", Verdict.WARN),
    ],
)
def test_udp_is_known_by_its_answer(topology: Topology, answer: bytes, verdict: Verdict) -> None:
    """A Version Negotiation packet is a QUIC server's; other bytes prove nothing."""

    def bound() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((HUB_OUTER, 4433))
        made.settimeout(30)
        return made

    server = in_namespace(topology, "hub", bound)
    seen: list[bytes] = []

    def serve() -> None:
        for _ in range(3):
            try:
                data, address = server.recvfrom(2048)
            except OSError:
                return
            seen.append(data)
            server.sendto(answer, address)

    thread = threading.Thread(target=serve)
    thread.start()
    check = in_namespace(topology, "client", lambda: _checks.udp(HUB_OUTER, 4433))
    if verdict is Verdict.OK:
        in_namespace(topology, "client", lambda: [_checks.udp(HUB_OUTER, 4433) for _ in range(2)])
    thread.join()
    server.close()
    assert check.verdict is verdict
    assert all(len(data) == 1200 and data[0] & 0x80 for data in seen)
