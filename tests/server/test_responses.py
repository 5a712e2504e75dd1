"""``/v1/responses`` and ``/v1/conversations`` with the official client, over a scripted model."""

import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
from tests.serving import Running, running
from tests.waiting import wait_until

from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Pattern, Reply, Script, ScriptedCall, ScriptedError
from antiphon.server.process import http_server
from antiphon.server.responses.sealing import Sealer
from antiphon.state import Claim, ResponseSettings

MODEL = "gpt-4o-mini"
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
REPLIES = (
    Reply(
        match=Pattern(last_message="weather"),
        tool_calls=(ScriptedCall(name="get_weather", arguments={"city": "Oslo"}),),
    ),
    Reply(match=Pattern(last_message="think"), reasoning="Let me see.", text="Done."),
    Reply(match=Pattern(last_message="break"), text="one two three", error=ScriptedError(status=500), after=2),
    Reply(match=Pattern(last_message="refuse me"), error=ScriptedError(status=429, code="rate_limit_exceeded")),
    Reply(match=Pattern(last_message="hang"), text="one two three four", fault="hang", after=2),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Running]:
    script = Script(models=(MODEL,), replies=REPLIES)
    with running(ScriptedBackend(script), tmp_path_factory.mktemp("home")) as up:
        yield up


@pytest.fixture(scope="module")
def client(server: Running) -> Generator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url, api_key="any", max_retries=0) as made:
        yield made


@pytest.fixture
def http(server: Running) -> Generator[httpx.Client]:
    with httpx.Client(base_url=server.url) as made:
        yield made


def ask(client: openai.OpenAI, text: Any = "hello", **options: Any) -> Any:
    return client.responses.create(model=MODEL, input=text, **options)


def test_a_response_is_answered_stored_and_followed(client: openai.OpenAI) -> None:
    """Created, retrieved equal, continued by its id; the second turn's model sees the first."""
    first = ask(client, "hello there", instructions="Be brief.")
    assert (first.status, first.output_text) == ("completed", "hello there")
    assert client.responses.retrieve(first.id) == first
    second = ask(client, "and now", previous_response_id=first.id)
    assert second.usage.input_tokens > first.usage.input_tokens - 3
    assert second.instructions is None
    listed = client.responses.input_items.list(second.id, order="asc").data
    assert [item.type for item in listed] == ["message", "message", "message"]


@pytest.mark.parametrize("how", [{}, {"stream": True}, {"background": True}], ids=str)
def test_a_prewarmed_prompt_is_computed_and_not_answered(client: openai.OpenAI, how: dict[str, Any]) -> None:
    """In one piece, as a stream and in the background: no output, one token counted, and the next response follows it."""
    options = {"prompt_cache_options": {"prewarm": True, "mode": "implicit", "comparison_response_id": None}}
    answer = ask(client, "a long prompt", extra_body=options, **how)
    if "stream" in how:
        events = list(answer)
        assert [event.type.removeprefix("response.") for event in events] == ["created", "in_progress", "completed"]
        answer = events[-1].response
    if "background" in how:
        wait_until(lambda: client.responses.retrieve(answer.id).status == "completed")
        answer = client.responses.retrieve(answer.id)
    assert (answer.status, answer.output) == ("completed", [])
    assert answer.usage.input_tokens > 0
    assert ask(client, "go on", previous_response_id=answer.id).output_text == "go on"


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"mode": "explicit"}, "mode"),
        ({"ttl": "12h"}, "ttl"),
        ({"ttl": "30m"}, "ttl"),
        ({"prewarm": 1}, "prewarm"),
        ({"comparison_response_id": "resp_x"}, "comparison_response_id"),
        ({"other": 1}, "other"),
    ],
    ids=str,
)
def test_what_the_prefix_cache_cannot_promise_is_refused(
    client: openai.OpenAI, options: dict[str, Any], param: str
) -> None:
    """How long a prefix is kept, marks in the prompt, and diagnostics."""
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, extra_body={"prompt_cache_options": options})
    assert caught.value.param == f"prompt_cache_options.{param}"


