"""What broke in other servers of ``/v1/responses``, and in what form clients send their requests: it works here.

Other tests cover more of it: namespaces, cut answers, hosted tools, the WebSocket's 426 and the bounded store.
"""

from collections.abc import Generator
from typing import Any

import httpx2 as httpx
import openai
import pytest
from tests.prompting.test_template_families import GENERIC, NATIVE, family
from tests.serving import Running, running

from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Pattern, Reply, Script, ScriptedCall
from antiphon.protocol.chat import ChatRequest, Message

Json = dict[str, Any]
MODEL = "gpt-4o-mini"
TOOL: Json = {"type": "function", "name": "exec", "parameters": {"type": "object", "properties": {}}, "strict": False}
REPLIES = (
    Reply(match=Pattern(last_message="run it"), tool_calls=(ScriptedCall(name="exec", arguments={}),)),
    Reply(match=Pattern(last_message="think"), reasoning="Hm.", text="Done."),
)
FIRST_SHOWN_ONLY = {
    "command_r7b", "deepseek_v3", "deepseek_v31", "gpt_oss", "mistral_v11", "phi4_mini", "gemma3", "smollm3",
}  # fmt: skip
"""Families whose templates show a system message at the beginning alone."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Running]:
    script = Script(models=(MODEL,), replies=REPLIES)
    with running(ScriptedBackend(script), tmp_path_factory.mktemp("home")) as up:
        yield up


@pytest.fixture
def http(server: Running) -> Generator[httpx.Client]:
    with httpx.Client(base_url=server.url) as made:
        yield made


def answered(http: httpx.Client, **body: Any) -> Json:
    answer = http.post("/responses", json={"model": MODEL, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_an_unknown_type_of_tool_is_named(http: httpx.Client) -> None:
    """A tool that nobody knows is a 400 with its place, not a 500; the known ones next to it do not hide it."""
    answer = http.post("/responses", json={"model": MODEL, "input": "hi", "tools": [TOOL, {"type": "teleport"}]})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "tools[1].type")
    assert "teleport" in error["message"]


@pytest.mark.parametrize("name", [*NATIVE, *GENERIC])
def test_a_late_system_message_is_rendered_by_every_template(name: str) -> None:
    """It raises nowhere and is lost nowhere; where the template can show it, it stays in place and the prefix is kept."""
    before = (Message("system", "AAA"), Message("user", "BBB"), Message("assistant", "CCC"))
    late = (*before, Message("developer", "EEE"), Message("system", "FFF"), Message("user", "DDD"))
    prompt = "".join(piece.text for piece in family(name).prompt(ChatRequest(model="m", messages=late)))
    assert all(text in prompt for text in ("AAA", "BBB", "CCC", "DDD", "EEE", "FFF"))
    assert (prompt.index("CCC") < prompt.index("EEE")) is (name not in FIRST_SHOWN_ONLY)


def test_the_second_turn_takes_the_first_ones_output_as_it_came(http: httpx.Client) -> None:
    """Reasoning, messages and calls of an answer are sent back unchanged, with outputs as a text and as parts."""
    thought = answered(http, input="think", store=False, include=["reasoning.encrypted_content"])
    called = answered(http, input="run it", store=False, tools=[TOOL])
    (call,) = called["output"]
    for output in ("ran", [{"type": "input_text", "text": "r"}, {"type": "input_text", "text": "an"}]):
        result = {"type": "function_call_output", "call_id": call["call_id"], "output": output}
        history = [{"role": "user", "content": "think"}, *thought["output"], {"role": "user", "content": "run it"}]
        again = answered(http, input=[*history, call, result], store=False, tools=[TOOL])
        assert again["output"][0]["content"][0]["text"] == "ran"


@pytest.mark.parametrize("streamed", [False, True])
def test_a_response_is_continued_with_its_tool_calls(server: Running, streamed: bool) -> None:
    """The next turn knows the call, whether the first one was streamed or not: its result would else match nothing."""
    with openai.OpenAI(base_url=server.url, api_key="k", max_retries=0) as client:
        if streamed:
            with client.responses.stream(model=MODEL, input="run it", tools=[TOOL]) as stream:  # type: ignore[list-item]
                first = stream.until_done().get_final_response()
        else:
            first = client.responses.parse(model=MODEL, input="run it", tools=[TOOL])  # type: ignore[list-item]
        (call,) = first.output
        assert call.type == "function_call"
        result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "it ran"}
        second = client.responses.create(model=MODEL, previous_response_id=first.id, input=[result])
        items = client.responses.input_items.list(second.id, order="asc").data
    assert [item.type for item in items] == ["message", "function_call", "function_call_output"]
    assert second.output_text == "it ran"


def test_codex_finds_the_list_of_models_that_it_reads(http: httpx.Client) -> None:
    """``GET /v1/models?client_version=...`` has ``models`` next to ``data``; without the query it has not."""
    found = http.get("/models", params={"client_version": "0.171.0"})
    assert found.status_code == 200
    assert isinstance(found.json()["models"], list)
    assert found.json()["data"]
    assert "models" not in http.get("/models").json()


def test_ids_carry_their_prefixes(http: httpx.Client) -> None:
    """Responses, messages, reasoning, calls, their items and conversations begin as OpenAI's do."""
    thought, called = answered(http, input="think"), answered(http, input="run it", tools=[TOOL])
    conversation = http.post("/conversations", json={}).json()
    ids = [thought["id"], *(item["id"] for item in (*thought["output"], *called["output"])), conversation["id"]]
    assert [one.partition("_")[0] for one in ids] == ["resp", "rs", "msg", "fc", "conv"]


FORMS: dict[str, Json] = {
    "a text": {"input": "hi"},
    "items without a type": {"input": [{"role": "user", "content": "hi"}]},
    "items with a type": {"input": [{"type": "message", "role": "user", "content": "hi"}]},
    "parts": {"input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}]},
    "a developer's message": {
        "input": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    },
    "not stored": {"input": "hi", "store": False},
    "an empty include": {"input": "hi", "include": []},
    "sealed reasoning": {"input": "hi", "include": ["reasoning.encrypted_content"], "store": False},
    "no effort": {"input": "hi", "reasoning": {"effort": "none"}},
    "a summary": {"input": "hi", "reasoning": {"summary": "auto"}},
    "low verbosity": {"input": "hi", "text": {"verbosity": "low"}},
    "what Codex adds": {"input": "hi", "client_metadata": {"a": "b"}, "prompt_cache_key": "k", "tool_choice": "auto"},
    "nulls": {"input": "hi", "tools": None, "temperature": None, "text": None, "reasoning": None, "store": None},
    "a namespace": {"input": "hi", "tools": [{"type": "namespace", "name": "files", "tools": [TOOL]}]},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("streamed", [False, True])
def test_requests_are_taken_in_the_forms_that_clients_send(http: httpx.Client, form: str, streamed: bool) -> None:
    """As seen on the wire from 21 clients."""
    answer = http.post("/responses", json={"model": MODEL, "stream": streamed, **FORMS[form]})
    assert answer.status_code == 200, answer.text
    if streamed:
        assert answer.text.count("event: response.completed\n") == 1
    else:
        assert answer.json()["status"] == "completed"
