"""Chat answers go over the wire as OpenAI's do, whole and streamed."""

import json
from typing import Any

import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from antiphon.protocol import ApiError, parse_chat
from antiphon.protocol.chat import ChatRequest
from antiphon.protocol.events import (
    ChoiceFinished,
    Completed,
    Event,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    ToolCallStarted,
    TopLogprob,
    Usage,
)
from antiphon.protocol.rendering import ChatBody, ChatStream, error_frame, new_id

USAGE = Usage(7, 5, cached_tokens=4, reasoning_tokens=2)
START = Started("smol", 7, system_fingerprint="fp_1")
END = Completed(USAGE)


def request(**fields: Any) -> ChatRequest:
    return parse_chat({"model": "m", "messages": [{"role": "user", "content": "hi"}]} | fields)


def body(asked: ChatRequest, *events: Event) -> dict[str, Any]:
    renderer = ChatBody("chatcmpl-1", 123, asked)
    for event in (START, *events, END):
        renderer.feed(event)
    ChatCompletion.model_validate_json(renderer.encoded(), strict=True)
    return json.loads(renderer.encoded())


def stream(asked: ChatRequest, *events: Event) -> list[dict[str, Any]]:
    renderer = ChatStream("chatcmpl-1", 123, asked)
    frames = [frame for event in (START, *events, END) for frame in renderer.feed(event)]
    assert all(frame.startswith(b"data: {") and frame.endswith(b"}\n\n") for frame in frames)
    return [json.loads(frame[6:]) for frame in frames]


def deltas(chunks: list[dict[str, Any]], index: int = 0) -> list[dict[str, Any]]:
    return [choice["delta"] for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]


def assembled(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """What the official client makes of the chunks."""
    state = ChatCompletionStreamState()
    for chunk in chunks:
        list(state.handle_chunk(ChatCompletionChunk.model_validate(chunk, strict=True)))
    return state.get_final_completion().model_dump()


def test_body_of_a_text() -> None:
    """Every key that OpenAI sends is there, and counts add up."""
    answer = body(request(), TextDelta(0, "Hé"), TextDelta(0, "llo"), ChoiceFinished(0, "stop"))
    assert answer == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 123,
        "model": "smol",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Héllo", "refusal": None, "annotations": []},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 5,
            "total_tokens": 12,
            "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 2,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        "service_tier": "default",
        "system_fingerprint": "fp_1",
    }


def test_stream_of_a_text() -> None:
    """Role first, then text, then the reason; without ``include_usage`` no usage anywhere."""
    chunks = stream(request(stream=True), TextDelta(0, "a"), TextDelta(0, "b\n"), ChoiceFinished(0, "length"))
    assert chunks[0] == {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 123,
        "model": "smol",
        "service_tier": "default",
        "system_fingerprint": "fp_1",
        "choices": [
            {
                "index": 0,
                "delta": {"role": "assistant", "content": "", "refusal": None},
                "logprobs": None,
                "finish_reason": None,
            }
        ],
    }
    assert deltas(chunks)[1:] == [{"content": "a"}, {"content": "b\n"}, {}]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "length"]
    assert {tuple(chunk) for chunk in chunks} == {tuple(chunks[0])}


def test_usage_comes_last_and_is_null_before() -> None:
    """With ``include_usage`` the last chunk has no choices and every earlier one says null."""
    asked = request(stream=True, stream_options={"include_usage": True})
    chunks = stream(asked, TextDelta(0, "a"), TextDelta(0, "b"), ChoiceFinished(0, "stop"))
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 12


def test_tool_calls() -> None:
    """Calls have ids and types, content is null, and the pieces of a stream add up to the body."""
    events = [
        ToolCallStarted(0, 0, "call_a", "f"),
        ToolCallDelta(0, 0, '{"x":'),
        ToolCallDelta(0, 0, "1}"),
        ToolCallStarted(0, 1, "call_b", "g", "custom"),
        ToolCallDelta(0, 1, "abc"),
        ChoiceFinished(0, "tool_calls"),
    ]
    answer = body(request(), *events)["choices"][0]
    chunks = stream(request(stream=True), *events)
    assert answer["finish_reason"] == "tool_calls"
    assert answer["message"]["content"] is None
    assert answer["message"]["tool_calls"] == [
        {"id": "call_a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
        {"id": "call_b", "type": "custom", "custom": {"name": "g", "input": "abc"}},
    ]
    first = {"index": 0, "id": "call_a", "type": "function", "function": {"name": "f", "arguments": ""}}
    assert deltas(chunks) == [
        {"role": "assistant", "content": None, "refusal": None, "tool_calls": [first]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"x":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]},
        {"tool_calls": [{"index": 1, "id": "call_b", "type": "custom", "custom": {"name": "g", "input": ""}}]},
        {"tool_calls": [{"index": 1, "custom": {"input": "abc"}}]},
        {},
    ]


def test_official_client_assembles_a_stream() -> None:
    """Text, then calls, then usage: the client's own accumulator ends where the body is."""
    events = [
        TextDelta(0, "so: "),
        TextDelta(0, "look"),
        ToolCallStarted(0, 0, "call_a", "f"),
        ToolCallDelta(0, 0, "{}"),
        ChoiceFinished(0, "tool_calls"),
    ]
    asked = request(stream=True, stream_options={"include_usage": True})
    message = assembled(stream(asked, *events))["choices"][0]["message"]
    expected = body(request(), *events)["choices"][0]["message"]
    assert (message["content"], message["tool_calls"][0]["function"]["arguments"]) == ("so: look", "{}")
    assert expected["content"] == message["content"]


