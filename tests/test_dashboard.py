"""The dashboard's door: who gets in, what gets through, what is told to whom, and what stays in no log."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from smartvpn.config import ClientConfig, ClientEntry
from smartvpn.dashboard.access import Access
from smartvpn.dashboard.app import _shown_once, file_name
from smartvpn.dashboard.rates import Rate, Rates
from smartvpn.types import BundleSecrets, ConfigBundle, Keypair
from tests.cli.tool import run as run_tool
from tests.dashboard import COMMAND, Dashboard
from tests.netns.certificates import self_signed
from tests.raw import SocketDaemon, environment


@contextmanager
def dashboard_in(folder: Path) -> Iterator[Dashboard]:
    """For a daemon whose hub is not started."""
    with SocketDaemon(folder / "hub.sock"), Dashboard(folder / "hub.sock", folder) as running:
        assert picture_comes(running, running.visitor().cookie, attached)
        yield running


@pytest.fixture
def dashboard(tmp_path: Path) -> Iterator[Dashboard]:
    """One of its own."""
    with dashboard_in(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    """One for all who leave nothing behind in it, wrong tokens neither."""
    with dashboard_in(tmp_path_factory.mktemp("dashboard")) as running:
        yield running


def attached(picture: dict[str, Any]) -> bool:
    """Whether the dashboard speaks with the daemon."""
    return picture["error"] is None


@contextmanager
def stream(dashboard: Dashboard, cookie: str) -> Iterator[http.client.HTTPResponse]:
    """A page's open stream of pictures."""
    connection = http.client.HTTPConnection("127.0.0.1", dashboard.port, timeout=30)
    try:
        connection.request("GET", "/api/events", headers={"Cookie": cookie})
        with connection.getresponse() as answer:
            yield answer
    finally:
        connection.close()


def picture_comes(dashboard: Dashboard, cookie: str, wanted: Callable[[dict[str, Any]], bool]) -> bool:
    """Reads until a picture is as wanted, 60 lines at most."""
    with stream(dashboard, cookie) as answer:
        assert str(answer.getheader("content-type")).startswith("text/event-stream")
        lines = (answer.readline() for _ in range(60))
        return any(wanted(json.loads(line[6:])) for line in lines if line.startswith(b"data: "))


