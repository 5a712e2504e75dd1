"""The way of every call: budget, pace, circuit breaker, retries, fallback models, record.

Each of these is an option; with none given a call goes to the client as it stands. What is asked (a chat, vectors, a
line of a batch file) differs only in its ``CallKind``.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from typing import Any, TypeVar

from openai import APIError, APIStatusError

from antiphon.toolkit.arguments import require_several
from antiphon.toolkit.calls.call_events import (
    CallEnded,
    CallEvent,
    FailedOver,
    OnCallEvent,
    RequestRetried,
    RequestSent,
)
from antiphon.toolkit.calls.options import CallOptions, Fallback
from antiphon.toolkit.calls.retry import RetryPolicy, classify, requested_wait_s
from antiphon.toolkit.clients import Connection
from antiphon.toolkit.costs.budget import Budget, BudgetReservation
from antiphon.toolkit.costs.prices import PriceTable
from antiphon.toolkit.errors import CircuitOpenError, RetryExhaustedError
from antiphon.toolkit.observing import NOT_OBSERVED, ClientSpan, client_span, event
from antiphon.toolkit.pacing.clock import SystemClock
from antiphon.toolkit.pacing.pace import Pace, Passage
from antiphon.toolkit.pacing.token_estimate import TokenEstimator
from antiphon.toolkit.record import CallRecord, Timing
from antiphon.toolkit.usage import Usage

T = TypeVar("T")

# Under a budget, an answer for which the request sets no limit gets this one, or what is left if that is less.
ANSWER_TOKENS = 4096
_RATE_LIMITED = 429


@dataclass(frozen=True, slots=True)
class CallKind:
    """What a route's requests take.

    ``prompt_tokens`` counts what a request sends; ``limits`` are its parameters that bound what is generated, of which a
    budget sets the first where none is given; empty for a route that generates nothing. ``operation`` is its name in spans.
    """

    prompt_tokens: Callable[[Connection, Mapping[str, Any]], Awaitable[int]]
    limits: tuple[str, ...] = ()
    operation: str = "chat"

    def limit(self, request: Mapping[str, Any]) -> int | None:
        return next((request[name] for name in self.limits if request.get(name)), None)


@dataclass(frozen=True, slots=True)
class AnswerFacts:
    """What an answer told about itself; ``usage`` None: it did not."""

    usage: Usage | None
    answered_by: str
    finish_reason: str | None = None
    service_tier: str | None = None


@dataclass(slots=True)
class ModelCall:
    """One call under way at one endpoint; ``finish`` settles and records it exactly once."""

    guard: CallGuard
    kind: CallKind
    connection: Connection
    request: dict[str, Any]
    reservation: BudgetReservation | None
    failed_over: tuple[tuple[str, str], ...]
    begun: float
    num_retries: int = 0
    num_sent: int = 0
    headers: Mapping[str, str] | None = None
    first_token_at: float | None = None
    passage: Passage | None = None
    left_out: tuple[str, ...] = ()
    is_finished: bool = False
    span: ClientSpan = NOT_OBSERVED
    held: AsyncExitStack = field(default_factory=AsyncExitStack)
    """What is held while the call is under way: its place in the pace, its open stream."""

    @property
    def model(self) -> str:
        return self.request.get("model", "")

    def sending(self, path: str, request: Mapping[str, Any]) -> None:
        """Tell the listener what is about to be sent."""
        self.num_sent += 1
        self.guard.tell(lambda: RequestSent(self.model, path, request, self.num_sent))

    def note(self, headers: Mapping[str, str], num_retries: int) -> None:
        """Take in what came before the answer: its headers, and how often the client itself tried again."""
        self.headers = headers
        self.num_retries += num_retries
        if self.passage is not None:
            self.passage.note_headers(headers)

    def finish(self, facts: AnswerFacts | None) -> CallRecord:
        """Settle the budget and record the call; ``facts`` None: it ended without an answer."""
        self.is_finished = True
        now = time.perf_counter()
        facts = facts or AnswerFacts(None, "")
        usage = facts.usage
        tier = facts.service_tier or self.request.get("service_tier")
        cost = None if usage is None else self.guard.cost(usage, self.model, self.connection, tier)
        if self.reservation is not None:
            self.reservation.settle(usage, cost)
        if self.passage is not None and usage is not None:
            self.passage.used_tokens = usage.total_tokens
        ttft = None if self.first_token_at is None else self.first_token_at - self.begun
        record = CallRecord(
            model=self.model,
            answered_by=facts.answered_by,
            usage=usage,
            cost=cost,
            timing=Timing(now - self.begun, ttft),
            finish_reason=facts.finish_reason,
            request_id=(self.headers or {}).get("x-request-id"),
            num_retries=self.num_retries,
            saved_by_prompt_cache=self.guard.saved_by_prompt_cache(self, usage, cost, tier),
            failed_over=self.failed_over,
            left_out=self.left_out,
        )
        self.span.note_record(record)
        self.guard.ended(record)
        return record


Send = Callable[[ModelCall], Awaitable[T]]
# Asked after a refusal: whether the call has another form now, in which it may be sent at once.
Adapt = Callable[[ModelCall, APIStatusError], bool]


class CallGuard:
    """Makes calls of one endpoint (and of its fallbacks') with the options given.

    ``pace`` is what calls keep to where the options hold none; it leaves retries to the client. ``on_event`` is
    called with what happens; what it raises ends the call.
    """

    def __init__(
        self,
        connection: Connection,
        options: CallOptions,
        *,
        pace: Pace | None = None,
        on_event: OnCallEvent | None = None,
    ) -> None:
        self.connection = connection
        self._on_event = on_event
        self.report = options.get("report")
        self._budget = options.get("budget")
        self._retry = options.get("retry") or (RetryPolicy() if "pace" in options else None)
        self._breaker = options.get("breaker")
        self._pace = options.get("pace") or pace
        self._prices = options.get("prices") or PriceTable()
        self._estimator = TokenEstimator()
        require_several("fallbacks", options.get("fallbacks"))
        self._fallbacks = [
            fallback if isinstance(fallback, Fallback) else Fallback(fallback)
            for fallback in options.get("fallbacks", ())
        ]

    @property
    def max_retries(self) -> int | None:
        """The retries that the client may make by itself; None: as many as it is set to."""
        return None if self._retry is None else 0

    async def answer(
        self, kind: CallKind, request: Mapping[str, Any], send: Send[T], *, adapt: Adapt | None = None
    ) -> tuple[ModelCall, T]:
        """Make the call, through ``send``, and return it with what that returned; the call is to be finished and let go.

        Raises the client's errors, and ToolkitErrors of the options in use.
        """

        async def try_once(call: ModelCall) -> T:
            while True:
                try:
                    return await self._paced(call, send)
                except APIStatusError as error:
                    if adapt is None or not adapt(call, error):
                        raise

        targets = [Fallback(request.get("model", "")), *self._fallbacks]
        failed: tuple[tuple[str, str], ...] = ()
        while True:
            target = targets.pop(0)
            connection = self.connection if target.client is None else Connection(target.client)
            named = {**request, "model": target.model} if failed else dict(request)
            call = await self._begin(kind, connection, named, failed)
            try:
                return call, await self._send(call, try_once)
            except BaseException as error:
                if call.reservation is not None:
                    call.reservation.release()
                if not targets or not may_fail_over(error):
                    raise
                failed = (*failed, (target.model, str(error)))
                told = {"antiphon.from_model": target.model, "antiphon.to_model": targets[0].model}
                event("antiphon.fallback", {**told, "error.type": type(error).__qualname__})
                self.tell(partial(FailedOver, target.model, targets[0].model, error))

    def cost(self, usage: Usage, model: str, connection: Connection, tier: str | None = None) -> Decimal | None:
        return self._prices.cost(usage, model, connection.endpoint, service_tier=tier)

    def saved_by_prompt_cache(
        self, call: ModelCall, usage: Usage | None, cost: Decimal | None, tier: str | None
    ) -> Decimal | None:
        """Return the dollars by which cached prompt tokens were cheaper than others, or None if not known."""
        if usage is None or cost is None or not usage.cached_tokens:
            return None
        uncached = self.cost(replace(usage, cached_tokens=0), call.model, call.connection, tier)
        return None if uncached is None else uncached - cost

    def ended(self, record: CallRecord) -> None:
        """Report a call, and learn from its usage how long answers are."""
        if record.usage is not None:
            self._estimator.learn(record.usage)
        if self.report is not None:
            self.report.add(record)
        self.tell(lambda: CallEnded(record))

    def tell(self, happened: Callable[[], CallEvent]) -> None:
        """Tell the listener, if there is one."""
        if self._on_event is not None:
            self._on_event(happened())

    async def _send(self, call: ModelCall, send: Send[T]) -> T:
        with self._breaker.guard() if self._breaker is not None else nullcontext():
            if self._retry is None:
                return await send(call)

            def count_retry(reason: str, wait_s: float) -> None:
                call.num_retries += 1
                self.tell(lambda: RequestRetried(call.model, reason, wait_s))

            clock = SystemClock() if self._pace is None else self._pace.clock
            result, _ = await self._retry.acall(lambda: send(call), clock=clock, on_retry=count_retry)
            return result

    async def _paced(self, call: ModelCall, send: Send[T]) -> T:
        """Send once, in turn; what the try holds is kept for the call if it succeeds, and let go if not."""
        async with AsyncExitStack() as stack:
            call.held, call.passage, call.span = stack, None, NOT_OBSERVED
            if self._pace is not None:
                call.passage = await stack.enter_async_context(self._pace.passage(self._tokens(call, self._pace)))
            call.span = stack.enter_context(
                client_span(call.kind.operation, call.request, call.connection.endpoint.base_url)
            )
            try:
                with call.span.active():
                    result = await send(call)
            except APIStatusError as error:
                _note_refusal(call, error)
                raise
            call.held = stack.pop_all()
            return result

    def _tokens(self, call: ModelCall, pace: Pace) -> int:
        estimate = self._estimator.tokens(call.request)
        # A batch of texts is cut by its size; what this estimate adds to that must not make it one that can never go.
        return estimate if call.kind.limits else min(estimate, pace.tpm or estimate)

    async def _begin(
        self, kind: CallKind, connection: Connection, request: dict[str, Any], failed: tuple[tuple[str, str], ...]
    ) -> ModelCall:
        reservation = None if self._budget is None else await self._reserve(self._budget, kind, connection, request)
        return ModelCall(self, kind, connection, request, reservation, failed, time.perf_counter())

    async def _reserve(
        self, budget: Budget, kind: CallKind, connection: Connection, request: dict[str, Any]
    ) -> BudgetReservation:
        prompt_tokens = await kind.prompt_tokens(connection, request)
        model = request.get("model", "")

        def cost(usage: Usage) -> Decimal | None:
            return self.cost(usage, model, connection, request.get("service_tier"))

        limit = kind.limit(request)
        num_answers = int(request.get("n") or 1)
        if limit is None and kind.limits:
            room = budget.completion_room(prompt_tokens, cost)
            if room is not None:
                limit = request[kind.limits[0]] = max(1, min(room // num_answers, ANSWER_TOKENS))
        most = Usage(prompt_tokens, (limit or 0) * num_answers)
        return budget.reserve(most.total_tokens, cost(most))


def _note_refusal(call: ModelCall, error: APIStatusError) -> None:
    if call.passage is None:
        return
    call.passage.note_headers(error.response.headers)
    if error.status_code == _RATE_LIMITED and classify(error)[0]:
        # Without a time from the server: a second of silence, and the pacer has learnt from the headers.
        call.passage.hold_s = requested_wait_s(error) or 1.0


def may_fail_over(error: BaseException) -> bool:
    """Tell whether another model may answer where this one failed: trouble that passes, no quota, no such model."""
    if isinstance(error, CircuitOpenError | RetryExhaustedError):
        return True
    if isinstance(error, APIStatusError) and error.code in {"model_not_found", "insufficient_quota"}:
        return True
    return isinstance(error, APIError) and classify(error)[0]
