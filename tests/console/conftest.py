"""One Chromium for the tests of a module, and a scripted server whose answers wait for the test."""

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import Browser, expect
from tests.console.browser import Tab, chromium
from tests.serving import Running, running
from tests.waiting import PATIENCE_S

from antiphon.accounts import AccountSettings, ModelPrice
from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Pattern, Reply, Script, ScriptedCall, ScriptedError
from antiphon.server.console.settings import ConsoleSettings

SCRIPT = Script(
    models=("alpha", "beta"),
    replies=(
        Reply(
            match=Pattern(last_message="weather"), tool_calls=(ScriptedCall("get_weather", {"city": "Lisbon"}, "c1"),)
        ),
        Reply(match=Pattern(last_message="^18 degrees$"), text="It is mild in Lisbon."),
        Reply(match=Pattern(last_message="fail"), error=ScriptedError(status=500, message="The model broke.")),
        Reply(match=Pattern(last_message="slowly"), text="First half, second half.", token_s=1.0),
        Reply(match=Pattern(model="beta"), text="Beta says so."),
        Reply(text="Alpha says so."),
    ),
)
PRICES = AccountSettings(prices={"alpha": ModelPrice(input=1.0, output=2.0)})


class Gate:
    """The clock of scripted pauses: an answer stops at its first pause until the test opens the gate."""

    def __init__(self) -> None:
        self._opened: set[asyncio.Event] = set()
        self.is_open = False

    async def sleep(self, seconds: float) -> None:
        """Wait until the gate is open."""
        if self.is_open:
            return
        event = asyncio.Event()
        self._opened.add(event)
        try:
            await event.wait()
        finally:
            self._opened.discard(event)

    def open(self, server: Running) -> None:
        """Let every answer go on."""

        def set_all() -> None:
            self.is_open = True
            for event in self._opened:
                event.set()

        server.loop.call_soon_threadsafe(set_all)


class Scripted(NamedTuple):
    """A server of scripted models, and the gate of its pauses."""

    server: Running
    gate: Gate


@contextmanager
def scripted(home: Path, **options: Any) -> Generator[Scripted]:
    """Serve ``SCRIPT``; prices are known for one of its models."""
    gate = Gate()
    with running(ScriptedBackend(SCRIPT, sleep=gate.sleep), home, **{"accounts": PRICES, **options}) as server:
        yield Scripted(server, gate)


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    """Not for the whole run: while it is there, its library keeps an event loop in this thread, and others cannot run theirs."""
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Generator[Scripted]:
    """A server without keys that keeps contents."""
    with scripted(tmp_path_factory.mktemp("captured"), console=ConsoleSettings(capture=True)) as up:
        yield up


expect.set_options(timeout=PATIENCE_S * 1000 / 4)
OpenTab = Callable[..., Tab]


@pytest.fixture
def open_tab(browser: Browser) -> Generator[OpenTab]:
    """Opens tabs; each is checked for errors and policy violations when the test is over."""
    tabs: list[Tab] = []

    def make(server: Running, **options: Any) -> Tab:
        tabs.append(Tab(browser, server.root, **options))
        return tabs[-1]

    yield make
    for tab in tabs:
        tab.close()
