"""Firefox over WebDriver BiDi, which it speaks itself: no driver is between it and the test.

The protocol is W3C's WebDriver BiDi: JSON commands over a WebSocket, answered by id.
"""

import asyncio
import re
import shutil
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from tests.waiting import PATIENCE_S

FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
_PREFERENCES = {
    "browser.shell.checkDefaultBrowser": "false",
    "browser.aboutwelcome.enabled": "false",
    "datareporting.policy.dataSubmissionEnabled": "false",
    "app.normandy.enabled": "false",
    "network.captive-portal-service.enabled": "false",
    "network.connectivity-service.enabled": "false",
    "services.settings.server": '"data:,"',
    "toolkit.telemetry.enabled": "false",
    "extensions.update.enabled": "false",
}


class FirefoxPage:
    """One page: goes to addresses, runs expressions, and notes what it logs."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._num_sent = 0
        self._context = ""
        self.errors: list[str] = []

    async def begin(self) -> None:
        """Start a session and take the page that is there."""
        await self._send("session.new", capabilities={})
        await self._send("session.subscribe", events=["log.entryAdded"])
        tree = await self._send("browsingContext.getTree")
        self._context = tree["contexts"][0]["context"]

    async def go(self, url: str) -> None:
        """Load a page."""
        await self._send("browsingContext.navigate", context=self._context, url=url, wait="complete")

    async def evaluate(self, expression: str) -> Any:
        """Return a text, number or truth value of an expression in the page."""
        answer = await self._send(
            "script.evaluate", expression=expression, target={"context": self._context}, awaitPromise=True
        )
        assert answer["type"] == "success", answer
        return answer["result"].get("value")

    async def until(self, expression: str) -> None:
        """Wait until an expression is true."""
        async with asyncio.timeout(PATIENCE_S):
            while not await self.evaluate(expression):  # noqa: ASYNC110 - the page has no event for it
                await asyncio.sleep(0.05)

    async def click(self, selector: str) -> None:
        """Click the middle of an element with the pointer, as a user does."""
        place = f"document.querySelector({selector!r})"
        await self.until(f"{place} !== null")
        element = await self._send(
            "script.evaluate", expression=place, target={"context": self._context}, awaitPromise=False
        )
        origin = {"type": "element", "element": {"sharedId": element["result"]["sharedId"]}}
        actions = [
            {"type": "pointerMove", "x": 0, "y": 0, "origin": origin},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        ]
        await self._send(
            "input.performActions",
            context=self._context,
            actions=[{"type": "pointer", "id": "mouse", "actions": actions}],
        )

    async def _send(self, method: str, **params: Any) -> dict[str, Any]:
        self._num_sent += 1
        await self._socket.send_json({"id": self._num_sent, "method": method, "params": params})
        while True:
            message = await self._socket.receive_json(timeout=PATIENCE_S)
            if message.get("method") == "log.entryAdded" and message["params"]["level"] == "error":
                self.errors.append(str(message["params"]["text"]))
            if message.get("id") == self._num_sent:
                assert message["type"] == "success", message
                return message["result"]


@asynccontextmanager
async def firefox(profile: Path) -> AsyncGenerator[FirefoxPage]:
    """Run Firefox without a window, with a fresh profile."""
    assert FIREFOX is not None
    lines = [f'user_pref("{name}", {value});' for name, value in _PREFERENCES.items()]
    (profile / "user.js").write_text("\n".join(lines))
    process = await asyncio.create_subprocess_exec(
        FIREFOX, "--headless", "--no-remote", "--profile", str(profile), "--remote-debugging-port", "0",
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        async with aiohttp.ClientSession() as session, session.ws_connect(await _address(process)) as socket:
            page = FirefoxPage(socket)
            await page.begin()
            yield page
    finally:
        process.terminate()
        await process.communicate()


async def _address(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE_S):
        while line := await process.stderr.readline():
            if found := re.search(rb"WebDriver BiDi listening on (ws://\S+)", line):
                return found[1].decode() + "/session"
    raise AssertionError("Firefox ended before it listened")
