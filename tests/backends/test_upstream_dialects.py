"""Servers that speak a dialect of the API: what clients get, whether the answer is relayed or read as events."""

import json
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import msgspec
import pytest
from tests.backends.conformance import collect
from tests.backends.faulty_api import answers, faulty_api, head, sends

from antiphon.backends.upstream import UpstreamBackend, UpstreamSettings
from antiphon.protocol.chat import ChatRequest, Message
from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import (
    ChoiceFinished,
    Completed,
    Event,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from antiphon.protocol.relay import parse_relay
from antiphon.protocol.rendering.chat_body import ChatBody

pytestmark = pytest.mark.anyio

Json = dict[str, Any]
OSLO, ROME = '{"city":"Oslo"}', '{"city":"Rome"}'
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
LAST: Json = {"choices": [], "usage": USAGE}


def said(delta: Json, reason: str | None = None, **more: object) -> Json:
    return {"model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **more}


def called(*calls: Json) -> Json:
    return said({"tool_calls": list(calls)})


def call(name: str | None = None, arguments: object = None, **fields: object) -> Json:
    function: Json = {} if name is None else {"name": name}
    return {**fields, "function": function if arguments is None else {**function, "arguments": arguments}}


def stream(chunks: Sequence[Json]) -> bytes:
    return b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in chunks) + b"data: [DONE]\n\n"


async def relayed(chunks: Sequence[Json]) -> list[Json]:
    """Return the chunks that a client gets for these of the upstream."""
    async with faulty_api(sends(head(), stream(chunks))) as api:
        backend = UpstreamBackend(UpstreamSettings(name="far", base_url=api.url))
        body: Json = {"model": "m", "messages": [], "stream": True, "stream_options": {"include_usage": True}}
        try:
            answer = await backend.relay(parse_relay("chat/completions", msgspec.json.encode(body)))
            async with aclosing(answer):
                text = b"".join([piece async for piece in answer])
        finally:
            await backend.aclose()
    frames = text.decode().removesuffix("data: [DONE]\n\n").split("\n\n")
    return [json.loads(frame.removeprefix("data: ")) for frame in frames if frame]


async def as_events(chunks: Sequence[Json]) -> list[Event]:
    async with faulty_api(sends(head(), stream(chunks))) as api:
        backend = UpstreamBackend(UpstreamSettings(name="far", base_url=api.url))
        try:
            return await collect(backend.chat(ChatRequest(model="m", messages=(Message("user", "hi"),))))
        finally:
            await backend.aclose()


def assembled(chunks: Sequence[Json]) -> list[tuple[str, str, str]]:
    """Return id, name and arguments of each call, as the official client adds its deltas up: by index, texts appended."""
    calls: dict[int, Json] = {}
    for each in chunks:
        for choice in each["choices"]:
            for delta in choice["delta"].get("tool_calls") or ():
                found = calls.setdefault(delta["index"], {"id": "", "name": "", "arguments": ""})
                found["id"] += delta.get("id") or ""
                for field in ("name", "arguments"):
                    found[field] += delta.get("function", {}).get(field) or ""
    assert list(calls) == list(range(len(calls)))
    return [(found["id"], found["name"], found["arguments"]) for found in calls.values()]


def from_events(events: Sequence[Event]) -> list[tuple[str, str, str]]:
    started = [event for event in events if isinstance(event, ToolCallStarted)]
    return [
        (
            each.id,
            each.name,
            "".join(e.arguments for e in events if isinstance(e, ToolCallDelta) and e.call == each.call),
        )
        for each in started
    ]


CALLS: dict[str, list[Json]] = {
    "as OpenAI": [
        called(call("f", "", index=0, id="a", type="function")),
        called(call(None, OSLO, index=0)),
        called(call("g", "", index=1, id="b", type="function")),
        called(call(None, ROME, index=1)),
    ],
    "flat": [
        called({"index": 0, "id": "a", "type": "function", "name": "f", "arguments": ""}),
        called({"index": 0, "arguments": OSLO}),
        called({"index": 1, "id": "b", "name": "g", "arguments": {"city": "Rome"}}),
    ],
    "no index": [
        called(call("f", "", id="a")),
        called(call(None, OSLO)),
        called(call("g", "", id="b")),
        called(call(None, ROME)),
    ],
    "index null": [
        called(call("f", OSLO[:4], id="a", index=None)),
        called(call(None, OSLO[4:], index=None)),
        called(call("g", ROME, id="b", index=None)),
    ],
    "from 1": [
        called(call("f", "", index=1, id="a")),
        called(call(None, OSLO, index=1)),
        called(call("g", ROME, index=2, id="b")),
    ],
    "both index 0": [called(call("f", OSLO, index=0, id="a")), called(call("g", ROME, index=0, id="b"))],
    "both index 0, in pieces": [
        called(call("f", "", index=0, id="a")),
        called(call(None, OSLO, index=0)),
        called(call("g", "", index=0, id="b")),
        called(call(None, ROME, index=0)),
    ],
    "both index 0, by id": [
        called(call("f", "", index=0, id="a")),
        called(call("g", "", index=0, id="b")),
        called(call(None, OSLO, index=0, id="a")),
        called(call(None, ROME, index=0, id="b")),
    ],
    "two in one chunk": [called(call("f", OSLO, id="a"), call("g", ROME, id="b"))],
    "two in one chunk, both index 0": [called(call("f", OSLO, index=0, id="a"), call("g", ROME, index=0, id="b"))],
    "two in one chunk, in pieces": [
        called(call("f", "", id="a"), call("g", "", id="b")),
        called(call(None, OSLO[:5]), call(None, ROME[:5])),
        called(call(None, OSLO[5:]), call(None, ROME[5:])),
    ],
    "name and id in each delta": [
        called(call("f", OSLO[:3], index=0, id="a", type="function")),
        called(call("f", OSLO[3:], index=0, id="a", type="function")),
        called(call("g", ROME[:3], index=1, id="b", type="function")),
        called(call("g", ROME[3:], index=1, id="b", type="function")),
    ],
    "another id in each delta": [
        called(call("f", OSLO[:3], index=0, id="a")),
        called(call(None, OSLO[3:], index=0, id="x1")),
        called(call("g", ROME[:3], index=1, id="b")),
        called(call(None, ROME[3:], index=1, id="x2")),
    ],
    "the name in pieces": [
        called(call("", "", index=0, id="a")),
        called(call("f", "", index=0)),
        called(call(None, OSLO, index=0)),
        called(call("g", "", index=1, id="b")),
        called(call(None, ROME, index=1)),
    ],
    "arguments as an object": [
        called(call("f", {"city": "Oslo"}, index=0, id="a")),
        called(call("g", {"city": "Rome"}, index=1, id="b")),
    ],
    "arguments as an object, no index": [
        called(call("f", {"city": "Oslo"}, id="a")),
        called(call("g", {"city": "Rome"}, id="b")),
    ],
    "arguments null first": [
        called({"id": "a", "index": 0, "function": {"name": "f", "arguments": None}}),
        called(call(None, OSLO, index=0)),
        called({"id": "b", "index": 1, "function": {"name": "g", "arguments": None}}),
        called(call(None, ROME, index=1)),
    ],
    "the name after the id": [
        called({"index": 0, "id": "a", "type": "function"}),
        called(call("f", OSLO, index=0)),
        called({"index": 1, "id": "b", "type": "function"}),
        called(call("g", ROME, index=1)),
    ],
    "a call in place of a list": [
        said({"tool_calls": call("f", OSLO, index=0, id="a")}),
        said({"tool_calls": call("g", ROME, index=1, id="b")}),
    ],
    "the whole call once more in the last delta": [
        called(call("f", "", index=0, id="a")),
        called(call(None, OSLO, index=0)),
        called(call("g", ROME, index=1, id="b")),
        called(call("f", OSLO, index=0, id="a"), call("g", {"city": "Rome"}, index=1, id="b")),
    ],
    "the whole message once more at the end": [
        called(call("f", OSLO, index=0, id="a")),
        called(call("g", ROME, index=1, id="b")),
        {"choices": [{"index": 0, "message": {"tool_calls": [call("f", OSLO, id="a"), call("g", ROME, id="b")]}}]},
    ],
    "an empty object first": [
        called(call("f", {}, index=0, id="a")),
        called(call(None, OSLO, index=0)),
        called(call("g", {}, index=1, id="b")),
        called(call(None, ROME, index=1)),
    ],
    "index as text": [
        called(call("f", "", index="0", id="a")),
        called(call(None, OSLO, index="0")),
        called(call("g", ROME, index="1", id="b")),
    ],
    "entries that are null": [
        said({"tool_calls": [None, call("f", OSLO, index=0, id="a")]}),
        said({"tool_calls": [call("g", ROME, index=1, id="b"), None]}),
    ],
    "a message in place of a delta": [
        {"choices": [{"index": 0, "message": {"tool_calls": [call("f", OSLO, id="a"), call("g", ROME, id="b")]}}]},
    ],
}


@pytest.mark.parametrize("chunks", CALLS.values(), ids=CALLS)
async def test_tool_calls_are_read_by_id_name_and_position(chunks: list[Json]) -> None:
    """In every dialect two calls are two calls, each with its id, its name once and its arguments as text."""
    ended = [*chunks, said({}, "tool_calls"), LAST]
    expected = [("a", "f", OSLO), ("b", "g", ROME)]
    assert assembled(await relayed(ended)) == expected
    assert from_events(await as_events(ended)) == expected


NAMELESS: dict[str, list[Json]] = {
    "no ids": [called(call("f", OSLO, index=0)), called(call("f", ROME, index=1))],
    "no ids, no index": [called(call("f", OSLO)), called(call("f", ROME))],
    "no ids, all index 0": [called(call("f", OSLO, index=0)), called(call("f", ROME, index=0))],
    "empty ids, in one chunk": [called(call("f", OSLO, id=""), call("f", ROME, id=""))],
    "no ids, the name in each delta": [
        called(call("f", OSLO[:6])),
        called(call("f", OSLO[6:])),
        called(call("f", ROME[:6])),
        called(call("f", ROME[6:])),
    ],
}


@pytest.mark.parametrize("chunks", NAMELESS.values(), ids=NAMELESS)
async def test_calls_without_ids_get_some(chunks: list[Json]) -> None:
    """Two calls of one function that come without ids are told apart, and get an id each."""
    ended = [*chunks, said({}, "tool_calls"), LAST]
    for found in (assembled(await relayed(ended)), from_events(await as_events(ended))):
        assert [(name, arguments) for _, name, arguments in found] == [("f", OSLO), ("f", ROME)]
        assert len({call_id for call_id, _, _ in found if call_id}) == 2


@pytest.mark.parametrize("more", [{}, {"id": "a"}], ids=["no id", "the id again"])
@pytest.mark.parametrize("arguments", ["", None])
async def test_a_name_may_come_in_pieces(more: Json, arguments: str | None) -> None:
    """What comes before any arguments is joined, as the official client does; a call may have no arguments at all."""
    named = [
        called({"index": 0, "id": "a", "type": "function", "function": {"name": "na", "arguments": arguments}}),
        called({"index": 0, "function": {"name": "me"}, **more}),
    ]
    for last in ([called(call(None, OSLO, index=0))], []):
        ended = [*named, *last, said({}, "tool_calls"), LAST]
        expected = [("a", "name", OSLO if last else "")]
        assert assembled(await relayed(ended)) == expected
        assert from_events(await as_events(ended)) == expected


@pytest.mark.parametrize(("reason", "text"), [(2, "2"), (True, "true"), (["stop"], '["stop"]'), ({"a": 1}, '{"a":1}')])
async def test_a_finish_reason_of_another_type_is_relayed_as_text(reason: Any, text: str) -> None:
    """It means something else at each server, and the API's type is text."""
    chunks = [said({"content": "a"}), said({}, reason), LAST]
    assert (await relayed(chunks))[1]["choices"][0]["finish_reason"] == text


async def test_two_calls_under_one_id_are_two() -> None:
    """The second gets an id of its own, since a client answers calls by their ids."""
    chunks = [called(call("f", OSLO, index=0, id="a")), called(call("g", ROME, index=1, id="a"))]
    ended = [*chunks, said({}, "tool_calls"), LAST]
    for found in (assembled(await relayed(ended)), from_events(await as_events(ended))):
        assert [(name, arguments) for _, name, arguments in found] == [("f", OSLO), ("g", ROME)]
        assert len({call_id for call_id, _, _ in found}) == 2


async def test_an_empty_object_that_nothing_follows_is_all() -> None:
    """A call without arguments that came as an object has them as text when its choice ends."""
    ended = [called(call("f", {}, index=0, id="a")), said({}, "tool_calls"), LAST]
    assert assembled(await relayed(ended)) == [("a", "f", "{}")]
    assert from_events(await as_events(ended)) == [("a", "f", "{}")]


async def test_text_that_a_last_message_repeats_comes_once() -> None:
    """A server that ends its deltas with the whole message does not say it twice."""
    whole = {"choices": [{"index": 0, "message": {"content": "ab"}, "finish_reason": "stop"}]}
    chunks = [said({"content": "a"}), said({"content": "b"}), whole, LAST]
    texts = [choice["delta"].get("content") for each in await relayed(chunks) for choice in each["choices"]]
    assert "".join(text or "" for text in texts) == "ab"
    assert "".join(event.text for event in await as_events(chunks) if isinstance(event, TextDelta)) == "ab"


async def test_a_call_that_never_gets_a_name_is_an_error() -> None:
    """Nobody could run it."""
    chunks = [called(call(None, OSLO, index=0, id="a")), said({}, "tool_calls"), LAST]
    for ask in (relayed, as_events):
        with pytest.raises(ApiError, match="without a name"):
            await ask(chunks)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("STOP", "stop"),
        ("eos", "stop"),
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("MAX_TOKENS", "length"),
        ("tool_call", "tool_calls"),
        ("tool_use", "tool_calls"),
        ("SAFETY", "content_filter"),
        ("content-filter", "content_filter"),
        ("tool-calls", "tool_calls"),
        ("FINISH_REASON_STOP", "stop"),
        ("<|endoftext|>", "stop"),
        ("FinishReason.STOP", "stop"),
        ("length_limit", "length"),
        ("refusal", "content_filter"),
        ("sensitive", "content_filter"),
    ],
)
async def test_finish_reasons_are_brought_into_the_apis_words(reason: str, expected: str) -> None:
    """A stream, a whole answer and a stream read as events end in OpenAI's words."""
    chunks = [said({"content": "a"}), said({}, reason), LAST]
    assert [each["choices"][0]["finish_reason"] for each in (await relayed(chunks))[:2]] == [None, expected]
    assert [event.reason for event in await as_events(chunks) if isinstance(event, ChoiceFinished)] == [expected]
    whole = {
        "model": "m",
        "choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": reason}],
        "usage": USAGE,
    }
    assert (await answered(whole))["choices"][0]["finish_reason"] == expected


