"""A real server on loopback for tests: uvicorn in a thread, with the backend and settings that a test wants."""

import asyncio
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import uvloop
from tests.waiting import PATIENCE_S

from antiphon.accounts import Accounts, AccountSettings, Outcome
from antiphon.backends.base import Backend
from antiphon.backends.caching import CacheSettings
from antiphon.backends.settings import GatewaySettings
from antiphon.batches import BatchSettings
from antiphon.files import FileSettings
from antiphon.server.console.parts import ConsoleOptions
from antiphon.server.console.settings import ConsoleSettings
from antiphon.server.logs import configure_logs
from antiphon.server.process.http_server import address_of, bind, serve
from antiphon.server.request.faults import FaultSettings
from antiphon.server.service import Service, ServiceOptions
from antiphon.server.settings import ServerSettings
from antiphon.state import ResponseSettings
from antiphon.vector_stores import VectorStoreSettings
from antiphon.webhooks import WebhookSettings


class Running(NamedTuple):
    """A server that answers at ``url``; ``loop`` is the one it runs in, ``service`` its state, ``stop`` ends it."""

    url: str
    service: Service
    loop: asyncio.AbstractEventLoop
    stop: asyncio.Event

    @property
    def root(self) -> str:
        return self.url.removesuffix("/v1")


def outcomes_of(server: Running) -> list[Outcome]:
    """Return a list that grows with the outcome of each request that is recorded from now on."""
    outcomes: list[Outcome] = []
    record = server.service.accounts.record

    def note(request: Any, outcome: Outcome, *more: Any, **named: Any) -> None:
        outcomes.append(outcome)
        record(request, outcome, *more, **named)

    server.service.accounts.record = note  # type: ignore[method-assign]
    return outcomes


@contextmanager
def running(
    backend: Backend,
    home: Path,
    *,
    accounts: AccountSettings | None = None,
    cache: CacheSettings | None = None,
    faults: FaultSettings | None = None,
    responses: ResponseSettings | None = None,
    gateway: GatewaySettings | None = None,
    webhooks: WebhookSettings | None = None,
    files: FileSettings | None = None,
    vector_stores: VectorStoreSettings | None = None,
    console: ConsoleSettings | None = None,
    batches: BatchSettings | None = None,
    **settings: Any,
) -> Generator[Running]:
    """Serve ``backend`` on a free port until the block ends, then shut down as Ctrl-C does."""
    parts: dict[str, Any] = {
        "cache": cache,
        "faults": faults,
        "responses": responses,
        "gateway": gateway,
        "webhooks": webhooks,
        "files": files,
        "vector_stores": vector_stores,
        "batches": batches,
    }
    server_settings = ServerSettings(**{"port": 0, "shutdown_grace_s": 0.2, **settings})
    listener = bind(server_settings)
    started = threading.Event()
    box: dict[str, Any] = {}

    configure_logs("error", "json")

    async def main() -> None:
        stop = asyncio.Event()
        account_book = await Accounts.open(accounts or AccountSettings(), home)
        try:
            service = Service(
                server_settings,
                account_book,
                backend,
                ServiceOptions(
                    organization="org-test",
                    home=home,
                    console=ConsoleOptions(settings=console or ConsoleSettings(), home=home),
                    **{name: given for name, given in parts.items() if given is not None},
                ),
            )
            box["running"] = Running(address_of(listener), service, asyncio.get_running_loop(), stop)

            async def start() -> None:
                service.start()
                started.set()

            await serve(service, listener, start, stop=stop)
            await service.aclose()
        finally:
            await account_book.aclose()

    def run() -> None:
        try:
            uvloop.run(main())
        except BaseException as error:  # noqa: BLE001 - handed to the test
            box["error"] = error
        finally:
            started.set()

    thread = threading.Thread(target=run, name="server under test")
    thread.start()
    assert started.wait(PATIENCE_S), "the server did not start"
    try:
        if "error" in box:
            raise box["error"]
        yield box["running"]
    finally:
        if "running" in box:
            box["running"].loop.call_soon_threadsafe(box["running"].stop.set)
        thread.join(PATIENCE_S)
    assert not thread.is_alive(), "the server did not end"
    if "error" in box:
        raise box["error"]
