"""A generation on its way through admission, backend and ledger; shared by every endpoint that generates.

Whatever happens to it - finished, refused, failed, its client gone - the reservation is settled once, with what was
really used, and one usage row is written.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Any, Protocol, Self

from antiphon.accounts import Admission, Kind, Outcome, Principal, how_it_failed
from antiphon.backends.base import RelayOutcome, StreamCut
from antiphon.backends.caching import HEADER
from antiphon.protocol.errors import ApiError, server_fault
from antiphon.protocol.events import CacheStatus, Completed, Event, Meter, Spared, Started, Usage
from antiphon.protocol.relay import RelayRequest
from antiphon.protocol.rendering import error_frame
from antiphon.server.logs import log
from antiphon.server.request.asgi import ClientGone
from antiphon.server.request.call import Call
from antiphon.server.request.faults import HEADER as FAULT
from antiphon.server.request.faults import Fault
from antiphon.server.request.reservation import CHARACTERS_PER_TOKEN, TokenReservation

FAULT_HEADER = FAULT.encode()


class StreamRenderer(Protocol):
    """Events into server-sent events."""

    def feed(self, event: Event) -> list[bytes]: ...
    def done(self) -> bytes: ...


class BodyRenderer(Protocol):
    """Events into one JSON body."""

    def feed(self, event: Event) -> None: ...
    def encoded(self) -> bytes: ...


class RequestAccount:
    """One admitted request. Use as an async context manager around the work; leaving it settles."""

    def __init__(
        self, call: Call, admission: Admission, reservation: TokenReservation, fault: Fault | None = None
    ) -> None:
        self._call = call
        self._admission = admission
        self._reservation = reservation
        self._fault = fault
        self.model: str | None = None
        self.meter = Meter()
        self.cache: CacheStatus | None = None
        self.spared: Spared | None = None
        self._spared_meter: Meter | None = None
        # What was given of an answer, in tokens by estimate, as long as nobody has told what it took; None: nothing was.
        self._estimated_output_tokens: int | None = None
        self.first_token_s: float | None = None
        self.status = 200
        self.error_code: str | None = None

    async def __aenter__(self) -> Self:
        if self._fault is not None:
            try:
                await self._fault.apply()
            except BaseException as error:
                await self.__aexit__(type(error), error, None)
                raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self.failed(error)
        call = self._call
        usage = self._usage()
        call.note |= {
            "model": self.model,
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
        }
        await self._admission.settle(
            Outcome(
                request_id=call.request_id,
                started_at=call.started_at,
                duration_s=call.elapsed_s(),
                first_token_s=self.first_token_s,
                status=self.status,
                model=self.model,
                usage=usage,
                is_estimate=self._estimated_output_tokens is not None,
                cache=self.cache,
                compute_s=self.meter.compute_s,
                spared=self.spared or self._spared_answer(),
                error_code=self.error_code,
            )
        )

    def failed(self, error: BaseException) -> None:
        """Note how the request ended, for the ledger."""
        # A client that is gone ends a request as a cancellation does.
        error = asyncio.CancelledError() if isinstance(error, ClientGone) else error
        self.status, self.error_code = how_it_failed(error)

    def set_cache_status(self, status: CacheStatus | None) -> None:
        """Note what the response cache did, for the answer's header and the ledger."""
        self.cache = status
        if status is not None:
            self._call.extra[HEADER] = status

    def _spared_answer(self) -> Spared | None:
        """Return what a kept answer would have cost: the row's own tokens. A cut relayed one did not tell its tokens."""
        if self.cache not in {"hit", "joined"} or self._estimated_output_tokens is not None:
            return None
        usage, meter = self.meter.usage, self._spared_meter
        return Spared(usage, is_local=meter is not None and meter.compute_s is not None) if usage.total_tokens else None

    def _usage(self) -> Usage:
        """Return what was used. Leaving before it is told must not be free, so an answer that had begun has an estimate."""
        return (
            self.meter.usage
            if self._estimated_output_tokens is None
            else Usage(self._reservation.prompt, self._estimated_output_tokens)
        )

    def learn(self, outcome: RelayOutcome, request: RelayRequest) -> None:
        """Take over what the relayed answer told of itself; one that does not name its model has the name that was asked for."""
        self.model = outcome.model or request.model
        usage = outcome.usage
        if usage is None:
            given = outcome.num_chunks + outcome.num_bytes // CHARACTERS_PER_TOKEN
            self._estimated_output_tokens = 0 if request.operation == "embeddings" else given
        else:
            self.meter.usage = usage

    def _mark_first_token(self) -> None:
        if self.first_token_s is None:
            self.first_token_s = self._call.elapsed_s()

    async def guarded(self, frames: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
        """Pass frames on; a failure becomes a last error chunk, because a stream that just ends looks complete."""
        try:
            async for frame in frames if self._fault is None else self._fault.frames(frames):
                self._mark_first_token()
                yield frame
        except StreamCut as error:
            self.failed(error)
            raise ClientGone from error
        except ApiError as error:
            self.failed(error)
            yield error_frame(error)
        except Exception as error:  # noqa: BLE001 - the stream must say that it broke, whatever broke it
            log.exception("fault in a stream", request_id=self._call.request_id)
            self.failed(error)
            yield error_frame(server_fault(self._call.request_id))

    async def watch(self, events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
        """Pass the events on and note model, times and counts. Closing it closes ``events``."""
        num_given = 0
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Started):
                    self.model = event.model
                    self.set_cache_status(event.cache)
                    self._spared_meter = event.spared
                    self.meter = event.meter or Meter(Usage(event.prompt_tokens, 0, event.cached_tokens))
                elif isinstance(event, Completed):
                    self._estimated_output_tokens = None
                    self.meter.usage = event.usage
                else:
                    self._mark_first_token()
                    num_given += 1
                    self._estimated_output_tokens = None if self.meter.usage.total_tokens else num_given
                yield event


async def answer_whole(
    call: Call, account: RequestAccount, events: AsyncGenerator[Event], renderer: BodyRenderer
) -> None:
    """Run the generation to its end and send one body."""
    async with aclosing(account.watch(events)) as watched:
        async for event in watched:
            renderer.feed(event)
    await call.respond(renderer.encoded())


async def answer_stream(
    call: Call, account: RequestAccount, events: AsyncGenerator[Event], renderer: StreamRenderer
) -> None:
    """Send the generation as it comes. Until its first event an error is an ordinary answer, then an error chunk."""
    async with aclosing(account.watch(events)) as watched:
        first = await anext(watched)
        await call.stream(account.guarded(_frames(first, watched, renderer)))


async def _frames(first: Event, rest: AsyncIterator[Event], renderer: StreamRenderer) -> AsyncGenerator[bytes]:
    for frame in renderer.feed(first):
        yield frame
    async for event in rest:
        for frame in renderer.feed(event):
            yield frame
    yield renderer.done()


async def until_gone(call: Call, work: Coroutine[Any, Any, None]) -> None:
    """Do ``work`` unless the client leaves first; then cancel it and raise ``ClientGone``."""
    departure = _Departure(call)
    try:
        await work
    except asyncio.CancelledError:
        if departure.was_noticed():
            raise ClientGone from None
        raise
    finally:
        await departure.aclose()


class _Departure:
    """Cancels the current task when the client leaves. The work needs no task of its own, which would begin a turn later."""

    def __init__(self, call: Call) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._is_over = self._is_gone = False
        self._watcher = asyncio.ensure_future(call.wait_disconnect())
        self._watcher.add_done_callback(self._leave)

    def was_noticed(self) -> bool:
        """Whether the cancellation was ours, and nobody else wants the task to end."""
        return self._is_gone and self._task.cancelling() == 1

    async def aclose(self) -> None:
        self._is_over = True
        if self._is_gone:
            self._task.uncancel()
        if not self._watcher.done():
            self._watcher.cancel()
            await asyncio.wait({self._watcher})

    def _leave(self, watcher: "asyncio.Future[None]") -> None:
        if not self._is_over and not watcher.cancelled():
            self._is_gone = True
            self._task.cancel()


async def admitted(
    call: Call, principal: Principal, kind: Kind, model: str, reservation: TokenReservation
) -> RequestAccount:
    """Reserve room in the principal's limits; 429 says why there is none. The limits' headers go on every answer."""
    fault = call.service.faults.draw(call.header(FAULT_HEADER))
    # From here on every end of the request has its row: a refusal by ``admit``, the others by the account.
    call.is_recorded = True
    admission = await call.service.accounts.admit(
        principal,
        kind=kind,
        model=model,
        counted_as=call.service.counted_as(model),
        estimated_tokens=reservation.reserved,
        expected=Usage(reservation.prompt, reservation.completion),
        request_id=call.request_id,
    )
    call.extra.update(admission.headers())
    return RequestAccount(call, admission, reservation, fault)
