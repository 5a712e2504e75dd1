"""The way of every chat call: response cache, budget, circuit breaker, retries, fallback models, record.

Each of these is an option; with none given a call goes to the client as it stands.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, TypedDict, TypeVar

from openai import APIError, APIStatusError
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion

from antiphon.toolkit.calls.breaker import CircuitBreaker
from antiphon.toolkit.calls.dialects import require_completion
from antiphon.toolkit.calls.response_cache import ResponseCache
from antiphon.toolkit.calls.retry import RetryPolicy, classify
from antiphon.toolkit.clients import ApiResponse, ChunkStream, Client, Connection
from antiphon.toolkit.costs.budget import Budget, BudgetReservation
from antiphon.toolkit.costs.prices import PriceTable
from antiphon.toolkit.costs.report import Report
from antiphon.toolkit.errors import CircuitOpenError, OutputError, RetryExhaustedError
from antiphon.toolkit.record import CallRecord, Timing
from antiphon.toolkit.tokens.count import count_through
from antiphon.toolkit.usage import Usage

T = TypeVar("T")

# Under a budget, an answer for which the request sets no limit gets this one, or what is left if that is less.
ANSWER_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Fallback:
    """A model to ask when those before it fail, at the same endpoint or through another ``client``."""

    model: str
    client: Client | None = None


class CallOptions(TypedDict, total=False):
    """What may be set around the calls of a chat or a function.

    ``budget`` stops before a call it does not cover; ``retry`` replaces the client's own retries; ``breaker`` leaves a
    failing endpoint alone; ``fallbacks`` are asked in turn when a model fails or is not served; ``cache`` answers
    deterministic calls from disk; ``report`` collects a record per call; ``prices`` are your own.
    """

    budget: Budget
    retry: RetryPolicy
    breaker: CircuitBreaker
    fallbacks: Sequence[str | Fallback]
    cache: ResponseCache
    report: Report
    prices: PriceTable


@dataclass(frozen=True, slots=True)
class CompletedCall:
    """An answer and its record."""

    completion: ChatCompletion
    record: CallRecord


@dataclass(slots=True)
class ModelCall:
    """One call under way at one endpoint; ``finish`` settles and records it exactly once."""

    caller: ModelCaller
    connection: Connection
    request: dict[str, Any]
    reservation: BudgetReservation | None
    failed_over: tuple[tuple[str, str], ...]
    begun: float
    num_retries: int = 0
    headers: Mapping[str, str] | None = None
    first_token_at: float | None = None
    is_finished: bool = False

    @property
    def model(self) -> str:
        return self.request["model"]

    def finish(self, completion: ChatCompletion | None, *, used: object = None) -> CallRecord:
        """Settle the budget and record the call.

        ``completion`` None: it ended without an answer, and the server reported ``used`` or (None) no usage at all.
        """
        self.is_finished = True
        now = time.perf_counter()
        reported = completion.usage if completion is not None else used
        usage = Usage.of(reported) if isinstance(reported, CompletionUsage) else None
        cost = None if usage is None else self.caller.cost(usage, self.model, self.connection)
        if self.reservation is not None:
            self.reservation.settle(usage, cost)
        ttft = None if self.first_token_at is None else self.first_token_at - self.begun
        record = CallRecord(
            model=self.model,
            answered_by=completion.model if completion is not None else "",
            usage=usage,
            cost=cost,
            timing=Timing(now - self.begun, ttft),
            finish_reason=completion.choices[0].finish_reason
            if completion is not None and completion.choices
            else None,
            request_id=(self.headers or {}).get("x-request-id"),
            num_retries=self.num_retries,
            saved_by_prompt_cache=self.caller.saved_by_prompt_cache(self, usage, cost),
            failed_over=self.failed_over,
        )
        if self.caller.report is not None:
            self.caller.report.add(record)
        return record


class ModelCaller:
    """Calls chat models of one endpoint (and of its fallbacks') with the options given."""

    def __init__(self, connection: Connection, options: CallOptions) -> None:
        self.connection = connection
        self.report = options.get("report")
        self._budget = options.get("budget")
        self._retry = options.get("retry")
        self._breaker = options.get("breaker")
        self._cache = options.get("cache")
        self._prices = options.get("prices") or PriceTable()
        self._fallbacks = [
            fallback if isinstance(fallback, Fallback) else Fallback(fallback)
            for fallback in options.get("fallbacks", ())
        ]

    def cached(self, request: Mapping[str, Any]) -> CompletedCall | None:
        """Return the answer that the response cache keeps for ``request``, or None."""
        completion = None if self._cache is None else self._cache.get(self.connection.endpoint, request)
        if completion is None:
            return None
        usage = Usage.of(completion.usage)
        record = CallRecord(
            model=request["model"],
            answered_by=completion.model,
            usage=usage,
            cost=Decimal(0),
            timing=Timing(0.0),
            finish_reason=completion.choices[0].finish_reason,
            request_id=None,
            from_cache=True,
            saved_by_cache=None if usage is None else self.cost(usage, request["model"], self.connection),
        )
        if self.report is not None:
            self.report.add(record)
        return CompletedCall(completion, record)

    def store(self, request: Mapping[str, Any], completion: ChatCompletion) -> None:
        """Offer an answer to the response cache, which keeps it if the call is deterministic."""
        if self._cache is not None:
            self._cache.put(self.connection.endpoint, request, completion)

    async def complete(self, request: Mapping[str, Any]) -> CompletedCall:
        """Make the call and return its answer; ``request`` holds the client's keyword arguments.

        Raises the client's errors, and ToolkitErrors of the options in use.
        """
        if (kept := self.cached(request)) is not None:
            return kept

        def send(call: ModelCall) -> Awaitable[ApiResponse[ChatCompletion]]:
            return call.connection.chat(call.request, max_retries=self._max_retries)

        call, answer = await self._first_answer(request, send)
        call.headers = answer.headers
        call.num_retries += answer.num_retries
        try:
            completion = require_completion(answer.value)
        except OutputError as error:
            error.usage = call.finish(None, used=getattr(answer.value, "usage", None)).usage
            raise
        record = call.finish(completion)
        if not call.failed_over:
            self.store(request, completion)
        return CompletedCall(completion, record)

    @asynccontextmanager
    async def stream(self, request: Mapping[str, Any]) -> AsyncGenerator[tuple[ChunkStream, ModelCall]]:
        """Open a stream, to be ended with ``call.finish``; leaving without that finishes the call as untold.

        Retries and fallbacks apply until the stream is open. The response cache is not read.
        """
        async with AsyncExitStack() as stack:

            def send(call: ModelCall) -> Awaitable[ChunkStream]:
                opening = call.connection.chat_stream(call.request, max_retries=self._max_retries)
                return stack.enter_async_context(opening)

            call, stream = await self._first_answer(request, send)
            call.headers = stream.headers
            call.num_retries += stream.num_retries
            try:
                yield stream, call
            finally:
                if not call.is_finished:
                    call.finish(None)

    def cost(self, usage: Usage, model: str, connection: Connection) -> Decimal | None:
        return self._prices.cost(usage, model, connection.endpoint)

    def saved_by_prompt_cache(self, call: ModelCall, usage: Usage | None, cost: Decimal | None) -> Decimal | None:
        """Return the dollars by which cached prompt tokens were cheaper than others, or None if not known."""
        if usage is None or cost is None or not usage.cached_tokens:
            return None
        uncached = self.cost(replace(usage, cached_tokens=0), call.model, call.connection)
        return None if uncached is None else uncached - cost

    @property
    def _max_retries(self) -> int | None:
        return None if self._retry is None else 0

    async def _first_answer(
        self, request: Mapping[str, Any], send: Callable[[ModelCall], Awaitable[T]]
    ) -> tuple[ModelCall, T]:
        targets = [Fallback(request["model"]), *self._fallbacks]
        failed: tuple[tuple[str, str], ...] = ()
        while True:
            target = targets.pop(0)
            connection = self.connection if target.client is None else Connection(target.client)
            call = await self._begin(connection, {**request, "model": target.model}, failed)
            try:
                return call, await self._send(call, send)
            except BaseException as error:
                if call.reservation is not None:
                    call.reservation.release()
                if not targets or not may_fail_over(error):
                    raise
                failed = (*failed, (target.model, str(error)))

    async def _send(self, call: ModelCall, send: Callable[[ModelCall], Awaitable[T]]) -> T:
        with self._breaker.guard() if self._breaker is not None else nullcontext():
            if self._retry is None:
                return await send(call)
            result, call.num_retries = await self._retry.acall(lambda: send(call))
            return result

    async def _begin(
        self, connection: Connection, request: dict[str, Any], failed: tuple[tuple[str, str], ...]
    ) -> ModelCall:
        reservation = None if self._budget is None else await self._reserve(self._budget, connection, request)
        return ModelCall(self, connection, request, reservation, failed, time.perf_counter())

    async def _reserve(self, budget: Budget, connection: Connection, request: dict[str, Any]) -> BudgetReservation:
        model = request["model"]
        counted = await count_through(connection, request["messages"], model, request.get("tools") or ())

        def cost(usage: Usage) -> Decimal | None:
            return self.cost(usage, model, connection)

        limit = request.get("max_completion_tokens") or request.get("max_tokens")
        if limit is None:
            room = budget.completion_room(counted.tokens, cost)
            if room is not None:
                limit = request["max_completion_tokens"] = max(1, min(room, ANSWER_TOKENS))
        most = Usage(counted.tokens, limit or 0)
        return budget.reserve(most.total_tokens, cost(most))


def may_fail_over(error: BaseException) -> bool:
    """Tell whether another model may answer where this one failed: trouble that passes, no quota, no such model."""
    if isinstance(error, CircuitOpenError | RetryExhaustedError):
        return True
    if isinstance(error, APIStatusError) and error.code in {"model_not_found", "insufficient_quota"}:
        return True
    return isinstance(error, APIError) and classify(error)[0]
