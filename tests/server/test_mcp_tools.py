"""Tools of MCP servers, run by the server in the course of one response, with the official client and a real MCP server."""

import json
import sys
import threading
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
from openai.lib.streaming.responses._responses import ResponseStreamState
from tests.server.mcp_server import McpUp, mcp_server
from tests.serving import Running, running
from tests.waiting import PATIENCE_S, wait_until

from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Pattern, Reply, Script, ScriptedCall
from antiphon.protocol.chat import ChatRequest
from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import Event
from antiphon.state import McpServer, ResponseSettings

MODEL = "gpt-4o-mini"
WEATHER = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}


def says(pattern: str, *calls: ScriptedCall, text: str = "") -> Reply:
    return Reply(match=Pattern(last_message=pattern), text=text or None, tool_calls=calls)


READ = ScriptedCall(name="files__read", arguments={"path": "a.txt"})
REMOVE = ScriptedCall(name="files__remove", arguments={"path": "a.txt"})
REPLIES = (
    says("please read$", READ),
    says("find the files$", ScriptedCall(name="tool_search", arguments={"paths": ["files"]})),
    says("^Loaded: files", READ),
    says("please remove$", REMOVE),
    says("think and read", READ, text="I will look."),
    says("read twice", READ, READ),
    says("read and ask", READ, ScriptedCall(name="get_weather", arguments={})),
    says("read for ever|text of a.txt.*for ever", READ),
    says("please fail", ScriptedCall(name="files__fail")),
    says("too much", ScriptedCall(name="files__large")),
    says("no json", ScriptedCall(name="files__read", arguments="{oops")),
    says("who am I", ScriptedCall(name="files__whoami")),
    says("please wait", ScriptedCall(name="files__wait")),
    says("cut off", ScriptedCall(name="files__read", arguments={"path": "a" * 200})),
)


@pytest.fixture(scope="module")
def mcp() -> Generator[McpUp]:
    with mcp_server() as up:
        yield up


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Running]:
    program = McpServer(command=sys.executable, args=(str(Path(__file__).with_name("mcp_server.py")),))
    settings = ResponseSettings(
        mcp_hosts=("127.0.0.1", "*.example"), mcp_servers={"program": program}, max_tool_calls=5
    )
    backend = ScriptedBackend(Script(models=(MODEL,), replies=REPLIES))
    with running(backend, tmp_path_factory.mktemp("home"), responses=settings) as up:
        yield up


@pytest.fixture(scope="module")
def client(server: Running) -> Generator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url, api_key="any", max_retries=0) as made:
        yield made


def files(mcp: McpUp, **more: Any) -> dict[str, Any]:
    return {"type": "mcp", "server_label": "files", "server_url": mcp.url, "require_approval": "never", **more}


def ask(client: openai.OpenAI, text: Any, *tools: Any, **options: Any) -> Any:
    return client.responses.create(model=MODEL, input=text, tools=list(tools), **options)


def kinds(response: Any) -> list[str]:
    return [item.type for item in response.output]


def test_a_call_is_run_and_answered_in_one_response(client: openai.OpenAI, mcp: McpUp) -> None:
    """List, call, answer: three items, one usage of both generations; the model sees the result."""
    answer = ask(client, "please read", files(mcp))
    assert kinds(answer) == ["mcp_list_tools", "mcp_call", "message"]
    listing, call, _ = answer.output
    assert {tool.name for tool in listing.tools} >= {"read", "remove"}
    assert (call.name, call.server_label, call.status, call.output) == ("read", "files", "completed", "text of a.txt")
    assert json.loads(call.arguments) == {"path": "a.txt"}
    assert answer.output_text == "text of a.txt"
    once = client.responses.input_tokens.count(model=MODEL, input="please read", tools=[files(mcp)]).input_tokens  # type: ignore[list-item]
    assert answer.usage.input_tokens > 2 * once
    assert client.responses.retrieve(answer.id) == answer


