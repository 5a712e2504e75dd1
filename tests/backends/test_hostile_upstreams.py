"""Upstreams that send too much, or never stop: each costs the gateway a bounded amount of memory and time."""

import asyncio
import gzip
import json
import resource
from typing import Any

import msgspec
import pytest
from tests.backends.conformance import collect
from tests.backends.faulty_api import (
    ANSWER,
    FaultyApi,
    Script,
    Writer,
    chunk,
    faulty_api,
    head,
    sends,
    streams,
)

from antiphon.backends.routing import Router, RouteSettings, TargetSettings
from antiphon.backends.upstream import Timeouts, UpstreamBackend, UpstreamSettings
from antiphon.backends.upstream.relay import StreamedAnswer
from antiphon.backends.upstream.stream_inspector import StreamInspector
from antiphon.protocol.chat import ChatRequest, Message
from antiphon.protocol.embeddings import EmbeddingRequest
from antiphon.protocol.errors import ApiError
from antiphon.protocol.relay import RelayRequest, parse_relay

pytestmark = pytest.mark.anyio

MIB = 1 << 20
PING = b": ping\n\n"
BUSY = b'data: {"error":{"message":"overloaded","code":"busy"}}\n\n'


def request(*, stream: bool = False) -> RelayRequest:
    return parse_relay("chat/completions", json.dumps({"model": "m", "messages": [], "stream": stream}).encode())


def endless(start: bytes, piece: bytes) -> Script:
    """Send ``piece`` again and again until the other side closes."""

    async def script(api: FaultyApi, writer: Writer) -> None:
        writer.write(start)
        while not api.left.is_set():
            writer.write(piece)
            await writer.drain()

    return script


async def exhaust(backend: UpstreamBackend, *, stream: bool) -> None:
    answer = await backend.relay(request(stream=stream))
    try:
        async for _ in answer:
            pass
    finally:
        await answer.aclose()


async def failure(script: Script, *, stream: bool, **settings: object) -> ApiError:
    """Return the error of a relayed request, whether it comes before its answer or within."""
    async with faulty_api(script) as api:
        backend = UpstreamBackend(msgspec.convert({"name": "far", "base_url": api.url, **settings}, UpstreamSettings))
        try:
            with pytest.raises(ApiError) as raised:
                await exhaust(backend, stream=stream)
        finally:
            await backend.aclose()
    return raised.value


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "script",
    [
        endless(b"HTTP/1.1 200 OK\r\n", b"x-more: y\r\n"),
        endless(b"HTTP/1.1 200 OK\r\n", b"x" * 1000),
        endless(b"HTTP/1.1 200 OK\r\nx-long: ", b"y" * 1000),
        endless(b"", b"HTTP/1.1 "),
    ],
    ids=["headers", "a header's name", "a header's value", "the status line"],
)
async def test_a_head_without_end_is_refused(script: Script, stream: bool) -> None:
    """Headers are bounded in number and length."""
    error = await failure(script, stream=stream)
    assert (error.status, error.code) == (502, "upstream_protocol_error")


async def test_an_event_without_end_is_refused() -> None:
    """A data line that never ends is refused at 8 MiB."""
    error = await failure(endless(head(), b"data: " + b"x" * 60_000), stream=True)
    assert error.code == "upstream_protocol_error"
    assert "more than" in error.message


async def test_comments_without_end_are_no_answer() -> None:
    """An upstream that only says that it lives has as long for its first event as any other."""
    error = await failure(endless(head(), PING), stream=True, timeouts={"first_byte_s": 0.2})
    assert error.code in {"upstream_timeout", "upstream_protocol_error"}


async def test_comments_without_end_do_not_hold_up_events_either() -> None:
    """Read as events, the same bound holds."""
    async with faulty_api(endless(head(), PING)) as api:
        settings = UpstreamSettings(name="far", base_url=api.url, timeouts=Timeouts(first_byte_s=0.2))
        backend = UpstreamBackend(settings)
        with pytest.raises(ApiError) as raised:
            await collect(backend.chat(ChatRequest(model="m", messages=(Message("user", "hi"),))))
        await backend.aclose()
    assert raised.value.code == "upstream_timeout"


@pytest.mark.parametrize("encoding", ["", "gzip"])
async def test_a_body_without_end_is_refused(encoding: str) -> None:
    """An answer in one piece is bounded by ``max_answer_bytes``, as sent and decompressed."""
    headers = [f"content-encoding: {encoding}"] if encoding else []
    bomb = gzip.compress(b"x" * 64 * MIB) if encoding else b"x" * MIB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    error = await failure(
        endless(head("200 OK", "application/json", *headers), bomb), stream=False, max_answer_bytes=4 * MIB
    )
    assert error.code == "upstream_protocol_error"
    assert f"more than {4 * MIB} bytes" in error.message
    # Kilobytes on Linux; the bomb has 64 MiB a piece.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 48 * 1024


