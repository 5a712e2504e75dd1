"""A response's rendering: the order of its events, and that stream and body say the same."""

import json
from typing import Any

import openai
from hypothesis import given
from hypothesis import strategies as st
from openai._models import construct_type_unchecked
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import ResponseStreamEvent

from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import (
    ChoiceFinished,
    Completed,
    Event,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from antiphon.protocol.rendering import ResponseBody, ResponseState, ResponseStream, with_obfuscation
from antiphon.protocol.responses import ResponseRequest, parse_response

REQUEST = {"model": "m", "input": "hi", "stream": True}
KNOWN = {
    "created", "in_progress", "completed", "incomplete", "failed", "output_item.added", "output_item.done",
    "content_part.added", "content_part.done", "output_text.delta", "output_text.done", "refusal.delta", "refusal.done",
    "reasoning_text.delta", "reasoning_text.done", "reasoning_summary_part.added", "reasoning_summary_part.done",
    "reasoning_summary_text.delta", "reasoning_summary_text.done", "function_call_arguments.delta",
    "function_call_arguments.done", "custom_tool_call_input.delta", "custom_tool_call_input.done",
}  # fmt: skip
text = st.text(min_size=1, max_size=5)
segment = st.one_of(
    st.lists(text, min_size=1, max_size=3).map(lambda pieces: [TextDelta(0, piece) for piece in pieces]),
    st.lists(text, min_size=1, max_size=3).map(lambda pieces: [ReasoningDelta(0, piece) for piece in pieces]),
    st.lists(text, min_size=1, max_size=3).map(lambda pieces: [RefusalDelta(0, piece) for piece in pieces]),
)
calls = st.lists(st.tuples(st.sampled_from(["function", "custom"]), st.lists(text, max_size=3)), max_size=3)


@st.composite
def generations(draw: st.DrawFn) -> list[Event]:
    """The events of one answer: segments in any order, then calls, then the end."""
    events: list[Event] = [Started("mm", 3, 1)]
    for part in draw(st.lists(segment, max_size=4)):
        events.extend(part)
    for number, (kind, pieces) in enumerate(draw(calls)):
        events.append(ToolCallStarted(0, number, f"call_{number}", "f", kind))  # type: ignore[arg-type]
        events.extend(ToolCallDelta(0, number, piece) for piece in pieces)
    reason = draw(st.sampled_from(["stop", "length", "content_filter", "tool_calls"]))
    return [*events, ChoiceFinished(0, reason), Completed(Usage(3, 5, 1, 2))]  # type: ignore[list-item]


def new_state(request: ResponseRequest) -> ResponseState:
    return ResponseState("resp_1", 1.0, request, lambda said: f"sealed:{said}")


def frames(stream: ResponseStream, events: list[Event]) -> list[dict[str, Any]]:
    return [parsed(frame) for event in events for frame in stream.feed(event)]


def parsed(frame: bytes) -> dict[str, Any]:
    kind, data = frame.decode().removesuffix("\n\n").split("\n", 1)
    value: dict[str, Any] = json.loads(data.removeprefix("data: "))
    assert kind == f"event: {value['type']}"
    return value


def without_ids(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_ids(item) for key, item in value.items() if key not in {"id", "completed_at"}}
    return [without_ids(item) for item in value] if isinstance(value, list) else value


@given(generations(), st.booleans(), st.booleans())
def test_any_generation_satisfies_the_official_accumulator(
    events: list[Event], summarises: bool, obfuscates: bool
) -> None:
    """Numbers rise by one, only documented events come, every item ends before the response, and the client can follow."""
    request = parse_response(REQUEST | ({"reasoning": {"summary": "auto"}} if summarises else {}))
    sent = frames(ResponseStream(new_state(request), obfuscates=obfuscates), events)
    assert [event["sequence_number"] for event in sent] == list(range(len(sent)))
    assert {event["type"].removeprefix("response.") for event in sent} <= KNOWN
    added = [event["output_index"] for event in sent if event["type"] == "response.output_item.added"]
    done = [event["output_index"] for event in sent if event["type"] == "response.output_item.done"]
    assert added == list(range(len(added)))
    assert sorted(done) == added
    final = sent[-1]["response"]
    assert [item["id"] for item in final["output"]] == [
        event["item"]["id"] for event in sent if event["type"] == "response.output_item.added"
    ]
    for event in sent:
        if event["type"] == "response.output_item.done":
            assert event["item"] == final["output"][event["output_index"]]
    accumulator: ResponseStreamState[None] = ResponseStreamState(input_tools=[], text_format=openai.omit)
    for event in sent:
        accumulator.handle_event(construct_type_unchecked(type_=ResponseStreamEvent, value=event))  # type: ignore[arg-type]


@given(generations())
def test_stream_and_body_end_in_the_same_response(events: list[Event]) -> None:
    """One state, two renderings: the last event's response is the body, but for the ids that are made up anew."""
    request = parse_response(REQUEST)
    sent = frames(ResponseStream(new_state(request)), events)
    body = ResponseBody(new_state(request))
    for event in events:
        body.feed(event)
    assert without_ids(sent[-1]["response"]) == without_ids(json.loads(body.encoded()))


@given(generations())
def test_deltas_add_up_to_what_is_done(events: list[Event]) -> None:
    """Text, refusal, thinking and arguments: the pieces joined are the whole."""
    sent = frames(ResponseStream(new_state(parse_response(REQUEST))), events)
    joined: dict[tuple[str, str], str] = {}
    for event in sent:
        kind, _, step = event["type"].rpartition(".")
        if step == "delta":
            joined[kind, event["item_id"]] = joined.get((kind, event["item_id"]), "") + event["delta"]
        elif step == "done" and kind.endswith(("text", "arguments", "refusal", "input")):
            whole = event.get("text", event.get("arguments", event.get("refusal", event.get("input"))))
            assert whole == joined.get((kind, event["item_id"]), "")


def test_a_cut_answer_is_incomplete_and_says_why() -> None:
    """Never the status completed for what was cut."""
    events: list[Event] = [Started("m", 1), TextDelta(0, "Once"), ChoiceFinished(0, "length"), Completed(Usage(1, 1))]
    last = frames(ResponseStream(new_state(parse_response(REQUEST))), events)[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert last["response"]["output"][0]["status"] == "incomplete"


def test_a_failure_ends_the_stream_with_its_error() -> None:
    """The response is failed, keeps what was said, and its number goes on."""
    stream = ResponseStream(new_state(parse_response(REQUEST)))
    before = frames(stream, [Started("m", 1), TextDelta(0, "Once")])
    failed = parsed(stream.error(ApiError(503, "The engine died.", type="server_error")))
    assert failed["sequence_number"] == len(before)
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"] == {"code": "server_error", "message": "The engine died."}
    assert failed["response"]["output"][0]["content"][0]["text"] == "Once"


def test_sealed_thinking_is_the_same_in_the_item_and_in_the_response() -> None:
    """A client that takes either can send it back."""
    request = parse_response(REQUEST | {"include": ["reasoning.encrypted_content"]})
    state = ResponseState("resp_1", 1.0, request, lambda said: f"sealed:{said}:{id(object())}")
    events: list[Event] = [Started("m", 1), ReasoningDelta(0, "hm"), TextDelta(0, "a"), ChoiceFinished(0, "stop")]
    sent = frames(ResponseStream(state), [*events, Completed(Usage(1, 1))])
    item = next(event["item"] for event in sent if event["type"] == "response.output_item.done")
    assert item["encrypted_content"] == sent[-1]["response"]["output"][0]["encrypted_content"]


def test_a_response_is_encoded_once_it_is_over_and_anew_if_it_fails_then() -> None:
    """What is stored and what is sent are the same bytes; before the end each snapshot is new."""
    stream = ResponseStream(new_state(parse_response(REQUEST)))
    frames(stream, [Started("m", 1), TextDelta(0, "Once")])
    early = stream.state.encoded()
    frames(stream, [TextDelta(0, " more")])
    assert stream.state.encoded() != early
    last = frames(stream, [ChoiceFinished(0, "stop"), Completed(Usage(1, 1))])[-1]
    assert json.loads(stream.state.encoded()) == last["response"]
    assert stream.state.encoded() is stream.state.encoded()
    failed = parsed(stream.error(ApiError(503, "It was not stored.", type="server_error")))
    assert failed["response"]["status"] == json.loads(stream.state.encoded())["status"] == "failed"


def test_obfuscation_is_added_and_taken_away_afterwards() -> None:
    """Whoever resumes a stream decides anew; other events, and all that a delta says, stay as they are."""
    events: list[Event] = [Started("m", 1), TextDelta(0, "Once"), TextDelta(0, " more"), ChoiceFinished(0, "stop")]
    stream = ResponseStream(new_state(parse_response(REQUEST)))
    plain = [frame for event in events for frame in stream.feed(event)]
    hidden = [with_obfuscation(frame, is_on=True) for frame in plain]
    deltas = [parsed(frame) for frame in hidden if b"output_text.delta" in frame]
    assert len(deltas) == 2
    assert all("obfuscation" in delta for delta in deltas)
    assert len({len(frame) for frame in hidden if b"output_text.delta" in frame}) == 1
    assert [parsed(with_obfuscation(frame, is_on=False)) for frame in hidden] == [parsed(frame) for frame in plain]
