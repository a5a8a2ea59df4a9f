"""The web application: pages, the stream of pictures, and the commands."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import segno
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from smartvpn._json import dump, parse, to_json
from smartvpn._version import __version__
from smartvpn.dashboard.access import COOKIE, Access, Guard, from_own_page
from smartvpn.dashboard.feed import HubFeed, View
from smartvpn.errors import ConfigError, ErrorCode, SmartVpnError
from smartvpn.server import VpnServer
from smartvpn.types import ConfigBundle

STATIC = Path(__file__).parent / "static"

_BODY_BYTES = 64 * 1024
_BODY_SECS = 10.0
_STATUS = {
    ErrorCode.INVALID_PARAMS: 400,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.ALREADY_EXISTS: 409,
    ErrorCode.CONFLICT: 409,
    ErrorCode.INVALID_STATE: 409,
    ErrorCode.POOL_EXHAUSTED: 409,
    ErrorCode.UNREACHABLE: 503,
    ErrorCode.TIMEOUT: 504,
}

_COMMANDS: dict[str, Callable[[VpnServer, str], Awaitable[ConfigBundle | None]]] = {
    "enable": VpnServer.enable_client,
    "disable": VpnServer.disable_client,
    "rotate": VpnServer.rotate_client_key,
    "remove": VpnServer.remove_client,
    "disconnect": VpnServer.disconnect_client,
}

Handler = Callable[[Request], Awaitable[Response]]


class TooLargeError(Exception):
    """A request's body is longer than anything the page sends."""


def make_app(socket_path: str, access: Access, hosts: Collection[str]) -> ASGIApp:
    """The application for the hub behind that socket; `hosts` are the names it may be called by."""
    pages = Pages(HubFeed(socket_path), access)
    return Guard(Starlette(routes=pages.routes(), lifespan=pages.lifespan), hosts)


class Pages:
    """All routes."""

    def __init__(self, feed: HubFeed, access: Access) -> None:
        self._feed = feed
        self._access = access

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Follows the hub for as long as the application lives."""
        following = asyncio.create_task(self._feed.run())
        try:
            yield
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    def routes(self) -> list[Route | Mount]:
        """Path by path."""
        return [
            Route("/", self.home),
            Route("/login", self.login_page, methods=["GET"]),
            Route("/login", self.login, methods=["POST"]),
            Route("/api/session", self._asked(self.session)),
            Route("/api/events", self._asked(self.events)),
            Route("/api/export", self._asked(self.export)),
            Route("/api/logout", self._changing(self.logout), methods=["POST"]),
            Route("/api/clients", self._changing(self.create), methods=["POST"]),
            Route("/api/clients/{action}", self._changing(self.change), methods=["POST"]),
            Mount("/static", StaticFiles(directory=STATIC)),
        ]

    # who may

    def _asked(self, handler: Handler) -> Handler:
        """For those who are logged in."""

        async def handle(request: Request) -> Response:
            if self._access.session(request) is None:
                return JSONResponse({"error": "log in first"}, 401)
            return await _with_errors(handler, request)

        return handle

    def _changing(self, handler: Handler) -> Handler:
        """For those who are logged in, from our own page."""

        async def handle(request: Request) -> Response:
            if self._access.session(request) is None:
                return JSONResponse({"error": "log in first"}, 401)
            if not self._access.may_change(request):
                return JSONResponse({"error": "this request does not come from the dashboard's page"}, 403)
            return await _with_errors(handler, request)

        return handle

    async def home(self, request: Request) -> Response:
        """The page, or the way to the login."""
        if self._access.session(request) is None:
            return RedirectResponse("/login", 303)
        return FileResponse(STATIC / "index.html")

    async def login_page(self, request: Request) -> Response:
        """The form."""
        if self._access.session(request) is not None:
            return RedirectResponse("/", 303)
        return FileResponse(STATIC / "login.html")

    async def login(self, request: Request) -> Response:
        """The form's answer."""
        source = request.client.host if request.client else ""
        if not from_own_page(request.headers):
            return Response("this form was sent by another site\n", 403)
        try:
            form = parse_qs((await _body(request)).decode("utf-8", "replace"), max_num_fields=4)
        except (TooLargeError, TimeoutError, ValueError):
            return Response("this is no login\n", 400)
        # Asked with nothing to wait for between it and the login: many at once are no more than their number.
        if not self._access.may_try(source):
            return FileResponse(STATIC / "login-later.html", 429, {"Retry-After": "60"})
        cookie = self._access.login(form.get("token", [""])[0].strip(), source)
        if cookie is None:
            return FileResponse(STATIC / "login-wrong.html", 403)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(COOKIE, cookie, **self._access.cookie_options())  # type: ignore[arg-type]
        return answer

    async def logout(self, request: Request) -> Response:
        """Back to the form."""
        self._access.logout(request)
        answer = JSONResponse({})
        answer.delete_cookie(COOKIE)
        return answer

    # what is

    async def session(self, request: Request) -> Response:
        """What the page's script needs to begin."""
        session = self._access.session(request)
        assert session is not None
        return JSONResponse({"csrf": session.csrf, "version": __version__})

    async def events(self, request: Request) -> Response:
        """Server-sent events: a picture a second, until the browser leaves or its session is over."""
        query = request.query_params
        offset = query.get("offset", "0")
        view = View(
            search=query.get("search", "")[:255],
            show=query.get("show", "all"),
            offset=int(offset) if offset.isdecimal() and len(offset) < 10 else 0,
        )
        return StreamingResponse(self._stream(request, view), media_type="text/event-stream")

    async def _stream(self, request: Request, view: View) -> AsyncIterator[str]:
        pictures = self._feed.watch(view)
        try:
            async for picture in pictures:
                if self._access.session(request) is None:
                    yield "event: over\ndata: {}\n\n"
                    return
                yield f"data: {json.dumps(picture, separators=(',', ':'))}\n\n"
        except SmartVpnError as error:
            yield f"data: {json.dumps({'error': str(error)})}\n\n"
        finally:
            await pictures.aclose()  # type: ignore[attr-defined]

    async def export(self, request: Request) -> Response:
        """A client's config without its secrets, as a file."""
        client_id = request.query_params.get("id", "")
        form = request.query_params.get("format", "")
        config = await self._feed.server.export_client_config(client_id, form)  # type: ignore[arg-type]
        text = config if isinstance(config, str) else dump(config, indent=2) + "\n"
        name = file_name(client_id) + (".conf" if isinstance(config, str) else ".json")
        return Response(
            text,
            media_type="application/octet-stream",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )

    # commands

    async def create(self, request: Request) -> Response:
        """A new client; its secrets are in this answer and nowhere else."""
        params = await _json_body(request)
        known = {"clientId", "tags", "description"}
        for name in params.keys() - known:
            raise ConfigError(str(name)[:64], "unknown field")
        bundle = await self._feed.server.create_client(
            params.get("clientId", ""), params.get("tags", ()), params.get("description")
        )
        self._feed.changed()
        return JSONResponse(_shown_once(bundle), 201)

    async def change(self, request: Request) -> Response:
        """Enable, disable, rotate, remove, disconnect."""
        command = _COMMANDS.get(request.path_params["action"])
        if command is None:
            return JSONResponse({"error": "no such command"}, 404)
        bundle = await command(self._feed.server, (await _json_body(request)).get("clientId", ""))
        self._feed.changed()
        return JSONResponse({} if bundle is None else _shown_once(bundle))


