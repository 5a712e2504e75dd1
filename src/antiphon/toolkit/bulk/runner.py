"""Many requests: paced, retried here and nowhere else, each answer on disk before it counts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Unpack, cast

import openai
from openai.types.chat import ChatCompletion

from antiphon.toolkit._sync import portal
from antiphon.toolkit.arguments import require_one_of
from antiphon.toolkit.bulk.batch_run import BatchRun
from antiphon.toolkit.bulk.batchfile import Request, RequestFile, Result, as_object
from antiphon.toolkit.bulk.call_kinds import CHAT_PATH, finish_reason_of, kind_of, usage_in
from antiphon.toolkit.bulk.journal import Journal
from antiphon.toolkit.bulk.post import Posted, post
from antiphon.toolkit.bulk.progress import bar
from antiphon.toolkit.bulk.report import BulkReport
from antiphon.toolkit.bulk.tally import OnProgress, Tally
from antiphon.toolkit.calls.guard import AnswerFacts, CallGuard, ModelCall
from antiphon.toolkit.calls.options import CallOptions, require_options
from antiphon.toolkit.calls.retry import RetryPolicy
from antiphon.toolkit.calls.under_way import UnderWay
from antiphon.toolkit.clients import Client, Connection, connect, portal_client
from antiphon.toolkit.errors import BatchFileError, BulkError, RequestTooLargeError, RetryExhaustedError
from antiphon.toolkit.pacing.pace import Pace
from antiphon.toolkit.pacing.task_group import all_or_none

# A long run outlives a restart of the server; the client's own retries are off.
RETRY = RetryPolicy(attempts=8, total_s=900.0, longest_s=60.0)
_NOT_FOR_BATCHES = {"retry", "breaker", "fallbacks", "cache", "pace", "rpm", "tpm"}
# The paths whose requests have a service tier.
_TIERED = {CHAT_PATH, "/responses"}

Via = Literal["calls", "batch", "flex"]
Rest = Literal["fail", "now"]
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
    via: Via = "calls",
    rest: Rest = "fail",
    wait: bool = True,
    **options: Unpack[CallOptions],
) -> BulkReport:
    """Do what ``run`` does, from asynchronous code."""
    require_one_of("via", via, Via)
    require_one_of("rest", rest, Rest)
    if not wait and via != "batch":
        raise BulkError("wait=False is for via='batch'")
    if rest == "now" and via == "calls":
        raise BulkError("rest='now' is for via='batch' and via='flex'")
    given = {*options, *(name for name, limit in (("rpm", rpm), ("tpm", tpm)) if limit is not None)}
    if via == "batch" and rest == "fail" and (unused := sorted(given & _NOT_FOR_BATCHES)):
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
    # In threads, as whatever grows with the number of requests: the loop may have others to serve.
    custom_ids = await asyncio.to_thread(_validated, source)
    with Journal(Path(out)) as journal:
        todo = await asyncio.to_thread(_unanswered, source, journal, retry_failed=retry_failed)
        async with connect(client) as connection:
            tally = Tally(pace)
            tally.num_requests, tally.num_resumed = len(custom_ids), len(custom_ids) - len(todo)
            tally.num_failed_before = sum(not journal.entries[name].is_ok for name in custom_ids if name not in todo)
            calls = _Run(connection, journal, used, tally, _Tier("flex", rest == "now") if via == "flex" else None)
            with bar(enabled=progress) as shown:
                tally.on_change = [notify for notify in (shown, on_progress) if notify is not None]
                remaining = (request for request in source if request.custom_id in todo)
                if via == "batch":
                    batches = BatchRun(connection, journal, used, tally, keeps_rest=rest == "now")
                    by_id = await asyncio.to_thread(lambda: {request.custom_id: request for request in remaining})
                    await batches.run(by_id, Path(out), pace.clock, wait=wait)
                    remaining = iter(batches.rest)
                await calls.work(remaining, concurrency)
        await asyncio.to_thread(journal.write_out, custom_ids)
        return BulkReport(Path(out), tally.statistics())


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
    via: Via = "calls",
    rest: Rest = "fail",
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
    ``via="flex"`` asks for the service tier "flex", which costs half as well, answers slowly, and may have no room; a request
    that names a tier keeps it. What a batch did not answer in time, or flex has no room for, is a failure, which
    ``retry_failed`` makes again; with ``rest="now"`` it is made at once as a normal call, at the normal price.
    """
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
            rest=rest,
            wait=wait,
            **options,
        )
    )


@dataclass(frozen=True, slots=True)
class _Tier:
    """A service tier, and whether a request that it does not take is made again without it."""

    name: str
    is_left: bool


