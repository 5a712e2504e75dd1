"""One admitted request, from the reservation to its usage row."""

from typing import Protocol

import msgspec

from antiphon.accounts.billing import BatchBilling
from antiphon.accounts.limiter import BudgetHold, LimitDecision
from antiphon.accounts.outcome import Outcome
from antiphon.accounts.request import Request
from antiphon.accounts.usage import is_possible
from antiphon.protocol.events import Usage


class Recorder(Protocol):
    """Records the end of a request; never waits."""

    def record(
        self,
        request: Request,
        outcome: Outcome,
        hold: BudgetHold | None = None,
        billing: BatchBilling | None = None,
    ) -> None: ...


class Admission:
    """The right to do the work of one request. Its holder settles it exactly once, however the request ends."""

    __slots__ = ("_billing", "_decision", "_expected", "_hold", "_is_settled", "_recorder", "_request")

    def __init__(
        self,
        request: Request,
        decision: LimitDecision,
        recorder: Recorder,
        *,
        expected: Usage,
        hold: BudgetHold | None = None,
        billing: BatchBilling | None = None,
    ) -> None:
        self._billing = billing
        self._expected = expected
        self._request = request
        self._decision = decision
        self._recorder = recorder
        self._hold = hold
        self._is_settled = False

    def headers(self) -> dict[str, str]:
        """The ``x-ratelimit-*`` headers as they were on admission; empty where nothing is limited."""
        return self._decision.headers()

    async def settle(self, outcome: Outcome) -> None:
        """Correct the reservation to the real usage and hand the row to the ledger.

        Usage that no request can have is replaced by the estimate made on admission, so that a broken upstream cannot
        use up a key's limits and budget.

        Never suspends, so that it is carried out in a request that is being cancelled. Raises ``RuntimeError`` the
        second time: the request would be counted twice.
        """
        if self._is_settled:
            raise RuntimeError(f"The request {outcome.request_id!r} was settled already")
        self._is_settled = True
        if not is_possible(outcome.usage):
            outcome = msgspec.structs.replace(outcome, usage=self._expected, is_estimate=True)
        if self._decision.reservation is not None:
            self._decision.reservation.settle(outcome.usage.total_tokens)
        self._recorder.record(self._request, outcome, self._hold, self._billing)
