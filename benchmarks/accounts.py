"""``python -m benchmarks.accounts``: what keys, limits and the ledger add to a request, in microseconds of one core.

Limits are in memory, SQLite is in a temporary folder. The best of five rounds counts: other work on the machine only adds time.
"""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from antiphon.accounts import Accounts, AccountSettings, Limits, Outcome, Principal
from antiphon.accounts.keys import KeyStore
from antiphon.protocol.events import Usage

ROUNDS = 5
REQUESTS = 4_000


async def best_us(work: Callable[[], Awaitable[object]]) -> float:
    """Return the time of one call in the fastest round."""
    rounds: list[float] = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        for _ in range(REQUESTS):
            await work()
        rounds.append((time.process_time() - begin) / REQUESTS * 1e6)
    return min(rounds)


async def measure(home: Path) -> None:
    """Print one line per part."""
    accounts = await Accounts.open(AccountSettings(), home)
    store = await KeyStore.open(accounts.engine, None, home)
    limits = Limits(rpm=100_000_000, tpm=10_000_000_000, concurrency=100)
    key, record = await store.create(Principal(name="bench", limits=limits))
    authorization = f"Bearer {key}"

    async def admit(principal: Principal) -> None:
        admission = await accounts.admit(
            principal, model="gpt-4o", kind="chat", estimated_tokens=100, request_id="req_1"
        )
        admission.headers()
        outcome = Outcome(request_id="req_1", started_at=time.time(), duration_s=0.1, model="m", usage=Usage(10, 10))
        await admission.settle(outcome)

    async def whole_request() -> None:
        await admit(await accounts.authenticate(authorization))

    print(f"authenticate                        {await best_us(lambda: accounts.authenticate(authorization)):6.1f} us")
    print(f"admit, headers, settle: no limits   {await best_us(lambda: admit(Principal())):6.1f} us")
    print(f"admit, headers, settle: three limits{await best_us(lambda: admit(record.principal)):6.1f} us")
    print(f"all of it                           {await best_us(whole_request):6.1f} us")
    waiting = accounts.statistics().ledger.waiting
    begin = time.process_time()
    await accounts.flush()
    print(f"a row of the ledger, behind it      {(time.process_time() - begin) / waiting * 1e6:6.1f} us")
    await accounts.aclose()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder)))