def test_a_compaction_cannot_be_prewarmed(client: openai.OpenAI) -> None:
    """Its answer is what it is for; the other options are those of a response."""
    body: dict[str, Any] = {"model": MODEL, "input": "hello", "prompt_cache_options": {"mode": "implicit"}}
    assert client.post("/responses/compact", cast_to=object, body=body)
    body["prompt_cache_options"]["prewarm"] = True
    with pytest.raises(openai.BadRequestError, match=r"prompt_cache_options\.prewarm"):
        client.post("/responses/compact", cast_to=object, body=body)


def test_two_may_follow_the_same_response_and_it_may_be_deleted(client: openai.OpenAI) -> None:
    """Branches; and what follows a response keeps what it needs of it."""
    root = ask(client, "root")
    left, right = (ask(client, side, previous_response_id=root.id) for side in ("left", "right"))
    client.responses.delete(root.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(root.id)
    for branch in (left, right):
        assert ask(client, "on", previous_response_id=branch.id).status == "completed"


def test_a_stream_ends_in_what_is_stored(client: openai.OpenAI) -> None:
    """The last event's response is the one that is then retrieved."""
    with client.responses.stream(model=MODEL, input="please think", reasoning={"summary": "auto"}) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert events[0].type == "response.created"
    assert final.output[0].type == "reasoning"
    assert client.responses.retrieve(final.id).output_text == final.output_text == "Done."


def test_what_is_not_stored_is_not_there(client: openai.OpenAI) -> None:
    """store=false leaves nothing to retrieve or to follow."""
    answer = ask(client, store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(answer.id)
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, previous_response_id=answer.id)
    assert caught.value.code == "previous_response_not_found"


def test_a_tool_loop_with_and_without_state(client: openai.OpenAI) -> None:
    """Call, result, answer: by the stored response, and by sending everything again."""
    asked = ask(client, "weather?", tools=[WEATHER])
    (call,) = asked.output
    assert (call.type, call.name, call.id[:3]) == ("function_call", "get_weather", "fc_")
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "12 degrees"}
    by_id = ask(client, [result], previous_response_id=asked.id)
    whole = ask(client, [{"role": "user", "content": "weather?"}, call.to_dict(), result], tools=[WEATHER])
    assert by_id.status == whole.status == "completed"
    assert by_id.usage.input_tokens > 0


def test_items_of_a_stored_response_may_be_named_by_id(client: openai.OpenAI) -> None:
    """The Vercel AI SDK sends references to the items of earlier answers."""
    asked = ask(client, "weather?", tools=[WEATHER])
    call = asked.output[0]
    items = [
        {"type": "item_reference", "id": call.id},
        {"type": "function_call_output", "call_id": call.call_id, "output": "1"},
    ]
    assert ask(client, items).status == "completed"
    with pytest.raises(openai.NotFoundError, match="not found"):
        ask(client, [{"type": "item_reference", "id": "msg_nothing"}])


def test_sealed_reasoning_goes_round_and_a_foreign_seal_does_not(client: openai.OpenAI) -> None:
    """The client keeps the thinking, unread; what another server sealed is refused by code."""
    answer = ask(client, "please think", store=False, include=["reasoning.encrypted_content"])
    items = [item.to_dict() for item in answer.output]
    assert "Let me see" not in items[0]["encrypted_content"]
    items[0].pop("content")
    assert ask(client, [{"role": "user", "content": "please think"}, *items, {"role": "user", "content": "x"}]).status
    items[0]["encrypted_content"] = Sealer(b"x" * 32).seal("elsewhere")
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, items)
    assert caught.value.code == "invalid_encrypted_content"


def test_an_error_before_the_first_event_is_an_ordinary_answer(client: openai.OpenAI) -> None:
    """A limit that is used up is a 429 with a stream, too."""
    with pytest.raises(openai.RateLimitError):
        ask(client, "refuse me", stream=True)


def test_an_error_in_a_stream_is_a_failed_response(client: openai.OpenAI) -> None:
    """The stream ends by response.failed with what was said so far."""
    last = list(ask(client, "break", stream=True))[-1]
    assert last.type == "response.failed"
    assert last.response.error.code == "server_error"
    assert last.response.output[0].content[0].text


