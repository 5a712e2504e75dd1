"""What goes wrong at an upstream, and what our client gets for it."""

import asyncio

import msgspec
import pytest
from tests.backends.conformance import collect
from tests.backends.faulty_api import (
    ANSWER,
    FaultyApi,
    Script,
    answers,
    chunk,
    fails,
    faulty_api,
    head,
    sends,
    sends_then_is_silent,
    sends_then_resets,
    silence,
    streams,
)
from tests.waiting import until

from antiphon.backends.base import RelayedAnswer
from antiphon.backends.upstream import Timeouts, UpstreamBackend, UpstreamSettings
from antiphon.backends.upstream.usage_accumulator import UsageAccumulator
from antiphon.protocol.chat import ChatRequest, Message
from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import Usage
from antiphon.protocol.relay import RelayRequest, parse_relay

pytestmark = pytest.mark.anyio

PATIENT = Timeouts()
# For upstreams that fall silent: what is waited for never comes, however long.
SILENT_BEFORE, SILENT_WITHIN = Timeouts(connect_s=2, first_byte_s=0.1), Timeouts(between_bytes_s=0.1)


def before(api: FaultyApi, timeouts: Timeouts = PATIENT) -> UpstreamBackend:
    settings = UpstreamSettings(name="far", base_url=api.url, api_key_env="K", timeouts=timeouts)
    return UpstreamBackend(settings, environ={"K": "sk-upstream"})


def request(*, stream: bool = False, **more: object) -> RelayRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": stream, **more}
    return parse_relay("chat/completions", msgspec.json.encode(body))


async def read(answer: RelayedAnswer, pieces: list[bytes]) -> None:
    try:
        async for piece in answer:
            pieces.append(piece)  # noqa: PERF401 - a comprehension would lose what came before the failure
    finally:
        await answer.aclose()


async def failure(script: Script, *, stream: bool, timeouts: Timeouts = PATIENT) -> tuple[ApiError, bytes]:
    """Return the error that a relayed request ends with, and what was passed on before it."""
    async with faulty_api(script) as api:
        backend = before(api, timeouts)
        pieces: list[bytes] = []
        with pytest.raises(ApiError) as raised:
            await read(await backend.relay(request(stream=stream)), pieces)
        assert backend.statistics()[0].values.running == 0  # type: ignore[attr-defined]
        await backend.aclose()
    return raised.value, b"".join(pieces)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        (silence, 504, "upstream_timeout"),
        (sends_then_resets(), 502, "upstream_disconnected"),
        (sends(), 502, "upstream_disconnected"),
        (sends(b"SSH-2.0-OpenSSH\r\n"), 502, "upstream_protocol_error"),
        (sends(head(content_type="text/html"), b"<html>"), 502, "upstream_protocol_error"),
        (fails("302 Found", b"", "location: http://127.0.0.1:9/"), 502, "upstream_protocol_error"),
        (fails("401 Unauthorized", b'{"error":{"message":"bad key sk-upstream"}}'), 502, "upstream_credentials"),
        (fails("500 Oh", b'{"error":{"message":"boom","type":"server_error","code":"x"}}'), 500, "x"),
        (fails("503 Busy", b"upstream connect error"), 503, None),
        (fails("400 Bad", b'{"detail":[{"msg":"no"}]}'), 400, None),
        (fails("404 No", b'{"error":"no such model"}'), 404, None),
    ],
)
async def test_failures_before_the_answer(script: Script, status: int, code: str | None, stream: bool) -> None:
    """Before the first piece every failure is one ApiError, and nothing was passed on."""
    error, passed = await failure(script, stream=stream, timeouts=SILENT_BEFORE if script is silence else PATIENT)
    assert (error.status, error.code) == (status, code)
    assert passed == b""
    assert "sk-upstream" not in error.message


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        (sends_then_resets(head(), chunk("a")), 502, "upstream_disconnected"),
        (sends(head(), chunk("a")), 502, "upstream_disconnected"),
        (sends_then_is_silent(head(), chunk("a")), 504, "upstream_timeout"),
        (sends(head(), chunk("a"), b"data: {garbage\n\n"), 502, "upstream_protocol_error"),
        # The standard ignores fields that it does not know, and a tag is one of them.
        (sends(head(), chunk("a"), b"<html>\n\n"), 502, "upstream_disconnected"),
        (sends(head(), chunk("a"), b"data: <html>\n\n"), 502, "upstream_protocol_error"),
        (sends(head(), chunk("a"), b"data: [1]\n\n"), 502, "upstream_protocol_error"),
        (sends(head(), chunk("a"), b"data: " + b"[" * 100_000 + b"\n\n"), 502, "upstream_protocol_error"),
        (sends(head(), chunk("a"), b'event: error\ndata: {"message":"out of memory","code":"oom"}\n\n'), 502, "oom"),
        (sends(head(), chunk("a"), b'data: {"object":"error","message":"no","code":"oom"}\n\n'), 502, "oom"),
        (sends(head(), chunk("a"), chunk(None, "error")), 502, None),
        (sends(head(), chunk("a"), b'data: {"error":{"message":"out of memory","code":"oom"}}\n\n'), 502, "oom"),
    ],
)
async def test_failures_within_a_stream(script: Script, status: int, code: str) -> None:
    """What came before the failure is passed on, or lost with it in one piece; then there is an ApiError."""
    timeouts = SILENT_WITHIN if code == "upstream_timeout" else PATIENT
    error, passed = await failure(script, stream=True, timeouts=timeouts)
    assert (error.status, error.code) == (status, code)
    assert passed in {chunk("a"), b""}


