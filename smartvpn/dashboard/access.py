"""Who may: the login token, the sessions that it opens, and the headers that keep a browser on our side."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from urllib.parse import urlsplit

from attrs import define
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smartvpn._visitors import host_name

MIN_TOKEN = 16
COOKIE = "smartvpn_session"

_MAX_SESSIONS = 64
_LIFETIME_SECS = 12 * 3600
_IDLE_SECS = 3600
_ATTEMPTS = 10
_ATTEMPTS_SECS = 60.0
_MAX_SOURCES = 1024

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # without a referrer, forms would come from the origin "null"
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


def new_token() -> str:
    """256 bits, as text."""
    return secrets.token_urlsafe(32)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


@define
class Session:
    """A browser that knew the token. `csrf` must come with every request that changes something."""

    csrf: str
    begun: float
    used: float

    def is_over(self, now: float) -> bool:
        """After half a day, or an hour without a sign of it."""
        return now - self.begun > _LIFETIME_SECS or now - self.used > _IDLE_SECS


class Access:
    """The token (kept as a digest, compared in constant time) and the sessions, which live in memory only."""

    def __init__(self, token: str, *, secure: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._token = _digest(token)
        self._secure = secure
        self._clock = clock
        self._sessions: dict[bytes, Session] = {}
        self._failures: dict[str, list[float]] = {}

    def may_try(self, source: str) -> bool:
        """Whether this source has not failed too often of late."""
        now = self._clock()
        recent = [moment for moment in self._failures.get(source, []) if now - moment < _ATTEMPTS_SECS]
        return len(recent) < _ATTEMPTS

    def login(self, token: str, source: str) -> str | None:
        """The cookie of a new session, or None for a wrong token."""
        if not hmac.compare_digest(_digest(token), self._token):
            self._note_failure(source)
            return None
        self._drop_old()
        cookie = secrets.token_urlsafe(32)
        now = self._clock()
        self._sessions[_digest(cookie)] = Session(csrf=secrets.token_urlsafe(32), begun=now, used=now)
        return cookie

    def session(self, connection: HTTPConnection) -> Session | None:
        """The live session that the request's cookie names."""
        cookie = connection.cookies.get(COOKIE)
        found = None if cookie is None else self._sessions.get(_digest(cookie))
        now = self._clock()
        if found is None or found.is_over(now):
            return None
        found.used = now
        return found

    def may_change(self, connection: HTTPConnection) -> bool:
        """Whether the request comes from our own page in a live session."""
        session = self.session(connection)
        sent = connection.headers.get("x-csrf-token", "")
        return (
            session is not None
            and hmac.compare_digest(_digest(sent), _digest(session.csrf))
            and from_own_page(connection.headers)
        )

    def logout(self, connection: HTTPConnection) -> None:
        """End the session."""
        self._sessions.pop(_digest(connection.cookies.get(COOKIE, "")), None)

    def cookie_options(self) -> Mapping[str, object]:
        """How the cookie is set: out of scripts' and other sites' reach."""
        return {"httponly": True, "samesite": "strict", "secure": self._secure, "path": "/"}

    def _drop_old(self) -> None:
        now = self._clock()
        self._sessions = {key: one for key, one in self._sessions.items() if not one.is_over(now)}
        while len(self._sessions) >= _MAX_SESSIONS:
            del self._sessions[min(self._sessions, key=lambda key: self._sessions[key].used)]

    def _note_failure(self, source: str) -> None:
        moments = self._failures.pop(source, [])
        self._failures[source] = [*moments, self._clock()][-_ATTEMPTS:]
        while len(self._failures) > _MAX_SOURCES:
            del self._failures[next(iter(self._failures))]


def from_own_page(headers: Headers) -> bool:
    """Whether the browser says that our own page sent it; programs that are no browser say nothing."""
    origin = headers.get("origin")
    if origin is not None:
        return _netloc(origin) == headers.get("host")
    return headers.get("sec-fetch-site", "none") in ("same-origin", "none")


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


class Guard:
    """Around the whole application: unknown Host names are refused, every answer carries the headers."""

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app = app
        self._hosts = {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        if self._is_known(Headers(scope=scope).get("host", "")):
            await self._app(scope, receive, send_guarded)
        else:
            refusal = PlainTextResponse("unknown host name: see --public-host\n", 421)
            await refusal(scope, receive, send_guarded)

    def _is_known(self, host: str) -> bool:
        """A name that an attacker lets point here (DNS rebinding) is none of ours."""
        return host_name(host) in self._hosts
