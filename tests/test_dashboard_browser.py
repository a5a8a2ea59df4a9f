"""The dashboard in a real browser, over a real hub with a real tunnel."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from smartvpn.server import VpnServer
from tests.browser import Browser
from tests.dashboard import Dashboard
from tests.netns.topology import HUB_OUTER, Topology
from tests.netns.tunnel import GATEWAY, TUN, answers, client_on, eventually, hub_config

ROOT = Path(__file__).resolve().parent.parent
SHOTS = os.environ.get("SMARTVPN_SCREENSHOTS")
TITLES = {"websocket": "WebSocket", "quic": "QUIC", "wireguard": "WireGuard"}
ODD = "<b>m&l</b>'\"/.."


@pytest.fixture
async def hub(topology: Topology, tmp_path: Path) -> AsyncIterator[VpnServer]:
    """A hub on its own machine, spoken to through its socket."""
    path = tmp_path / "hub.sock"
    options = ("--management-socket", str(path), "--mode", "server", "--tun-name", TUN)
    command = ("env", f"PYTHONPATH={ROOT}", sys.executable, "-P", "-m", "smartvpn.daemon")
    topology.popen("hub", *command, *options, stderr=subprocess.DEVNULL)

    async def there() -> bool:
        return path.exists()

    await eventually(there)
    config = hub_config(transportMode="all", serverEndpoint=HUB_OUTER, dns=["10.8.0.1"])
    async with VpnServer({"transport": "socket", "socketPath": str(path)}, config) as server:
        yield server


@pytest.fixture
def dashboard(hub: VpnServer, tmp_path: Path) -> Iterator[Dashboard]:
    """The dashboard's process for that hub."""
    with Dashboard(tmp_path / "hub.sock", tmp_path) as running:
        yield running


@pytest.fixture
def browser() -> Iterator[Browser]:
    """A browser on an empty page."""
    assert shutil.which("chromium"), "the browser tests need chromium: run `make deps`"
    with Browser() as running:
        yield running


def login(browser: Browser, dashboard: Dashboard) -> None:
    """Through the form, with the token of the file."""
    browser.goto(dashboard.url)
    browser.wait("location.pathname === '/login'")
    browser.type("#token", dashboard.token)
    browser.click("button[type=submit]")
    browser.wait(
        "location.pathname === '/' && document.querySelector('#hub-state').textContent === 'running'"
    )


def shot(browser: Browser, name: str) -> None:
    """A picture to look at, where somebody asked for pictures."""
    if SHOTS:
        browser.screenshot(Path(SHOTS) / f"{name}.png")


def row(client_id: str, selector: str) -> str:
    """The selector of something in a client's row."""
    return f"tr[data-client='{client_id}'] {selector}"


async def test_a_day_with_the_dashboard(
    topology: Topology, hub: VpnServer, dashboard: Dashboard, browser: Browser, tmp_path: Path
) -> None:
    """Add a client, scan its code, see it online with its traffic and link, rotate, disable, remove it."""
    await asyncio.to_thread(login, browser, dashboard)
    browser.click("#add")
    browser.type("#add-name", "alice-phone")
    browser.type("#add-tags", "phone, berlin")
    shot(browser, "add")
    browser.click("#add-submit")
    browser.wait("document.querySelector('#bundle-dialog').open")
    text = browser.download("#bundle-wireguard", "alice-phone.conf")
    assert decoded(browser, tmp_path) == text.strip()
    assert (await hub.get_client("alice-phone")).tags == ("phone", "berlin")
    config = json.loads(browser.download("#bundle-smartvpn", "alice-phone.json"))
    shot(browser, "bundle")
    browser.click("#bundle-done")
    browser.wait("!document.querySelector('#bundle-qr').hasAttribute('src')")

    async with client_on(topology, config) as client:
        await client.connect()
        assert await answers(topology, GATEWAY, "client", "-s", "1200")
        online = row("alice-phone", ".dot.online")
        await asyncio.to_thread(browser.wait, f'document.querySelector("{online}")')
        await asyncio.to_thread(browser.wait, f'document.querySelector("{row("alice-phone", ".pill.good")}")')
        assert browser.js("document.querySelector('#online').textContent") == "1"
        [session] = await hub.list_clients()
        shown = browser.js(f'document.querySelector("{row("alice-phone", ".connection")}").innerText')
        assert TITLES[session.transport] in shown
        browser.click(row("alice-phone", ".menu summary"))
        await asyncio.to_thread(choose, browser, "Disable")
        browser.click("#confirm-yes")
        await asyncio.to_thread(browser.wait, "!document.querySelector('#confirm-dialog').open")
        assert not (await hub.get_client("alice-phone")).enabled
        disabled = row("alice-phone", ".dot.disabled")
        await asyncio.to_thread(browser.wait, f'document.querySelector("{disabled}")')

    before = (await hub.get_client("alice-phone")).public_key
    browser.click(row("alice-phone", ".menu summary"))
    choose(browser, "New keys …")
    browser.click("#confirm-yes")
    await asyncio.to_thread(browser.wait, "document.querySelector('#bundle-dialog').open")
    assert (await hub.get_client("alice-phone")).public_key != before
    browser.click("#bundle-done")
    browser.click(row("alice-phone", ".menu summary"))
    choose(browser, "Remove …")
    browser.click("#confirm-yes")
    await asyncio.to_thread(
        browser.wait, "document.querySelector('#empty').innerText.includes('No clients yet')"
    )
    assert browser.complaints() == []


