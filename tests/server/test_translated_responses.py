"""Responses for a model of an upstream that has chat completions only: the same faults, dialects and usage as for chat.

The request is translated to a chat completion, and the answer is rendered from the event stream.
"""

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import openai
import pytest
from tests.backends.faulty_api import Script as ApiScript
from tests.backends.faulty_api import chunk, faulty_api, head, sends, sends_then_is_silent, silence, streams
from tests.backends.test_upstream_dialects import CALLS, LAST, OSLO, ROME, USAGE, said, stream
from tests.conformance.open_responses import Response, StreamingEvent
from tests.server.test_gateway import BEFORE, PATIENT, SILENT_BEFORE, SILENT_WITHIN, WITHIN, Gateway, gateway
from tests.waiting import PATIENCE_S, until

from antiphon.backends.routing import BreakerSettings, RetrySettings, Router
from antiphon.backends.upstream import Timeouts, UpstreamBackend, UpstreamModel, UpstreamSettings

pytestmark = pytest.mark.anyio

Json = dict[str, Any]
ASK: Json = {"model": "m", "input": "hi"}
FUNCTIONS = [
    {"type": "function", "name": name, "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
    for name in ("f", "g")
]


def translating(url: str, timeouts: Timeouts = PATIENT) -> Router:
    settings = UpstreamSettings(
        name="far", base_url=url, models=(UpstreamModel(id="m"),), timeouts=timeouts, responses="translate"
    )
    retry = RetrySettings(attempts=2, total_s=PATIENCE_S, backoff_s=0.01)
    return Router({"far": UpstreamBackend(settings)}, retry=retry, breaker=BreakerSettings(failures=1000))


@asynccontextmanager
async def before(
    home: Path, script: ApiScript, timeouts: Timeouts = PATIENT
) -> AsyncGenerator[tuple[Gateway, list[Json]]]:
    """A gateway before an API that plays ``script``; and the bodies that reach that API."""
    async with faulty_api(script) as api, gateway(translating(api.url, timeouts), home) as up:
        yield up, api.requests


def events_of(text: str) -> list[Json]:
    values = [json.loads(frame.split("\ndata: ", 1)[1]) for frame in text.strip().split("\n\n")]
    assert [value["sequence_number"] for value in values] == list(range(len(values)))
    return values


async def answered(home: Path, *answers: Sequence[Json], **body: Any) -> list[Json]:
    """Return a response for each of the upstream's answers, asked for whole and streamed: both are alike."""
    scripts = [sends(head(), stream(chunks)) for chunks in answers for _ in range(2)]
    responses: list[Json] = []
    async with faulty_api(*scripts) as api, gateway(translating(api.url), home) as (_, client, _):
        for _ in answers:
            whole = (await client.post("/responses", json={**ASK, **body})).json()
            streamed = await client.post("/responses", json={**ASK, **body, "stream": True})
            last = events_of(streamed.text)[-1]["response"]
            hidden = {"id", "created_at", "completed_at", "encrypted_content"}
            assert _without(whole, hidden) == _without(last, hidden)
            responses.append(whole)
    return responses


def _without(value: Any, names: set[str]) -> Any:
    if isinstance(value, dict):
        fields = cast("Json", value)
        return {key: _without(item, names) for key, item in fields.items() if key not in names}
    return [_without(item, names) for item in cast("list[Any]", value)] if isinstance(value, list) else value


@pytest.mark.parametrize(("script", "status", "code"), [case[1:] for case in BEFORE], ids=[case[0] for case in BEFORE])
async def test_a_fault_before_the_answer_is_an_error_answer(
    tmp_path: Path, script: ApiScript, status: int, code: str | None
) -> None:
    """As for chat: one error in the envelope, one row in the ledger, the waiting time of a 429; nothing is stored."""
    timeouts = SILENT_BEFORE if script is silence else PATIENT
    async with before(tmp_path, script, timeouts) as ((_, client, outcomes), _):
        answer = await client.post("/responses", json={**ASK, "stream": True})
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        await until(lambda: len(outcomes) == 1)
        assert (outcomes[0].status, outcomes[0].usage.total_tokens) == (status, 0)
        if status == 429:
            assert answer.headers["retry-after"] == "300"


@pytest.mark.parametrize(("script", "status", "code"), [case[1:] for case in WITHIN], ids=[case[0] for case in WITHIN])
async def test_a_fault_within_a_stream_fails_the_response(
    tmp_path: Path, script: ApiScript, status: int, code: str
) -> None:
    """What had come is passed on; the last event is ``response.failed`` with the code, never ``response.completed``."""
    timeouts = SILENT_WITHIN if code == "upstream_timeout" else PATIENT
    async with before(tmp_path, script, timeouts) as ((server, client, outcomes), _):
        answer = await client.post("/responses", json={**ASK, "stream": True})
        events = events_of(answer.text)
        assert [event["delta"] for event in events if event["type"] == "response.output_text.delta"] == ["a"]
        assert (events[-1]["type"], events[-1]["response"]["status"]) == ("response.failed", "failed")
        assert events[-1]["response"]["error"]["code"] == code
        assert not any(event["type"] == "response.completed" for event in events)
        await until(lambda: len(outcomes) == 1)
        assert outcomes[0].status == status
        assert (await client.get(f"/responses/{events[-1]['response']['id']}")).status_code == 404
        async with (
            openai.AsyncOpenAI(base_url=server.url, api_key="any", max_retries=0) as official,
            official.responses.stream(model="m", input="hi") as parsed,
        ):
            kinds = [event.type async for event in parsed]
        assert kinds[-1] == "response.failed"


@pytest.mark.parametrize(("script", "status", "code"), [case[1:] for case in WITHIN], ids=[case[0] for case in WITHIN])
async def test_a_fault_within_a_whole_answer_is_an_error_answer(
    tmp_path: Path, script: ApiScript, status: int, code: str
) -> None:
    """A response in one piece is never half of one."""
    timeouts = SILENT_WITHIN if code == "upstream_timeout" else PATIENT
    async with before(tmp_path, script, timeouts) as ((_, client, outcomes), _):
        answer = await client.post("/responses", json=ASK)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        await until(lambda: len(outcomes) == 1)


async def test_a_client_that_leaves_frees_the_upstream(tmp_path: Path) -> None:
    """The upstream's connection is closed, and the ledger says that the client left."""
    script = sends_then_is_silent(head(), chunk("a"))
    async with faulty_api(script) as api, gateway(translating(api.url), tmp_path) as (_, client, outcomes):
        async with client.stream("POST", "/responses", json={**ASK, "stream": True}) as answer:
            async for piece in answer.aiter_bytes():
                if b'"delta":"a"' in piece:
                    break
        await until(api.left.is_set)
        await until(lambda: [outcome.status for outcome in outcomes] == [499])


async def test_calls_in_every_dialect_become_items(tmp_path: Path) -> None:
    """Each of two calls is one item, with its id, its name and its arguments, and comes in order."""
    ended = [[*chunks, said({}, "tool_calls"), LAST] for chunks in CALLS.values()]
    for name, response in zip(CALLS, await answered(tmp_path, *ended, tools=FUNCTIONS), strict=True):
        calls = [item for item in response["output"] if item["type"] == "function_call"]
        found = [(item["call_id"], item["name"], item["arguments"], item["status"]) for item in calls]
        assert found == [("a", "f", OSLO, "completed"), ("b", "g", ROME, "completed")], name
        assert response["status"] == "completed", name


ENDS: dict[str, tuple[list[Json], str, str | None, list[str]]] = {
    "stop": ([said({"content": "ok"}), said({}, "stop")], "completed", None, ["message"]),
    "length": ([said({"content": "o"}), said({}, "length")], "incomplete", "max_output_tokens", ["message"]),
    "content filter": (
        [said({"content": "o"}), said({}, "content_filter")],
        "incomplete",
        "content_filter",
        ["message"],
    ),
    "refusal": ([said({"refusal": "No."}), said({}, "stop")], "completed", None, ["message"]),
    "reasoning": (
        [said({"reasoning_content": "Hm."}), said({"content": "ok"}), said({}, "stop")],
        "completed",
        None,
        ["reasoning", "message"],
    ),
    "nothing": ([said({}, "stop")], "completed", None, []),
}


async def test_ends_and_kinds_of_text_are_translated(tmp_path: Path) -> None:
    """The status says how the answer ended; reasoning, refusals and text are items of their own kind."""
    ended = [[*chunks, LAST] for chunks, *_ in ENDS.values()]
    responses = await answered(tmp_path, *ended, include=["reasoning.encrypted_content"])
    for (name, (_, status, reason, kinds)), response in zip(ENDS.items(), responses, strict=True):
        assert response["status"] == status, name
        assert response["incomplete_details"] == (None if reason is None else {"reason": reason}), name
        assert [item["type"] for item in response["output"]] == kinds, name
        if name == "reasoning":
            assert response["output"][0]["content"] == [{"type": "reasoning_text", "text": "Hm."}]
            assert response["output"][0]["encrypted_content"]
        if name == "refusal":
            assert response["output"][0]["content"] == [{"type": "refusal", "refusal": "No."}]


async def test_an_answer_has_the_schema_of_the_specification(tmp_path: Path) -> None:
    """Translated answers are held to the same schemas as those of local models, whole and event by event."""
    async with before(tmp_path, streams("one", " two")) as (up, _):
        whole = await up.client.post("/responses", json=ASK)
        streamed = await up.client.post("/responses", json={**ASK, "stream": True})
    msgspec.convert(whole.json(), Response)
    for event in events_of(streamed.text):
        msgspec.convert(event, StreamingEvent)


DETAILS = {"prompt_tokens_details": {"cached_tokens": 2}, "completion_tokens_details": {"reasoning_tokens": 1}}


@pytest.mark.parametrize(
    ("reported", "expected"),
    [({**USAGE, **DETAILS}, (3, 2, 2, 1)), (None, None)],
    ids=["with details", "not reported"],
)
async def test_usage_is_the_upstreams_own(
    tmp_path: Path, reported: Json | None, expected: tuple[int, ...] | None
) -> None:
    """The response and the ledger have what the upstream reported; where it reported nothing, an estimate, booked as one."""
    last: list[Json] = [] if reported is None else [{"choices": [], "usage": reported}]
    script = sends(head(), stream([said({"content": "ok"}), said({}, "stop"), *last]))
    async with before(tmp_path, script) as ((_, client, outcomes), bodies):
        usage = (await client.post("/responses", json={**ASK, "input": "x" * 400})).json()["usage"]
        await until(lambda: len(outcomes) == 1)
    found = (
        usage["input_tokens"],
        usage["input_tokens_details"]["cached_tokens"],
        usage["output_tokens"],
        usage["output_tokens_details"]["reasoning_tokens"],
    )
    booked = outcomes[0].usage
    if expected is None:
        assert min(found[0], booked.prompt_tokens) >= 100, "both are estimates"
        assert found[2] == booked.completion_tokens == 2
    else:
        in_ledger = (booked.prompt_tokens, booked.cached_tokens, booked.completion_tokens, booked.reasoning_tokens)
        assert found == in_ledger == expected
    assert outcomes[0].is_estimate is (expected is None)
    assert bodies[0]["stream_options"] == {"include_usage": True}


async def test_the_whole_request_reaches_the_upstream(tmp_path: Path) -> None:
    """Instructions, history, tools of every kind, format, limits, sampling: in the words of chat completions."""
    history: list[Json] = [
        {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": OSLO},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "12"}]},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "12.", "annotations": []}],
        },
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "And Rome?"},
    ]
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    body: Json = {
        "model": "m",
        "instructions": "You help.",
        "input": history,
        "tools": [
            *FUNCTIONS,
            {"type": "custom", "name": "shell", "description": "Run it."},
            {"type": "namespace", "name": "files", "tools": [{"type": "function", "name": "read", "strict": False}]},
        ],
        "tool_choice": {"type": "function", "name": "f"},
        "parallel_tool_calls": False,
        "text": {"format": {"type": "json_schema", "name": "a", "schema": schema, "strict": True}},
        "reasoning": {"effort": "low"},
        "max_output_tokens": 20,
        "temperature": 0.5,
        "top_p": 0.9,
        "presence_penalty": 0.25,
        "top_logprobs": 2,
    }
    async with before(tmp_path, streams("ok")) as (up, bodies):
        answer = await up.client.post("/responses", json=body)
        assert answer.status_code == 200, answer.text
    (sent,) = bodies
    assert [message["role"] for message in sent["messages"]] == [
        "system", "user", "assistant", "tool", "assistant", "developer", "user",
    ]  # fmt: skip
    assert sent["messages"][0]["content"] == "You help."
    call = sent["messages"][2]["tool_calls"][0]
    assert (call["id"], call["function"]) == ("c1", {"name": "f", "arguments": OSLO})
    assert (sent["messages"][3]["tool_call_id"], sent["messages"][3]["content"]) == ("c1", "12")
    names = [tool[tool["type"]]["name"] for tool in sent["tools"]]
    assert names == ["f", "g", "shell", "files__read"]
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    assert sent["response_format"]["json_schema"] == {"name": "a", "schema": schema, "strict": True}
    expected = {
        "parallel_tool_calls": False, "reasoning_effort": "low", "max_completion_tokens": 20, "temperature": 0.5,
        "top_p": 0.9, "presence_penalty": 0.25, "logprobs": True, "top_logprobs": 2, "stream": True,
    }  # fmt: skip
    assert {name: sent[name] for name in expected} == expected


