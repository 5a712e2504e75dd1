"""``file_search`` in responses: the model searches, reads and cites, with the official client."""

from collections.abc import Generator
from typing import Any

import openai
import pytest
from openai.lib.streaming.responses._responses import ResponseStreamState
from tests.server.test_vector_stores import settled, upload
from tests.serving import running

from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Pattern, Reply, Script, ScriptedCall

MODEL = "gpt-4o-mini"
BREAD = "Knead the dough of rye flour, then bake it for an hour."


def says(pattern: str, *calls: ScriptedCall, text: str = "") -> Reply:
    return Reply(match=Pattern(last_message=pattern), text=text or None, tool_calls=calls)


def search(*queries: Any) -> ScriptedCall:
    return ScriptedCall(name="file_search", arguments={"queries": list(queries)})


REPLIES = (
    says("how long does bread bake$", search("bake rye dough")),
    says("search for nothing", search()),
    says("no json$", ScriptedCall(name="file_search", arguments="{oops")),
    says("only whales$", search("whale")),
    says("must be JSON", text="I could not search."),
    says("Knead", text="Bake it for an hour [1]. In code: items[1]."),
    says("largest animal", text="Whales are large [1]."),
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Generator[openai.OpenAI]:
    backend = ScriptedBackend(Script(models=(MODEL,), embedding_models=("vectors",), replies=REPLIES))
    with (
        running(backend, tmp_path_factory.mktemp("home")) as up,
        openai.OpenAI(base_url=up.url, api_key="any", max_retries=0) as made,
    ):
        yield made


@pytest.fixture(scope="module")
def tool(client: openai.OpenAI) -> dict[str, Any]:
    store = client.vector_stores.create(name="library")
    texts = {"bread.md": BREAD, "whales.txt": "The whale is the largest animal."}
    for name, text in texts.items():
        file_id = upload(client, name, text.encode())
        client.vector_stores.files.create(store.id, file_id=file_id, attributes={"name": name})
    settled(client, store.id)
    return {"type": "file_search", "vector_store_ids": [store.id], "max_num_results": 1}


def ask(client: openai.OpenAI, text: str, tool: Any, **options: Any) -> Any:
    return client.responses.create(model=MODEL, input=text, tools=[tool], **options)


def test_an_answer_cites_the_file_that_it_rests_on(client: openai.OpenAI, tool: Any) -> None:
    """The marker is gone from the text, its index is where it was, and the results are shown where they were asked for."""
    answer = ask(client, "how long does bread bake", tool)
    call, message = answer.output
    assert (call.type, call.status, call.queries, call.results) == (
        "file_search_call",
        "completed",
        ["bake rye dough"],
        None,
    )
    text = message.content[0].text
    assert text == "Bake it for an hour. In code: items[1]."
    cited = message.content[0].annotations
    assert [(one.type, one.filename) for one in cited] == [("file_citation", "bread.md")] * 2
    assert [text[: one.index] for one in cited] == ["Bake it for an hour", "Bake it for an hour. In code: items[1]"]
    shown = ask(client, "how long does bread bake", tool, include=["file_search_call.results"]).output[0]
    assert [(one.filename, one.text, one.attributes) for one in shown.results] == [
        ("bread.md", BREAD, {"name": "bread.md"})
    ]
    assert cited[0].file_id == shown.results[0].file_id
    assert client.responses.retrieve(answer.id) == answer


def test_a_stream_tells_of_the_search_and_of_each_citation(client: openai.OpenAI, tool: Any) -> None:
    """The official accumulator accepts the events, and ends with what an answer in one piece says."""
    events = list(ask(client, "how long does bread bake", tool, stream=True))
    kinds = [event.type.removeprefix("response.") for event in events]
    steps = [kind for kind in kinds if kind.startswith("file_search_call")]
    assert steps == [f"file_search_call.{step}" for step in ("in_progress", "searching", "completed")]
    added = [event for event in events if event.type == "response.output_text.annotation.added"]
    assert [event.annotation_index for event in added] == [0, 1]
    deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    final = events[-1].response
    assert deltas == final.output_text == "Bake it for an hour. In code: items[1]."
    cited = [one.to_dict() for one in final.output[1].content[0].annotations]
    assert [event.annotation.to_dict() for event in added] == cited
    state: Any = ResponseStreamState(input_tools=openai.omit, text_format=openai.omit)
    for event in events:
        state.handle_event(event)


def test_a_filter_of_the_tool_limits_what_the_model_reads(client: openai.OpenAI, tool: Any) -> None:
    """Only the file with the attribute is found, whatever the query."""
    only = {"type": "eq", "key": "name", "value": "bread.md"}
    answer = ask(client, "only whales", tool | {"filters": only}, include=["file_search_call.results"])
    assert [one.filename for one in answer.output[0].results] == ["bread.md"]


@pytest.mark.parametrize("text", ["search for nothing", "no json"])
def test_a_call_without_queries_fails_and_the_model_is_told(client: openai.OpenAI, tool: Any, text: str) -> None:
    """The item is failed, and the answer goes on."""
    answer = ask(client, text, tool)
    assert [(item.type, item.status) for item in answer.output] == [
        ("file_search_call", "failed"),
        ("message", "completed"),
    ]
    assert answer.output_text == "I could not search."


def test_a_store_that_is_not_there_is_refused(client: openai.OpenAI, tool: Any) -> None:
    """Before anything is generated; and so is a tool that is malformed."""
    with pytest.raises(openai.NotFoundError, match="vs_none"):
        ask(client, "how long does bread bake", tool | {"vector_store_ids": ["vs_none"]})
    for wrong in ({"vector_store_ids": []}, {"max_num_results": 51}, {"filters": {"type": "like"}}, {"unknown": 1}):
        with pytest.raises(openai.BadRequestError):
            ask(client, "how long does bread bake", tool | wrong)


def test_a_choice_of_the_tool_is_followed(client: openai.OpenAI, tool: Any) -> None:
    """``tool_choice`` names it as OpenAI does."""
    answer = ask(client, "how long does bread bake", tool, tool_choice={"type": "file_search"})
    assert answer.output[0].type == "file_search_call"


def test_a_turn_after_a_search_goes_on(client: openai.OpenAI, tool: Any) -> None:
    """Whether the server keeps the history or the client sends it, with results and without."""
    first = ask(client, "how long does bread bake", tool, include=["file_search_call.results"])
    assert ask(client, "hello", tool, previous_response_id=first.id).output_text
    history: list[Any] = [
        {"role": "user", "content": "how long does bread bake"},
        *(item.to_dict() for item in first.output),
    ]
    again = client.responses.create(model=MODEL, input=[*history, {"role": "user", "content": "hello"}], tools=[tool])
    assert again.output_text
