"""A run through the batch interface: plan, upload, wait, take the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path

from antiphon.toolkit.bulk.batch_api import ENDED, BatchApi, refused
from antiphon.toolkit.bulk.batch_plan import BatchPart, BatchPlan
from antiphon.toolkit.bulk.batchfile import Request, Result, as_object
from antiphon.toolkit.bulk.call_kinds import finish_reason_of, kind_of, usage_in
from antiphon.toolkit.bulk.journal import Journal
from antiphon.toolkit.bulk.tally import Tally
from antiphon.toolkit.calls.guard import ANSWER_TOKENS
from antiphon.toolkit.calls.options import CallOptions
from antiphon.toolkit.clients import Connection
from antiphon.toolkit.costs.budget import BudgetReservation
from antiphon.toolkit.costs.prices import PriceTable
from antiphon.toolkit.pacing.clock import Clock
from antiphon.toolkit.pacing.token_estimate import estimate_prompt
from antiphon.toolkit.record import CallRecord, Timing
from antiphon.toolkit.usage import Usage
from antiphon.wire.failures import is_transient

# A small batch is commonly done in seconds, a large one takes up to a day.
FIRST_LOOK_S = 2.0
LONGEST_LOOK_S = 60.0
# How many answers of a batch share one sync of the journal.
_LINES_PER_SYNC = 500


class BatchRun:
    """The batches of one run. With ``keeps_rest``, ``rest`` has what they did not answer; else that is a failure."""

    def __init__(
        self, connection: Connection, journal: Journal, options: CallOptions, tally: Tally, *, keeps_rest: bool
    ) -> None:
        self.rest: list[Request] = []
        self._connection = connection
        self._api = BatchApi(connection)
        self._journal = journal
        self._tally = tally
        self._keeps_rest = keeps_rest
        self._prices = options.get("prices") or PriceTable()
        self._budget = options.get("budget")
        self._report = options.get("report")
        self._reserved: dict[str, BudgetReservation] = {}

    async def run(self, requests: Mapping[str, Request], out: Path, clock: Clock, *, wait: bool) -> None:
        """Send ``requests`` (by custom_id) as batches, each once, and take the answers of those that are done."""
        plan = await asyncio.to_thread(_opened_plan, out, requests)
        planned, ended = plan.ids(done=False), plan.ids(done=True)
        if self._keeps_rest:
            # What an earlier call of this run was about to make in the normal way.
            self.rest = [request for name, request in requests.items() if name in ended - planned]
        given = planned | {request.custom_id for request in self.rest}
        fresh = [request for name, request in requests.items() if name not in given]
        try:
            await self._reserve((requests[name] for name in planned if name in requests), was_sent=True)
            await self._reserve(fresh, was_sent=False)
            if fresh:
                await asyncio.to_thread(plan.add, fresh)
            for part in plan.parts:
                if part.status != "done":
                    await self._send_part(plan, part, requests)
            await self._take_parts(plan, requests, clock, wait=wait)
        finally:
            # What is still under way is charged by the call that takes its answers.
            for reservation in self._reserved.values():
                reservation.release(was_called=False)

    async def _take_parts(self, plan: BatchPlan, requests: Mapping[str, Request], clock: Clock, *, wait: bool) -> None:
        pause_s = FIRST_LOOK_S
        while waiting := [part for part in plan.parts if part.status == "sent"]:
            for part in waiting:
                await self._take_part(plan, part, requests)
            pending = self._tally.num_pending = sum(len(p.requests) for p in plan.parts if p.status == "sent")
            if not wait or not pending:
                return
            await clock.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_LOOK_S)

    async def _reserve(self, requests: Iterable[Request], *, was_sent: bool) -> None:
        """Set aside what the requests may cost at most, at the price of batches.

        Raises BudgetExceededError, except for requests that an earlier call has sent (``was_sent``).
        """
        if self._budget is None:
            return
        for request, tokens, cost in await asyncio.to_thread(self._most, requests):
            self._reserved[request.custom_id] = self._budget.reserve(tokens, cost, was_sent=was_sent)

    def _most(self, requests: Iterable[Request]) -> list[tuple[Request, int, Decimal | None]]:
        """Return the tokens and the dollars that each request may take at most."""
        found: list[tuple[Request, int, Decimal | None]] = []
        for request in requests:
            kind = kind_of(request.path)
            limit = kind.limit(request.body) or (ANSWER_TOKENS if kind.limits else 0)
            most = Usage(estimate_prompt(request.body), limit)
            found.append((request, most.total_tokens, self._cost(most, request)))
        return found

    def _cost(self, usage: Usage, request: Request) -> Decimal | None:
        model = str(request.body.get("model", ""))
        return self._prices.cost(usage, model, self._connection.endpoint, batch=True)

    def _settle(self, request: Request, result: Result | None) -> None:
        """Charge what an answer took; a request that was not answered (``result`` None, or a failure) costs nothing."""
        usage = None if result is None else usage_in(result.body)
        cost = None if usage is None else self._cost(usage, request)
        if (reservation := self._reserved.pop(request.custom_id, None)) is not None:
            if result is not None and result.is_ok:
                reservation.settle(usage, cost)
            else:
                reservation.release(was_called=result is not None)
        self._tally.spent(usage, cost)
        if result is None or usage is None or self._report is None:
            return
        body = as_object(result.body)
        model, answered_by = str(request.body.get("model", "")), str(body.get("model") or "")
        self._report.add(
            CallRecord(model, answered_by, usage, cost, Timing(0.0), finish_reason_of(body), result.request_id)
        )

    async def _send_part(self, plan: BatchPlan, part: BatchPart, requests: Mapping[str, Request]) -> None:
        if part.status == "planned":
            part.file_id = await self._api.upload(part, [requests[name] for name in part.requests if name in requests])
            part.status = "uploaded"
            await asyncio.to_thread(plan.save)
        if part.status == "uploaded":
            part.batch_id = await self._api.create(part)
            part.status = "sent"
            await asyncio.to_thread(plan.save)

    async def _take_part(self, plan: BatchPlan, part: BatchPart, requests: Mapping[str, Request]) -> None:
        batch = await self._api.look(part)
        if batch.get("status") not in ENDED:
            return
        if batch["status"] == "failed" and not self._keeps_rest:
            raise refused(batch)
        lost = {"code": f"batch_{batch['status']}", "message": "the batch has no answer"}
        results = await self._api.results(batch)
        lines: list[tuple[Request, Result]] = []
        # What is not there was taken before the run was killed.
        for request in (requests[name] for name in part.requests if name in requests):
            result = results.get(request.custom_id)
            if self._keeps_rest and (result is None or _may_pass(result)):
                self._settle(request, None)
                self.rest.append(request)
            else:
                lines.append((request, result or Result(request.custom_id, None, error=lost)))
        for first in range(0, len(lines), _LINES_PER_SYNC):
            some = lines[first : first + _LINES_PER_SYNC]
            await self._journal.append(*some)
            for request, result in some:
                self._settle(request, result)
                self._tally.finished(result)
        part.status = "done"
        await asyncio.to_thread(plan.save)


def _opened_plan(out: Path, requests: Mapping[str, Request]) -> BatchPlan:
    plan = BatchPlan.load(out)
    plan.require_same(requests.values())
    return plan


def _may_pass(result: Result) -> bool:
    """Tell whether a failed line may succeed in the normal way: it was not tried, or not in time, or for too many."""
    return not result.is_ok and (result.status_code is None or is_transient(result.status_code))
