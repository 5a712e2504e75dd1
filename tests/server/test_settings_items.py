"""Items that change how what follows is answered: more tools, another effort, another format."""

from collections.abc import AsyncGenerator, Generator
from typing import Any

import openai
import pytest
from tests.serving import running

from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Pattern, Reply, Script, ScriptedCall
from antiphon.protocol.chat import ChatRequest, JsonSchemaFormat
from antiphon.protocol.events import Event
from antiphon.state import ResponseSettings

MODEL = "gpt-4o-mini"
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
JSON = {"type": "json_schema", "name": "form", "schema": SCHEMA, "strict": True}


def tool(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "function", "name": name, "parameters": {"type": "object", "properties": {}}, **more}


def more(*tools: Any) -> dict[str, Any]:
    return {"type": "additional_tools", "role": "developer", "tools": list(tools)}


class Watched(ScriptedBackend):
    """Remembers what it was asked."""

    def __init__(self) -> None:
        call = Reply(match=Pattern(last_message="call it"), tool_calls=(ScriptedCall(name="two__b", arguments={}),))
        super().__init__(Script(models=(MODEL,), replies=(call,)))
        self.asked: list[ChatRequest] = []

    async def chat(self, request: ChatRequest) -> AsyncGenerator[Event]:
        self.asked.append(request)
        async for event in super().chat(request):
            yield event

    @property
    def names(self) -> list[str]:
        return [each.name for each in self.asked[-1].tools]


@pytest.fixture(scope="module")
def backend() -> Watched:
    return Watched()


@pytest.fixture(scope="module")
def client(backend: Watched, tmp_path_factory: pytest.TempPathFactory) -> Generator[openai.OpenAI]:
    settings = ResponseSettings(mcp_hosts=("127.0.0.1",))
    with (
        running(backend, tmp_path_factory.mktemp("home"), responses=settings) as up,
        openai.OpenAI(base_url=up.url, api_key="any", max_retries=0) as made,
    ):
        yield made


def ask(client: openai.OpenAI, *items: Any, text: str = "hello", **options: Any) -> Any:
    given: Any = [*items, {"role": "user", "content": text}]
    return client.responses.create(model=MODEL, input=given, **options)


def test_additional_tools_are_offered_from_there_on(client: openai.OpenAI, backend: Watched) -> None:
    """In this turn and in those that follow; they are no messages, and not echoed as the request's tools."""
    first = ask(client, more(tool("b")), tools=[tool("a")])
    assert backend.names == ["a", "b"]
    assert [message.role for message in backend.asked[-1].messages] == ["user"]
    assert [each.name for each in first.tools] == ["a"]
    ask(client, more(tool("c")), previous_response_id=first.id)
    assert backend.names == ["b", "c"]


def test_a_later_tool_takes_the_place_of_one_with_its_name(client: openai.OpenAI, backend: Watched) -> None:
    """The last definition holds."""
    ask(client, more(tool("a", description="new")), tools=[tool("a", description="old")])
    assert [(each.name, each.description) for each in backend.asked[-1].tools] == [("a", "new")]


def test_a_namespace_of_additional_tools_is_called_by_its_names(client: openai.OpenAI) -> None:
    """The call has namespace and name."""
    namespace = {"type": "namespace", "name": "two", "tools": [tool("b")]}
    (call,) = ask(client, more(namespace), text="call it").output
    assert (call.type, call.namespace, call.name) == ("function_call", "two", "b")


def test_an_additional_tool_can_be_chosen(client: openai.OpenAI, backend: Watched) -> None:
    """Also one of an earlier turn; one that nobody gave is an error."""
    choice: Any = {"type": "function", "name": "b"}
    first = ask(client, more(tool("b")), tool_choice=choice)
    assert backend.asked[-1].tool_choice.names == ("b",)
    ask(client, previous_response_id=first.id, tool_choice=choice)
    assert backend.asked[-1].tool_choice.names == ("b",)
    for options in ({}, {"previous_response_id": ask(client).id}):
        with pytest.raises(openai.BadRequestError, match="'b' not found"):
            ask(client, tool_choice=choice, **options)


def test_hosted_tools_are_refused_here_too(client: openai.OpenAI) -> None:
    """With the path of the item."""
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, more({"type": "web_search"}))
    assert caught.value.param == "input[0].tools[0]"


def test_secrets_of_additional_mcp_servers_are_not_stored(client: openai.OpenAI) -> None:
    """Neither address nor token; the next turn goes on without the server, until a request names it again."""
    mcp = {"type": "mcp", "server_label": "x", "server_url": "http://127.0.0.1:9/SECRET", "authorization": "SECRET"}
    first = ask(client, more(mcp))
    assert [item.type for item in first.output] == ["mcp_list_tools", "message"]
    listed: Any = client.get(f"/responses/{first.id}/input_items", cast_to=object)
    assert "SECRET" not in str(listed)
    assert "/<redacted>" in str(listed)
    assert [item.type for item in ask(client, previous_response_id=first.id).output] == ["message"]


def test_an_update_changes_effort_and_format_until_the_next(client: openai.OpenAI, backend: Watched) -> None:
    """Each setting by itself, on later turns too, and the answer says what holds."""
    update: Any = {"type": "configuration_update", "reasoning": {"effort": "low"}, "text": {"format": JSON}}
    first = ask(client, update, reasoning={"effort": "high"})
    assert backend.asked[-1].reasoning_effort == "low"
    assert isinstance(backend.asked[-1].response_format, JsonSchemaFormat)
    assert (first.reasoning.effort, first.text.format.type) == ("low", "json_schema")
    plain: Any = {"type": "configuration_update", "text": {"format": {"type": "text"}}}
    ask(client, plain, previous_response_id=first.id)
    assert (backend.asked[-1].reasoning_effort, backend.asked[-1].response_format) == ("low", None)


def test_settings_outlive_a_compaction(client: openai.OpenAI, backend: Watched) -> None:
    """A summary does not say which tools there are."""
    items: Any = [more(tool("b")), {"role": "user", "content": "hello"}, {"type": "compaction_trigger"}]
    compacted = client.responses.create(model=MODEL, input=items)
    ask(client, previous_response_id=compacted.id)
    assert backend.names == ["b"]


@pytest.mark.parametrize(
    ("item", "param"),
    [
        (more(tool("a"), tool("a")), "input[0].tools[1].name"),
        (more({"type": "nonsense"}), "input[0].tools[0].type"),
        ({"type": "additional_tools", "tools": []}, "input[0].role"),
        ({"type": "additional_tools", "role": "user", "tools": []}, "input[0].role"),
        ({"type": "configuration_update", "reasoning": {"effort": "huge"}}, "input[0].reasoning.effort"),
        ({"type": "configuration_update", "text": {"format": {"type": "json_object"}}}, "input[0].text.format.type"),
        ({"type": "configuration_update", "text": {"verbosity": "low"}}, "input[0].text.format"),
        ({"type": "configuration_update"}, "input[0]"),
    ],
)
def test_malformed_settings_are_refused(client: openai.OpenAI, item: Any, param: str) -> None:
    """By the path of what is wrong."""
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, item)
    assert caught.value.param == param
