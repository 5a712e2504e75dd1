"""Many requests: paced, retried here and nowhere else, each answer on disk before it counts."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai

from antiphon.toolkit._sync import portal
from antiphon.toolkit.bulk.batchfile import Request, RequestFile, Result, as_object
from antiphon.toolkit.bulk.journal import Journal
from antiphon.toolkit.bulk.post import Poster
from antiphon.toolkit.bulk.progress import bar
from antiphon.toolkit.bulk.report import BulkReport, BulkStatistics
from antiphon.toolkit.bulk.token_estimate import TokenEstimator
from antiphon.toolkit.calls.retry import RetryPolicy, classify, requested_wait_s
from antiphon.toolkit.clients import Client, Connection, connect, portal_client
from antiphon.toolkit.costs.prices import PriceTable
from antiphon.toolkit.errors import BatchFileError, BulkError, RequestTooLargeError
from antiphon.toolkit.pacing.gate import Gate
from antiphon.toolkit.pacing.pacer import Pacer
from antiphon.toolkit.pacing.task_group import all_or_none
from antiphon.toolkit.usage import NO_USAGE, Usage

# A long run outlives a restart of the server; the client's own retries are off.
RETRY = RetryPolicy(attempts=8, total_s=900.0, longest_s=60.0)
_RATE_LIMITED = 429
# A picture for people: costing tokens at every answer would slow a fast run.
SHOW_EVERY_S = 0.1

OnProgress = Callable[[BulkStatistics], None]
Requests = str | Path | Iterable[Request]


async def arun(
    requests: Requests,
    out: str | Path,
    *,
    client: Client | None = None,
    rpm: int | None = None,
    tpm: int | None = None,
    concurrency: int = 16,
    retry: RetryPolicy = RETRY,
    retry_failed: bool = False,
    prices: PriceTable | None = None,
    progress: bool = False,
    on_progress: OnProgress | None = None,
) -> BulkReport:
    """Make every request once and write ``out``, one line for each, in the order of the requests.

    ``requests`` is a batch input file or requests. ``rpm`` and ``tpm`` are limits per minute, at least 1; those not
    given are learnt from the first answer. The same call again goes on where a killed one stopped; answered requests are not
    made again, failed ones only with ``retry_failed``. A failure of one request is its line; what fails them all (no
    connection, a refused key, an empty quota) raises BulkError. Raises BatchFileError for an unreadable line or a
    repeated custom_id, before anything is sent, and JournalError when ``out`` belongs to other requests.
    """
    _check(rpm=rpm, tpm=tpm, concurrency=concurrency)
    source = RequestFile(Path(requests)) if isinstance(requests, str | Path) else list(requests)
    custom_ids = _validated(source)
    with Journal(Path(out)) as journal:
        todo = {r.custom_id for r in source if not journal.is_done(r, retry_failed=retry_failed)}
        async with connect(client) as connection:
            run = _Run(connection, journal, Gate(Pacer(rpm, tpm), concurrency), retry, prices or PriceTable())
            run.num_requests, run.num_resumed = len(custom_ids), len(custom_ids) - len(todo)
            run.num_failed_before = sum(not journal.entries[name].is_ok for name in custom_ids if name not in todo)
            with bar(enabled=progress) as shown:
                run.on_change = [notify for notify in (shown, on_progress) if notify is not None]
                await run.work((request for request in source if request.custom_id in todo), concurrency)
        await asyncio.to_thread(journal.write_out, custom_ids)
        return BulkReport(Path(out), run.statistics())


def run(
    requests: Requests,
    out: str | Path,
    *,
    client: Client | None = None,
    rpm: int | None = None,
    tpm: int | None = None,
    concurrency: int = 16,
    retry: RetryPolicy = RETRY,
    retry_failed: bool = False,
    prices: PriceTable | None = None,
    progress: bool = False,
    on_progress: OnProgress | None = None,
) -> BulkReport:
    """Do what ``arun`` does, and wait for it."""
    return portal.call(
        arun(
            requests,
            out,
            client=portal_client(client),
            rpm=rpm,
            tpm=tpm,
            concurrency=concurrency,
            retry=retry,
            retry_failed=retry_failed,
            prices=prices,
            progress=progress,
            on_progress=on_progress,
        )
    )


@dataclass(frozen=True, slots=True)
class _Spent:
    """Tokens by model, since models have different prices."""

    by_model: Mapping[str, Usage]

    def cost(self, prices: PriceTable, connection: Connection) -> Decimal | None:
        costs = [prices.cost(usage, model, connection.endpoint) for model, usage in self.by_model.items()]
        return None if None in costs else sum((cost for cost in costs if cost is not None), Decimal(0))


class _Run:
    """The state of one run while it lasts."""

    def __init__(
        self, connection: Connection, journal: Journal, gate: Gate, retry: RetryPolicy, prices: PriceTable
    ) -> None:
        self.num_requests = self.num_resumed = self.num_failed_before = 0
        self.on_change: list[OnProgress] = []
        self._connection = connection
        self._poster = Poster(connection)
        self._journal = journal
        self._gate = gate
        self._retry = retry
        self._prices = prices
        self._estimator = TokenEstimator()
        self._counts: Counter[str] = Counter()
        self._usage: dict[str, Usage] = {}
        self._begun = time.monotonic()
        self._shown_at = 0.0

    async def work(self, requests: Iterator[Request], concurrency: int) -> None:
        """Let ``concurrency`` workers take requests in turn until none is left; the first error ends all."""
        async with all_or_none(self._worker(requests) for _ in range(concurrency)) as workers:
            for done in asyncio.as_completed(workers):
                await done

    def statistics(self) -> BulkStatistics:
        return BulkStatistics(
            num_requests=self.num_requests,
            num_resumed=self.num_resumed,
            num_failed_before=self.num_failed_before,
            num_succeeded=self._counts["succeeded"],
            num_failed=self._counts["failed"],
            num_retries=self._counts["retries"],
            usage=sum(self._usage.values(), NO_USAGE),
            cost=_Spent(self._usage).cost(self._prices, self._connection),
            seconds=time.monotonic() - self._begun,
            pacer=self._gate.statistics(),
        )

    async def _worker(self, requests: Iterator[Request]) -> None:
        for request in requests:
            result = await self._result(request)
            await self._journal.append(request, result)
            self._counts["succeeded" if result.is_ok else "failed"] += 1
            self._show()

    def _show(self) -> None:
        now = time.monotonic()
        is_last = self.num_resumed + self._counts["succeeded"] + self._counts["failed"] == self.num_requests
        if is_last or now - self._shown_at >= SHOW_EVERY_S:
            self._shown_at = now
            for notify in self.on_change:
                notify(self.statistics())

    async def _result(self, request: Request) -> Result:
        begun, attempt = self._gate.clock.now(), 1
        while True:
            try:
                return await self._attempt(request)
            except RequestTooLargeError as error:
                message = f"{error.message}; {error.hint}"
                return Result(request.custom_id, None, error={"code": "request_too_large", "message": message})
            except openai.APIError as error:
                decision = self._retry.decide(error, attempt=attempt, elapsed_s=self._gate.clock.now() - begun)
                if decision.wait_s is None:
                    return _failure(request, error, self._connection.endpoint.base_url)
                # A 429 holds the whole gate; this request then waits there, in its turn.
                wait_s = 0.0 if _is_rate_limit(error) else decision.wait_s
            self._counts["retries"] += 1
            attempt += 1
            await self._gate.clock.sleep(wait_s)

    async def _attempt(self, request: Request) -> Result:
        async with self._gate.passage(self._estimator.tokens(request.body)) as passage:
            try:
                answer = await self._poster.post(request.path, request.body)
            except openai.APIStatusError as error:
                passage.note_headers(error.response.headers)
                if _is_rate_limit(error):
                    # Without a time from the server: a second of silence, and the pacer has learnt from the headers.
                    passage.hold_s = requested_wait_s(error) or 1.0
                raise
            passage.note_headers(answer.headers)
            usage = _usage(answer.body)
            if usage is not None:
                passage.used_tokens = usage.total_tokens
                self._estimator.learn(usage)
                model = str(request.body.get("model"))
                self._usage[model] = self._usage.get(model, NO_USAGE) + usage
        return Result(request.custom_id, answer.status_code, answer.headers.get("x-request-id"), answer.body)


def _check(**limits: int | None) -> None:
    for name, value in limits.items():
        if value is not None and value < 1:
            raise BulkError(f"{name} must be at least 1, not {value!r}")


def _validated(source: Iterable[Request]) -> list[str]:
    seen: dict[str, None] = {}
    for number, request in enumerate(source, 1):
        if request.custom_id in seen:
            raise BatchFileError(
                f"Request {number} repeats the custom_id {request.custom_id!r}", hint="make each unique"
            )
        seen[request.custom_id] = None
    return list(seen)


def _is_rate_limit(error: openai.APIError) -> bool:
    return isinstance(error, openai.APIStatusError) and error.status_code == _RATE_LIMITED and classify(error)[0]


def _failure(request: Request, error: openai.APIError, base_url: str) -> Result:
    """Return the line of a request that failed permanently. Raises BulkError when every other one would fail too."""
    hint = f"fix that (antiphon doctor --base-url {base_url}), then give the same command again"
    if isinstance(error, openai.APIConnectionError):
        raise BulkError(f"The server cannot be reached: {error}", hint=hint) from error
    if isinstance(error, openai.AuthenticationError) or error.code == "insufficient_quota":
        raise BulkError(f"The server refuses the key: {error}", hint=hint) from error
    if isinstance(error, openai.APIStatusError):
        body = {"error": told} if (told := as_object(error.body)) else error.response.text
        return Result(request.custom_id, error.status_code, error.request_id, body)
    return Result(request.custom_id, None, error={"code": "invalid_answer", "message": str(error)})


def _usage(body: Any) -> Usage | None:
    told = as_object(as_object(body).get("usage"))
    if not told:
        return None
    return Usage(
        prompt_tokens=int(told.get("prompt_tokens") or told.get("input_tokens") or 0),
        completion_tokens=int(told.get("completion_tokens") or told.get("output_tokens") or 0),
        cached_tokens=as_object(told.get("prompt_tokens_details")).get("cached_tokens"),
        reasoning_tokens=as_object(told.get("completion_tokens_details")).get("reasoning_tokens"),
    )
