"""A real headless Chromium for tests, spoken to over pipes with the standard library alone."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ABSENT = "no Chromium on this machine: pages are not tried in a browser"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-extensions --disable-sync "
    "--disable-background-networking --disable-component-update --disable-dev-shm-usage --mute-audio "
    "--hide-scrollbars --remote-debugging-pipe"
)

# The browser reads commands from descriptor 3 and writes answers to 4; both may be in use in this process.
LAUNCHER = """
import os, sys
low, high = (os.dup(os.dup(os.dup(int(number)))) for number in sys.argv[1:3])
os.dup2(low, 3)
os.dup2(high, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def artefacts() -> Path:
    """Return the folder that keeps screenshots: FORKPOINT_ARTEFACTS, or one beside other temporary files."""
    folder = Path(os.environ.get("FORKPOINT_ARTEFACTS") or Path(tempfile.gettempdir()) / "forkpoint-artefacts")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Tab:
    """One page of the browser."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = write, os.fdopen(read, "rb")
        self._buffer, self._number, self._session = b"", 0, ""
        self.errors: list[str] = []
        """Exceptions, refusals of the content policy, and dialogs since the page was opened."""
        self._events: list[str] = []

    def attach(self) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def open(self, path: Path, *, width: int = 1440, height: int = 900, dark: bool = False) -> Tab:
        """Load a file and wait until it has loaded."""
        self.errors.clear()
        self._events.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.scheme(dark)
        self.call("Page.navigate", url=path.as_uri())
        while "Page.loadEventFired" not in self._events:
            self._next()
        return self

    def scheme(self, dark: bool) -> None:
        value = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])

    def js(self, expression: str) -> Any:
        """Return the JSON value of an expression; promises are awaited. The page's own content policy stays."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, expression: str, seconds: float = 20.0) -> Any:
        """Return the first true value of an expression."""
        end = time.monotonic() + seconds
        while not (value := self.js(expression)):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.01)
        return value

    def press(self, key: str) -> None:
        """Press and let go one key, as a person would."""
        codes = {"ArrowRight": 39, "ArrowLeft": 37, "Home": 36, "End": 35, "Escape": 27, "Tab": 9, "Enter": 13}
        what = {"key": key, "windowsVirtualKeyCode": codes.get(key, ord(key[0].upper()))}
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **what, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **what)

    def hover(self, x: float, y: float) -> None:
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def middle(self, selector: str) -> tuple[float, float]:
        """Scroll an element into view, let the page see that it was scrolled, and return where its middle is."""
        found = f"(async () => {{ const e = document.querySelector({json.dumps(selector)});"
        found += " e.scrollIntoView({block: 'center'});"
        found += " await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));"
        found += " const r = e.getClientRects()[0];"
        x, y = self.js(found + " return [r.x + r.width / 2, r.y + r.height / 2]; })()")
        return x, y

    def click(self, selector: str) -> None:
        x, y = self.middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path: Path, *, whole: bool = False) -> Path:
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))
        return path

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = self._read.read1(1 << 20)
            assert part, "the browser has gone"
            self._buffer += part
        raw, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(raw)
        if "method" in message:
            self._events.append(message["method"])
            if message["method"] == "Runtime.exceptionThrown":
                self.errors.append(str(message["params"]["exceptionDetails"]))
            if message["method"] == "Page.javascriptDialogOpening":
                self.errors.append("a dialog: " + message["params"]["message"])
            if message["method"] == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                self.errors.append(message["params"]["entry"]["text"])
        return message


@contextlib.contextmanager
def tab() -> Iterator[Tab]:
    """Start a browser with one empty page, and end it."""
    here_read, their_write = os.pipe()
    their_read, here_write = os.pipe()

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [str(CHROMIUM), *FLAGS.split(), f"--user-data-dir={profile}"]
        process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, str(their_read), str(their_write), *command],
            pass_fds=(their_read, their_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(their_read)
        os.close(their_write)
        page = Tab(here_write, here_read)
        try:
            page.attach()
            yield page
        finally:
            with contextlib.suppress(AssertionError, OSError):
                page._session = ""
                page.call("Browser.close")
            os.close(here_write)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
