"""``/console/api/requests`` and ``/console/api/feed``: past requests, one request with its contents, and what happens now."""

from contextlib import aclosing
from typing import Annotated

import msgspec

from antiphon.accounts import Accounts
from antiphon.accounts.request_log import RequestQuery, StatusFilter
from antiphon.protocol.errors import ApiError
from antiphon.server.console.access import ConsoleAccess
from antiphon.server.console.bodies import read_query
from antiphon.server.console.feed import Feed
from antiphon.server.console.views import captured_view, live_view, logged_view, row_view
from antiphon.server.request.call import Call
from antiphon.server.request.capture import CaptureRing
from antiphon.server.request.departure import until_gone
from antiphon.server.request.live import LiveRequests
from antiphon.server.request.query import refuse_query

_RowId = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{28}$")]
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class RequestPage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The query of the list; ``before`` is the id of the last row of the page before."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 200
    before: _RowId | None = None
    status: StatusFilter | None = None
    model: _Text | None = None
    key_id: _Text | None = None
    path: _Text | None = None


class RequestRoutes:
    """``capture`` is None where it is off."""

    def __init__(
        self,
        access: ConsoleAccess,
        accounts: Accounts,
        live: LiveRequests,
        feed: Feed,
        capture: CaptureRing | None,
    ) -> None:
        self._access = access
        self._accounts = accounts
        self._live = live
        self._feed = feed
        self._capture = capture

    async def list_requests(self, call: Call) -> None:
        """List requests that are over, newest first."""
        await self._access.authenticate(call)
        asked = read_query(call, RequestPage)
        query = RequestQuery(
            limit=asked.limit + 1,
            before=asked.before,
            status=asked.status,
            model=asked.model,
            key_id=asked.key_id,
            path=asked.path,
        )
        found = await self._accounts.requests(query)
        rows = [row_view(logged.row, logged.key_name) for logged in found[: asked.limit]]
        call.extra["cache-control"] = "no-store"
        await call.respond_json({"data": rows, "has_more": len(found) > asked.limit})

    async def retrieve(self, call: Call) -> None:
        """Show one request: in flight or over, and its contents where they were captured."""
        await self._access.authenticate(call)
        refuse_query(call)
        request_id = call.path_param("request_id")
        live = self._live.find(request_id)
        logged = None if live is not None else await self._accounts.request(request_id)
        captured = None if self._capture is None else self._capture.find(request_id)
        if live is None and logged is None:
            raise ApiError(404, f"No request has the id {request_id[:100]!r}.", code="request_not_found")
        call.extra["cache-control"] = "no-store"
        await call.respond_json(
            {
                "live": None if live is None else live_view(*live),
                "request": None if logged is None else logged_view(logged),
                "contents": None
                if captured is None or self._capture is None
                else captured_view(captured, self._capture.max_age_s),
            }
        )

    async def feed(self, call: Call) -> None:
        """Send what happens, as server-sent events, until the page leaves, the session ends or the server does."""
        await self._access.authenticate(call)
        refuse_query(call)
        async with aclosing(self._feed.listen(lambda: self._access.authenticate(call))) as events:
            await until_gone(call, call.stream(events))
