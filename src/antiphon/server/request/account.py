"""The account of one generation, from its admission to its usage row; shared by every endpoint that generates.

Whatever happens to the request - finished, refused, failed, its client gone - the reservation is settled once, with what was
really used, and one usage row is written.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import aclosing
from typing import Self, TypeVar

import msgspec

from antiphon.accounts import Admission, Outcome, how_it_failed
from antiphon.backends.base import RelayOutcome, StreamCut
from antiphon.backends.caching import HEADER
from antiphon.backends.trace import RouteAttempt
from antiphon.protocol.errors import ApiError, server_fault
from antiphon.protocol.events import CacheStatus, Completed, Meter, Spared, Started, Usage
from antiphon.protocol.relay import RelayRequest
from antiphon.protocol.rendering import error_frame
from antiphon.server.logs import log
from antiphon.server.request.asgi import ClientGone
from antiphon.server.request.call import Call
from antiphon.server.request.faults import Fault
from antiphon.server.request.live import LiveRequests
from antiphon.server.request.reservation import TokenReservation
from antiphon.wire.token_estimate import CHARACTERS_PER_TOKEN

EventT = TypeVar("EventT")
_ERROR = 400


def _encoded(attempts: list[RouteAttempt]) -> str:
    return msgspec.json.encode(attempts).decode()


class RequestAccount:
    """One admitted request. Use it as an async context manager around the work; leaving it settles.

    ``meter`` holds what the request has used: the backend's own meter where it keeps one. ``spared`` is what the response
    cache saved, if that is known before the end.
    """

    def __init__(
        self,
        call: Call,
        admission: Admission,
        reservation: TokenReservation,
        fault: Fault | None = None,
        *,
        live: LiveRequests,
    ) -> None:
        self._live = live
        self._call = call
        self._admission = admission
        self._reservation = reservation
        self._fault = fault
        self.model: str | None = None
        self.meter = Meter()
        self.cache: CacheStatus | None = None
        self.spared: Spared | None = None
        self._spared_meter: Meter | None = None
        # Output tokens sent so far, by estimate, until the backend reports its usage; None: nothing needs an estimate.
        self._estimated_output_tokens: int | None = None
        self.first_token_s: float | None = None
        self.status = 200
        self.error_code: str | None = None

    async def __aenter__(self) -> Self:
        self._live.begin(self._call, self)
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
        call, trace = self._call, self._call.trace
        self._live.end(call)
        trace.first_token_s = self.first_token_s
        usage = self._usage()
        call.note |= {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
        if self.model is not None:
            call.note["model"] = self.model
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
                path=call.scope["path"],
                queue_s=trace.queue_s,
                prefill_s=trace.prefill_s,
                attempts=_encoded(trace.attempts) if trace.attempts else None,
            )
        )

    @property
    def counts_frames(self) -> bool:
        """Whether a planned fault counts the frames of the answer, which then have to come one by one."""
        return self._fault is not None

    def failed(self, error: BaseException) -> None:
        """Record for the ledger and the log how the request ended."""
        if isinstance(error, ClientGone):
            # A client that is gone ends a request as a cancellation does, unless this server closed the connection.
            error = error.__cause__ if isinstance(error.__cause__, ApiError) else asyncio.CancelledError()
        self.status, self.error_code = how_it_failed(error)
        if isinstance(error, ApiError):
            self._call.note_error(error)

    def set_cache_status(self, status: CacheStatus | None) -> None:
        """Record what the response cache did, for the answer's header and the ledger."""
        self.cache = status
        if status is not None:
            self._call.extra[HEADER] = status

    def record_relayed(self, outcome: RelayOutcome, request: RelayRequest) -> None:
        """Record the model and usage reported by the upstream; fall back to the requested model name.

        Without reported usage, the output is estimated from what was sent.
        """
        self.model = outcome.model or request.model
        if outcome.usage is not None:
            self.meter.usage = outcome.usage
        elif request.operation == "embeddings":
            self._estimated_output_tokens = 0
        else:
            self._estimated_output_tokens = outcome.num_chunks + outcome.num_bytes // CHARACTERS_PER_TOKEN

    def record_forwarded(self, status: int, model: str | None, usage: Usage | None) -> None:
        """Record the answer of a request for any path. Without reported usage its cost is unknown, which is not 0."""
        if status >= _ERROR:
            self.status, self.error_code = status, "upstream_error"
        elif usage is not None:
            self.model, self.meter.usage = model, usage

    async def guarded(
        self, frames: AsyncIterable[bytes], render_error: Callable[[ApiError], bytes] = error_frame
    ) -> AsyncGenerator[bytes]:
        """Pass frames on. A failure becomes a last error chunk: a stream that just ends would look complete."""
        try:
            async for frame in frames if self._fault is None else self._fault.frames(frames):
                self._mark_first_token()
                yield frame
        except StreamCut as error:
            self.failed(error)
            self._call.cut()
            raise ClientGone from error
        except ApiError as error:
            self.failed(error)
            yield render_error(error)
        except Exception as error:  # noqa: BLE001 - the stream must say that it broke, whatever broke it
            log.exception("fault in a stream", request_id=self._call.request_id)
            self.failed(error)
            yield render_error(server_fault(self._call.request_id))

    async def watch(self, events: AsyncGenerator[EventT]) -> AsyncGenerator[EventT]:
        """Pass the events on and record model, times and usage. Closing it closes ``events``.

        ``EventT``: the events of a backend, and those that an endpoint adds to them.
        """
        num_deltas = 0
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Started):
                    self.model = event.model
                    self.set_cache_status(event.cache)
                    self._spared_meter = event.spared
                    self.meter = event.meter or Meter(Usage(event.prompt_tokens, 0, event.cached_tokens))
                elif isinstance(event, Completed):
                    self._estimated_output_tokens = event.usage.completion_tokens if event.is_estimate else None
                    self.meter.usage = event.usage
                else:
                    self._mark_first_token()
                    num_deltas += 1
                    self._estimated_output_tokens = None if self.meter.usage.total_tokens else num_deltas
                yield event

    def _usage(self) -> Usage:
        """Return what was used. A client that disconnects before usage is reported is charged an estimate: leaving early is not free."""
        if self._estimated_output_tokens is None:
            return self.meter.usage
        return Usage(self._reservation.prompt, self._estimated_output_tokens)

    def _spared_answer(self) -> Spared | None:
        """Return what a stored answer would have cost: the row's own tokens. An interrupted relay never reported them."""
        if self.cache not in {"hit", "joined"} or self._estimated_output_tokens is not None:
            return None
        usage, meter = self.meter.usage, self._spared_meter
        return Spared(usage, is_local=meter is not None and meter.compute_s is not None) if usage.total_tokens else None

    def _mark_first_token(self) -> None:
        if self.first_token_s is None:
            self.first_token_s = self._call.elapsed_s()