def refused(*options: str, folder: Path) -> str:
    """The one line of a dashboard that does not start."""
    done = subprocess.run(
        [*COMMAND, "--token-file", str(folder / "token"), *options],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(),
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


# the door


def login_head(dashboard: Dashboard, length: int) -> bytes:
    """A login up to its body."""
    head = ["POST /login HTTP/1.1", f"Host: 127.0.0.1:{dashboard.port}", f"Content-Length: {length}", "", ""]
    return "\r\n".join(head).encode()


@pytest.mark.parametrize("path", ["/api/session", "/api/events", "/api/export?id=a&format=wireguard"])
def test_nothing_is_told_to_strangers(shared: Dashboard, path: str) -> None:
    """401, with or without an invented cookie; the page leads to the login."""
    for cookie in ("", "smartvpn_session=AAAA"):
        assert shared.request("GET", path, Cookie=cookie).status == 401
    assert shared.request("GET", "/").getheader("location") == "/login"


def test_the_token_opens(dashboard: Dashboard) -> None:
    """The cookie is out of reach of scripts and of other sites; a wrong token gets none."""
    answer = dashboard.login()
    cookie = str(answer.getheader("set-cookie"))
    assert answer.status == 303
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    for wrong in ("", "x", dashboard.token[:-1], dashboard.token + "x", "\udc80"):
        answer = dashboard.login(wrong.encode("utf-8", "surrogateescape").decode("latin-1"))
        assert (answer.status, answer.getheader("set-cookie")) == (403, None)


def test_guessing_is_slow(dashboard: Dashboard) -> None:
    """After ten wrong tokens the source waits, even with the right one."""
    assert [dashboard.login("wrong").status for _ in range(10)] == [403] * 10
    assert dashboard.login().status == 429


def test_nobody_is_many_sources(dashboard: Dashboard) -> None:
    """A header that a proxy would set makes no other source, where there is no proxy."""
    for number in range(10):
        assert dashboard.login("wrong", X_Forwarded_For=f"192.0.2.{number}").status == 403
    assert dashboard.login(X_Forwarded_For="192.0.2.99").status == 429


def test_guesses_at_one_moment_are_counted(dashboard: Dashboard) -> None:
    """Requests that begin before the first of them fails are no more guesses than others."""
    body = b"token=wrong"
    with ExitStack() as stack:
        ways = [stack.enter_context(dashboard.connect()) for _ in range(20)]
        for way in ways:
            way.sendall(login_head(dashboard, len(body)))
        time.sleep(0.5)
        for way in ways:
            way.sendall(body)
        answers = [way.recv(64).split()[1] for way in ways]
    assert sorted(answers) == [b"403"] * 10 + [b"429"] * 10


def test_odd_requests_leave_no_trace(dashboard: Dashboard) -> None:
    """An origin that is no address is another site's; who leaves amid a request is no failure of ours."""
    assert dashboard.login(Origin="http://[").status == 403
    with dashboard.connect() as way:
        way.sendall(login_head(dashboard, 9) + b"to")
        time.sleep(0.5)
    assert dashboard.login().status == 303
    assert "Traceback" not in dashboard.log


def test_a_session_ends(dashboard: Dashboard) -> None:
    """By logging out, at once."""
    visitor = dashboard.visitor()
    assert visitor.get("/api/session").status == 200
    assert visitor.post("/api/logout", {}).status == 200
    assert visitor.get("/api/session").status == 401


def test_sessions_are_bounded_and_grow_old() -> None:
    """The least used of too many goes; none outlives half a day, or an hour unused."""
    moment = [0.0]
    access = Access("0123456789abcdef", secure=False, clock=lambda: moment[0])
    for _ in range(500):
        assert access.login("0123456789abcdef", "::1")
    assert len(access._sessions) <= 64
    moment[0] = 3601.0
    access.login("0123456789abcdef", "::1")
    assert len(access._sessions) == 1
    for number in range(5000):
        access.login("wrong", f"{number}")
    assert len(access._failures) <= 1024


@pytest.mark.parametrize(
    "changed",
    [
        {"X_CSRF_Token": "x"},
        {"X_CSRF_Token": ""},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
    ],
)
def test_other_sites_cannot_command(shared: Dashboard, changed: dict[str, str]) -> None:
    """Without the page's token, or from another origin: 403, and nothing was asked of the hub."""
    visitor = shared.visitor()
    assert visitor.post("/api/clients", {"clientId": "eve"}, **changed).status == 403
    assert visitor.post("/api/clients", {"clientId": "eve"}).status == 409  # the hub is not started


def test_other_sites_cannot_log_in(dashboard: Dashboard) -> None:
    """A form that another site sends is refused."""
    assert dashboard.login(Origin="https://evil.example").status == 403
    assert dashboard.login(Sec_Fetch_Site="cross-site").status == 403


def test_only_known_names_are_served(shared: Dashboard) -> None:
    """A name that was pointed here to get behind the browser's same-origin rule is none of ours."""
    for host in ("evil.example", f"evil.example:{shared.port}", "", "[::1", "127.0.0.1.evil.example"):
        assert shared.request("GET", "/login", Host=host).status in (400, 421)
    assert shared.request("GET", "/login", Host=f"localhost:{shared.port}").status == 200


@pytest.mark.parametrize("path", ["/login", "/static/app.js", "/nowhere", "/api/session"])
def test_every_answer_is_guarded(shared: Dashboard, path: str) -> None:
    """The policy allows our own files only, no frames, no inline code; nothing is cached."""
    answer = shared.request("GET", path)
    policy = str(answer.getheader("content-security-policy"))
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.getheader("x-content-type-options") == "nosniff"
    assert answer.getheader("cache-control") == "no-store"
    assert answer.getheader("server") is None


def test_the_page_holds_no_inline_code() -> None:
    """The policy would stop it; so there is none."""
    folder = Path(__file__).resolve().parent.parent / "smartvpn" / "dashboard" / "static"
    for page in folder.glob("*.html"):
        text = page.read_text()
        assert "<style" not in text
        assert "style=" not in text
        assert " on" not in "".join(part.partition(">")[0] for part in text.split("<")[1:])
        assert text.count("<script") == text.count("<script src=")
    for script in folder.glob("*.js"):
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "document.write"):
            assert word not in script.read_text()


def ended(way: socket.socket) -> bool:
    """Whether the other side ends it; what it says before is of no interest."""
    way.settimeout(60)
    try:
        while way.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