async def test_an_error_without_end_is_reported_with_its_beginning() -> None:
    """Of an error's body only the first 64 KiB are read."""
    start = head("500 Oh", "text/plain") + b"out of memory "
    error = await failure(endless(start, b"x" * 60_000), stream=False)
    assert error.status == 500
    assert error.message.startswith("out of memory x")
    assert len(error.message) <= 2000


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_is_not_utf8_is_refused(stream: bool) -> None:
    """Wherever the bytes are, also in a field that is not read here: the client could not read them either."""
    whole = json.dumps({**ANSWER, "field_of_tomorrow": "here"}).encode()
    text = (chunk("ok", field_of_tomorrow="here") if stream else whole).replace(b"here", b"\xff")
    script = sends(head(), text) if stream else sends(head("200 OK", "application/json"), text)
    assert (await failure(script, stream=stream)).code == "upstream_protocol_error"


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_nested_too_deeply_is_refused(stream: bool) -> None:
    """JSON of a million brackets is an error, not the end of the request's task."""
    nested = b'{"choices":' + b"[" * 1_000_000
    script = (
        sends(head(), b"data: " + nested + b"\n\n") if stream else sends(head("200 OK", "application/json"), nested)
    )
    assert (await failure(script, stream=stream)).code == "upstream_protocol_error"


@pytest.mark.parametrize("count", [2**53, 10**400, 1e300, -1, 10**9])
async def test_usage_of_any_size_cannot_overflow(count: float) -> None:
    """Two thousand reports of absurd usage are no usage, or one below the bound; their memory is bounded."""
    usage = {"prompt_tokens": count, "completion_tokens": count}
    report = b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n"
    script = sends(head(), chunk("a"), report * 2000, chunk(None, "stop"), b"data: [DONE]\n\n")
    async with faulty_api(script) as api:
        backend = UpstreamBackend(UpstreamSettings(name="far", base_url=api.url))
        answer = await backend.relay(request(stream=True))
        async for _ in answer:
            pass
        await answer.aclose()
        await backend.aclose()
    found = answer.outcome.usage
    assert found is None or found.total_tokens <= 2 * 10**9


@pytest.mark.parametrize(
    ("name", "value"),
    [("x-request-id", b"\xff\xfe"), ("x-request-id", b"a" * 5000), ("content-type", b"application/json; x=\xff")],
)
async def test_headers_that_no_client_could_get_are_left_out(name: str, value: bytes) -> None:
    """What an upstream puts into a header does not break the client's answer."""
    body = json.dumps(ANSWER).encode()
    kind = value if name == "content-type" else b"application/json"
    more = b"" if name == "content-type" else name.encode() + b": " + value + b"\r\n"
    start = b"HTTP/1.1 200 OK\r\ncontent-type: " + kind + b"\r\n" + more
    async with faulty_api(sends(start + b"connection: close\r\n\r\n", body)) as api:
        backend = UpstreamBackend(UpstreamSettings(name="far", base_url=api.url))
        answer = await backend.relay(request())
        await answer.aclose()
        await backend.aclose()
    assert all(text.encode("latin-1").decode("ascii") == text for text in answer.headers.values())
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ([{"index": 0, "embedding": "!!!"}], "cannot be read"),
        ([{"index": 0, "embedding": "AAA="}], "cannot be read"),
        ([{"index": 0, "embedding": list[float]()}], "cannot be read"),
        ([{"index": 0, "embedding": "AADAfw=="}], "cannot be read"),
        (list[Any](), "0 vectors"),
        (None, "Expected"),
    ],
)
async def test_vectors_that_cannot_be_read_are_a_502(data: Any, what: str) -> None:
    """Bad base64, half a number, no numbers, a NaN, no vector."""
    body = json.dumps({"data": data, "model": "m", "usage": {"prompt_tokens": 1, "total_tokens": 1}}).encode()
    async with faulty_api(sends(head("200 OK", "application/json"), body)) as api:
        backend = UpstreamBackend(UpstreamSettings(name="far", base_url=api.url))
        with pytest.raises(ApiError, match=what) as raised:
            await backend.embed(EmbeddingRequest(model="m", inputs=("a",)))
        await backend.aclose()
    assert raised.value.status == 502


@pytest.mark.parametrize("indices", [(1, 0), (0, 0), (None, None), (1, 2)])
async def test_vectors_are_in_the_order_of_the_inputs(indices: tuple[int | None, int | None]) -> None:
    """By ``index`` where each input has its own, else as they came."""
    data = [{"index": index, "embedding": vector} for index, vector in zip(indices, ([1, 0], [0, 1]), strict=True)]
    body = json.dumps({"data": data, "usage": {"prompt_tokens": 1}}).encode()
    async with faulty_api(sends(head("200 OK", "application/json"), body)) as api:
        backend = UpstreamBackend(UpstreamSettings(name="far", base_url=api.url))
        result = await backend.embed(EmbeddingRequest(model="m", inputs=("a", "b")))
        await backend.aclose()
    first = result.vectors[1 if indices == (1, 0) else 0]
    assert list(memoryview(first).cast("f")) == [1.0, 0.0]


