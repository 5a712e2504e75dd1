"""Sends a request for any path on to the upstream and its answer back, with both bodies unchanged."""

from collections.abc import AsyncIterator, Mapping

from antiphon.backends.upstream.answer_reader import AnswerReader
from antiphon.backends.upstream.failures import is_header_text
from antiphon.backends.upstream.http import Http, UpstreamAnswer
from antiphon.protocol.forward import ForwardOutcome, ForwardRequest

_PASSED = (
    "accept-ranges",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "etag",
    "last-modified",
    "retry-after",
    "retry-after-ms",
    "x-should-retry",
)
_IN_A_BROWSER = {"content-security-policy": "sandbox; default-src 'none'", "x-content-type-options": "nosniff"}
"""A page of an upstream, opened in a browser, must not run with this server's origin: the console's session is valid there."""
_EVENTS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
_SUCCESS = range(200, 300)
_WITHOUT_BODY = frozenset({204, 304})


class RawAnswer:
    """The answer of any path, an error included. Iterate it once for its bytes; close it in every case."""

    def __init__(self, answer: UpstreamAnswer) -> None:
        self.status = answer.status
        self.headers: Mapping[str, str] = _headers_of(answer)
        self._answer = answer
        self._reader = AnswerReader(answer.content_type)

    @property
    def is_success(self) -> bool:
        """Whether the status is one of success."""
        return self.status in _SUCCESS

    @property
    def outcome(self) -> ForwardOutcome:
        """What is known so far."""
        return self._reader.outcome

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self.status in _WITHOUT_BODY:
            return
        if not self.is_success:
            # Some upstreams repeat our key in their error.
            yield self._answer.masked(await self._answer.read_head())
            return
        while data := await self._answer.read_some():
            self._reader.feed(data)
            yield data
        self._reader.finish()

    async def aclose(self) -> None:
        """Stop the upstream's work if it is not finished. Idempotent."""
        self._answer.close()


async def forward(http: Http, request: ForwardRequest) -> RawAnswer:
    """Send the request; returns with the head of the answer. ``UpstreamError`` where there is none, or it is not the API's."""
    return RawAnswer(await http.forward(request))


def _headers_of(answer: UpstreamAnswer) -> dict[str, str]:
    """Return the headers that go on to the client; text that no header can carry is left out."""
    headers = {name: answer.headers[name] for name in _PASSED if is_header_text(answer.headers.get(name, ""))}
    headers |= _IN_A_BROWSER
    if answer.status in _WITHOUT_BODY:
        headers.pop("content-length", None)
    elif answer.status not in _SUCCESS:
        # The text of an error is bounded and may be masked.
        headers.pop("content-length", None)
        headers.pop("content-encoding", None)
    if answer.content_type == "text/event-stream":
        headers |= _EVENTS
    request_id = answer.headers.get("x-request-id")
    if request_id is not None and is_header_text(request_id):
        headers["x-upstream-request-id"] = request_id
    return headers
