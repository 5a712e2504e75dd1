"""The toolkit against the real server on the default model."""

from typing import Annotated, Literal

import pytest
from openai import OpenAI
from pydantic import BaseModel, Field

from antiphon import Chat, ToolLimits, ToolLoopError, TruncatedAnswerWarning, count_tokens, extract, tool
from antiphon.toolkit.calls.forms import Api

pytestmark = [pytest.mark.model, pytest.mark.slow]


class Review(BaseModel):
    rating: Literal[1, 2, 3, 4, 5]
    words: Annotated[list[Annotated[str, Field(max_length=10)]], Field(max_length=3)]


@pytest.fixture
def client(local_server: str) -> OpenAI:
    return OpenAI(base_url=local_server, api_key="local", timeout=120, max_retries=5)


@pytest.fixture(params=["chat", "responses"])
def api(request: pytest.FixtureRequest) -> Api:
    """The suite holds for both APIs of the server."""
    return request.param


@tool
def get_weather(city: Annotated[str, Field(max_length=20)]) -> str:
    """Get the weather of a city."""
    return "sunny"


# Where an answer ends is not what these tests are about, and the responses API has no ``stop``.
@pytest.mark.filterwarnings("ignore::antiphon.toolkit.chat.reply.TruncatedAnswerWarning")
def test_a_conversation_and_its_stream(client: OpenAI, api: Api) -> None:
    """Text, usage, timing and request id are the server's."""
    chat = Chat("Be brief.", client=client, api=api, temperature=0, max_completion_tokens=20)
    first = chat.send("Say hello.")
    stream = chat.stream("Say goodbye.")
    assert "".join(stream) == stream.reply.text
    assert first.usage is not None
    assert stream.reply.usage is not None
    assert stream.reply.usage.prompt_tokens > first.usage.prompt_tokens
    assert stream.reply.timing.ttft_s is not None
    assert (first.request_id or "").startswith("req_")
    assert ((first.response is None), (stream.reply.response is None)) == ((api == "chat"),) * 2
    assert first.reasoning is None


@pytest.mark.filterwarnings("ignore::antiphon.toolkit.chat.reply.TruncatedAnswerWarning")
def test_both_apis_give_the_same_answer(client: OpenAI) -> None:
    """The prompt is the same to the last token, in the second turn too."""
    chats = [
        Chat("Be brief.", client=client, api=api, temperature=0, max_completion_tokens=20)
        for api in ("chat", "responses")
    ]
    for question in ("Say hello.", "Say goodbye."):
        first, second = (chat.send(question) for chat in chats)
        assert (first.text, first.finish_reason) == (second.text, second.finish_reason)
        assert first.usage is not None
        assert second.usage is not None
        assert first.usage.prompt_tokens == second.usage.prompt_tokens


def test_counted_tokens_are_those_that_the_server_charges(client: OpenAI) -> None:
    """Exactly, template and all."""
    chat = Chat("Be brief.", client=client, temperature=0, max_completion_tokens=1, request={"stop": ["x"]})
    counted = count_tokens(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hello."}], client=client
    )
    with pytest.warns(TruncatedAnswerWarning):
        usage = chat.send("Say hello.").usage
    assert counted.is_exact
    assert usage is not None
    assert counted.tokens == usage.prompt_tokens


def test_an_extraction_has_the_type(client: OpenAI, api: Api) -> None:
    """Even from a very small model, since the server keeps it to the schema."""
    reply = extract(Review, "A fine phone, five stars.", client=client, api=api, max_completion_tokens=300)
    assert isinstance(reply.parsed, Review)
    assert len(reply.attempts) == 1


def test_a_tool_that_must_be_called_is_called_with_valid_arguments(client: OpenAI, api: Api) -> None:
    """tool_choice=required holds for the first round, which here is the last one too."""
    chat = Chat(
        client=client,
        api=api,
        tools=[get_weather],
        request={"tool_choice": "required"},
        limits=ToolLimits(rounds=1),
        max_completion_tokens=300,
        temperature=0,
    )
    events = chat.stream("What is the weather in Oslo?").events()
    seen = [next(events), next(events)]
    assert [type(event).__name__ for event in seen] == ["ToolStarted", "ToolFinished"]
    with pytest.raises(ToolLoopError):
        next(events)


@pytest.mark.filterwarnings("ignore::antiphon.toolkit.chat.reply.TruncatedAnswerWarning")
def test_after_the_call_that_was_forced_the_model_answers(client: OpenAI, api: Api) -> None:
    """The result of the tool is in the second request, in the form that the API wants."""
    chat = Chat(client=client, api=api, tools=[get_weather], temperature=0, max_completion_tokens=300)
    reply = chat.send("What is the weather in Oslo?", tool_choice="required")
    assert [result.outcome for result in reply.tool_results][:1] == ["ok"]
    assert reply.text