def test_a_background_response_is_polled_to_its_end(client: openai.OpenAI) -> None:
    """Queued at once, completed later, and followed again from any event on."""
    started = ask(client, "hello", background=True)
    assert started.status == "queued"
    wait_until(lambda: client.responses.retrieve(started.id).status == "completed")
    numbers = [event.sequence_number for event in client.responses.retrieve(started.id, stream=True, starting_after=2)]
    assert numbers == list(range(3, numbers[-1] + 1))


def test_a_conversation_has_one_response_at_a_time(client: openai.OpenAI) -> None:
    """Another is refused while the first runs, however it is asked for; at its end, or a failure, the conversation is free."""
    conversation = client.conversations.create().id
    running = ask(client, "hang", conversation=conversation, background=True)
    ways: list[dict[str, Any]] = [{}, {"stream": True}, {"background": True}]
    for options in ways:
        with pytest.raises(openai.ConflictError) as refused:
            ask(client, "hello", conversation=conversation, **options)
        assert refused.value.code == "conversation_locked"
    assert client.conversations.items.list(conversation).data == []
    client.responses.cancel(running.id)
    assert ask(client, "hello", conversation=conversation).output_text == "hello"
    with pytest.raises(openai.RateLimitError):
        ask(client, "refuse me", conversation=conversation)
    for number in range(5):
        list(ask(client, f"at once {number}", conversation=conversation, stream=True))
    with pytest.raises(openai.BadRequestError):
        ask(client, [{"type": "function_call_output", "call_id": "c", "output": "x"}], conversation=conversation)
    assert ask(client, "hello again", conversation=conversation).output_text == "hello again"


