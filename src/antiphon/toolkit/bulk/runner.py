"""Many requests: paced, retried here and nowhere else, each answer on disk before it counts."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Literal, Unpack

import openai
from openai.types.chat import ChatCompletion

from antiphon.toolkit._sync import portal
from antiphon.toolkit.bulk.batchfile import Request, RequestFile, Result, as_object
from antiphon.toolkit.bulk.call_kinds import CHAT_PATH, kind_of
from antiphon.toolkit.bulk.halfprice import ENDED, BatchApi, BatchPart, BatchPlan, refused
from antiphon.toolkit.bulk.journal import Journal
from antiphon.toolkit.bulk.post import Posted, post
from antiphon.toolkit.bulk.progress import bar
from antiphon.toolkit.bulk.report import BulkReport, BulkStatistics
from antiphon.toolkit.calls.guard import ANSWER_TOKENS, AnswerFacts, CallGuard, ModelCall
from antiphon.toolkit.calls.options import CallOptions, require_options
from antiphon.toolkit.calls.retry import RetryPolicy
from antiphon.toolkit.calls.under_way import UnderWay
from antiphon.toolkit.clients import Client, Connection, connect, portal_client
from antiphon.toolkit.costs.budget import BudgetReservation
from antiphon.toolkit.costs.prices import PriceTable
from antiphon.toolkit.errors import (
    BatchFileError,
    BudgetExceededError,
    BulkError,
    RequestTooLargeError,
    RetryExhaustedError,
)
from antiphon.toolkit.pacing.pace import Pace
from antiphon.toolkit.pacing.task_group import all_or_none
from antiphon.toolkit.pacing.token_estimate import estimate_prompt
from antiphon.toolkit.record import CallRecord, Timing
from antiphon.toolkit.usage import NO_USAGE, Usage

# A long run outlives a restart of the server; the client's own retries are off.
RETRY = RetryPolicy(attempts=8, total_s=900.0, longest_s=60.0)
# A picture for people: costing tokens at every answer would slow a fast run.
SHOW_EVERY_S = 0.1

_NOT_FOR_BATCHES = {"retry", "breaker", "fallbacks", "cache", "pace"}
# A small batch is commonly done in seconds, a large one takes up to a day.
_FIRST_LOOK_S = 2.0
_LONGEST_LOOK_S = 60.0

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
    retry_failed: bool = False,
    progress: bool = False,
    on_progress: OnProgress | None = None,
    via: Literal["calls", "batch"] = "calls",
    wait: bool = True,
    **options: Unpack[CallOptions],
) -> BulkReport:
    """Make every request once and write ``out``, one line for each, in the order of the requests.

    ``requests`` is a batch input file or requests. ``rpm`` and ``tpm`` are limits per minute, at least 1; those not
    given are learnt from the first answer; ``pace`` is given in their place where others share the limits. ``options`` are
    those of every call (``CallOptions``); without ``retry`` a run outlives a restart of the server. The same call again goes on where a killed one stopped; answered requests are not
    made again, failed ones only with ``retry_failed``. A failure of one request is its line; what fails them all (no
    connection, a refused key, an empty quota) raises BulkError. A budget that does not cover the next request raises
    BudgetExceededError once all that was under way is answered and on disk. Raises BatchFileError for an unreadable line or a
    repeated custom_id, before anything is sent, and JournalError when ``out`` belongs to other requests.

    ``via="batch"`` sends the requests through the server's batch interface, which answers within a day at half the price.
    ``wait=False`` returns while batches are under way (``report.is_pending``); the same call later takes what is done.
    Requests that a batch expired without answering are failures, which ``retry_failed`` makes again.
    """
    if not wait and via == "calls":
        raise BulkError("wait=False is for via='batch'")
    if via == "batch" and (unused := sorted(options.keys() & _NOT_FOR_BATCHES)):
        raise BulkError(
            f"A batch takes no {', '.join(unused)}: the server paces it and tries again", hint="leave them out"
        )
    require_options(options, CallOptions, "A bulk run")
    _check(rpm=rpm, tpm=tpm, concurrency=concurrency)
    if "pace" in options and (rpm is not None or tpm is not None):
        raise BulkError("A run has either pace= or rpm= and tpm=", hint="give the limits to the Pace")
    pace = options.get("pace") or Pace(rpm, tpm)
    used: CallOptions = {"retry": RETRY, **options, "pace": pace}
    source = RequestFile(Path(requests)) if isinstance(requests, str | Path) else list(requests)
    custom_ids = _validated(source)
    with Journal(Path(out)) as journal:
        todo = {r.custom_id for r in source if not journal.is_done(r, retry_failed=retry_failed)}
        async with connect(client) as connection:
            run = _Run(connection, journal, used, pace)
            run.num_requests, run.num_resumed = len(custom_ids), len(custom_ids) - len(todo)
            run.num_failed_before = sum(not journal.entries[name].is_ok for name in custom_ids if name not in todo)
            with bar(enabled=progress) as shown:
                run.on_change = [notify for notify in (shown, on_progress) if notify is not None]
                remaining = (request for request in source if request.custom_id in todo)
                if via == "batch":
                    await run.batch(list(remaining), Path(out), wait=wait)
                else:
                    await run.work(remaining, concurrency)
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
    retry_failed: bool = False,
    progress: bool = False,
    on_progress: OnProgress | None = None,
    via: Literal["calls", "batch"] = "calls",
    wait: bool = True,
    **options: Unpack[CallOptions],
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
            retry_failed=retry_failed,
            progress=progress,
            on_progress=on_progress,
            via=via,
            wait=wait,
            **options,
        )
    )


@dataclass(frozen=True, slots=True)
class _Spent:
    """Tokens by model, since models have different prices."""

    by_model: Mapping[str, Usage]

    def cost(self, prices: PriceTable, connection: Connection, *, batch: bool) -> Decimal | None:
        costs = [prices.cost(usage, model, connection.endpoint, batch=batch) for model, usage in self.by_model.items()]
        return None if None in costs else sum((cost for cost in costs if cost is not None), Decimal(0))


class _Run:
    """The state of one run while it lasts."""

    def __init__(self, connection: Connection, journal: Journal, options: CallOptions, pace: Pace) -> None:
        self.num_requests = self.num_resumed = self.num_failed_before = 0
        self.num_pending = 0
        self.on_change: list[OnProgress] = []
        self._connection = connection
        self._journal = journal
        self._pace = pace
        self._guard = CallGuard(connection, options)
        self._cache = options.get("cache")
        self._prices = options.get("prices") or PriceTable()
        self._counts: Counter[str] = Counter()
        self._usage: dict[str, Usage] = {}
        self._begun = time.monotonic()
        self._shown_at = 0.0
        self._under_way = UnderWay()
        self._is_batch = False
        self._budget = options.get("budget")
        self._report = options.get("report")
        self._reserved: dict[str, BudgetReservation] = {}

    async def work(self, requests: Iterator[Request], concurrency: int) -> None:
        """Let ``concurrency`` workers take requests in turn until none is left; the first error ends all."""
        async with all_or_none(self._worker(requests) for _ in range(concurrency)) as workers:
            for done in asyncio.as_completed(workers):
                await done

    async def batch(self, requests: list[Request], out: Path, *, wait: bool) -> None:
        """Send ``requests`` as batches, each once, and take the answers of those that are done."""
        plan, api = BatchPlan.load(out), BatchApi(self._connection)
        by_id = {request.custom_id: request for request in requests}
        plan.require_same(requests)
        if fresh := [request for request in requests if request.custom_id not in plan.planned_ids]:
            self._reserve(fresh)
            plan.add(fresh)
        self._is_batch = True
        for part in plan.parts:
            if part.status != "done":
                await self._send_part(api, plan, part, by_id)
        pause_s = _FIRST_LOOK_S
        while waiting := [part for part in plan.parts if part.status == "sent"]:
            for part in waiting:
                await self._take_part(api, plan, part, by_id)
            self.num_pending = sum(len(part.requests) for part in plan.parts if part.status == "sent")
            if not wait or not self.num_pending:
                return
            await self._pace.clock.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_LOOK_S)

    def _reserve(self, requests: Iterable[Request]) -> None:
        """Set aside what the requests may cost at most, at the price of batches. Raises BudgetExceededError."""
        if self._budget is None:
            return
        try:
            for request in requests:
                limit = kind_of(request.path).limit(request.body) or (
                    ANSWER_TOKENS if kind_of(request.path).limits else 0
                )
                most = Usage(estimate_prompt(request.body), limit)
                cost = self._cost(most, request)
                self._reserved[request.custom_id] = self._budget.reserve(most.total_tokens, cost)
        except BudgetExceededError:
            for reservation in self._reserved.values():
                reservation.release(was_called=False)
            raise

    def _cost(self, usage: Usage, request: Request) -> Decimal | None:
        model = str(request.body.get("model", ""))
        return self._prices.cost(usage, model, self._connection.endpoint, batch=True)

    def _settle(self, request: Request, result: Result) -> None:
        usage, body = _usage(result.body), as_object(result.body)
        cost = None if usage is None else self._cost(usage, request)
        if (reservation := self._reserved.pop(request.custom_id, None)) is not None:
            reservation.settle(usage, cost)
        if usage is None:
            return
        model = str(request.body.get("model", ""))
        self._usage[model] = self._usage.get(model, NO_USAGE) + usage
        if self._report is not None:
            answered_by, reason = str(body.get("model") or ""), _finish_reason(body)
            self._report.add(CallRecord(model, answered_by, usage, cost, Timing(0.0), reason, result.request_id))

    async def _send_part(self, api: BatchApi, plan: BatchPlan, part: BatchPart, by_id: Mapping[str, Request]) -> None:
        if part.status == "planned":
            part.file_id = await api.upload(part, [by_id[name] for name in part.requests if name in by_id])
            part.status = "uploaded"
            plan.save()
        if part.status == "uploaded":
            part.batch_id = await api.create(part)
            part.status = "sent"
            plan.save()

    async def _take_part(self, api: BatchApi, plan: BatchPlan, part: BatchPart, by_id: Mapping[str, Request]) -> None:
        batch = await api.look(part)
        if batch.get("status") not in ENDED:
            return
        if batch["status"] == "failed":
            raise refused(batch)
        results = await api.results(batch)
        for name in part.requests:
            if name not in by_id:
                # Taken before the run was killed.
                continue
            lost = Result(name, None, error={"code": f"batch_{batch['status']}", "message": "the batch has no answer"})
            result = results.get(name, lost)
            await self._journal.append(by_id[name], result)
            self._counts["succeeded" if result.is_ok else "failed"] += 1
            self._settle(by_id[name], result)
            self._show()
        part.status = "done"
        plan.save()

    def statistics(self) -> BulkStatistics:
        return BulkStatistics(
            num_requests=self.num_requests,
            num_resumed=self.num_resumed,
            num_failed_before=self.num_failed_before,
            num_succeeded=self._counts["succeeded"],
            num_failed=self._counts["failed"],
            num_retries=self._counts["retries"],
            usage=sum(self._usage.values(), NO_USAGE),
            cost=_Spent(self._usage).cost(self._prices, self._connection, batch=self._is_batch),
            num_pending=self.num_pending,
            seconds=time.monotonic() - self._begun,
            pacer=self._pace.statistics(),
        )

    async def _worker(self, requests: Iterator[Request]) -> None:
        for request in requests:
            result = await self._under_way.run(partial(self._result, request))
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
        if (kept := self._cached(request)) is not None:
            return kept
        try:
            return await self._answer(request)
        except RequestTooLargeError as error:
            message = f"{error.message}; {error.hint}"
            return Result(request.custom_id, None, error={"code": "request_too_large", "message": message})
        except RetryExhaustedError as error:
            if not isinstance(error.__cause__, openai.APIError):
                raise
            return _failure(request, error.__cause__, self._connection.endpoint.base_url)
        except openai.APIError as error:
            return _failure(request, error, self._connection.endpoint.base_url)

    async def _answer(self, request: Request) -> Result:
        num_tries = 0

        async def send(call: ModelCall) -> Posted:
            nonlocal num_tries
            num_tries += 1
            return await post(call.connection, request.path, call.request)

        try:
            call, answer = await self._guard.answer(kind_of(request.path), request.body, send)
        finally:
            self._counts["retries"] += max(0, num_tries - 1)
        async with call.held:
            call.note(answer.headers, 0)
            usage, body = _usage(answer.body), as_object(answer.body)
            call.finish(AnswerFacts(usage, str(body.get("model") or ""), _finish_reason(body)))
        if usage is not None:
            self._usage[call.model] = self._usage.get(call.model, NO_USAGE) + usage
        if self._cache is not None and request.path == CHAT_PATH and not call.failed_over:
            self._cache.put(self._connection.endpoint, request.body, ChatCompletion.construct(**body))
        return Result(request.custom_id, answer.status_code, answer.headers.get("x-request-id"), answer.body)

    def _cached(self, request: Request) -> Result | None:
        if self._cache is None or request.path != CHAT_PATH:
            return None
        kept = self._cache.get(self._connection.endpoint, request.body)
        return None if kept is None else Result(request.custom_id, _OK, body=kept.to_dict(mode="json", warnings=False))


_OK = 200


def _finish_reason(body: Mapping[str, Any]) -> str | None:
    choices: Any = body.get("choices")
    first = as_object(choices[0]) if isinstance(choices, list) and choices else {}
    reason = first.get("finish_reason")
    return reason if isinstance(reason, str) else None


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
    return Usage.of_json(as_object(as_object(body).get("usage")))
