"""What each route that reaches a model is made of."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import msgspec

from antiphon.accounts import Kind, Principal
from antiphon.protocol.errors import ApiError
from antiphon.protocol.relay import model_named
from antiphon.server.request.access import Access
from antiphon.server.request.admissions import Admissions
from antiphon.server.request.body import RequestBodies
from antiphon.server.request.call import Call
from antiphon.server.request.in_flight import InFlight
from antiphon.server.request.query import refuse_query


class ReceivedRequest(msgspec.Struct, frozen=True):
    """Who sends a request, its body, and the model that it names, the empty string for none."""

    principal: Principal
    body: bytes
    model: str


class RequestParts(msgspec.Struct, frozen=True):
    """Who may ask for which model, what a key has left, how many requests run, and the bodies in memory."""

    access: Access
    admissions: Admissions
    in_flight: InFlight
    bodies: RequestBodies

    @asynccontextmanager
    async def received(self, call: Call, kind: Kind) -> AsyncGenerator[ReceivedRequest]:
        """Give a request whose body counts as held until the block ends. What refuses it in the block leaves a usage row."""
        principal = await self.access.authenticate(call)
        model = ""
        try:
            refuse_query(call)
            async with self.bodies.read(call) as body:
                model = call.note_model(await self.bodies.work(body, model_named, body))
                yield ReceivedRequest(principal, body, model)
        except ApiError as error:
            self.admissions.record_refusal(call, principal, kind, model, error)
            raise