def test_a_deferred_server_is_asked_for_its_tools_when_it_is_loaded(client: openai.OpenAI, mcp: McpUp) -> None:
    """Before that the model sees its label and description alone; on later turns it is loaded. No secret is shown."""
    tools = (
        files(mcp, defer_loading=True, server_description="The user's files.", headers={"x-token": "hidden-token"}),
        {"type": "tool_search"},
    )
    answer = ask(client, "find the files", *tools)
    assert kinds(answer) == ["tool_search_call", "tool_search_output", "mcp_list_tools", "mcp_call", "message"]
    assert answer.output_text == "text of a.txt"
    (loaded,) = answer.output[1].tools
    assert (loaded.type, loaded.server_label, loaded.headers) == ("mcp", "files", None)
    assert "hidden-token" not in answer.to_json()
    assert kinds(ask(client, "please read", *tools, previous_response_id=answer.id)) == ["mcp_call", "message"]
    again = ask(
        client, [*(item.to_dict() for item in answer.output), {"role": "user", "content": "please read"}], *tools
    )
    assert kinds(again) == ["mcp_call", "message"]


def test_a_stream_says_each_step_in_order(client: openai.OpenAI, mcp: McpUp) -> None:
    """One row of numbers; the official accumulator accepts it, and its response is the one that is stored."""
    events = list(ask(client, "think and read", files(mcp), stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    said = [event.type.removeprefix("response.") for event in events]
    steps = [
        "created", "in_progress", "output_item.added", "mcp_list_tools.in_progress", "mcp_list_tools.completed",
        "output_item.done", "output_item.added", "content_part.added", "output_text.delta", "output_text.done",
        "content_part.done", "output_item.done", "output_item.added", "mcp_call.in_progress", "mcp_call_arguments.delta",
        "mcp_call_arguments.done", "mcp_call.completed", "output_item.done", "output_item.added", "content_part.added",
        "output_text.delta", "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    assert [kind for at, kind in enumerate(said) if at == 0 or said[at - 1] != kind] == steps
    state: Any = ResponseStreamState(input_tools=openai.NOT_GIVEN, text_format=openai.NOT_GIVEN)
    for event in events:
        state.handle_event(event)
    assert client.responses.retrieve(events[-1].response.id) == events[-1].response  # type: ignore[union-attr]


def test_the_next_turn_sees_the_call_and_does_not_list_again(client: openai.OpenAI, mcp: McpUp) -> None:
    """By id and stateless: the list is among the items, so the server is not asked, and the prompts are equal."""
    first = ask(client, "please read", files(mcp))
    num_requests = len(mcp.seen)
    by_id = ask(client, "and now", files(mcp), previous_response_id=first.id)
    items = [{"role": "user", "content": "please read"}, *(item.to_dict() for item in first.output)]
    whole = ask(client, [*items, {"role": "user", "content": "and now"}], files(mcp))
    assert kinds(by_id) == kinds(whole) == ["message"]
    assert by_id.usage == whole.usage
    assert len(mcp.seen) == num_requests


def test_a_call_waits_for_approval(client: openai.OpenAI, mcp: McpUp) -> None:
    """Always is the default. Approved it is run before the model goes on, once; denied it is not, and the model is told."""
    tool = files(mcp, require_approval=None)
    asked = ask(client, "please remove", tool)
    request = asked.output[-1]
    assert (asked.status, request.type, request.name) == ("completed", "mcp_approval_request", "remove")
    assert "remove" not in mcp.calls
    yes = {"type": "mcp_approval_response", "approval_request_id": request.id, "approve": True}
    done = ask(client, [yes], tool, previous_response_id=asked.id)
    assert kinds(done) == ["mcp_call", "message"]
    assert (done.output[0].approval_request_id, done.output_text) == (request.id, "removed a.txt")
    assert mcp.calls.count("remove") == 1
    assert kinds(ask(client, "and now", tool, previous_response_id=done.id)) == ["message"]
    assert mcp.calls.count("remove") == 1
    denied = ask(client, [yes | {"approve": False, "reason": "too risky"}], tool, previous_response_id=asked.id)
    assert kinds(denied) == ["message"]
    assert "too risky" in denied.output_text
    assert mcp.calls.count("remove") == 1


def test_an_approval_works_without_state(client: openai.OpenAI, mcp: McpUp) -> None:
    """The client sends all items itself."""
    tool = files(mcp, require_approval="always")
    asked = ask(client, "please read", tool, store=False)
    yes = {"type": "mcp_approval_response", "approval_request_id": asked.output[-1].id, "approve": True}
    items = [{"role": "user", "content": "please read"}, *(item.to_dict() for item in asked.output), yes]
    assert ask(client, items, tool, store=False).output_text == "text of a.txt"


def test_approvals_must_match(client: openai.OpenAI, mcp: McpUp) -> None:
    """An answer to nothing, and an approval that no tool of the request could run, are errors."""
    yes = {"type": "mcp_approval_response", "approval_request_id": "mcpr_nothing", "approve": True}
    with pytest.raises(openai.BadRequestError, match="No approval request found with id 'mcpr_nothing'"):
        ask(client, [yes], files(mcp))
    request = {
        "type": "mcp_approval_request",
        "id": "mcpr_1",
        "server_label": "files",
        "name": "read",
        "arguments": "{}",
    }
    with pytest.raises(openai.BadRequestError, match="no MCP server with the label 'files'"):
        ask(client, [request, yes | {"approval_request_id": "mcpr_1"}])


@pytest.mark.parametrize(
    ("rule", "asks"),
    [
        ("never", False),
        ("always", True),
        ({"never": {"tool_names": ["read"]}}, False),
        ({"never": {"read_only": True}}, False),
        ({"never": {"tool_names": ["remove"]}}, True),
        ({"never": {}}, True),
        ({"never": {"read_only": True}, "always": {"tool_names": ["read"]}}, True),
    ],
)
def test_the_rule_of_approval_is_read_for_each_tool(client: openai.OpenAI, mcp: McpUp, rule: Any, asks: bool) -> None:
    """By name, and by what the server says of a tool; where both rules match, the cautious one holds."""
    answer = ask(client, "please read", files(mcp, require_approval=rule))
    assert ("mcp_approval_request" in kinds(answer)) is asks


@pytest.mark.parametrize("allowed", [["read"], {"tool_names": ["read"]}, {"read_only": True}])
def test_only_allowed_tools_are_offered(client: openai.OpenAI, mcp: McpUp, allowed: Any) -> None:
    """The list has those alone, and the others cannot be called."""
    answer = ask(client, "please remove", files(mcp, allowed_tools=allowed))
    assert [tool.name for tool in answer.output[0].tools] == ["read"]
    assert "mcp_call" not in kinds(answer)


def test_calls_of_the_client_end_the_turn_after_the_servers_are_run(client: openai.OpenAI, mcp: McpUp) -> None:
    """Mixed in one generation: ours is run, theirs waits, and the next turn has both results."""
    tools = [files(mcp), WEATHER]
    answer = ask(client, "read and ask", *tools)
    assert kinds(answer) == ["mcp_list_tools", "mcp_call", "function_call"]
    assert answer.output[1].output == "text of a.txt"
    result = {"type": "function_call_output", "call_id": answer.output[2].call_id, "output": "sunny"}
    assert ask(client, [result], *tools, previous_response_id=answer.id).output_text == "sunny"


def test_calls_are_bounded_by_the_request_and_by_the_server(client: openai.OpenAI, mcp: McpUp) -> None:
    """A model that never stops calling is answered without tools in the end."""
    before = mcp.calls.count("read")
    answer = ask(client, "read for ever", files(mcp), max_tool_calls=1)
    assert kinds(answer) == ["mcp_list_tools", "mcp_call", "message"]
    twice = ask(client, "read twice", files(mcp), max_tool_calls=1)
    assert kinds(twice) == ["mcp_list_tools", "mcp_call", "message"]
    assert mcp.calls.count("read") == before + 2


def test_output_tokens_are_bounded_over_all_generations(client: openai.OpenAI, mcp: McpUp) -> None:
    """A call that is cut off is not run; the answer says that it is incomplete."""
    answer = ask(client, "cut off", files(mcp), max_output_tokens=16)
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert (answer.output[-1].type, answer.output[-1].status) == ("mcp_call", "incomplete")
    used = ask(client, "think and read", files(mcp), max_output_tokens=16)
    assert used.usage.output_tokens <= 16


@pytest.mark.parametrize(
    ("said", "status", "words"),
    [
        ("please fail", "failed", "no such file"),
        ("too much", "failed", "300000 characters"),
        ("no json", "failed", "JSON"),
    ],
)
def test_a_failed_call_is_an_item_and_the_model_goes_on(
    client: openai.OpenAI, mcp: McpUp, said: str, status: str, words: str
) -> None:
    """The error is in the item and before the model, and the response is complete."""
    answer = ask(client, said, files(mcp))
    call = answer.output[1]
    assert (answer.status, call.status) == ("completed", status)
    assert words in json.dumps(call.to_dict()["error"])
    assert words in answer.output_text


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/mcp", "http://nowhere.example/mcp"])
def test_a_server_that_cannot_be_asked_is_an_item(client: openai.OpenAI, mcp: McpUp, url: str) -> None:
    """The response goes on without its tools; only a choice that requires them fails."""
    answer = ask(client, "hello", files(mcp, server_url=url))
    assert answer.output[0].error
    assert (answer.status, answer.output_text) == ("completed", "hello")
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client, "hello", files(mcp, server_url=url), tool_choice={"type": "mcp", "server_label": "files"})
    assert (caught.value.status_code, caught.value.code) == (424, "external_connector_error")


def test_a_program_of_the_configuration_is_called_by_its_label(client: openai.OpenAI) -> None:
    """Without an address the label names it; it is started for the response and ends with it."""
    tool = {"type": "mcp", "server_label": "program", "require_approval": "never"}
    answer = ask(client, "hello", tool)
    assert {listed.name for listed in answer.output[0].tools} >= {"read", "remove"}
    with pytest.raises(openai.BadRequestError, match=r"\[responses.mcp_servers\]"):
        ask(client, "hello", tool | {"server_label": "unknown"})


def test_tokens_and_headers_reach_the_mcp_server_alone(client: openai.OpenAI, mcp: McpUp, server: Running) -> None:
    """They are in no answer, in nothing stored, and cut out of what the MCP server repeats."""
    tool = files(mcp, authorization="secret-token-1", headers={"X-Team": "secret-team-2"})
    answer = ask(client, "who am I", tool)
    assert mcp.seen[-1]["authorization"] == "Bearer secret-token-1"
    assert mcp.seen[-1]["x-team"] == "secret-team-2"
    stored = httpx.get(f"{server.url}/responses/{answer.id}").text
    for text in (answer.to_json(), stored):
        assert "secret" not in text
        assert "/mcp" not in text
    assert "you sent Bearer <redacted>" in answer.output_text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"connector_id": "connector_gmail"}, "Connectors of OpenAI are not available"),
        ({"tunnel_id": "t"}, "Tunnels of OpenAI are not available"),
        ({"server_url": "http://10.0.0.1/mcp"}, "mcp_hosts"),
        ({"server_url": "http://example.com/mcp"}, "mcp_hosts"),
        ({"server_url": "file:///etc/passwd"}, "expected an http or https address"),
        ({"server_url": "http://user:pw@127.0.0.1/mcp"}, "without user name and password"),
        ({"headers": {"Host": "other"}}, "not a header that a request may set"),
        ({"headers": {"X-A": "a\r\nX-B: b"}}, "not a header that a request may set"),
        ({"authorization": "a", "headers": {"authorization": "b"}}, "Send one of them"),
        ({"server_label": "1 2"}, "server_label"),
        ({"unknown": 1}, "Unknown parameter"),
    ],
)
def test_what_cannot_be_honoured_is_refused(
    client: openai.OpenAI, mcp: McpUp, change: dict[str, Any], words: str
) -> None:
    """Each by name, before anything is connected."""
    num_requests = len(mcp.seen)
    with pytest.raises(openai.BadRequestError, match=words):
        ask(client, "hello", files(mcp, **change))
    assert len(mcp.seen) == num_requests