@pytest.mark.parametrize("reason", ["error", "ERROR", "abort", "network_error", "MALFORMED_FUNCTION_CALL"])
async def test_an_answer_that_ended_in_an_error_is_an_error_with_its_words(reason: str) -> None:
    """It does not look complete, and says why as far as the upstream did."""
    plain, worded = said({}, reason), said({}, reason)
    worded["choices"][0]["error"] = {"message": "The GPU fell off the bus.", "code": 500}
    for ask in (relayed, as_events):
        with pytest.raises(ApiError, match=f"finish_reason .*{reason}"):
            await ask([said({"content": "a"}), plain, LAST])
        with pytest.raises(ApiError, match="fell off the bus"):
            await ask([said({"content": "a"}), worded, LAST])


async def test_a_finish_reason_of_tomorrow_is_relayed() -> None:
    """Where nobody has to understand it, it goes on; read as events it is an error with the upstream's word."""
    chunks = [said({"content": "a"}), said({}, "paused"), LAST]
    assert (await relayed(chunks))[1]["choices"][0]["finish_reason"] == "paused"
    with pytest.raises(ApiError, match="paused"):
        await as_events(chunks)


@pytest.mark.parametrize(
    ("content", "text", "reasoning"),
    [
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab", ""),
        (["a", "b"], "ab", ""),
        (
            [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "a"}],
            "a",
            "hm",
        ),
        ([{"type": "reasoning", "text": "hm"}], "", "hm"),
        ([], "", ""),
        ([{"type": "text", "text": None}, {"type": "text", "text": "a"}], "a", ""),
        ({"type": "text", "text": "a"}, "a", ""),
    ],
)
async def test_content_as_parts_becomes_text(content: object, text: str, reasoning: str) -> None:
    """Text parts are joined, and what the model thought is kept apart."""
    chunks = [said({"content": content}), said({}, "stop"), LAST]
    delta = (await relayed(chunks))[0]["choices"][0]["delta"]
    assert (delta["content"] or "", delta.get("reasoning_content", "")) == (text, reasoning)
    events = await as_events(chunks)
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == text
    assert "".join(event.text for event in events if isinstance(event, ReasoningDelta)) == reasoning


