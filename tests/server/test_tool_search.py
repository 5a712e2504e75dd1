"""``tool_search`` in responses: deferred tools are out of the prompt until they are loaded, here or by the client."""

import asyncio
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.lib.streaming.responses._responses import ResponseStreamState
from tests.engine.conftest import stored
from tests.installed import engine_settings
from tests.serving import running

from antiphon.backends.local.backend import LocalBackend
from antiphon.backends.local.chat import LocalChat
from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Pattern, Reply, Script, ScriptedCall
from antiphon.engine import Engine
from antiphon.protocol.chat import ChatRequest
from antiphon.protocol.responses.tool_search import DeferredTools
from antiphon.protocol.responses.tools import ServedTool
from antiphon.server.responses import tool_search
from antiphon.server.responses.server_tool import ServerCall

MODEL = "gpt-4o-mini"
Json = dict[str, Any]
CUSTOMER: Json = {
    "type": "object",
    "properties": {"customer_id": {"type": "string"}},
    "required": ["customer_id"],
    "additionalProperties": False,
}
PROFILE: Json = {"type": "function", "name": "get_profile", "description": "Fetch a profile.", "parameters": CUSTOMER}
ORDERS: Json = {
    "type": "function",
    "name": "list_orders",
    "description": "List the open orders of a customer.",
    "parameters": CUSTOMER,
    "defer_loading": True,
}
CRM: Json = {
    "type": "namespace",
    "name": "crm",
    "description": "Customers and their orders.",
    "tools": [PROFILE, ORDERS],
}
WEATHER: Json = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "defer_loading": True,
}
TOOLS: list[Any] = [CRM, WEATHER, {"type": "tool_search"}]


def says(pattern: str, *calls: ScriptedCall, text: str = "") -> Reply:
    return Reply(match=Pattern(last_message=pattern), text=text or None, tool_calls=calls)


def search(*paths: Any) -> ScriptedCall:
    return ScriptedCall(name="tool_search", arguments={"paths": list(paths)})


REPLIES = (
    says("^orders of C1$", search("crm")),
    says("^both$", search("crm"), search("get_weather")),
    says("^in words$", search("what are the open orders")),
    says("^unknown$", search("violins")),
    says("^no json$", ScriptedCall(name="tool_search", arguments="{oops")),
    says("^goal$", ScriptedCall(name="tool_search", arguments={"goal": "the weather"})),
    says("^Loaded: crm__list_orders", ScriptedCall(name="crm__list_orders", arguments={"customer_id": "C1"})),
    says("^Loaded: get_weather", ScriptedCall(name="get_weather", arguments={"city": "Bonn"})),
    says("^Nothing was found", text="I found no tool."),
    says("^none open$", text="There are none."),
    says("^and again$", ScriptedCall(name="crm__list_orders", arguments={"customer_id": "C2"})),
)


class Recorded(ScriptedBackend):
    """Remembers what it was asked."""

    def __init__(self, script: Script) -> None:
        super().__init__(script)
        self.asked: list[ChatRequest] = []

    def chat(self, request: ChatRequest) -> Any:
        self.asked.append(request)
        return super().chat(request)

    @property
    def offered(self) -> list[list[str]]:
        return [[tool.name for tool in request.tools] for request in self.asked]


@pytest.fixture(scope="module")
def backend() -> Recorded:
    return Recorded(Script(models=(MODEL,), replies=REPLIES))