def _shown_once(bundle: ConfigBundle) -> dict[str, Any]:
    """A bundle as the page shows it: texts, and the QR code that WireGuard's apps read."""
    return {
        "entry": to_json(bundle.entry),
        "fileName": file_name(bundle.entry.client_id),
        "smartvpn": dump(bundle.smartvpn_config, indent=2) + "\n",
        "wireguard": bundle.wireguard_config,
        "qr": _qr(bundle.wireguard_config),
    }


def _qr(text: str) -> str | None:
    """None for a text that no code can hold: the keys in it are not lost for that."""
    try:
        code = segno.make_qr(text, error="l")
    except segno.DataOverflowError:
        return None
    return code.svg_data_uri(border=3, dark="#000", light="#fff", scale=4)


def file_name(client_id: str) -> str:
    """A client's id as a file name that every system takes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", client_id).lstrip(".")[:64] or "client"


async def _with_errors(handler: Handler, request: Request) -> Response:
    try:
        return await handler(request)
    except SmartVpnError as error:
        status = _STATUS.get(error.code, 500)
        return JSONResponse({"error": str(error), "code": error.code.value}, status)
    except TooLargeError:
        return JSONResponse({"error": "the request is too long"}, 413)
    except TimeoutError:
        return JSONResponse({"error": "the request did not come to its end"}, 408)


async def _body(request: Request) -> bytes:
    """All of it, within bounds of size and time. Raises TimeoutError too where the sender is gone."""
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECS):
            async for piece in request.stream():
                body += piece
                if len(body) > _BODY_BYTES:
                    raise TooLargeError
    except ClientDisconnect:
        raise TimeoutError from None
    return bytes(body)


async def _json_body(request: Request) -> dict[str, Any]:
    try:
        value = parse(await _body(request))
    except ValueError:
        raise ConfigError("", "the request is no JSON") from None
    if not isinstance(value, dict):
        raise ConfigError("", "the request is no JSON object")
    return value
