"""The program: its arguments, its token, and the web server it runs in."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import socket
import ssl
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from smartvpn._address import join_host_port
from smartvpn._notify import Notifier
from smartvpn._version import __version__
from smartvpn._weblisten import DASHBOARD_LISTEN, dashboard_address, dashboard_host, in_options
from smartvpn.dashboard.access import MIN_TOKEN, Access, new_token
from smartvpn.dashboard.app import make_app
from smartvpn.dashboard.door import HEAD_SECS, WAITING, make_door
from smartvpn.errors import ConfigError
from smartvpn.installer import SOCKET_PATH

_CONNECTIONS = 128
_BACKLOG = 128  # accepted in one turn at most, before one of them can be closed
_HEAD_BYTES = 16 * 1024


class UnusableError(Exception):
    """What stands in the way, and what to do."""


class Server(uvicorn.Server):
    """uvicorn's, which tells the service manager how it is."""

    def __init__(self, config: uvicorn.Config, notifier: Notifier) -> None:
        super().__init__(config)
        self._notifier = notifier
        self._watching: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Ready when it listens."""
        await super().startup(sockets)
        if self.started:
            self._notifier.ready()
            self._watching = asyncio.create_task(self._notifier.watch())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Until the last page is closed."""
        self._notifier.stopping()
        if self._watching is not None:
            self._watching.cancel()
        await super().shutdown(sockets)


def run(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT."""
    arguments = _arguments(argv)
    logging.basicConfig(
        level="INFO", stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        config = _server(arguments)
    except (UnusableError, OSError) as error:
        print(f"smartvpn-dashboard: {error}", file=sys.stderr)
        return 1
    server = Server(config, Notifier.from_environment())
    server.run()
    return 0 if server.started else 1


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="smartvpn-dashboard", description="a web page for a smartvpn hub")
    parser.add_argument("--socket", default=SOCKET_PATH, metavar="PATH", help=f"the hub's ({SOCKET_PATH})")
    parser.add_argument(
        "--listen", default=DASHBOARD_LISTEN, metavar="HOST:PORT", help=f"where to serve ({DASHBOARD_LISTEN})"
    )
    parser.add_argument(
        "--token-file", type=Path, metavar="PATH", help="holds the login token; made if absent"
    )
    parser.add_argument(
        "--public-host", action="append", default=[], metavar="NAME", help="a name browsers may call it by"
    )
    parser.add_argument("--tls-cert", type=Path, metavar="PATH", help="serve https with this chain (PEM)")
    parser.add_argument("--tls-key", type=Path, metavar="PATH", help="and this key")
    parser.add_argument(
        "--behind-proxy", action="store_true", help="a proxy in front does https; take plain http from it"
    )
    parser.add_argument("--version", action="version", version=__version__)
    return parser.parse_args(argv)


def _server(arguments: argparse.Namespace) -> uvicorn.Config:
    host, port, public_hosts = _address(arguments)
    encrypted = arguments.tls_cert is not None or arguments.behind_proxy
    token_file = arguments.token_file or _default_token_file()
    access = Access(_token(token_file), secure=encrypted)
    hosts = {host, "localhost", "127.0.0.1", "::1", *public_hosts}
    app = make_app(arguments.socket, access, hosts)
    scheme = "https" if arguments.tls_cert else "http"
    logging.getLogger(__name__).info(
        "dashboard on %s://%s/; the login token is in %s", scheme, join_host_port(host, port), token_file
    )
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        proxy_headers=arguments.behind_proxy,  # else anybody here could be as many sources as they like
        limit_concurrency=_CONNECTIONS + WAITING,
        backlog=_BACKLOG,
        h11_max_incomplete_event_size=_HEAD_BYTES,
        timeout_keep_alive=int(HEAD_SECS),
        timeout_graceful_shutdown=2,
        http=make_door(_tls(arguments)),  # type: ignore[arg-type]  # uvicorn calls it, class or not
        ws="none",
    )


def _address(arguments: argparse.Namespace) -> tuple[str, int, list[str]]:
    try:
        host, port = dashboard_address(
            arguments.listen,
            tls_cert=arguments.tls_cert,
            tls_key=arguments.tls_key,
            behind_proxy=arguments.behind_proxy,
        )
        return host, port, [dashboard_host(name) for name in arguments.public_host]
    except ConfigError as error:
        raise UnusableError(in_options(error)) from None


def _tls(arguments: argparse.Namespace) -> ssl.SSLContext | None:
    if arguments.tls_cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(arguments.tls_cert, arguments.tls_key)
    except ssl.SSLError as error:
        raise UnusableError(f"--tls-cert, --tls-key: {error.reason or error}") from None
    return context


def _default_token_file() -> Path:
    state = os.environ.get("STATE_DIRECTORY", "/var/lib/smartvpn").partition(":")[0]
    return Path(state) / "dashboard.token"


def _token(path: Path) -> str:
    """The token in the file; a file that is not there is made, for its owner alone."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return _make_token(path)
    with os.fdopen(handle, encoding="utf-8") as file:
        mode = os.fstat(file.fileno()).st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise UnusableError(f"{path} can be read by others: chmod 600 {path}")
        token = file.read(4096).strip()
    if len(token) < MIN_TOKEN:
        raise UnusableError(
            f"{path}: the token is shorter than {MIN_TOKEN} characters; remove it for a fresh one"
        )
    return token


def _make_token(path: Path) -> str:
    token = new_token()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(token + "\n")
    logging.getLogger(__name__).info("a login token was made: it is in %s", path)
    return token
