"""The dashboard as a process, and requests to it as a program makes them."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

ROOT = Path(__file__).resolve().parent.parent
COMMAND = (sys.executable, "-P", "-m", "smartvpn.dashboard")


def free_port() -> int:
    """A port that nobody has at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Dashboard:
    """A dashboard for the hub behind `socket_path`; its files are in `folder`."""

    def __init__(self, socket_path: Path, folder: Path, *options: str, **env: str) -> None:
        self.port = free_port()
        self.tls = "--tls-cert" in options
        self.url = f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/"
        self._token_file = folder / "token"
        self._log = folder / "dashboard.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *COMMAND,
                    "--socket",
                    str(socket_path),
                    "--listen",
                    f"127.0.0.1:{self.port}",
                    "--token-file",
                    str(self._token_file),
                    *options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT), **env},
            )

    @property
    def token(self) -> str:
        """What is in the token's file."""
        return self._token_file.read_text().strip()

    @property
    def log(self) -> str:
        """Everything it has said."""
        return self._log.read_text()

    def __enter__(self) -> Dashboard:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 5).close()
                return self
            except OSError:
                assert self.process.poll() is None, self.log
                assert time.monotonic() < deadline, self.log
                time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        finally:
            self.process.kill()
            self.process.wait()

    def connect(self) -> socket.socket:
        """A connection, for what a well-behaved program would not send."""
        return socket.create_connection(("127.0.0.1", self.port), 30)

    def request(
        self, method: str, path: str, body: str | None = None, **headers: str
    ) -> http.client.HTTPResponse:
        """One request on a connection of its own; `_` in a header's name stands for `-`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        if self.tls:
            context = ssl._create_unverified_context()
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=context)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            answer.text = answer.read().decode()  # type: ignore[attr-defined]
            return answer
        finally:
            connection.close()

    def login(self, token: str | None = None, **headers: str) -> http.client.HTTPResponse:
        """The form's request."""
        body = urlencode({"token": self.token if token is None else token})
        kind = "application/x-www-form-urlencoded"
        return self.request("POST", "/login", body, Content_Type=kind, **headers)

    def visitor(self) -> Visitor:
        """Somebody who has logged in."""
        answer = self.login()
        assert answer.status == 303, answer.status
        cookie = (answer.getheader("set-cookie") or "").partition(";")[0]
        session = json.loads(self.request("GET", "/api/session", Cookie=cookie).text)  # type: ignore[attr-defined]
        return Visitor(self, cookie, session["csrf"])


class Visitor:
    """A cookie and the token that goes with it."""

    def __init__(self, dashboard: Dashboard, cookie: str, csrf: str) -> None:
        self._dashboard = dashboard
        self.cookie = cookie
        self.csrf = csrf

    def get(self, path: str) -> Any:
        """A page's answer."""
        return self._dashboard.request("GET", path, Cookie=self.cookie)

    def post(self, path: str, value: object, **headers: str) -> Any:
        """A command, as the page's script sends it, or with other headers."""
        sent = {
            "Cookie": self.cookie,
            "X_CSRF_Token": self.csrf,
            "Content_Type": "application/json",
        } | headers
        return self._dashboard.request("POST", path, json.dumps(value), **sent)