@pytest.mark.parametrize("choices", [{"choices": None}, {}, {"choices": []}])
async def test_usage_comes_with_or_without_choices(choices: Json) -> None:
    """``choices: null`` next to the usage becomes the empty list that clients iterate over."""
    chunks = [said({"content": "a"}), said({}, "stop"), {**choices, "usage": USAGE}]
    assert (await relayed(chunks))[2] == {"choices": [], "usage": USAGE}
    assert (await as_events(chunks))[-1] == Completed(Usage(3, 2))


@pytest.mark.parametrize("last", [{"choices": []}, {"choices": [], "usage": {}}, {"choices": [], "usage": "many"}])
async def test_usage_that_is_not_reported_is_an_estimate(last: Json) -> None:
    """The answer is complete, and its tokens are estimates that say so."""
    events = await as_events([said({"content": "a"}), said({"content": "b"}), said({}, "stop"), last])
    completed = events[-1]
    assert isinstance(completed, Completed)
    assert completed.is_estimate
    assert completed.usage.prompt_tokens > 0
    assert completed.usage.completion_tokens == 3


SAYS_HI: dict[str, list[Json]] = {
    "no index": [{"choices": [{"delta": {"content": "hi"}}]}, {"choices": [{"delta": {}, "finish_reason": "stop"}]}],
    "index null": [{"choices": [{"index": None, "delta": {"content": "hi"}, "finish_reason": "stop"}]}],
    "a message": [{"choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}]}],
    "delta null": [{"choices": [{"index": 0, "delta": None}]}, said({"content": "hi"}), said({}, "stop")],
    "no delta": [said({"content": "hi"}), {"choices": [{"index": 0, "finish_reason": "stop"}]}],
    "choice null": [{"choices": [None]}, said({"content": "hi"}), said({}, "stop")],
    "a reason that is none": [said({"content": "hi"}, "null"), said({}, "stop")],
}


@pytest.mark.parametrize("chunks", SAYS_HI.values(), ids=SAYS_HI)
async def test_every_choice_has_an_index_and_a_delta(chunks: list[Json]) -> None:
    """Clients read both of each choice, whatever else is in it."""
    choices = [choice for each in await relayed(chunks) for choice in each["choices"]]
    assert {choice["index"] for choice in choices} == {0}
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == "hi"
    assert [choice["finish_reason"] for choice in choices if choice.get("finish_reason")] == ["stop"]
    events = await as_events(chunks)
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "hi"


@pytest.mark.parametrize(
    "body",
    [
        b"event: error\ndata: boom\n\n",
        b'event: error\ndata: "boom"\n\n',
        b'event: error\ndata: {"message": "boom"}\n\n',
        b'data: {"detail": "boom"}\n\n',
        b'data: {"message": "boom", "code": 500}\n\n',
        b'data: {"error": "boom"}\n\n',
        b'event: ping\ndata: ping\n\nretry: 3\n\ndata: {"error": "boom"}\n\n',
    ],
)
async def test_an_error_keeps_its_words_in_any_form(body: bytes) -> None:
    """Before the first chunk it is the answer, so that another upstream can be tried."""
    async with faulty_api(sends(head(), body)) as api:
        backend = UpstreamBackend(UpstreamSettings(name="far", base_url=api.url))
        try:
            with pytest.raises(ApiError, match="boom"):
                await backend.relay(parse_relay("chat/completions", b'{"model":"m","messages":[],"stream":true}'))
            with pytest.raises(ApiError, match="boom"):
                await collect(backend.chat(ChatRequest(model="m", messages=(Message("user", "hi"),))))
        finally:
            await backend.aclose()


@pytest.mark.parametrize("choice", [None, {"finish_reason": "stop"}, {"index": 0, "message": None}])
async def test_a_whole_answer_without_a_message_is_an_error(choice: object) -> None:
    """Clients read ``choices[0].message.content``."""
    with pytest.raises(ApiError, match="without"):
        await answered({"choices": [choice]})


async def answered(body: object) -> Json:
    """Return the whole answer that a client gets for this one of the upstream."""
    async with faulty_api(answers(body)) as api:
        backend = UpstreamBackend(UpstreamSettings(name="far", base_url=api.url))
        try:
            request = parse_relay("chat/completions", b'{"model":"m","messages":[]}')
            answer = await backend.relay(request)
            return json.loads(b"".join([piece async for piece in answer]))
        finally:
            await backend.aclose()


async def test_a_whole_answer_has_its_calls_in_the_apis_form() -> None:
    """Arguments are text, each call has an id and a type, and content is text."""
    message = {
        "content": [{"type": "text", "text": "hi"}],
        "tool_calls": [call("f", {"city": "Oslo"}), {"id": 7, "name": "g", "arguments": ROME}],
    }
    answer = await answered({"choices": [{"message": message, "finish_reason": "tool_call"}], "x": 1.50})
    choice = answer["choices"][0]
    first, second = choice["message"]["tool_calls"]
    assert (choice["index"], choice["finish_reason"], choice["message"]["content"]) == (0, "tool_calls", "hi")
    assert (first["type"], first["function"]) == ("function", {"name": "f", "arguments": OSLO})
    assert first["id"].startswith("call_")
    assert (second["id"], second["function"]["arguments"]) == ("7", ROME)


@pytest.mark.parametrize("body", [{}, {"choices": None}, {"choices": []}, {"choices": {}, "usage": USAGE}])
async def test_a_whole_answer_without_choices_is_a_502(body: Json) -> None:
    """Clients would fail to find the answer in it."""
    with pytest.raises(ApiError, match="without choices") as raised:
        await answered(body)
    assert raised.value.status == 502


def test_a_body_is_rendered_whatever_numbers_its_calls_have() -> None:
    """The number of a call identifies it; it is not a place in a list."""
    body = ChatBody("id", 0, ChatRequest(model="m", messages=()))
    for event in (ToolCallStarted(0, 5, "a", "f"), ToolCallDelta(0, 5, OSLO), ToolCallStarted(0, 2, "b", "g")):
        body.feed(event)
    calls = body.value()["choices"][0]["message"]["tool_calls"]
    assert [(each["id"], each["function"]["arguments"]) for each in calls] == [("a", OSLO), ("b", "")]
