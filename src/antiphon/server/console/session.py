"""``/console/api/session``: who is signed in, signing in and out."""

from typing import Any

import msgspec

from antiphon import __version__
from antiphon.accounts import Principal
from antiphon.server.console.access import ConsoleAccess
from antiphon.server.console.bodies import read_body
from antiphon.server.console.settings import ConsoleSettings
from antiphon.server.request.body import RequestBodies
from antiphon.server.request.call import Call
from antiphon.server.request.query import refuse_query


class SignIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body that begins a session."""

    key: str


class SessionRoutes:
    """The handlers. ``num_workers`` is how many processes answer: each knows its own requests in flight alone."""

    def __init__(
        self, access: ConsoleAccess, bodies: RequestBodies, settings: ConsoleSettings, *, num_workers: int
    ) -> None:
        self._access = access
        self._bodies = bodies
        self._settings = settings
        self._num_workers = num_workers

    async def show(self, call: Call) -> None:
        """Say whether somebody is signed in; it needs no session, so that a page can ask before it has one."""
        await self._respond(call, await self._access.find(call))

    async def sign_in(self, call: Call) -> None:
        """Begin a session for the holder of an admin's key."""
        asked = await read_body(call, self._bodies, SignIn)
        await self._respond(call, await self._access.sign_in(call, asked.key.strip()))

    async def sign_out(self, call: Call) -> None:
        """End the session of this browser."""
        refuse_query(call)
        self._access.sign_out(call)
        await self._respond(call, None)

    async def _respond(self, call: Call, principal: Principal | None) -> None:
        value: dict[str, Any] = {"signed_in": principal is not None, "version": __version__}
        if principal is not None:
            settings = self._settings
            value |= {
                "is_open": principal.key_id is None,
                "key_id": principal.key_id,
                "key": principal.name,
                "workers": self._num_workers,
                "capture": {
                    "is_on": settings.capture,
                    "max_bytes": settings.capture_max_bytes,
                    "max_age_s": settings.capture_max_age_s,
                },
            }
        call.extra["cache-control"] = "no-store"
        await call.respond_json(value)