async def test_a_call_in_a_namespace_comes_back_in_two_parts(tmp_path: Path) -> None:
    """The upstream knows one name; the client gets namespace and name, and its custom tool's input as text."""
    tools = [
        {"type": "namespace", "name": "files", "tools": [{"type": "function", "name": "read"}]},
        {"type": "custom", "name": "shell"},
    ]
    calls = [
        said({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "files__read", "arguments": "{}"}}]}),
        said({"tool_calls": [{"index": 1, "id": "b", "type": "custom", "custom": {"name": "shell", "input": "ls"}}]}),
    ]
    (response,) = await answered(tmp_path, [*calls, said({}, "tool_calls"), LAST], tools=tools)
    function, custom = response["output"]
    assert (function["type"], function["namespace"], function["name"]) == ("function_call", "files", "read")
    assert (custom["type"], custom["name"], custom["input"]) == ("custom_tool_call", "shell", "ls")


async def test_a_second_turn_sends_the_first_again(tmp_path: Path) -> None:
    """What is stored here is history for the upstream, tool calls and their results included."""
    script = sends(head(), stream([*CALLS["as OpenAI"][:2], said({}, "tool_calls"), LAST]))
    async with before(tmp_path, script) as (up, bodies):
        first = (await up.client.post("/responses", json={**ASK, "tools": FUNCTIONS})).json()
        output = {"type": "function_call_output", "call_id": "a", "output": "12"}
        body = {"model": "m", "previous_response_id": first["id"], "input": [output], "tools": FUNCTIONS}
        assert (await up.client.post("/responses", json=body)).status_code == 200
    roles = [(message["role"], message.get("tool_call_id")) for message in bodies[1]["messages"]]
    assert roles == [("user", None), ("assistant", None), ("tool", "a")]
