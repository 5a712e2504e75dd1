"""``GET /console/api/usage``: tokens, requests and dollars by day, key and model."""

import time
from typing import Annotated, Any

import msgspec

from antiphon.accounts import Accounts
from antiphon.accounts.reports import UsageQuery, UsageTotal
from antiphon.server.console.access import ConsoleAccess
from antiphon.server.console.bodies import read_query
from antiphon.server.request.call import Call

_DAY_S = 86_400
_HOUR_S = 3600


class UsagePeriod(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The query: how many days up to now, today included; one day comes in hours."""

    days: Annotated[int, msgspec.Meta(ge=1, le=366)] = 30


class UsageRoutes:
    """The handler."""

    def __init__(self, access: ConsoleAccess, accounts: Accounts) -> None:
        self._access = access
        self._accounts = accounts

    async def show(self, call: Call) -> None:
        """Report the sums of each bucket of time, key and model."""
        await self._access.authenticate(call)
        asked = read_query(call, UsagePeriod)
        now = int(time.time())
        width_s = _HOUR_S if asked.days == 1 else _DAY_S
        num = 24 if asked.days == 1 else asked.days
        first = now - now % width_s - (num - 1) * width_s
        query = UsageQuery(
            start_ms=first * 1000, end_ms=(now + 1) * 1000, by=("time", "key", "model"), bucket_ms=width_s * 1000
        )
        found = await self._accounts.report(query)
        call.extra["cache-control"] = "no-store"
        await call.respond_json(
            {
                "buckets": [first + place * width_s for place in range(num)],
                "width_s": width_s,
                "data": [_view(total) for total in found],
            }
        )


def _view(total: UsageTotal) -> dict[str, Any]:
    assert total.bucket_ms is not None
    value = msgspec.structs.asdict(total)
    del value["bucket_ms"], value["is_batch"]
    return {"start": total.bucket_ms // 1000, **value}
