"""``/v1/responses``: create, whole or streamed or in the background; retrieve, follow, cancel, delete; count tokens.

A response is one more rendering of the event stream that chat completions are made of: the same prompting, engine, limits
and ledger. What is stored is written before its last event is sent, so that a client that read it can continue from it.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager

import msgspec

from antiphon.accounts import Kind, Principal
from antiphon.backends.base import Backend
from antiphon.protocol import problems
from antiphon.protocol.errors import ApiError, server_fault
from antiphon.protocol.events import Completed
from antiphon.protocol.rendering import ResponseState, with_obfuscation
from antiphon.protocol.responses import ResponseRequest, parse_compaction
from antiphon.protocol.responses.errors import own_words
from antiphon.protocol.responses.found import without_found
from antiphon.server.logs import log
from antiphon.server.request.account import RequestAccount
from antiphon.server.request.call import STREAM_HEADERS, Call
from antiphon.server.request.departure import until_gone
from antiphon.server.request.pages import page_of, read_page
from antiphon.server.request.parts import ReceivedRequest, RequestParts
from antiphon.server.request.query import query_flag, query_values, refuse_query
from antiphon.server.request.reservation import TokenReservation, reservation_of_chat
from antiphon.server.responses.answers import Answers
from antiphon.server.responses.generation import turn_events
from antiphon.server.responses.intake import ResponseIntake
from antiphon.server.responses.jobs import Job, Jobs
from antiphon.server.responses.relaying import ResponseRelay
from antiphon.server.responses.turns import Turn, Turns
from antiphon.state import KeptResponse, ResponseStore
from antiphon.webhooks import EventType, WebhookSender

_RUNNING = ("queued", "in_progress")
_OF_STREAM = {"starting_after", "include_obfuscation"}
"""Parameters of a retrieval that say how its events are sent."""
_ENDED: Mapping[str, EventType] = {
    "completed": "response.completed",
    "failed": "response.failed",
    "cancelled": "response.cancelled",
    "incomplete": "response.incomplete",
}


class ResponseRoutes:
    """The handlers of responses."""

    def __init__(
        self,
        backend: Backend,
        requests: RequestParts,
        *,
        store: ResponseStore,
        jobs: Jobs,
        turns: Turns,
        intake: ResponseIntake,
        answers: Answers,
        webhooks: WebhookSender,
        relay: ResponseRelay | None = None,
    ) -> None:
        self._backend = backend
        self._requests = requests
        self._store = store
        self._jobs = jobs
        self._turns = turns
        self._intake = intake
        self._answers = answers
        self._relay = relay
        self._webhooks = webhooks

    async def create(self, call: Call) -> None:
        """Answer a request for a response."""
        async with self._received(call, "chat") as asked:
            principal = asked.principal
            if self._relay is not None and await self._relay.takes(call, asked):
                return
            request = await self._parsed(call, asked)
            turn = await self._intake.turn(call, request, principal.account)
            if request.background:
                await self._start(call, principal, turn)
                return
            try:
                with self._requests.in_flight.one():
                    await until_gone(call, self._answer(call, principal, turn))
            finally:
                await turn.release()

    @asynccontextmanager
    async def _received(self, call: Call, kind: Kind) -> AsyncGenerator[ReceivedRequest]:
        try:
            async with self._requests.received(call, kind) as asked:
                yield asked
        except ApiError as error:
            raise own_words(error) from error

    async def _parsed(self, call: Call, asked: ReceivedRequest) -> ResponseRequest:
        value = await self._intake.decoded(asked.principal, asked.body, call.header(b"content-type"))
        return await self._intake.parsed(call, asked.body, value)

    async def upgrade(self, call: Call) -> None:
        """Refuse a request without an upgrade, or one that this server cannot upgrade; clients then use HTTP."""
        await self._requests.access.authenticate(call)
        raise ApiError(
            426,
            "GET /v1/responses begins a WebSocket, and this request does not ask for one, or this server lacks the package "
            "'websockets'. Send a POST request, with stream set to true for events.",
            code="upgrade_required",
        )

    async def count_input_tokens(self, call: Call) -> None:
        """Count the prompt of a request exactly, with its history, tools and schema: a request for the limits, without tokens."""
        async with self._received(call, "tokenize") as asked:
            if self._relay is not None and await self._relay.takes_whole(call, asked):
                return
            request = await self._parsed(call, asked)
            turn = await self._turns.make(request, asked.principal.account)
            with self._requests.in_flight.one():
                await until_gone(call, self._count(call, asked.principal, turn))

    async def _count(self, call: Call, principal: Principal, turn: Turn) -> None:
        model, reservation = turn.chat.model, TokenReservation(0, 0)
        async with await self._requests.admissions.admit(call, principal, "tokenize", model, reservation) as account:
            count = await self._turns.count_tokens(turn)
            account.model = model
            await call.respond_json({"object": "response.input_tokens", "input_tokens": count})

    async def compact(self, call: Call) -> None:
        """Return the conversation's user messages and a sealed summary of the whole: the next turn's input."""
        async with self._received(call, "chat") as asked:
            if self._relay is not None and await self._relay.takes_whole(call, asked):
                return
            value = await self._intake.decoded(asked.principal, asked.body, call.header(b"content-type"))
            request = await self._requests.bodies.work(asked.body, parse_compaction, value)
            turn = await self._turns.make(request, asked.principal.account)
            with self._requests.in_flight.one():
                await until_gone(call, self._compact(call, asked.principal, turn))

    async def _compact(self, call: Call, principal: Principal, turn: Turn) -> None:
        state = self._answers.begin(call, turn)
        reservation = reservation_of_chat(turn.chat)
        async with await self._requests.admissions.admit(
            call, principal, "chat", turn.chat.model, reservation
        ) as account:
            async with aclosing(account.watch(turn_events(self._backend, turn))) as events:
                async for event in events:
                    state.take(event)
            value = state.value()
            said = [
                item for item in (*turn.history, *turn.items) if item["type"] == "message" and item["role"] == "user"
            ]
            await call.respond_json(
                {
                    "id": value["id"],
                    "object": "response.compaction",
                    "created_at": value["created_at"],
                    "output": [*said, *value["output"]],
                    "usage": value["usage"],
                }
            )

    async def retrieve(self, call: Call) -> None:
        """Show a stored response, or with ``stream=true`` follow one that runs in the background here."""
        kept = await self._kept(call)
        refuse_query(call, but=("stream", *_OF_STREAM, "include"))
        query = query_values(call)
        obfuscates = query_flag(query, "include_obfuscation")
        if not query_flag(query, "stream"):
            for name in query.keys() & _OF_STREAM:
                raise problems.bad_request(f"'{name}' is only allowed with 'stream=true'.", name)
            await call.respond_json(kept.body)
            return
        job = self._jobs.find(kept.id)
        if job is None:
            raise problems.bad_request(
                f"The events of response '{kept.id}' cannot be followed here: it was not created with background=true, its "
                "events are no longer held, or another process runs it. Retrieve it without 'stream'.",
                "stream",
            )
        frames = job.follow(_number(query.get("starting_after")))
        await call.stream(frames if obfuscates is None else _obfuscated(frames, is_on=obfuscates), STREAM_HEADERS)

    async def delete(self, call: Call) -> None:
        """Remove a stored response; one that runs is stopped first."""
        kept = await self._kept(call)
        refuse_query(call)
        await self._jobs.cancel(kept.id)
        await self._store.delete(kept.id, kept.account)
        await call.respond_json({"id": kept.id, "object": "response", "deleted": True})

    async def cancel(self, call: Call) -> None:
        """Stop a response in the background; asking again, or too late, changes nothing."""
        kept = await self._kept(call)
        refuse_query(call)
        if not kept.body["background"]:
            raise problems.bad_request("Cannot cancel a synchronous response.")
        if kept.status in _RUNNING and not await self._jobs.cancel(kept.id):
            # It runs in another process, which sees this when it renews its lease.
            await self._store.save(_with_status(kept, "cancelled"), replaces=True)
        await call.respond_json((await self._kept(call)).body)

    async def list_input_items(self, call: Call) -> None:
        """List the items that a response was made from, those before its own included."""
        kept = await self._kept(call)
        items = [without_found(item) for item in (*kept.history, *kept.input)]
        await call.respond_json(page_of(items, read_page(call)))

    async def _kept(self, call: Call) -> KeptResponse:
        principal = await self._requests.access.authenticate(call)
        response_id = call.path_param("response_id")
        kept = await self._store.find(response_id, principal.account)
        if kept is None:
            raise ApiError(404, f"Response with id '{response_id}' not found.")
        return kept

    async def _answer(self, call: Call, principal: Principal, turn: Turn) -> None:
        state = self._answers.begin(call, turn)
        reservation = reservation_of_chat(turn.chat)
        async with await self._requests.admissions.admit(
            call, principal, "chat", turn.chat.model, reservation
        ) as account:
            async with aclosing(account.watch(turn_events(self._backend, turn))) as events:
                if turn.chat.stream:
                    stream = self._answers.stream(state, turn)
                    first = await anext(events)
                    joins = not account.counts_frames
                    frames = self._answers.frames(first, events, stream, turn, joins=joins)
                    await call.stream(account.guarded(frames, stream.error))
                    return
                async for event in events:
                    state.take(event)
            await self._answers.keep(state, turn)
            await call.respond(state.encoded())

    async def _start(self, call: Call, principal: Principal, turn: Turn) -> None:
        try:
            self._jobs.check_room()
            state = self._answers.begin(call, turn)
            reservation = reservation_of_chat(turn.chat)
            account = await self._requests.admissions.admit(call, principal, "chat", turn.chat.model, reservation)
            await self._answers.save(state, turn, is_new=True)
        except BaseException:
            await turn.release()
            raise
        job = Job()
        self._jobs.start(state.id, job, self._work_and_announce(account, state, turn, job, principal.name))
        if turn.chat.stream:
            await call.stream(job.follow(-1), STREAM_HEADERS)
        else:
            await call.respond(state.encoded())

    async def _work_and_announce(
        self, account: RequestAccount, state: ResponseState, turn: Turn, job: Job, key: str
    ) -> None:
        try:
            await self._work(account, state, turn, job)
        finally:
            await turn.release()
            # Shielded: what has been cancelled is reported too.
            await asyncio.shield(self._webhooks.announce(_ENDED[state.status], state.id, key))

    async def _work(self, account: RequestAccount, state: ResponseState, turn: Turn, job: Job) -> None:
        """Generate in the background. However it ends, the stored response says so."""
        stream = self._answers.stream(state, turn)
        try:
            async with account:
                try:
                    async with aclosing(account.watch(turn_events(self._backend, turn))) as events:
                        async for event in events:
                            frames = stream.feed(event)
                            if isinstance(event, Completed):
                                await self._answers.keep(state, turn)
                            await job.add(frames)
                except ApiError as error:
                    account.failed(error)
                    await job.add([stream.error(error)])
                    await self._answers.save(state, turn)
        except Exception as error:  # noqa: BLE001 - nobody waits for this task; the stored response reports the fault
            log.exception("fault in a background response", response_id=state.id)
            await job.add([stream.error(error if isinstance(error, ApiError) else server_fault(state.id))])
            await self._answers.save(state, turn)
        except BaseException:
            state.cancel()
            await self._answers.save(state, turn)
            raise


async def _obfuscated(frames: AsyncGenerator[bytes], *, is_on: bool) -> AsyncGenerator[bytes]:
    async with aclosing(frames):
        async for frame in frames:
            yield with_obfuscation(frame, is_on=is_on)


def _with_status(kept: KeptResponse, status: str) -> KeptResponse:
    return msgspec.structs.replace(kept, body=kept.body | {"status": status})


def _number(starting_after: str | None) -> int:
    if starting_after is None:
        return -1
    if not (starting_after.isascii() and starting_after.isdigit() and len(starting_after) < 10):  # noqa: PLR2004 - digits
        raise problems.bad_request(
            "Invalid 'starting_after': expected a sequence number.", "starting_after", "invalid_value"
        )
    return int(starting_after)