HALF = b"GET /login HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow"
WHOLE = b"GET /login HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.mark.long(15)
@pytest.mark.parametrize(
    "sent", [b"", HALF, WHOLE + HALF], ids=["nothing", "half a head", "half a second head"]
)
def test_those_who_dawdle_are_in_nobodys_way(dashboard: Dashboard, sent: bytes) -> None:
    """200 connections without a whole request: another's is answered meanwhile, and all of them are ended."""
    with ExitStack() as stack:
        held = [stack.enter_context(dashboard.connect()) for _ in range(200)]
        for way in held:
            with suppress(ConnectionError):  # the first of them are ended while the last begin
                way.sendall(sent)
        assert dashboard.request("GET", "/login").status == 200
        assert [ended(way) for way in held] == [True] * 200
    assert "Traceback" not in dashboard.log


@pytest.mark.long(12)
def test_a_head_that_trickles_in(dashboard: Dashboard) -> None:
    """A byte now and then buys no time."""
    with dashboard.connect() as way:
        way.sendall(HALF)
        way.settimeout(0.2)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                way.sendall(b"-")
                if way.recv(1) == b"":
                    return
            except TimeoutError:
                continue
            except ConnectionError:
                return
    pytest.fail("it was still open after a minute")


@pytest.mark.long(20)
def test_those_who_shake_no_hands(tmp_path: Path) -> None:
    """The same under TLS: 200 handshakes that do not come, plain HTTP, and one that does."""
    made = self_signed(tmp_path, "dashboard", "127.0.0.1")
    options = ("--tls-cert", str(made.cert), "--tls-key", str(made.key))
    with Dashboard(tmp_path / "hub.sock", tmp_path, *options) as dashboard, ExitStack() as stack:
        assert dashboard.visitor().get("/api/session").status == 200
        held = [stack.enter_context(dashboard.connect()) for _ in range(200)]
        for way in held[::2]:
            with suppress(ConnectionError):
                way.sendall(HALF)
        assert dashboard.visitor().get("/api/session").status == 200
        assert [ended(way) for way in held] == [True] * 200
        context = ssl._create_unverified_context()
        secured = [context.wrap_socket(dashboard.connect()) for _ in range(3)]
        for way in secured:
            stack.enter_context(way)
            way.sendall(HALF)
        assert [ended(way) for way in secured] == [True] * 3
    assert "Traceback" not in dashboard.log


@pytest.mark.long(35)
def test_those_who_do_not_read(dashboard: Dashboard) -> None:
    """Requests without end whose answers nobody takes: the connection is ended."""
    with dashboard.connect() as way:
        way.settimeout(90)
        request = b"GET /static/app.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        with suppress(ConnectionError):
            while True:
                way.sendall(request * 100)
    assert dashboard.request("GET", "/login").status == 200


# what gets through


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ("{", 400, "no JSON"),
        ("[]", 400, "no JSON object"),
        ('{"clientId": 5}', 400, "clientId: expected a string"),
        ('{"clientId": "a", "x": 1}', 400, "x: unknown field"),
        ('{"clientId": "a", "tags": 7}', 400, "tags: expected a list"),
        ('{"clientId": ""}', 400, "clientId: "),
        ("x" * 70_000, 413, "too long"),
    ],
)
def test_wrong_commands(shared: Dashboard, body: str, status: int, words: str) -> None:
    """The field and the reason, and the dashboard lives on."""
    visitor = shared.visitor()
    headers = {"Cookie": visitor.cookie, "X_CSRF_Token": visitor.csrf}
    answer = shared.request("POST", "/api/clients", body, **headers)
    assert answer.status == status
    assert words in json.loads(answer.text)["error"]  # type: ignore[attr-defined]
    assert visitor.get("/api/session").status == 200


def test_unknown_commands(dashboard: Dashboard) -> None:
    """Neither a word that is no command nor a name of Python's reaches anything."""
    visitor = dashboard.visitor()
    for action in ("explode", "stop_server", "__init__"):
        assert visitor.post(f"/api/clients/{action}", {"clientId": "a"}).status == 404
    assert visitor.get("/static/../program.py").status == 404


def test_a_hub_that_is_away(tmp_path: Path) -> None:
    """The dashboard starts without it, says so, and takes it up when it comes."""
    path = tmp_path / "hub.sock"
    with Dashboard(path, tmp_path) as dashboard:
        visitor = dashboard.visitor()
        answer = visitor.post("/api/clients", {"clientId": "a"})
        assert answer.status == 503
        assert str(path) in json.loads(answer.text)["error"]
        with SocketDaemon(path):
            assert picture_comes(dashboard, visitor.cookie, attached)


