"""Chromium without a window, spoken to over two pipes: what a page looks like, and what it complains of."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_PROGRAM = "chromium"
_OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe")
_TALLEST = 16_000
_COMPLAINTS = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")


@dataclass
class Browser:
    """A running browser with one page. `complaints` are the console's messages, `requests` the addresses asked for."""

    process: subprocess.Popen[bytes]
    session: str = ""
    complaints: list[Any] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    _events: list[str] = field(default_factory=list)
    _number: int = 0

    def ask(self, method: str, **parameters: Any) -> Any:
        """The answer to a command of the DevTools protocol."""
        assert self.process.stdin
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.process.stdin.write(json.dumps(message).encode() + b"\0")
        self.process.stdin.flush()
        while (answer := self._next()).get("id") != self._number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def show(self, page: Path | str, width: int, *, is_dark: bool, height: int = 900) -> None:
        """Load a page, a file or at an address, in a window of that width, in CSS pixels."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}]
        self.ask("Emulation.setEmulatedMedia", features=scheme)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        self.ask("Emulation.setScrollbarsHidden", hidden=True)
        self._events.clear()
        self.ask("Page.navigate", url=page.as_uri() if isinstance(page, Path) else page)
        while "Page.loadEventFired" not in self._events:
            self._next()

    def value(self, expression: str) -> Any:
        """What an expression is in the page."""
        return self.ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def picture(self, target: Path) -> Path:
        """The page from its beginning as a PNG file, as far as the browser's own limit."""
        width, height = self.value("[innerWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": min(height, _TALLEST), "scale": 1}
        data = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)["data"]
        target.write_bytes(base64.b64decode(data))
        return target

    def _next(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self._read())
        method = message.get("method", "")
        self._events.append(method)
        if method in _COMPLAINTS:
            self.complaints.append(message["params"])
        if method == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])
        return message

    def _read(self) -> bytes:
        assert self.process.stdout
        whole = bytearray()
        while letter := self.process.stdout.read(1):
            if letter == b"\0":
                return bytes(whole)
            whole += letter
        raise AssertionError("the browser is gone")


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Debian's chromium, with its profile in a folder that is empty."""
    program = shutil.which(_PROGRAM)
    assert program, "chromium is missing; `make components` installs it"
    command = [program, *_OPTIONS, f"--user-data-dir={profile}", "about:blank"]
    # it reads commands from descriptor 3 and writes answers to 4
    piped = ["sh", "-c", 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1', "sh", *command]
    with subprocess.Popen(piped, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        found = Browser(process)
        try:
            target = found.ask("Target.createTarget", url="about:blank")["targetId"]
            found.session = found.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            yield found
        finally:
            found.session = ""
            found.ask("Browser.close")
            process.wait(30)