def test_older_functions() -> None:
    """A request with ``functions`` is answered with ``function_call`` and its own finish reason."""
    events = [ToolCallStarted(0, 0, "call_a", "f"), ToolCallDelta(0, 0, "{}"), ChoiceFinished(0, "tool_calls")]
    answer = body(request(functions=[{"name": "f"}]), *events)["choices"][0]
    chunks = stream(request(functions=[{"name": "f"}], stream=True), *events)
    assert answer["finish_reason"] == chunks[-1]["choices"][0]["finish_reason"] == "function_call"
    assert answer["message"]["function_call"] == {"name": "f", "arguments": "{}"}
    assert "tool_calls" not in answer["message"]
    assert deltas(chunks) == [
        {"role": "assistant", "content": None, "refusal": None, "function_call": {"name": "f", "arguments": ""}},
        {"function_call": {"arguments": "{}"}},
        {},
    ]


def test_reasoning_and_refusal() -> None:
    """Thinking stands beside the answer; a refusal stands in its place."""
    thought = [ReasoningDelta(0, "hm"), TextDelta(0, "yes"), ChoiceFinished(0, "stop")]
    refused = [RefusalDelta(0, "I"), RefusalDelta(0, " won't"), ChoiceFinished(0, "stop")]
    assert body(request(), *thought)["choices"][0]["message"]["reasoning_content"] == "hm"
    assert deltas(stream(request(stream=True), *thought))[1:3] == [{"reasoning_content": "hm"}, {"content": "yes"}]
    message = body(request(), *refused)["choices"][0]["message"]
    assert (message["content"], message["refusal"]) == (None, "I won't")
    assert assembled(stream(request(stream=True), *refused))["choices"][0]["message"]["refusal"] == "I won't"


def test_logprobs() -> None:
    """Entries carry token, logarithm, bytes and alternatives; what is impossible is -9999."""
    token = TokenLogprob("é", -0.5, (195, 169), (TopLogprob("é", -0.5, (195, 169)), TopLogprob("x", -1e300, (120,))))
    events = [TextDelta(0, "é", (token,)), ChoiceFinished(0, "stop")]
    entry = {
        "token": "é",
        "logprob": -0.5,
        "bytes": [195, 169],
        "top_logprobs": [
            {"token": "é", "logprob": -0.5, "bytes": [195, 169]},
            {"token": "x", "logprob": -9999.0, "bytes": [120]},
        ],
    }
    asked = {"logprobs": True, "top_logprobs": 2}
    assert body(request(**asked), *events)["choices"][0]["logprobs"] == {"content": [entry], "refusal": None}
    chunks = stream(request(stream=True, **asked), *events)
    assert chunks[1]["choices"][0]["logprobs"] == {"content": [entry], "refusal": None}
    assert chunks[0]["choices"][0]["logprobs"] is None


def test_several_choices_interleave() -> None:
    """Each choice opens with its own role and keeps its index."""
    events = [
        TextDelta(1, "b"),
        TextDelta(0, "a"),
        TextDelta(1, "b"),
        ChoiceFinished(1, "stop"),
        ChoiceFinished(0, "stop"),
    ]
    chunks = stream(request(stream=True, n=2), *events)
    assert [chunk["choices"][0]["index"] for chunk in chunks] == [1, 1, 0, 0, 1, 1, 0]
    texts = [choice["message"]["content"] for choice in body(request(n=2), *events)["choices"]]
    assert texts == ["a", "bb"]


def test_an_empty_answer_still_opens() -> None:
    """A choice that ends at once has its role chunk and empty content."""
    assert len(stream(request(stream=True), ChoiceFinished(0, "stop"))) == 2
    assert not body(request(), ChoiceFinished(0, "stop"))["choices"][0]["message"]["content"]


@pytest.mark.parametrize("text", ["", "x", "x" * 61, "é" * 40])
def test_obfuscation_hides_the_length(text: str) -> None:
    """With ``include_obfuscation`` every frame's length is a multiple of 64, whatever it carries."""
    asked = request(stream=True, stream_options={"include_obfuscation": True, "include_usage": True})
    renderer = ChatStream("chatcmpl-1", 123, asked)
    frames = [
        frame for event in (START, TextDelta(0, text), ChoiceFinished(0, "stop"), END) for frame in renderer.feed(event)
    ]
    assert {len(frame) % 64 for frame in frames} == {0}
    assert all("obfuscation" in json.loads(frame[6:]) for frame in frames)


def test_failure_and_end_of_a_stream() -> None:
    """A failure is a chunk with a top-level error, on which the official client raises."""
    renderer = ChatStream("chatcmpl-1", 123, request(stream=True))
    frame = error_frame(ApiError(503, "gone", type="server_error"))
    assert json.loads(frame[6:])["error"] == {"message": "gone", "type": "server_error", "param": None, "code": None}
    assert renderer.done() == b"data: [DONE]\n\n"


def test_ids_look_like_openai_s() -> None:
    """Prefix and 29 letters and digits, never the same."""
    ids = {new_id("chatcmpl") for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(one) == 38 and one.removeprefix("chatcmpl-").isalnum() for one in ids)