@pytest.mark.parametrize(
    "listed",
    [
        {"object": "list", "data": None},
        {"data": [{"id": "m", "created": 1.5, "owned_by": None, "max_model_len": "many"}]},
        {"data": [{"id": "m", "created": -1, "owned_by": 3, "context_length": 10**40}]},
    ],
)
async def test_odd_lists_of_models_are_read(listed: object) -> None:
    """An upstream without models, or with odd facts about them, is up."""
    async with faulty_api(sends(head("200 OK", "application/json"), json.dumps(listed).encode())) as api:
        backend = UpstreamBackend(UpstreamSettings(name="far", base_url=api.url))
        assert (await backend.probe()).state == "ready"
        assert all(model.context_length is None for model in backend.models)
        await backend.aclose()


def two_targets(*urls: str) -> Router:
    backends = {
        name: UpstreamBackend(UpstreamSettings(name=name, base_url=url)) for name, url in zip("ab", urls, strict=True)
    }
    targets = (TargetSettings(backend="a"), TargetSettings(backend="b"))
    return Router(backends, [RouteSettings(model="m", targets=targets)])


@pytest.mark.parametrize("as_events", [False, True])
@pytest.mark.parametrize(
    "said_before",
    [[], [PING], [PING] * 3, [b"id: 1\n\n"], [b"data: null\n\n"], [b"\xef\xbb\xbf" + PING, b"data\n\n"]],
)
async def test_the_first_event_decides(said_before: list[bytes], as_events: bool) -> None:
    """Comments and empty events say nothing: an error after them is tried elsewhere, and the client never sees it."""
    async with faulty_api(sends(head(), *said_before, BUSY)) as busy, faulty_api(streams("fine")) as fine:
        router = two_targets(busy.url, fine.url)
        # Whichever is asked first, the other one is asked next where that is the busy one.
        for _ in range(2):
            if as_events:
                events = await collect(router.chat(ChatRequest(model="m", messages=(Message("user", "hi"),))))
                assert type(events[-1]).__name__ == "Completed"
            else:
                answer = await router.relay(request(stream=True))
                text = b"".join([piece async for piece in answer])
                await answer.aclose()
                assert b"fine" in text
                assert b"overloaded" not in text
        assert busy.requests
        await router.aclose()


class Pieces:
    """An upstream's answer that comes in these pieces, each after the one before was read."""

    headers = {"content-type": "text/event-stream"}  # noqa: RUF012 - a stub's constant
    content_type = "text/event-stream"

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)

    async def read_some(self) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""

    def masked(self, text: bytes) -> bytes:
        return text

    def expect_event(self) -> None: ...

    def event_came(self) -> None: ...


@pytest.mark.parametrize("said_before", [[PING], [PING, PING], [b": pi", b"ng\n", b"\n"], [b"id: 1\n\n"]])
async def test_an_error_after_comments_comes_before_the_answer(said_before: list[bytes]) -> None:
    """However much later the error comes, it comes before the answer, as long as no event came."""
    answer: Any = Pieces(*said_before, BUSY)
    streamed = StreamedAnswer("far", answer, StreamInspector(hide_usage=True))
    with pytest.raises(ApiError, match="overloaded"):
        await streamed.receive_first()


async def test_comments_before_the_first_event_reach_the_client() -> None:
    """They are held until an event has come, and none is lost."""
    script = sends(head(), PING, PING, chunk("a"), chunk(None, "stop"), b"data: [DONE]\n\n")
    async with faulty_api(script) as api:
        backend = UpstreamBackend(UpstreamSettings(name="far", base_url=api.url))
        answer = await backend.relay(request(stream=True))
        text = b"".join([piece async for piece in answer])
        await answer.aclose()
        await backend.aclose()
    assert text == PING + PING + chunk("a") + chunk(None, "stop") + b"data: [DONE]\n\n"


async def test_a_stream_that_is_an_error_in_json_keeps_its_words() -> None:
    """A stream was asked for; an error came in one piece under the status 200."""
    error = await failure(
        sends(head("200 OK", "application/json"), b'{"error":{"message":"no credits","code":"credits"}}'), stream=True
    )
    assert (error.status, error.message, error.code) == (502, "no credits", "credits")


async def test_other_requests_go_on_while_an_upstream_sends_without_end() -> None:
    """The event loop is not held up by an endless stream that a client reads."""
    async with faulty_api(endless(head(), chunk("x" * 1000)), streams("fine")) as api:
        backend = UpstreamBackend(UpstreamSettings(name="far", base_url=api.url))
        answer = await backend.relay(request(stream=True))

        async def drain() -> None:
            async for _ in answer:
                pass

        draining = asyncio.ensure_future(drain())
        other = await backend.relay(request(stream=True))
        assert b"fine" in b"".join([piece async for piece in other])
        draining.cancel()
        await asyncio.wait({draining})
        for each in (answer, other):
            await each.aclose()
        await backend.aclose()
