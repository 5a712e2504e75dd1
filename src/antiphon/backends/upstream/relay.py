"""Relays one request and its answer as bytes."""

from collections.abc import AsyncIterator, Mapping

import msgspec

from antiphon.backends.base import RelayOutcome
from antiphon.backends.upstream.chunks import ErrorChunk, error_of, read_object
from antiphon.backends.upstream.failures import disconnected, error_from_chunk, is_header_text, protocol_error
from antiphon.backends.upstream.http import Http, UpstreamAnswer
from antiphon.backends.upstream.response_inspector import ResponseInspector, inspect_response
from antiphon.backends.upstream.sse import MAX_FRAME_BYTES, MalformedStream
from antiphon.backends.upstream.stream_inspector import StreamInspector, inspect_whole
from antiphon.protocol.relay import Operation, RelayRequest

_INCLUDE_USAGE = msgspec.Raw(b'{"include_usage":true}')
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


class WholeAnswer:
    """An answer in one piece, received already."""

    def __init__(self, headers: Mapping[str, str], body: bytes, outcome: RelayOutcome) -> None:
        self.headers = headers
        self.outcome = outcome
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._body

    async def aclose(self) -> None:
        """Nothing is open."""


class StreamedAnswer:
    """A relayed stream."""

    def __init__(self, upstream: str, answer: UpstreamAnswer, inspector: StreamInspector | ResponseInspector) -> None:
        self.headers = {**_headers_of(answer), "cache-control": "no-cache", "x-accel-buffering": "no"}
        self._upstream = upstream
        self._answer = answer
        self._inspector = inspector
        self._first = b""

    @property
    def outcome(self) -> RelayOutcome:
        return self._inspector.outcome

    async def receive_first(self) -> None:
        """Wait for the first event, so that until then another upstream can be tried; comments before it are kept."""
        self._answer.expect_event()
        pieces: list[bytes] = []
        size = 0
        while not self._inspector.has_begun:
            piece = await self._next()
            if not piece:
                raise disconnected(self._upstream)
            pieces.append(piece)
            size += len(piece)
            if size > MAX_FRAME_BYTES and not self._inspector.has_begun:
                raise protocol_error(self._upstream, f"{size} bytes without an event")
        self._answer.event_came()
        self._first = b"".join(pieces)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        piece = self._first
        while piece:
            yield piece
            piece = await self._next()

    async def aclose(self) -> None:
        try:
            if self._inspector.is_done:
                await self._answer.finish()
        finally:
            self._answer.close()

    async def _next(self) -> bytes:
        """Return the next piece to send on; empty after the end."""
        inspector = self._inspector
        while not inspector.is_done:
            is_over = inspector.is_over
            data = await (self._answer.read_end() if is_over else self._answer.read_some())
            try:
                if is_over:
                    inspector.is_done, piece = True, inspector.feed(data)
                    return piece
                if piece := inspector.feed(data) if data else self._end():
                    return piece
            except MalformedStream as error:
                raise protocol_error(self._upstream, str(error)) from None
            except ErrorChunk as chunk:
                raise error_from_chunk(self._upstream, self._answer.masked(chunk.error)) from None
        return b""

    def _end(self) -> bytes:
        """The connection ended without ``[DONE]``: an error, unless the answer was complete otherwise."""
        if not self._inspector.has_finished:
            raise disconnected(self._upstream)
        self._inspector.is_done = True
        return self._inspector.last_frame


async def relay(upstream: str, http: Http, request: RelayRequest) -> WholeAnswer | StreamedAnswer:
    """Send the request's own bytes to the upstream; see ``RelayingBackend.relay``."""
    overrides = {"model": msgspec.Raw(msgspec.json.encode(request.model))}
    asks_usage = request.stream and not request.include_usage and request.operation != "responses"
    if asks_usage:
        overrides["stream_options"] = _with_usage(request.fields.get("stream_options"))
    is_response = request.operation == "responses"
    answer = await http.post("/" + request.operation, request.body(**overrides), request.model)
    try:
        if request.stream:
            await expect_stream(upstream, answer)
            inspector = ResponseInspector() if is_response else StreamInspector(hide_usage=asks_usage, n=request.n)
            streamed = StreamedAnswer(upstream, answer, inspector)
            await streamed.receive_first()
            return streamed
        expect(upstream, answer, "application/json")
        return await _whole(upstream, answer, request.operation)
    except BaseException:
        answer.close()
        raise


async def _whole(upstream: str, answer: UpstreamAnswer, operation: Operation) -> WholeAnswer:
    body = await answer.read_all()
    answer.close()
    try:
        if operation == "responses":
            outcome = inspect_response(body)
        else:
            body, outcome = inspect_whole(body, operation)
    except MalformedStream as error:
        raise protocol_error(upstream, str(error)) from None
    except ErrorChunk as chunk:
        raise error_from_chunk(upstream, answer.masked(chunk.error)) from None
    return WholeAnswer(_headers_of(answer), body, outcome)


def expect(upstream: str, answer: UpstreamAnswer, content_type: str) -> None:
    """Raise ``UpstreamError`` 502 for an answer of another content type."""
    if answer.content_type != content_type:
        raise protocol_error(upstream, f"content type {answer.content_type!r} instead of {content_type!r}")


async def expect_stream(upstream: str, answer: UpstreamAnswer) -> None:
    """Raise ``UpstreamError`` 502 for an answer that is not a stream, in its own words if it is an error as JSON."""
    if answer.content_type == "application/json":
        try:
            error = error_of(read_object(await answer.read_head()))
        except MalformedStream:
            error = None
        if error is not None:
            raise error_from_chunk(upstream, answer.masked(error))
    expect(upstream, answer, "text/event-stream")


def _headers_of(answer: UpstreamAnswer) -> dict[str, str]:
    """Return the headers that go on to the client; text that no header can carry is left out."""
    content_type = answer.headers["content-type"]
    headers = {"content-type": content_type if is_header_text(content_type) else answer.content_type}
    request_id = answer.headers.get("x-request-id")
    if request_id is not None and is_header_text(request_id):
        headers["x-upstream-request-id"] = request_id
    return headers


def _with_usage(options: msgspec.Raw | None) -> msgspec.Raw:
    """Add ``include_usage`` to the client's own stream options, whatever else is in them."""
    if options is None or bytes(options) == b"null":
        return _INCLUDE_USAGE
    fields = {**_fields.decode(options), "include_usage": msgspec.Raw(b"true")}
    return msgspec.Raw(msgspec.json.encode(fields))
