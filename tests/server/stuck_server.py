"""A server in which something hangs: ``python stuck_server.py WHAT``. It prints its URL when it answers."""

import asyncio
import sys
import tempfile
import threading
from pathlib import Path

from antiphon.accounts import Accounts, AccountSettings
from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Script
from antiphon.server.logs import configure_logs
from antiphon.server.process.http_server import address_of, bind, new_event_loop, serve
from antiphon.server.service import Service, ServiceOptions
from antiphon.server.settings import ServerSettings

NEVER = threading.Event()


class HangingBackend(ScriptedBackend):
    """Never finishes closing."""

    async def aclose(self) -> None:
        await asyncio.Event().wait()


def spin() -> None:
    while not NEVER.wait(0):
        pass


async def main(what: str, folder: Path) -> None:
    configure_logs("error", "json")
    settings = ServerSettings(port=0, shutdown_grace_s=0.2)
    script = Script(models=("m",))
    accounts = await Accounts.open(AccountSettings(), folder)
    backend = HangingBackend(script) if what == "closing" else ScriptedBackend(script)
    service = Service(settings, accounts, backend, ServiceOptions(organization="org", home=folder))
    listener = bind(settings)

    async def start() -> None:
        if what == "pool thread":
            asyncio.get_running_loop().run_in_executor(None, NEVER.wait)
        elif what == "busy pool thread":
            asyncio.get_running_loop().run_in_executor(None, spin)
        elif what == "large body thread":
            service.bodies._thread.submit(NEVER.wait)  # pyright: ignore[reportPrivateUsage]
        elif what == "plain thread":
            threading.Thread(target=NEVER.wait).start()
        print(address_of(listener), flush=True)  # noqa: T201 - said to the test

    await serve(service, listener, start)
    await accounts.aclose()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main(sys.argv[1], Path(folder)))