async def test_a_refused_connection() -> None:
    """Nobody listens: 502, and the address stays with us."""
    settings = UpstreamSettings(name="far", base_url="http://127.0.0.1:1/v1")
    backend = UpstreamBackend(settings)
    with pytest.raises(ApiError) as raised:
        await backend.relay(request())
    assert (raised.value.status, raised.value.code) == (502, "upstream_unreachable")
    assert "127.0.0.1" not in raised.value.message
    await backend.aclose()


async def test_a_429_passes_with_its_waiting_time() -> None:
    """The client learns from the upstream's own words how long to wait."""
    body = b'{"error":{"message":"slow down","type":"requests","param":null,"code":"rate_limit_exceeded"}}'
    error, _ = await failure(fails("429 Too Many", body, "retry-after: 7", "x-other: y"), stream=False)
    assert (error.status, error.type, dict(error.headers)) == (429, "requests", {"retry-after": "7"})


async def test_fields_that_nobody_knows_survive_in_both_directions() -> None:
    """What this version has never heard of goes to the upstream and comes back, byte for byte."""
    async with faulty_api(answers()) as api:
        backend = before(api)
        answer = await backend.relay(request(top_k=40, guided={"b": [1.0, None]}))
        pieces: list[bytes] = []
        await read(answer, pieces)
        await backend.aclose()
    assert api.requests[0]["top_k"] == 40
    assert api.requests[0]["guided"] == {"b": [1.0, None]}
    assert msgspec.json.decode(b"".join(pieces)) == ANSWER
    assert api.headers[0]["authorization"] == "Bearer sk-upstream"


async def test_a_stream_in_any_pieces_is_the_same_stream() -> None:
    """CRLF line ends, comments and cuts in the middle of anything do not matter."""
    text = b": ping\r\n\r\n" + (chunk("\u00fc") + chunk(None, "stop") + b"data: [DONE]\n\n").replace(b"\n", b"\r\n")
    pieces: list[bytes] = []
    async with faulty_api(sends(head(), *(text[i : i + 1] for i in range(len(text))))) as api:
        backend = before(api)
        await read(await backend.relay(request(stream=True, stream_options={"include_usage": True})), pieces)
        await backend.aclose()
    assert b"".join(pieces) == text.replace(b"\r\n", b"\n")


