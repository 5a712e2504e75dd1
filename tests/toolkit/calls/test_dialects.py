"""What servers send in place of what the API documents: read as what it means, or the toolkit's own error."""

import json
import warnings
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI
from tests.toolkit.scripted_endpoint import Endpoint, broken_stream, usage

from antiphon.toolkit.calls.accumulate import ToolCallAccumulator
from antiphon.toolkit.chat.chat import AsyncChat, Chat
from antiphon.toolkit.costs.budget import Budget
from antiphon.toolkit.embeddings.embedder import aembed
from antiphon.toolkit.errors import EmbeddingError, OutputError, StreamError
from antiphon.toolkit.tools.tool import tool

pytestmark = pytest.mark.anyio

OSLO, ROME = '{"city":"Oslo"}', '{"city":"Rome"}'


def call(index: Any = ..., id_: Any = ..., name: Any = ..., arguments: Any = ...) -> dict[str, Any]:
    """A delta with what is given; what is left out is absent."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not ...}
    delta = {key: value for key, value in (("index", index), ("id", id_)) if value is not ...}
    return {**delta, "type": "function", **({"function": function} if function else {})}


def test_arguments_are_not_read_anew_for_each_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that repeats the name in each delta would make the work grow with the square of their length."""
    read: list[str] = []
    loads = json.loads
    monkeypatch.setattr("antiphon.wire.tool_call_deltas.json.loads", lambda text: (read.append(text), loads(text))[1])
    whole = ToolCallAccumulator()
    for piece in [*OSLO[:-1], "}"]:
        whole.add([call(name="get", arguments=piece)])
    assert whole.values()[0]["function"]["arguments"] == OSLO
    assert len(read) <= 1


# Each: the chunks, as lists of deltas, of one call to Oslo and one to Rome.
DIALECTS: dict[str, list[list[dict[str, Any]]]] = {
    "as documented": [
        [call(0, "a", "get", "")],
        [call(0, arguments=OSLO[:5])],
        [call(0, arguments=OSLO[5:])],
        [call(1, "b", "get", "")],
        [call(1, arguments=ROME)],
    ],
    "interleaved": [
        [call(0, "a", "get", "")],
        [call(1, "b", "get", "")],
        [call(1, arguments=ROME[:4])],
        [call(0, arguments=OSLO)],
        [call(1, arguments=ROME[4:])],
    ],
    "no index": [[call(..., "a", "get", OSLO[:3])], [call(arguments=OSLO[3:])], [call(..., "b", "get", ROME)]],
    "index null": [
        [call(None, "a", "get", OSLO[:3])],
        [call(None, None, None, OSLO[3:])],
        [call(None, "b", "get", ROME)],
    ],
    "indices from 1": [[call(1, "a", "get", OSLO)], [call(2, "b", "get", ROME[:5])], [call(2, arguments=ROME[5:])]],
    "both index 0": [[call(0, "a", "get", OSLO)], [call(0, "b", "get", ROME[:5])], [call(0, arguments=ROME[5:])]],
    "both index 0, no ids": [[call(0, ..., "get", OSLO)], [call(0, ..., "get", ROME)]],
    "both index 0 in one chunk": [[call(0, "a", "get", OSLO), call(0, "b", "get", ROME)]],
    "two in one chunk": [[call(0, "a", "get", OSLO), call(1, "b", "get", ROME)]],
    "two in one chunk, in pieces, no index": [
        [call(..., "a", "get", OSLO[:4]), call(..., "b", "get", ROME[:4])],
        [call(arguments=OSLO[4:]), call(arguments=ROME[4:])],
    ],
    "two in one chunk without index or id": [[call(name="get", arguments=OSLO), call(name="get", arguments=ROME)]],
    "name in each delta": [
        [call(0, "a", "get", "")],
        [call(0, "a", "get", OSLO[:6])],
        [call(0, "a", "get", OSLO[6:])],
        [call(1, "b", "get", ROME[:6])],
        [call(1, "b", "get", ROME[6:])],
    ],
    "name in each delta, no id after the first": [
        [call(0, "a", "get", OSLO[:6])],
        [call(0, ..., "get", OSLO[6:])],
        [call(1, "b", "get", ROME)],
    ],
    "flat": [
        [{"index": 0, "id": "a", "name": "get", "arguments": OSLO[:3]}],
        [{"index": 0, "arguments": OSLO[3:]}],
        [{"index": 1, "id": "b", "name": "get", "arguments": ROME}],
    ],
    "arguments as an object": [[call(0, "a", "get", {"city": "Oslo"})], [call(1, "b", "get", {"city": "Rome"})]],
    "another id in each delta": [
        [call(0, "a", "get", OSLO[:6])],
        [call(0, "x", None, OSLO[6:])],
        [call(1, "b", "get", ROME)],
    ],
    "id and name empty afterwards": [
        [call(0, "a", "get", OSLO[:6])],
        [call(0, "", "", OSLO[6:])],
        [call(1, "b", "get", ROME)],
    ],
    "the whole call once more in the last delta": [
        [call(0, "a", "get", "")],
        [call(0, arguments=OSLO)],
        [call(1, "b", "get", ROME)],
        [call(0, "a", "get", OSLO), call(1, "b", "get", {"city": "Rome"})],
    ],
    "an empty object first": [
        [call(0, "a", "get", {})],
        [call(0, arguments=OSLO)],
        [call(1, "b", "get", {})],
        [call(1, arguments=ROME)],
    ],
    "index as text": [
        [call("0", "a", "get", OSLO)],
        [call("1", "b", "get", ROME[:4])],
        [call("1", arguments=ROME[4:])],
    ],
    "one id for two": [[call(0, "a", "get", OSLO)], [call(1, "a", "get", ROME)]],
    "ids that are numbers": [[call(0, 1, "get", OSLO)], [call(1, 2, "get", ROME)]],
    "the name in pieces": [
        [call(0, "a", "g", "")],
        [call(0, name="et")],
        [call(0, arguments=OSLO)],
        [call(1, "b", "get", ROME)],
    ],
    "arguments null at first": [
        [call(0, "a", "get", None)],
        [call(0, None, None, OSLO)],
        [call(1, "b", "get", None)],
        [call(1, None, None, ROME)],
    ],
}


