"""Headless Chromium by its DevTools protocol over two pipes: opens pages, clicks, and hears all that they do."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
SECONDS = 60
"""How long an answer may take on a busy machine."""
FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    # It opens this project's own pages only, and containers often have no namespaces for its sandbox.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--hide-scrollbars",
    "--no-first-run",
    "--password-store=basic",
    "--use-mock-keychain",
)


def found() -> str | None:
    """The Chromium of this machine, or that which VISTA_TRAIN_CHROMIUM names."""
    asked = os.environ.get("VISTA_TRAIN_CHROMIUM")
    return asked or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One Chromium with one page in it."""

    def __init__(self, program: str, folder: Path) -> None:
        # Low numbers are what the child will have: none of ours may be among them.
        ours, theirs = os.pipe(), os.pipe()
        read, child_write = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 16) for end in ours)
        child_read, write = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 16) for end in theirs)
        for end in (*ours, *theirs):
            os.close(end)
        log = os.open(folder / "chromium.log", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC)
        self.process = os.posix_spawn(
            program,
            [program, *FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"],
            {**os.environ, "HOME": str(folder)},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, child_read, 3),
                (os.POSIX_SPAWN_DUP2, child_write, 4),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
            ],
            setpgroup=0,
        )
        for end in (child_read, child_write, log):
            os.close(end)
        self._read, self._write, self._heard, self._number = read, write, b"", 0
        self.session = ""
        self.events: list[dict[str, Any]] = []
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """What the browser answers; `RuntimeError` where it refuses, `TimeoutError` where it does not answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        os.write(
            self._write, json.dumps(message | ({"sessionId": self.session} if self.session else {})).encode() + b"\0"
        )
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def open(self, url: str) -> None:
        """Go to a page and wait until it is loaded; earlier events are forgotten."""
        self.events.clear()
        answer = self.call("Page.navigate", url=url)
        if "errorText" in answer:
            raise RuntimeError(f"{url}: {answer['errorText']}")
        self.wait(lambda: any(event["method"] == "Page.loadEventFired" for event in self.events), url)

    def wait(self, until: Any, what: str) -> None:
        """Listen until something is so."""
        deadline = time.monotonic() + SECONDS
        while not until():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not within {SECONDS} s")
            self.ask("0")

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression on the page; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def size(self, width: int, height: int, dark: bool = False) -> None:
        """How large its window is, a telephone's where it is narrow."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def click(self, selector: str) -> None:
        """A click of the mouse in the middle of an element."""
        self.ask(
            f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center', behavior: 'instant'}})"
        )
        x, y = self.ask(
            f"(() => {{ const r = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            f" return [r.x + r.width / 2, r.y + r.height / 2]; }})()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, code: int, text: str = "") -> None:
        """A key, down and up."""
        known = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", **known, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **known)

    def type(self, text: str) -> None:
        """Words into the field that has the focus."""
        self.call("Input.insertText", text=text)

    def picture(self, path: Path, whole: bool = True) -> None:
        """A screenshot of the page, all of it or what the window shows."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def faults(self) -> list[str]:
        """Exceptions, and what was said on the console and in the log since the page was opened."""
        told = []
        for event in self.events:
            body = event["params"]
            match event["method"]:
                case "Runtime.exceptionThrown":
                    told.append(json.dumps(body["exceptionDetails"]))
                case "Runtime.consoleAPICalled":
                    told.append(f"{body['type']}: {json.dumps(body['args'])}")
                case "Log.entryAdded":
                    told.append(f"{body['entry']['level']}: {body['entry']['text']}")
                case "Page.javascriptDialogOpening":
                    told.append(f"dialog: {body['message']}")
        return told

    def requests(self) -> list[str]:
        """What was asked for since the page was opened, but the page itself and what is embedded in it."""
        asked = [e["params"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        urls = [body["request"]["url"] for body in asked if body["type"] != "Document"]
        return [url for url in urls if not url.startswith("data:")]

    def close(self) -> None:
        os.killpg(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        os.close(self._read)
        os.close(self._write)

    def _next(self) -> dict[str, Any]:
        """The next message; an event is kept."""
        while b"\0" not in self._heard:
            ready, _, _ = select.select([self._read], [], [], SECONDS)
            more = os.read(self._read, 1 << 20) if ready else b""
            if not more:
                raise TimeoutError("Chromium has ended" if ready else f"Chromium did not answer within {SECONDS} s")
            self._heard += more
        message, _, self._heard = self._heard.partition(b"\0")
        answer = json.loads(message)
        if "method" in answer:
            self.events.append(answer)
        return answer