async def test_a_missing_done_after_the_end_is_supplied() -> None:
    """A stream whose choice has ended lacks nothing but the word."""
    pieces: list[bytes] = []
    async with faulty_api(sends(head(), chunk("a"), chunk(None, "stop"))) as api:
        backend = before(api)
        await read(await backend.relay(request(stream=True)), pieces)
        await backend.aclose()
    assert b"".join(pieces).endswith(b"data: [DONE]\n\n")


async def test_null_usage_is_taken_out_of_every_chunk() -> None:
    """We ask for usage; a client that did not sees no trace of it, and every other byte of the chunk."""
    pieces: list[bytes] = []
    script = sends(head(), chunk("a", usage=None, later=1.50), chunk(None, "stop", usage=None), b"data: [DONE]\n\n")
    async with faulty_api(script) as api:
        backend = before(api)
        await read(await backend.relay(request(stream=True)), pieces)
        await backend.aclose()
    assert b'"usage"' not in b"".join(pieces)
    assert b'"later":1.5' in b"".join(pieces)
    assert api.requests[0]["stream_options"] == {"include_usage": True}


async def test_leaving_a_stream_closes_the_upstream_connection() -> None:
    """When the client goes, the upstream sees its connection close and can stop."""
    async with faulty_api(sends_then_is_silent(head(), chunk("a"))) as api:
        backend = before(api)
        answer = await backend.relay(request(stream=True))
        await answer.aclose()
        await until(api.left.is_set)
        await backend.aclose()


async def test_cancelling_before_the_answer_closes_the_upstream_connection() -> None:
    """A client that goes while the upstream still thinks frees the upstream too."""
    async with faulty_api(silence) as api:
        backend = before(api)
        waiting = asyncio.ensure_future(backend.relay(request()))
        await until(lambda: bool(api.requests))
        waiting.cancel()
        await until(api.left.is_set)
        await backend.aclose()


def chat() -> ChatRequest:
    return ChatRequest(model="m", messages=(Message("user", "hi"),))


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (sends_then_resets(head(), chunk("a")), "upstream_disconnected"),
        (sends(head(), chunk("a"), b"data: {garbage\n\n"), "upstream_protocol_error"),
        (sends(head(), chunk("a", "nonsense"), b"data: [DONE]\n\n"), "upstream_protocol_error"),
        (sends(head(), chunk("a"), b"data: [DONE]\n\n"), "upstream_disconnected"),
        (sends(head(), b'data: {"choices":[{"index":7,"delta":{"content":"a"}}]}\n\n'), "upstream_protocol_error"),
        (sends(head(), b'data: {"choices":[{"index":-1,"delta":{"content":"a"}}]}\n\n'), "upstream_protocol_error"),
        (sends(head(), b'data: {"error":{"message":"x","code":"oom"}}\n\n'), "oom"),
        (fails("200 OK", b"{}"), "upstream_protocol_error"),
    ],
)
async def test_failures_on_the_way_of_events(script: Script, code: str) -> None:
    """Read as events, a broken stream is an ApiError as well, never a complete answer."""
    async with faulty_api(script) as api:
        backend = before(api)
        with pytest.raises(ApiError) as raised:
            await collect(backend.chat(chat()))
        await backend.aclose()
    assert raised.value.code == code


async def test_events_of_a_plain_stream() -> None:
    """A stream read as events yields model, text, reason and usage."""
    async with faulty_api(streams("a", "b")) as api:
        backend = before(api)
        events = await collect(backend.chat(chat()))
        await backend.aclose()
    assert [type(event).__name__ for event in events] == [
        "Started",
        "TextDelta",
        "TextDelta",
        "ChoiceFinished",
        "Completed",
    ]


