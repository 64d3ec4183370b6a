"""A page in a headless Chromium, driven through a pair of pipes in its own protocol (DevTools): no driver, no package."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE = 60  # seconds


def program() -> str | None:
    return next((found for found in map(shutil.which, NAMES) if found), None)


class Tab:
    """One page. `requests`: addresses it asked for; `complaints`: what its console and its errors said."""

    def __init__(self, send: int, receive: int):
        self._send, self._receive, self._rest, self._number, self._session = send, receive, b"", 0, None
        self.requests: list[str] = []
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters) -> dict[str, Any]:
        self._number += 1
        number, session = self._number, {} if self._session is None else {"sessionId": self._session}
        os.write(self._send, json.dumps({"id": number, "method": method, "params": parameters} | session).encode() + b"\0")
        while (message := self._next()).get("id") != number:
            pass
        assert "error" not in message, message
        return message["result"]

    def open(self, path: Path, width: int, height: int = 900) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
        self.requests.clear()
        self.complaints.clear()
        self.call("Page.navigate", url=path.as_uri())
        while self._next().get("method") != "Page.loadEventFired":
            pass
        self.settle()

    def settle(self) -> None:
        """Until what waits to be drawn is drawn."""
        self.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def value(self, script: str) -> Any:
        """What a script comes to, as JSON has it."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def text(self, selector: str) -> str:
        return self.value(f"document.querySelector({selector!r}).textContent")

    def click(self, selector: str, across: float = 0.5, down: float = 0.5) -> None:
        """With the mouse, at so much of an element's width and height."""
        x, y = self.value(f"""(() => {{
            const node = document.querySelector({selector!r});
            node.scrollIntoView({{block: "center"}});
            const box = node.getBoundingClientRect();
            return [box.left + {across} * box.width, box.top + {down} * box.height];
        }})()""")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        self.settle()

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)
        self.settle()

    def picture(self, path: Path) -> None:
        """The whole page, as PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=size | {"scale": 1})
        path.write_bytes(base64.b64decode(shot["data"]))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            if not select.select([self._receive], [], [], PATIENCE)[0] or not (more := os.read(self._receive, 2**20)):
                raise TimeoutError("Chromium does not answer")
            self._rest += more
        text, self._rest = self._rest.split(b"\0", 1)
        message = json.loads(text)
        told = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif message.get("method") in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
            self.complaints.append(json.dumps(told))
        return message


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Tab]:
    """A browser with a fresh `profile`, and its page; ended at the end."""
    name = program()
    assert name is not None
    (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
    arguments = [name, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                 "--disable-background-networking", f"--user-data-dir={profile}", "--remote-debugging-pipe"]
    # Chromium reads from 3 and writes to 4.
    shell = f"exec 3<&{theirs_in} 4>&{theirs_out}; exec \"$@\""
    process = subprocess.Popen(["bash", "-c", shell, "bash", *arguments], pass_fds=(theirs_in, theirs_out),
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        tab = Tab(ours_out, ours_in)
        yield tab
        tab._session = None
        tab.call("Browser.close")
        process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()
        os.close(ours_out)
        os.close(ours_in)