def stream_of(*deltas: Any, reason: Any = "stop", extra: list[Any] | None = None) -> Any:
    """Answer with a stream of choices that have these deltas."""

    def respond(request: dict[str, Any]) -> httpx2.Response:
        head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        chunks: list[Any] = [{**head, "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
        chunks.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
        chunks += extra or []
        body = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
        return httpx2.Response(200, content=body + b"data: [DONE]\n\n", headers={"content-type": "text/event-stream"})

    return respond


@pytest.mark.parametrize("dialect", DIALECTS)
def test_each_dialect_of_streamed_calls_is_two_calls(endpoint: Endpoint, dialect: str) -> None:
    """Read by id, name and position; both run, in order, and the history has two different ids."""
    cities: list[str] = []

    @tool
    def get(city: str) -> str:
        cities.append(city)
        return city

    deltas = [{"tool_calls": deltas} for deltas in DIALECTS[dialect]]
    endpoint.replies = [stream_of(*deltas, reason="tool_calls"), stream_of({"content": "done"})]
    stream = Chat(client=endpoint.client(), tools=[get]).stream("x")
    assert "".join(stream) == "done"
    assert sorted(cities) == ["Oslo", "Rome"]
    asked, *results = endpoint.requests[1]["messages"][-3:]
    assert [json.loads(made["function"]["arguments"])["city"] for made in asked["tool_calls"]] == ["Oslo", "Rome"]
    ids = [made["id"] for made in asked["tool_calls"]]
    assert len({*ids}) == 2
    assert [result["tool_call_id"] for result in results] == ids


def test_text_that_a_last_message_repeats_comes_once(endpoint: Endpoint) -> None:
    """A server that ends its deltas with the whole message does not say it twice."""
    whole_again = {"choices": [{"index": 0, "message": {"content": "ab"}, "finish_reason": None}]}
    endpoint.replies = [stream_of({"content": "a"}, {"content": "b"}, extra=[whole_again])]
    assert "".join(Chat(client=endpoint.client()).stream("x")) == "ab"


@pytest.mark.parametrize("is_stream", [False, True])
def test_what_a_provider_adds_to_a_call_goes_back_to_it(endpoint: Endpoint, is_stream: bool) -> None:
    """Some refuse a history without the signature of the reasoning that led to a call."""

    @tool
    def get(city: str) -> str:
        return city

    signed = {**call(0, "a", "get", OSLO), "extra_content": {"google": {"thought_signature": "s"}}}
    if is_stream:
        endpoint.replies = [stream_of({"tool_calls": [signed]}, reason="tool_calls"), stream_of({"content": "done"})]
        assert "".join(Chat(client=endpoint.client(), tools=[get]).stream("x")) == "done"
    else:
        made = {key: value for key, value in signed.items() if key != "index"}
        message = {"role": "assistant", "content": None, "tool_calls": [made]}
        endpoint.replies = [body(whole(message, "tool_calls")), body(whole({"role": "assistant", "content": "done"}))]
        assert Chat(client=endpoint.client(), tools=[get]).send("x").text == "done"
    asked = endpoint.requests[1]["messages"][-2]
    assert asked["tool_calls"][0]["extra_content"] == {"google": {"thought_signature": "s"}}


@given(st.data())
def test_calls_in_any_pieces_are_the_calls(data: st.DataObject) -> None:
    """As documented: however arguments are cut and interleaved, each call is what it was."""
    texts = data.draw(st.lists(st.dictionaries(st.text(max_size=3), st.integers(), max_size=3), min_size=1, max_size=4))
    arguments = [json.dumps(value) for value in texts]
    accumulator = ToolCallAccumulator()
    for index in range(len(arguments)):
        accumulator.add([call(index, f"id{index}", "get", "")])
    left = list(arguments)
    while any(left):
        index = data.draw(st.sampled_from([i for i, text in enumerate(left) if text]))
        size = data.draw(st.integers(1, len(left[index])))
        accumulator.add([call(index, arguments=left[index][:size])])
        left[index] = left[index][size:]
    assert [made["function"]["arguments"] for made in accumulator.values()] == arguments


def body(value: Any) -> Any:
    if isinstance(value, bytes):
        return lambda _: httpx2.Response(200, content=value, headers={"content-type": "application/json"})
    if isinstance(value, str):
        return lambda _: httpx2.Response(200, text=value)
    return lambda _: httpx2.Response(200, json=value)


def whole(message: Any, reason: Any = "stop") -> dict[str, Any]:
    choice = {"index": 0, "message": message, "finish_reason": reason}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage()}


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"error": {"message": "quota is over", "code": "x"}}, "quota is over"),
        ({"error": "no such model"}, "no such model"),
        ({"object": "chat.completion", "choices": None}, '"choices": null'),
        ({"choices": []}, '"choices": []'),
        ({"choices": [{"index": 0, "message": None, "finish_reason": "stop"}]}, '"message": null'),
        ({"choices": ["a"]}, '"choices"'),
        ({}, "{}"),
        ([], "[]"),
        ([{"error": "x"}], "error"),
        ("Bad gateway", "Bad gateway"),
        ("<html>Sign in</html>", "<html>Sign in</html>"),
        (b"{not json", "{not json"),
        (b"", "The server answered without a completion"),
        (None, "without a completion"),
        (whole({"role": "assistant", "content": "par"}, "error"), "without a finished completion"),
    ],
)
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_200_without_an_answer_is_an_output_error(
    endpoint: Endpoint, given: Any, shown: str, *, is_async: bool
) -> None:
    """With the beginning of the body; the conversation is as it was, and a budget is not left reserved."""
    endpoint.replies = [body(given)]
    budget = Budget(tokens=100_000)
    client = endpoint.async_client() if is_async else endpoint.client()
    chat = AsyncChat(client=client, model="m", budget=budget)
    with pytest.raises(OutputError) as caught:
        await chat.send("x")
    assert shown in caught.value.message
    assert chat.turns == ()
    assert budget.statistics().reserved_tokens == 0