@pytest.mark.parametrize(
    ("n", "reported", "total"),
    [
        (1, [(Usage(3, 5), [])], Usage(3, 5)),
        (2, [(Usage(3, 5), []), (Usage(3, 6), [])], Usage(3, 11)),
        (2, [(Usage(3, 1), [0]), (Usage(3, 2), [1]), (Usage(4, 3), [2]), (Usage(4, 4), [3])], Usage(7, 10)),
        (1, [(Usage(3, 1), [0]), (Usage(3, 2), [0])], Usage(3, 2)),
        (1, [(Usage(3, 1), [0]), (Usage(3, 2), [])], Usage(3, 2)),
        (1, [], None),
    ],
)
def test_usage_is_added_up_however_it_is_reported(
    n: int, reported: list[tuple[Usage, list[int]]], total: Usage | None
) -> None:
    """Once for all, once per choice, or again and again: the prompt counts once, and no token twice."""
    accumulator = UsageAccumulator(n)
    for usage, choices in reported:
        accumulator.add(usage, choices)
    assert accumulator.total == total


async def test_the_first_event_of_a_stream_has_the_time_of_the_first_byte() -> None:
    """A head that is sent before the prompt is read does not start the shorter time between bytes."""

    async def reads_long(api: FaultyApi, writer: asyncio.StreamWriter) -> None:
        await sends(head())(api, writer)
        await asyncio.sleep(0.3)
        await sends(chunk("a") + chunk(None, "stop") + b"data: [DONE]\n\n")(api, writer)

    pieces: list[bytes] = []
    async with faulty_api(reads_long) as api:
        backend = before(api, SILENT_WITHIN)
        await read(await backend.relay(request(stream=True)), pieces)
        await backend.aclose()
    assert b'"a"' in b"".join(pieces)


@pytest.mark.parametrize("sent", [-5, 2**70, -1.5, None, "3", True, [], 10**12])
async def test_a_usage_that_cannot_be_read_is_unknown(sent: object) -> None:
    """A count that is negative, absurd or not a number is not 0, which would be a free answer: the ledger estimates."""
    async with faulty_api(answers({**ANSWER, "usage": {"prompt_tokens": sent, "completion_tokens": 7.0}})) as api:
        backend = before(api)
        answer = await backend.relay(request())
        await read(answer, [])
        await backend.aclose()
    assert answer.outcome.usage is None


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (answers({"error": {"message": "No credits with sk-upstream.", "code": "credits"}}), "credits"),
        (answers([]), "upstream_protocol_error"),
        (fails("201 Created", b"{}"), "upstream_protocol_error"),
        (sends(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"), "upstream_protocol_error"),
        (fails("999 Odd", b"{}"), "upstream_protocol_error"),
    ],
)
async def test_what_only_looks_like_an_answer_is_a_502(script: Script, code: str) -> None:
    """An error under the status 200, or a status that clients take for success, is never passed on as an answer."""
    error, _ = await failure(script, stream=False)
    assert (error.status, error.code) == (502, code)


@pytest.mark.parametrize(
    ("script", "stream"),
    [
        (fails("400 Bad Request", b'{"error": {"message": "Not with sk-upstream."}}'), False),
        (answers({"error": {"message": "Not with sk-upstream."}}), False),
        (sends(head(), b'data: {"error": {"message": "Not with sk-upstream."}}\n\n'), True),
    ],
)
async def test_an_upstream_that_repeats_our_key_does_not_show_it_to_clients(script: Script, stream: bool) -> None:
    """Its words are relayed; the key in them is masked."""
    error, _ = await failure(script, stream=stream)
    assert error.message == "Not with ****."


async def test_an_upstream_that_hangs_is_down() -> None:
    """How it is has to be said within the time until the next look, not within that of a long prompt."""
    async with faulty_api(silence) as api:
        settings = UpstreamSettings(
            name="far", base_url=api.url, health_interval_s=0.05, timeouts=Timeouts(connect_s=0.05)
        )
        backend = UpstreamBackend(settings)
        assert (await backend.probe()).state == "down"
        await backend.aclose()
