"""A run through the batch interface: plan, upload, wait, take the answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path

from antiphon.toolkit.bulk.batchfile import Request, Result, as_object
from antiphon.toolkit.bulk.call_kinds import finish_reason_of, kind_of, usage_in
from antiphon.toolkit.bulk.halfprice import ENDED, BatchApi, BatchPart, BatchPlan, refused
from antiphon.toolkit.bulk.journal import Journal
from antiphon.toolkit.bulk.tally import Tally
from antiphon.toolkit.calls.guard import ANSWER_TOKENS
from antiphon.toolkit.calls.options import CallOptions
from antiphon.toolkit.clients import Connection
from antiphon.toolkit.costs.budget import BudgetReservation
from antiphon.toolkit.costs.prices import PriceTable
from antiphon.toolkit.errors import BudgetExceededError
from antiphon.toolkit.pacing.clock import Clock
from antiphon.toolkit.pacing.token_estimate import estimate_prompt
from antiphon.toolkit.record import CallRecord, Timing
from antiphon.toolkit.usage import Usage
from antiphon.wire.failures import is_transient

# A small batch is commonly done in seconds, a large one takes up to a day.
FIRST_LOOK_S = 2.0
LONGEST_LOOK_S = 60.0


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

    async def run(self, requests: list[Request], out: Path, clock: Clock, *, wait: bool) -> None:
        """Send ``requests`` as batches, each once, and take the answers of those that are done."""
        plan = BatchPlan.load(out)
        by_id = {request.custom_id: request for request in requests}
        plan.require_same(requests)
        planned, ended = plan.ids(done=False), plan.ids(done=True)
        if self._keeps_rest:
            # What an earlier call of this run was about to make in the normal way.
            self.rest = [request for request in requests if request.custom_id in ended - planned]
        given = planned | {request.custom_id for request in self.rest}
        if fresh := [request for request in requests if request.custom_id not in given]:
            self._reserve(fresh)
            plan.add(fresh)
        for part in plan.parts:
            if part.status != "done":
                await self._send_part(plan, part, by_id)
        pause_s = FIRST_LOOK_S
        while waiting := [part for part in plan.parts if part.status == "sent"]:
            for part in waiting:
                await self._take_part(plan, part, by_id)
            pending = self._tally.num_pending = sum(len(p.requests) for p in plan.parts if p.status == "sent")
            if not wait or not pending:
                return
            await clock.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_LOOK_S)

    def _reserve(self, requests: Iterable[Request]) -> None:
        """Set aside what the requests may cost at most, at the price of batches. Raises BudgetExceededError."""
        if self._budget is None:
            return
        try:
            for request in requests:
                kind = kind_of(request.path)
                limit = kind.limit(request.body) or (ANSWER_TOKENS if kind.limits else 0)
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

    async def _send_part(self, plan: BatchPlan, part: BatchPart, by_id: Mapping[str, Request]) -> None:
        if part.status == "planned":
            part.file_id = await self._api.upload(part, [by_id[name] for name in part.requests if name in by_id])
            part.status = "uploaded"
            plan.save()
        if part.status == "uploaded":
            part.batch_id = await self._api.create(part)
            part.status = "sent"
            plan.save()

    async def _take_part(self, plan: BatchPlan, part: BatchPart, by_id: Mapping[str, Request]) -> None:
        batch = await self._api.look(part)
        if batch.get("status") not in ENDED:
            return
        if batch["status"] == "failed" and not self._keeps_rest:
            raise refused(batch)
        results = await self._api.results(batch)
        for name in part.requests:
            # What is not there was taken before the run was killed.
            if name in by_id:
                await self._take(by_id[name], results.get(name), str(batch["status"]))
        part.status = "done"
        plan.save()

    async def _take(self, request: Request, result: Result | None, status: str) -> None:
        if self._keeps_rest and (result is None or _may_pass(result)):
            self._settle(request, None)
            self.rest.append(request)
            return
        lost = {"code": f"batch_{status}", "message": "the batch has no answer"}
        result = result or Result(request.custom_id, None, error=lost)
        await self._journal.append(request, result)
        self._settle(request, result)
        self._tally.finished(result)


def _may_pass(result: Result) -> bool:
    """Tell whether a failed line may succeed in the normal way: it was not tried, or not in time, or for too many."""
    return not result.is_ok and (result.status_code is None or is_transient(result.status_code))