def test_open_pages_are_bounded(dashboard: Dashboard) -> None:
    """The seventeenth is told so."""
    visitor = dashboard.visitor()
    with ExitStack() as held:
        for _ in range(17):
            answer = held.enter_context(stream(dashboard, visitor.cookie))
            line = answer.readline()
        assert "pages are open already" in json.loads(line[6:])["error"]


# the token's file, the log, the end


def test_the_token_is_made_once_and_kept(tmp_path: Path) -> None:
    """For its owner alone; it is in no log, and another start has the same."""
    with Dashboard(tmp_path / "hub.sock", tmp_path) as dashboard:
        token = dashboard.token
        dashboard.visitor()
        dashboard.login("a-wrong-token-that-is-secret-too")
        assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
        assert len(token) >= 40
    assert token not in dashboard.log
    assert "secret-too" not in dashboard.log
    assert str(tmp_path / "token") in dashboard.log
    with Dashboard(tmp_path / "hub.sock", tmp_path) as again:
        assert again.token == token


@pytest.mark.parametrize(
    ("mode", "text", "words"), [(0o644, "0123456789abcdef", "chmod 600"), (0o600, "short", "shorter than 16")]
)
def test_a_bad_token_file(tmp_path: Path, mode: int, text: str, words: str) -> None:
    """Told with what to do."""
    (tmp_path / "token").write_text(text)
    (tmp_path / "token").chmod(mode)
    assert words in refused(folder=tmp_path)


def test_the_network_gets_no_plain_http(tmp_path: Path) -> None:
    """Beyond this machine only with TLS, its own or a proxy's, however the dashboard is asked for."""
    words = "--listen: 0.0.0.0:0 is open to the network without https: "
    words += "give --tls-cert and --tls-key, or --behind-proxy"
    assert refused("--listen", "0.0.0.0:0", folder=tmp_path) == f"smartvpn-dashboard: {words}"
    for command in (["dashboard"], ["service", "dashboard"]):
        assert run_tool(*command, "--listen", "0.0.0.0:0").one_line().startswith(f"smartvpn: {words}; see")


def test_the_service_manager_hears_of_it(tmp_path: Path) -> None:
    """Ready when it listens, signs of life after that, and the end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        told = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "600000"}
        with Dashboard(tmp_path / "hub.sock", tmp_path, **told) as dashboard:
            assert manager.recv(64) == b"READY=1"
            assert dashboard.request("GET", "/login").status == 200
            assert [manager.recv(64) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        heard = [b""]
        while heard[-1] != b"STOPPING=1":
            heard.append(manager.recv(64))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_pages_open(dashboard: Dashboard, number: signal.Signals) -> None:
    """A page that still listens does not hold it up."""
    with stream(dashboard, dashboard.visitor().cookie) as answer:
        answer.readline()
        dashboard.process.send_signal(number)
        assert dashboard.process.wait(20) in (0, -number)


# small parts


def test_rates_are_per_second() -> None:
    """Growth by time; a new source, or one that counts anew, is at rest; the gone are forgotten."""
    rates = Rates()
    rates.update({"a": (100, 10)}, 1.0)
    assert rates.of("a") == Rate()
    rates.update({"a": (300, 20), "b": (5, 5)}, 3.0)
    assert rates.of("a") == Rate(100.0, 5.0)
    rates.update({"a": (0, 0)}, 4.0)
    assert rates.of("a") == rates.of("b") == Rate()


@pytest.mark.parametrize(
    ("client_id", "name"),
    [
        ("alice", "alice"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ('"\r\n;', "_"),
        ("....", "client"),
        ("ü" * 9, "_"),
    ],
)
def test_file_names_are_tame(client_id: str, name: str) -> None:
    """Letters, digits, and no way out of the folder."""
    assert file_name(client_id) == name


def test_a_config_that_no_code_can_hold() -> None:
    """The keys are shown all the same: they are nowhere else."""
    pair = Keypair.generate()
    entry = ClientEntry(
        client_id="a", public_key=pair.public_key, wg_public_key=pair.public_key, assigned_ip="10.8.0.2"
    )
    config = ClientConfig(server_url="wss://vpn.example.org/", server_public_key=pair.public_key)
    short, long = (
        _shown_once(
            ConfigBundle(
                entry=entry, smartvpn_config=config, wireguard_config="x" * size, secrets=BundleSecrets()
            )
        )
        for size in (300, 3000)
    )
    assert short["qr"].startswith("data:image/svg+xml")
    assert (long["qr"], long["wireguard"]) == (None, "x" * 3000)