@pytest.fixture(scope="module")
def server(backend: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Generator[openai.OpenAI]:
    with (
        running(backend, tmp_path_factory.mktemp("home")) as up,
        openai.OpenAI(base_url=up.url, api_key="any", max_retries=0) as made,
    ):
        yield made


@pytest.fixture
def client(server: openai.OpenAI, backend: Recorded) -> openai.OpenAI:
    backend.asked.clear()
    return server


def ask(client: openai.OpenAI, given: Any, tools: Any = None, **options: Any) -> Any:
    return client.responses.create(model=MODEL, input=given, tools=TOOLS if tools is None else tools, **options)


def test_a_deferred_function_is_loaded_and_called_in_one_response(client: openai.OpenAI, backend: Recorded) -> None:
    """The items are those of OpenAI: the search, what it loaded, and the call in its namespace."""
    answer = ask(client, "orders of C1")
    searched, output, call = answer.output
    assert (searched.type, searched.execution, searched.call_id, searched.status) == (
        "tool_search_call",
        "server",
        None,
        "completed",
    )
    assert searched.arguments == {"paths": ["crm"]}
    assert (output.type, output.execution, output.call_id, output.status) == (
        "tool_search_output",
        "server",
        None,
        "completed",
    )
    (loaded,) = output.tools
    assert (loaded.type, loaded.name, loaded.description) == ("namespace", "crm", "Customers and their orders.")
    assert [(tool.name, tool.defer_loading, tool.parameters) for tool in loaded.tools] == [
        ("list_orders", True, CUSTOMER)
    ]
    assert (call.type, call.namespace, call.name) == ("function_call", "crm", "list_orders")
    assert [tool.type for tool in answer.tools] == ["namespace", "function", "tool_search"]
    first, second = backend.asked
    assert [tool.name for tool in first.tools] == ["crm__get_profile", "tool_search"]
    assert {tool.name for tool in second.tools} == {"crm__get_profile", "crm__list_orders", "tool_search"}
    shown = first.tools[-1]
    assert "- crm: Customers and their orders." in (shown.description or "")
    assert "- get_weather: The weather of a city." in (shown.description or "")
    assert "open orders" not in str(shown), "what is in a namespace is seen when it is loaded"
    assert (shown.parameters or {})["properties"]["paths"]["items"]["enum"] == ["crm", "get_weather"]


def test_what_was_loaded_stays_on_later_turns(client: openai.OpenAI, backend: Recorded) -> None:
    """By its id or with its items sent again, with the tools or without."""
    first = ask(client, "orders of C1")
    result: Any = {"type": "function_call_output", "call_id": first.output[2].call_id, "output": "none open"}
    followed = ask(client, [result], previous_response_id=first.id)
    assert followed.output_text == "There are none."
    items = [item.to_dict() for item in (*first.output, *followed.output)]
    again = [{"role": "user", "content": "orders of C1"}, *items[:3], result, *items[3:]]
    for tools in (TOOLS, []):
        backend.asked.clear()
        answer = ask(client, [*again, {"role": "user", "content": "and again"}], tools)
        assert (answer.output[0].namespace, answer.output[0].name) == ("crm", "list_orders")
        assert "crm__list_orders" in backend.offered[0]
    assert backend.asked[0].messages[1].tool_calls[0].function.arguments == '{"paths":["crm"]}'


@pytest.mark.parametrize(
    ("text", "loaded"),
    [("both", ["crm", "get_weather"]), ("in words", ["crm"]), ("unknown", []), ("no json", [])],
)
def test_a_search_finds_by_path_or_by_words(client: openai.OpenAI, text: str, loaded: list[str]) -> None:
    """Each call has its output after it; a search that finds nothing says so to the model."""
    answer = ask(client, text)
    kinds = [item.type for item in answer.output if item.type.startswith("tool_search")]
    assert kinds == ["tool_search_call", "tool_search_output"] * (len(kinds) // 2)
    found = [tool.name for item in answer.output if item.type == "tool_search_output" for tool in item.tools]
    assert found == loaded
    if not loaded:
        assert answer.output_text == "I found no tool."


@pytest.mark.anyio
async def test_many_queries_read_each_tool_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work of a search in words is in proportion to the tools and the queries, not to their product."""
    read: list[str] = []

    def words(text: str) -> list[str]:
        read.append(text)
        return text.split()

    monkeypatch.setattr(tool_search, "query_words", words)
    waiting = tuple(DeferredTools(path=f"tool_{n}", shown={"description": f"does {n}"}) for n in range(100))
    search = tool_search.ToolSearch(ServedTool({"type": "tool_search"}, "tools[0]", deferred=waiting))
    search.attach([], 0)
    call = ServerCall("tool_search")
    call.pieces.append(json.dumps({"paths": [f"what does {n}" for n in range(100)]}))
    assert [event async for event in search.run(call)]
    assert len(read) == 200


def test_a_stream_has_an_item_for_each_step(client: openai.OpenAI) -> None:
    """The official accumulator accepts the events, and ends with what an answer in one piece says."""
    events = list(ask(client, "orders of C1", stream=True))
    state: Any = ResponseStreamState(input_tools=openai.omit, text_format=openai.omit)
    for event in events:
        state.handle_event(event)
    done = [event.item.type for event in events if event.type == "response.output_item.done"]
    assert done == ["tool_search_call", "tool_search_output", "function_call"]
    assert [item.type for item in events[-1].response.output] == done
    assert client.responses.retrieve(events[-1].response.id).output == events[-1].response.output


def test_the_client_may_search_instead(client: openai.OpenAI, backend: Recorded) -> None:
    """Its call ends the turn; the tools of its answer can be called, though no request named them."""
    goal: Json = {"type": "object", "properties": {"goal": {"type": "string"}}, "required": ["goal"]}
    tool: Any = {"type": "tool_search", "execution": "client", "description": "Find tools.", "parameters": goal}
    first = ask(client, "goal", [tool])
    (call,) = first.output
    assert (call.type, call.execution, call.status, call.arguments) == (
        "tool_search_call",
        "client",
        "completed",
        {"goal": "the weather"},
    )
    assert call.call_id
    assert backend.asked[0].tools[0].parameters == goal
    output = {
        "type": "tool_search_output",
        "execution": "client",
        "call_id": call.call_id,
        "status": "completed",
        "tools": [WEATHER],
    }
    second = ask(client, [output], [], previous_response_id=first.id)
    assert (second.output[0].type, second.output[0].name) == ("function_call", "get_weather")
    resent = [{"role": "user", "content": "goal"}, call.to_dict(), output]
    assert ask(client, resent, [tool]).output[0].name == "get_weather"
    events = list(ask(client, "goal", [tool], stream=True))
    assert [event.type for event in events if "item" in event.type] == [
        "response.output_item.added",
        "response.output_item.done",
    ]
    assert events[-1].response.output[0].arguments == {"goal": "the weather"}


def test_the_search_of_a_client_may_take_paths(client: openai.OpenAI, backend: Recorded) -> None:
    """Without parameters of its own it takes what this server's search takes; deferred tools wait for it too."""
    ask(client, "no json", [CRM, {"type": "tool_search", "execution": "client"}])
    (request,) = backend.asked
    assert [tool.name for tool in request.tools] == ["crm__get_profile", "tool_search"]
    assert (request.tools[1].parameters or {})["properties"]["paths"]["items"]["enum"] == ["crm"]


def test_without_a_search_nothing_waits(client: openai.OpenAI, backend: Recorded) -> None:
    """Nothing could load a deferred tool, so it is shown from the start."""
    ask(client, "none open", [CRM, WEATHER])
    assert backend.offered == [["crm__get_profile", "crm__list_orders", "get_weather"]]


def test_the_choice_of_a_tool_waits_too(client: openai.OpenAI, backend: Recorded) -> None:
    """A search can be required; a list of allowed tools may hold what is loaded later; a call of it cannot be forced."""
    answer = ask(client, "orders of C1", tool_choice={"type": "tool_search"})
    assert backend.asked[0].tool_choice.names == ("tool_search",)
    assert answer.output[2].name == "list_orders"
    backend.asked.clear()
    allowed = [{"type": "tool_search"}, {"type": "function", "namespace": "crm", "name": "list_orders"}]
    ask(client, "orders of C1", tool_choice={"type": "allowed_tools", "mode": "auto", "tools": allowed})
    assert [request.tool_choice.names for request in backend.asked] == [
        ("tool_search",),
        ("crm__list_orders", "tool_search"),
    ]


@pytest.mark.parametrize(
    ("tools", "options", "param", "message"),
    [
        (
            [{"type": "tool_search", "parameters": Json()}],
            Json(),
            "tools[0].parameters",
            "only allowed with 'execution'",
        ),
        ([{"type": "tool_search", "execution": "elsewhere"}], Json(), "tools[0].execution", "Supported values"),
        ([{"type": "tool_search"}, {"type": "tool_search"}], Json(), "tools[1]", "there twice"),
        ([{"type": "tool_search", "execution": "client"}] * 2, Json(), "tools[1]", "there twice"),
        ([WEATHER, WEATHER, {"type": "tool_search"}], Json(), "tools[1].name", "duplicate tool name"),
        (
            [PROFILE, {"type": "tool_search"}],
            {"tool_choice": {"type": "tool_search"}},
            "tool_choice",
            "nothing left to load",
        ),
        (TOOLS, {"tool_choice": {"type": "function", "name": "get_weather"}}, "tool_choice", "has 'defer_loading'"),
    ],
)
def test_what_cannot_be_is_refused(
    client: openai.OpenAI, tools: Any, options: dict[str, Any], param: str, message: str
) -> None:
    """With OpenAI's error, which names the place."""
    with pytest.raises(openai.BadRequestError, match=message) as refused:
        ask(client, "x", tools, **options)
    assert refused.value.param == param


@pytest.mark.model
@pytest.mark.slow
def test_the_default_model_searches_in_form(tmp_path: Path) -> None:
    """Whatever it chooses, it names paths that there are, and what it calls then has the form of its schema."""
    engine = Engine(engine_settings(stored("smollm2-135m-instruct"), context_size=2048))
    backend = LocalBackend({MODEL: LocalChat(MODEL, engine)})
    with running(backend, tmp_path) as up, openai.OpenAI(base_url=up.url, api_key="k", max_retries=0) as client:
        asyncio.run_coroutine_threadsafe(backend.start(), up.loop).result()
        answer = ask(client, "List the open orders of C1.", tool_choice={"type": "tool_search"}, max_output_tokens=400)
        searched, output = answer.output[:2]
        paths = searched.arguments["paths"]
        assert paths
        assert set(paths) <= {"crm", "get_weather"}
        assert {tool.name for tool in output.tools} == set(paths)
        for call in answer.output[2:]:
            if call.type == "function_call" and call.status == "completed":
                assert isinstance(json.loads(call.arguments), dict)