async def test_what_an_answer_without_an_answer_took_is_charged(endpoint: Endpoint) -> None:
    """Where the server reports it."""
    endpoint.replies = [body({"choices": [], "usage": usage(7, 0)})]
    budget = Budget(tokens=100_000)
    chat = AsyncChat(client=endpoint.async_client(), model="m", budget=budget)
    with pytest.raises(OutputError) as caught:
        await chat.send("x")
    assert caught.value.usage is not None
    assert caught.value.usage.prompt_tokens == 7
    assert budget.statistics().spent_tokens == 7


@pytest.mark.parametrize("given", [{}, {"data": None}, {"data": []}, {"data": [{"embedding": None}]}, [], "text", b"{"])
async def test_a_200_without_vectors_is_an_embedding_error(given: Any) -> None:
    """With the beginning of the body where there is one."""
    transport = httpx2.MockTransport(lambda _: body(given)({}))
    client = AsyncOpenAI(api_key="k", base_url="http://e.test/v1", http_client=httpx2.AsyncClient(transport=transport))
    with pytest.raises(EmbeddingError):
        await aembed(["a"], client=client, cache=False)


@pytest.mark.parametrize(
    ("reason", "means"),
    [
        ("STOP", "stop"),
        ("eos", "stop"),
        ("end_turn", "stop"),
        ("MAX_TOKENS", "length"),
        ("length", "length"),
        ("tool_call", "tool_calls"),
        ("SAFETY", "content_filter"),
        ("content-filter", "content_filter"),
        ("FINISH_REASON_STOP", "stop"),
        ("<|endoftext|>", "stop"),
        ("done", "stop"),
        ("FinishReason.STOP", "stop"),
        ("something_new", "something_new"),
        (True, "true"),
        (2, "2"),
    ],
)
def test_finish_reasons_are_those_of_the_api(endpoint: Endpoint, reason: Any, means: str) -> None:
    """Streamed or not; a word that is nobody's stays as it is."""
    endpoint.replies = [
        body(whole({"role": "assistant", "content": "a"}, reason)),
        stream_of({"content": "a"}, reason=reason),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a cut answer warns
        assert Chat(client=endpoint.client()).send("x").finish_reason == means
        stream = Chat(client=endpoint.client()).stream("x")
        assert list(stream) == ["a"]
    assert stream.reply.finish_reason == means


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("ab", "ab"),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"),
        ([{"type": "text", "text": None}, "a"], "a"),
        ({"type": "text", "text": "a"}, "a"),
        ([], ""),
        (None, ""),
    ],
)
def test_content_may_be_parts(endpoint: Endpoint, content: Any, text: str) -> None:
    """Their texts are the answer."""
    endpoint.replies = [body(whole({"role": "assistant", "content": content})), stream_of({"content": content})]
    assert Chat(client=endpoint.client()).send("x").text == text
    stream = Chat(client=endpoint.client()).stream("x")
    assert "".join(stream) == stream.reply.text == text