def test_without_the_setting_mcp_is_a_hosted_tool_like_others(tmp_path: Path, mcp: McpUp) -> None:
    """Refused, and the message names the setting that allows it."""
    backend = ScriptedBackend(Script(models=(MODEL,)))
    with (
        running(backend, tmp_path) as up,
        openai.OpenAI(base_url=up.url, api_key="x", max_retries=0) as client,
        pytest.raises(openai.BadRequestError, match="mcp_hosts"),
    ):
        ask(client, "hello", files(mcp))


class Strict(ScriptedBackend):
    """Cannot enforce the schema of a tool that takes a path."""

    def __init__(self) -> None:
        super().__init__(Script(models=(MODEL,), replies=REPLIES))
        self.asked: list[ChatRequest] = []

    async def chat(self, request: ChatRequest) -> AsyncGenerator[Event]:
        self.asked.append(request)
        for number, tool in enumerate(request.tools):
            if "path" in json.dumps((tool.parameters or {}).get("properties", {})):
                path = f"tools[{number}].function.parameters"
                raise ApiError(400, "not enforced", param=path, code="invalid_function_parameters")
        async for event in super().chat(request):
            yield event


def test_a_schema_that_cannot_be_enforced_is_shown_in_words(tmp_path: Path, mcp: McpUp) -> None:
    """Nobody here wrote it. A client's own schema is refused as ever."""
    backend = Strict()
    with (
        running(backend, tmp_path, responses=ResponseSettings(mcp_hosts=("127.0.0.1",))) as up,
        openai.OpenAI(base_url=up.url, api_key="x", max_retries=0) as client,
    ):
        assert kinds(ask(client, "please read", files(mcp))) == ["mcp_list_tools", "mcp_call", "message"]
        shown = next(tool for tool in backend.asked[-1].tools if tool.name == "files__read")
        assert shown.parameters == {"type": "object"}
        assert '"path"' in (shown.description or "")
        own = WEATHER | {"parameters": {"type": "object", "properties": {"path": {"type": "string"}}}}
        with pytest.raises(openai.BadRequestError, match="not enforced"):
            ask(client, "please read", files(mcp), own)


def test_a_client_that_leaves_ends_the_call(server: Running, mcp: McpUp) -> None:
    """The tool is cancelled, and the ledger has the row."""
    body = {"model": MODEL, "input": "please wait", "tools": [files(mcp)], "stream": True}
    mcp.began.clear()
    mcp.ended.clear()

    def leave() -> None:
        with httpx.stream("POST", f"{server.url}/responses", json=body, timeout=PATIENCE_S):
            assert mcp.began.wait(PATIENCE_S)

    thread = threading.Thread(target=leave)
    thread.start()
    thread.join(PATIENCE_S)
    assert mcp.ended.wait(PATIENCE_S)
    wait_until(lambda: server.service.in_flight.count == 0)


def test_a_background_response_is_cancelled_in_the_middle_of_a_call(client: openai.OpenAI, mcp: McpUp) -> None:
    """Cancelling the response cancels the call."""
    mcp.began.clear()
    mcp.ended.clear()
    started = ask(client, "please wait", files(mcp), background=True)
    assert mcp.began.wait(PATIENCE_S)
    assert client.responses.cancel(started.id).status == "cancelled"
    assert mcp.ended.wait(PATIENCE_S)