class _Run:
    """The calls of one run; ``tier`` is the service tier of requests that name none."""

    def __init__(
        self, connection: Connection, journal: Journal, options: CallOptions, tally: Tally, tier: _Tier | None
    ) -> None:
        self._connection = connection
        self._journal = journal
        self._guard = CallGuard(connection, options)
        self._cache = options.get("cache")
        self._tally = tally
        self._tier = tier
        self._under_way = UnderWay()

    async def work(self, requests: Iterator[Request], concurrency: int) -> None:
        """Let ``concurrency`` workers take requests in turn until none is left; the first error ends all."""
        async with all_or_none(self._worker(requests) for _ in range(concurrency)) as workers:
            for done in asyncio.as_completed(workers):
                await done

    async def _worker(self, requests: Iterator[Request]) -> None:
        for request in requests:
            result = await self._under_way.run(partial(self._result, request))
            await self._journal.append((request, result))
            self._tally.finished(result)

    async def _result(self, request: Request) -> Result:
        if (kept := self._cached(request)) is not None:
            return kept
        try:
            return await self._answer_in_tier(request)
        except RequestTooLargeError as error:
            message = f"{error.message}; {error.hint}"
            return Result(request.custom_id, None, error={"code": "request_too_large", "message": message})
        except RetryExhaustedError as error:
            if not isinstance(error.__cause__, openai.APIError):
                raise
            return _failure(request, error.__cause__, self._connection.endpoint.base_url)
        except openai.APIError as error:
            return _failure(request, error, self._connection.endpoint.base_url)

    async def _answer_in_tier(self, request: Request) -> Result:
        tier = self._tier
        if tier is None or request.path not in _TIERED or "service_tier" in request.body:
            return await self._answer(request, request.body)
        try:
            return await self._answer(request, {**request.body, "service_tier": tier.name})
        except (openai.APIStatusError, RetryExhaustedError) as error:
            if not (tier.is_left and _is_about_tier(error)):
                raise
        return await self._answer(request, request.body)

    async def _answer(self, request: Request, asked: Mapping[str, Any]) -> Result:
        num_tries = 0

        async def send(call: ModelCall) -> Posted:
            nonlocal num_tries
            num_tries += 1
            return await post(call.connection, request.path, call.request)

        try:
            call, answer = await self._guard.answer(kind_of(request.path), asked, send)
        finally:
            self._tally.retried(max(0, num_tries - 1))
        async with call.held:
            call.note(answer.headers, 0)
            body, tier = as_object(answer.body), as_object(answer.body).get("service_tier")
            facts = AnswerFacts(usage_in(body), str(body.get("model") or ""), finish_reason_of(body))
            record = call.finish(replace(facts, service_tier=tier if isinstance(tier, str) else None))
        self._tally.spent(record.usage, record.cost)
        if self._cache is not None and request.path == CHAT_PATH and not call.failed_over:
            self._cache.put(self._connection.endpoint, request.body, ChatCompletion.construct(**body))
        return Result(request.custom_id, answer.status_code, answer.headers.get("x-request-id"), answer.body)

    def _cached(self, request: Request) -> Result | None:
        if self._cache is None or request.path != CHAT_PATH:
            return None
        kept = self._cache.get(self._connection.endpoint, request.body)
        return None if kept is None else Result(request.custom_id, _OK, body=kept.to_dict(mode="json", warnings=False))


_OK = 200


def _is_about_tier(error: openai.APIStatusError | RetryExhaustedError) -> bool:
    """Tell whether a request may succeed in the usual tier: this one has no room for it, or the model is not in it."""
    cause = error.__cause__ if isinstance(error, RetryExhaustedError) else error
    if not isinstance(cause, openai.APIStatusError):
        return False
    return isinstance(error, RetryExhaustedError) or cause.param == "service_tier" or "service_tier" in cause.message


def _check(**limits: int | None) -> None:
    for name, value in limits.items():
        if value is not None and value < 1:
            raise BulkError(f"{name} must be at least 1, not {value!r}")


def _validated(source: Iterable[Request]) -> list[str]:
    seen: dict[str, None] = {}
    for number, request in enumerate(source, 1):
        if not isinstance(cast("Any", request), Request):
            raise BatchFileError(
                f"Request {number} is a {type(request).__name__}, not a Request",
                hint="make it with Request.chat(...), or write the objects to a file, one a line, and name that",
            )
        if request.custom_id in seen:
            raise BatchFileError(
                f"Request {number} repeats the custom_id {request.custom_id!r}", hint="make each unique"
            )
        seen[request.custom_id] = None
    return list(seen)


def _unanswered(source: Iterable[Request], journal: Journal, *, retry_failed: bool) -> set[str]:
    return {request.custom_id for request in source if not journal.is_done(request, retry_failed=retry_failed)}


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