def test_choices_may_be_null_beside_the_usage_and_events_null(endpoint: Endpoint) -> None:
    """The usage counts, the rest says nothing."""
    extra = [None, {"id": "c", "object": "chat.completion.chunk", "created": 1, "choices": None, "usage": usage(3, 2)}]
    endpoint.replies = [stream_of({"content": "a"}, extra=extra)]
    stream = Chat(client=endpoint.client()).stream("x")
    assert "".join(stream) == "a"
    assert stream.reply.usage is not None
    assert stream.reply.usage.total_tokens == 5


@pytest.mark.parametrize("tail", [b"data: {broken\n\n", b'data: {"error": "overloaded"}\n\n'])
def test_a_stream_that_ends_in_an_error_keeps_its_text(endpoint: Endpoint, tail: bytes) -> None:
    """Whatever the error is."""
    endpoint.replies = [broken_stream("Hel", "lo", tail=tail)]
    with pytest.raises(StreamError) as caught:
        list(Chat(client=endpoint.client()).stream("x"))
    assert caught.value.text == "Hello"
    endpoint.replies = [stream_of({"content": "Hel"}, reason="error")]
    with pytest.raises(StreamError, match="ended the answer with an error"):
        list(Chat(client=endpoint.client()).stream("x"))


@pytest.mark.parametrize("reason", ["error", "ERROR", "abort", "cancelled", "network_error"])
def test_an_answer_that_failed_says_why(endpoint: Endpoint, reason: str) -> None:
    """In the server's words, streamed or not, whatever it calls the failure."""
    failed = {"index": 0, "finish_reason": reason, "error": {"message": "The GPU fell off the bus."}}
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "choices": [{**failed, "delta": {}}]}
    answer = {"id": "c", "choices": [{**failed, "message": {"role": "assistant", "content": "Hel"}}]}
    endpoint.replies = [stream_of({"content": "Hel"}, reason=None, extra=[chunk]), body(answer)]
    with pytest.raises(StreamError, match="fell off the bus") as caught:
        list(Chat(client=endpoint.client()).stream("x"))
    assert caught.value.text == "Hel"
    with pytest.raises(OutputError, match="fell off the bus"):
        Chat(client=endpoint.client()).send("x")