@pytest.mark.parametrize("options", [{"stream": True}, {"background": True, "stream": True}], ids=str)
def test_a_response_that_lost_its_conversation_fails(
    client: openai.OpenAI, server: Running, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """The last event says so, nothing of it is in the conversation, and it is not shown as complete."""
    conversation = client.conversations.create().id
    store = server.service.responses.conversations
    claim = store.claim

    async def lost(*args: str) -> Claim | None:
        claimed = await claim(*args)
        assert claimed is not None
        claimed.holder = "another"
        return claimed

    monkeypatch.setattr(store, "claim", lost)
    events = list(ask(client, "hello", conversation=conversation, **options))
    assert events[-1].type == "response.failed"
    assert events[-1].response.error.code == "conversation_locked"
    assert client.conversations.items.list(conversation).data == []
    response_id = events[0].response.id
    if "background" in options:
        assert client.responses.retrieve(response_id).status == "failed"
    else:
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(response_id)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("stream=maybe", "stream"),
        ("stream=True", "stream"),
        ("stream=", "stream"),
        ("starting_after=1", "starting_after"),
        ("stream=false&starting_after=1", "starting_after"),
        ("stream=true&starting_after=-1", "starting_after"),
        ("stream=true&starting_after=x", "starting_after"),
        ("include_obfuscation=true", "include_obfuscation"),
        ("stream=true&include_obfuscation=1", "include_obfuscation"),
        ("include=everything", "include"),
        ("include[]=everything", "include"),
        ("color=red", "color"),
    ],
)
def test_a_query_that_means_nothing_is_refused(
    client: openai.OpenAI, http: httpx.Client, query: str, param: str
) -> None:
    """With the parameter's name, and never taken for its default."""
    response_id = ask(client, background=True).id
    answer = http.get(f"/responses/{response_id}?{query}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_a_resumed_stream_may_hide_the_length_of_its_text(client: openai.OpenAI) -> None:
    """Asked for with the resumption, whatever the request that began it said."""
    started = ask(client, "hello", background=True)
    wait_until(lambda: client.responses.retrieve(started.id).status == "completed")
    resumed = list(client.responses.retrieve(started.id, stream=True, include_obfuscation=True))
    deltas = [event for event in resumed if event.type.endswith(".delta")]
    assert deltas
    assert all(event.to_dict()["obfuscation"] for event in deltas)


def test_a_background_response_is_cancelled_once_and_for_all(client: openai.OpenAI) -> None:
    """Cancelling twice changes nothing; a foreground one cannot be cancelled."""
    started = ask(client, "hang", background=True)
    assert client.responses.cancel(started.id).status == "cancelled"
    assert client.responses.cancel(started.id).status == "cancelled"
    assert client.responses.retrieve(started.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response"):
        client.responses.cancel(ask(client).id)


def test_a_background_stream_goes_on_without_its_client(client: openai.OpenAI) -> None:
    """Leaving the stream leaves the response running."""
    with ask(client, "one two three four", background=True, stream=True) as stream:
        first = next(iter(stream))
    wait_until(lambda: client.responses.retrieve(first.response.id).status == "completed")


def test_a_background_failure_is_stored(client: openai.OpenAI) -> None:
    """Nobody waits for it, so the stored response must say it."""
    started = ask(client, "break", background=True)
    wait_until(lambda: client.responses.retrieve(started.id).status == "failed")
    assert client.responses.retrieve(started.id).error is not None


def test_what_runs_at_shutdown_is_cancelled_and_says_so(tmp_path: Path) -> None:
    """No response stays in progress when its server ends."""
    backend = ScriptedBackend(Script(models=(MODEL,), replies=REPLIES))
    with running(backend, tmp_path) as up, openai.OpenAI(base_url=up.url, api_key="x", max_retries=0) as client:
        started = ask(client, "hang", background=True)
    with running(backend, tmp_path) as up, openai.OpenAI(base_url=up.url, api_key="x", max_retries=0) as client:
        assert client.responses.retrieve(started.id).status == "cancelled"


def test_a_conversation_is_read_and_added_to(client: openai.OpenAI) -> None:
    """The items of each turn are appended; pages go through them in either order."""
    conversation = client.conversations.create(items=[{"type": "message", "role": "user", "content": "I am Bob."}])
    answer = ask(client, "hello", conversation=conversation.id)
    assert answer.conversation.id == conversation.id
    items = client.conversations.items.list(conversation.id, order="asc", limit=2)
    assert [item.id for item in items] == [
        item.id for item in reversed(client.conversations.items.list(conversation.id).data)
    ]
    assert len(list(client.conversations.items.list(conversation.id, limit=1))) == 3
    client.conversations.items.delete(items.data[0].id, conversation_id=conversation.id)
    assert client.conversations.update(conversation.id, metadata={"a": "b"}).metadata == {"a": "b"}
    assert client.conversations.delete(conversation.id).deleted
    with pytest.raises(openai.NotFoundError):
        ask(client, conversation=conversation.id)


def test_input_tokens_are_counted_as_the_request_would_be(client: openai.OpenAI) -> None:
    """The count is the usage of the answer, history and tools included."""
    first = ask(client, "hello")
    body: Any = {"input": "again", "previous_response_id": first.id, "tools": [WEATHER]}
    counted = client.responses.input_tokens.count(model=MODEL, **body)
    assert counted.input_tokens == client.responses.create(model=MODEL, **body).usage.input_tokens  # type: ignore[union-attr]


def test_hosted_tools_are_left_out_audibly(tmp_path: Path) -> None:
    """With the setting, the answer's header names what the model was not offered."""
    backend = ScriptedBackend(Script(models=(MODEL,)))
    with running(backend, tmp_path, responses=ResponseSettings(hosted_tools="leave-out")) as up:
        body = {"model": MODEL, "input": "hi", "tools": [{"type": "web_search"}, {"type": "image_generation"}]}
        answer = httpx.post(f"{up.url}/responses", json=body)
    assert answer.headers["x-antiphon-left-out"] == "web_search, image_generation"
    assert answer.json()["tools"] == []


def test_a_request_may_say_itself_what_becomes_of_hosted_tools(http: httpx.Client) -> None:
    """The header goes before the setting, in both directions; another value is refused."""
    body = {"model": MODEL, "input": "hi", "tools": [{"type": "web_search"}]}
    header = "x-antiphon-hosted-tools"
    answer = http.post("/responses", json=body, headers={header: "leave-out"})
    assert (answer.status_code, answer.headers["x-antiphon-left-out"]) == (200, "web_search")
    refused = http.post("/responses", json=body).json()["error"]
    assert header in refused["message"]
    assert http.post("/responses", json=body, headers={header: "refuse"}).status_code == 400
    wrong = http.post("/responses", json=body, headers={header: "maybe"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, header)


def test_without_the_package_the_websocket_transport_is_refused_so_that_clients_fall_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """426, not 404: Codex then uses HTTP without a warning at every start."""
    headers = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "eA==",
    }
    monkeypatch.setattr(http_server, "find_spec", lambda name: None)
    with running(ScriptedBackend(Script(models=(MODEL,))), tmp_path) as up:
        assert httpx.get(f"{up.url}/responses", headers=headers).status_code == 426


def test_a_get_request_that_is_no_upgrade_is_refused(http: httpx.Client) -> None:
    """426 names the other ways."""
    assert http.get("/responses").status_code == 426


def test_fields_that_no_document_has_are_recorded(http: httpx.Client) -> None:
    """Codex sends client_metadata, and metadata of its own on items."""
    item = {"role": "user", "content": "hi", "internal_chat_message_metadata_passthrough": {"a": 1}}
    answer = http.post("/responses", json={"model": MODEL, "input": [item], "client_metadata": {"b": 2}})
    assert answer.status_code == 200


def test_many_at_once_in_one_conversation_lose_nothing(client: openai.OpenAI) -> None:
    """Each answered request's items are there, together."""
    conversation = client.conversations.create()
    answered: list[str] = []

    def one(number: int) -> None:
        try:
            ask(client, f"hello {number}", conversation=conversation.id)
        except openai.ConflictError:
            return
        answered.append(f"hello {number}")

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    said = [item.content[0].text for item in client.conversations.items.list(conversation.id, order="asc")]  # type: ignore[union-attr]
    assert sorted(said) == sorted([text for text in answered for _ in range(2)])
    assert all(said[at] == said[at + 1] for at in range(0, len(said), 2))


def test_compaction_returns_what_the_next_turn_needs(client: openai.OpenAI) -> None:
    """All user messages and one sealed item; passed on as input, the summary reaches the model."""
    history: Any = [{"role": "user", "content": "My name is Bob."}, {"role": "assistant", "content": "Hello Bob."}]
    parsed = client.responses.compact(model=MODEL, input=history)
    assert [item.type for item in parsed.output] == ["message", "compaction"]
    assert parsed.usage.output_tokens > 0
    compacted: Any = client.post("/responses/compact", body={"model": MODEL, "input": history}, cast_to=object)
    answer = ask(client, [*compacted["output"], {"role": "user", "content": "Who am I?"}])
    assert answer.usage.input_tokens > client.responses.input_tokens.count(model=MODEL, input="Who am I?").input_tokens
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.post("/responses/compact", body={"model": MODEL, "input": "x", "temperature": 1}, cast_to=object)


def test_a_trigger_makes_exactly_one_compaction_item(client: openai.OpenAI) -> None:
    """Whole and streamed; the next response begins at the summary."""
    items: Any = [{"role": "user", "content": "a long story"}, {"type": "compaction_trigger"}]
    events = list(ask(client, items, stream=True))
    assert "response.compaction.compacting" in [event.type for event in events]
    final = events[-1].response
    assert [item.type for item in final.output] == ["compaction"]
    following = ask(client, "go on", previous_response_id=final.id)
    listed = client.responses.input_items.list(following.id, order="asc").data
    assert [item.type for item in listed] == ["compaction", "message"]


def test_context_management_compacts_past_its_threshold(client: openai.OpenAI) -> None:
    """Below it nothing happens; above it the summary comes first, then the answer, and usage counts both."""
    managed: Any = {"context_management": [{"type": "compaction", "compact_threshold": 1000}]}
    short = ask(client, "short", **managed)
    assert [item.type for item in short.output] == ["message"]
    long = ask(client, [{"role": "user", "content": "word " * 1500}, {"role": "user", "content": "And?"}], **managed)
    assert [item.type for item in long.output] == ["compaction", "message"]
    assert long.usage.input_tokens > 1500
