"""A headless Chromium, driven over its DevTools protocol: Debian's program, no driver between."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

PROGRAM = "chromium"
SECONDS = 40.0


class Browser:
    """One page in a browser of its own; use it as a context manager."""

    def __init__(self, width: int = 1280, height: int = 900) -> None:
        self._home = tempfile.mkdtemp(prefix="svbrowser-")
        self._process = subprocess.Popen(
            [
                PROGRAM,
                "--headless=new",
                "--no-sandbox",  # root's browser has none; it visits nothing but ourselves
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--disable-component-update",
                "--no-first-run",
                "--remote-debugging-port=0",
                f"--user-data-dir={self._home}",
                f"--window-size={width},{height}",
                "about:blank",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._ids = itertools.count(1)
        self._held = contextlib.ExitStack()
        self.messages: list[dict[str, Any]] = []
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if line.startswith("DevTools listening on "):
                break
        else:
            raise AssertionError("the browser did not start")
        self._socket = self._held.enter_context(connect(line.split()[-1], max_size=None))
        self._session: str | None = None
        self.downloads = Path(self._home) / "downloads"
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command and its result; events that come meanwhile are kept in `messages`."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        while True:
            answer = json.loads(self._socket.recv(timeout=SECONDS))
            if answer.get("id") == number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self.messages.append(answer)

    def goto(self, url: str) -> None:
        """Open the page and wait until it is loaded."""
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def js(self, expression: str) -> Any:
        """The expression's value; promises are awaited."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = SECONDS) -> None:
        """Until the expression is true."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.js(f"(() => {{ try {{ return Boolean({condition}); }} catch {{ return false; }} }})()"):
                return
            time.sleep(0.05)
        raise AssertionError(f"never true: {condition}; the page says: {self.text()[:2000]}")

    def text(self) -> str:
        """What one can read on the page."""
        return str(self.js("document.body.innerText"))

    def click(self, selector: str) -> None:
        """A real click in the middle of the element."""
        self.wait(f"document.querySelector({json.dumps(selector)})")
        box = self.js(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect();"
            " return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def download(self, selector: str, name: str) -> str:
        """Click the link and wait for the file of that name; its text."""
        self.click(selector)
        deadline = time.monotonic() + SECONDS
        while not (self.downloads / name).exists():
            there = [path.name for path in self.downloads.glob("*")]
            assert time.monotonic() < deadline, f"{name} did not come, but {there}"
            time.sleep(0.05)
        return (self.downloads / name).read_text()

    def type(self, selector: str, text: str) -> None:
        """Focus the field and type."""
        self.js(f"document.querySelector({json.dumps(selector)}).focus()")
        self.call("Input.insertText", text=text)

    def colours(self, scheme: str) -> None:
        """`light` or `dark`, as the system would ask for."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def size(self, width: int, height: int) -> None:
        """The window's inner size."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def screenshot(self, path: Path) -> None:
        """The window as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def complaints(self) -> list[str]:
        """What the console holds: violated policies, failed requests, uncaught errors."""
        self.js("0")
        found = []
        for message in self.messages:
            if message.get("method") == "Log.entryAdded":
                entry = message["params"]["entry"]
                if entry["level"] in ("error", "warning"):
                    found.append(f"{entry['text']} {entry.get('url', '')}")
            elif message.get("method") == "Runtime.exceptionThrown":
                found.append(str(message["params"]["exceptionDetails"]))
        return found

    def close(self) -> None:
        """End the browser."""
        self._held.close()
        self._process.terminate()
        self._process.wait(20)
        if self._process.stderr is not None:
            self._process.stderr.close()
        shutil.rmtree(self._home, ignore_errors=True)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