def test_a_stream_may_send_a_message_in_place_of_a_delta(endpoint: Endpoint) -> None:
    """And one call in place of a list of calls."""
    cities: list[str] = []

    @tool
    def get(city: str) -> str:
        cities.append(city)
        return city

    def message(**fields: Any) -> Any:
        choice = {"index": 0, "message": fields, "finish_reason": None}
        return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}

    made = call(0, "a", "get", OSLO)
    endpoint.replies = [
        stream_of(reason="tool_calls", extra=[message(tool_calls=made)]),
        stream_of(extra=[message(content="done")]),
        body(whole({"role": "assistant", "content": None, "tool_calls": made}, "tool_call")),
        body(whole({"role": "assistant", "content": "done"})),
    ]
    chat = Chat(client=endpoint.client(), tools=[get])
    assert "".join(chat.stream("x")) == "done"
    assert chat.send("y").text == "done"
    assert cities == ["Oslo", "Oslo"]


@pytest.mark.parametrize("reported", [{"prompt_tokens": 1}, {}, "many", {"prompt_tokens": "1", "completion_tokens": 2}])
def test_usage_that_cannot_be_read_is_not_reported(endpoint: Endpoint, reported: Any) -> None:
    """It is None; the answer is complete."""
    answer = whole({"role": "assistant", "content": "a"})
    endpoint.replies = [body({**answer, "usage": reported})]
    chat = Chat(client=endpoint.client())
    assert (chat.send("x").usage, chat.send("y").text, chat.usage) == (None, "a", None)


def test_a_whole_answer_may_have_calls_without_ids_and_with_objects(endpoint: Endpoint) -> None:
    """Each call gets an id of its own."""
    cities: list[str] = []

    @tool
    def get(city: str) -> str:
        cities.append(city)
        return city

    calls = [
        {"type": "function", "function": {"name": "get", "arguments": {"city": "Oslo"}}},
        {"id": "a", "function": {"name": "get", "arguments": ROME}},
        {"id": "a", "type": "function", "function": {"name": "get", "arguments": OSLO}},
    ]
    endpoint.replies = [
        body(whole({"role": "assistant", "content": None, "tool_calls": calls}, "tool_call")),
        body(whole({"role": "assistant", "content": "done"})),
    ]
    assert Chat(client=endpoint.client(), tools=[get]).send("x").text == "done"
    assert sorted(cities) == ["Oslo", "Oslo", "Rome"]
    asked = endpoint.requests[1]["messages"][1]
    assert len({made["id"] for made in asked["tool_calls"]}) == 3
