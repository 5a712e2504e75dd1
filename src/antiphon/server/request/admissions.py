"""Admits requests to a key's limits and budget, and writes the usage rows of those that are refused before that."""

from collections.abc import Callable

from antiphon.accounts import Accounts, Kind, Outcome, Principal
from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import Usage
from antiphon.server.request.account import RequestAccount
from antiphon.server.request.call import Call
from antiphon.server.request.faults import HEADER, Faults
from antiphon.server.request.live import LiveRequests
from antiphon.server.request.reservation import TokenReservation

_FAULT_HEADER = HEADER.encode()


class Admissions:
    """``counted_as`` returns the name under which the limits count a request for a model."""

    def __init__(
        self, accounts: Accounts, faults: Faults, counted_as: Callable[[str], str], live: LiveRequests
    ) -> None:
        self._live = live
        self._accounts = accounts
        self._faults = faults
        self._counted_as = counted_as

    async def admit(
        self, call: Call, principal: Principal, kind: Kind, model: str, reservation: TokenReservation
    ) -> RequestAccount:
        """Reserve room in the principal's limits; ``ApiError`` 429 says why there is none.

        Every answer from here on carries the limits' headers.
        """
        fault = self._faults.draw(call.header(_FAULT_HEADER))
        # From here on the usage row is taken care of: ``admit`` writes it for a refusal, the account for any other end.
        call.is_recorded = True
        admission = await self._accounts.admit(
            principal,
            kind=kind,
            model=model,
            counted_as=self._counted_as(model),
            estimated_tokens=reservation.reserved,
            expected=Usage(reservation.prompt, reservation.completion),
            request_id=call.request_id,
            path=call.scope["path"],
            billing=call.billing,
        )
        call.extra.update(admission.headers())
        return RequestAccount(call, admission, reservation, fault, live=self._live)

    def record_refusal(self, call: Call, principal: Principal, kind: Kind, model: str, error: ApiError) -> None:
        """Write the usage row of a request rejected before admission (invalid body, unknown model), if it has none yet."""
        if call.is_recorded:
            return
        outcome = Outcome(
            request_id=call.request_id,
            started_at=call.started_at,
            duration_s=call.elapsed_s(),
            status=error.status,
            error_code=error.code or error.type,
            path=call.scope["path"],
        )
        self._accounts.refuse(principal, model=model, kind=kind, outcome=outcome, billing=call.billing)