def choose(browser: Browser, text: str) -> None:
    """An item of the menu that is open."""
    items = "[...document.querySelectorAll('.menu[open] .menu-list > *')]"
    item = f"{items}.find((e) => e.textContent === '{text}')"
    browser.wait(item)
    browser.js(f"{item}.click()")


def decoded(browser: Browser, folder: Path) -> str:
    """What a QR reader sees in the dialog, on a screenshot of it."""
    picture = folder / "qr.png"
    browser.screenshot(picture)
    done = subprocess.run(
        ["zbarimg", "-q", "--raw", str(picture)], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


async def test_names_are_text(hub: VpnServer, dashboard: Dashboard, browser: Browser) -> None:
    """A client whose name is markup is shown as it is called, and exported under a tame file name."""
    await hub.create_client(ODD, description="<img src=x onerror=alert(1)>")
    await hub.create_client("bob")
    await asyncio.to_thread(login, browser, dashboard)
    await asyncio.to_thread(browser.wait, "document.querySelectorAll('#clients tbody tr').length === 2")
    assert ODD in browser.text()
    assert browser.js("document.querySelectorAll('#clients b, #clients img').length") == 0
    browser.type("#search", "m&l")
    await asyncio.to_thread(browser.wait, "document.querySelectorAll('#clients tbody tr').length === 1")
    exported = browser.js(
        "fetch('/api/export?' + new URLSearchParams({format: 'wireguard',"
        " id: document.querySelector('#clients tbody tr').dataset.client}))"
        ".then(async (r) => [r.headers.get('content-disposition'), await r.text()])"
    )
    assert re.fullmatch(r'attachment; filename="[A-Za-z0-9._-]+\.conf"', exported[0])
    assert "# PrivateKey =" in exported[1]
    assert browser.complaints() == []


async def test_errors_are_shown_where_they_belong(
    hub: VpnServer, dashboard: Dashboard, browser: Browser
) -> None:
    """A name that is taken: in the dialog, which stays open."""
    await hub.create_client("bob")
    await asyncio.to_thread(login, browser, dashboard)
    browser.click("#add")
    browser.type("#add-name", "bob")
    browser.click("#add-submit")
    await asyncio.to_thread(browser.wait, "!document.querySelector('#add-error').hidden")
    assert "exists already" in browser.text()
    assert browser.js("document.querySelector('#add-dialog').open")


async def test_logging_out_ends_it(dashboard: Dashboard, browser: Browser) -> None:
    """Back at the form; the page itself asks for the token again."""
    await asyncio.to_thread(login, browser, dashboard)
    browser.click("#logout")
    await asyncio.to_thread(browser.wait, "location.pathname === '/login'")
    browser.goto(dashboard.url)
    await asyncio.to_thread(browser.wait, "location.pathname === '/login'")
