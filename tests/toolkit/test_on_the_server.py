"""The toolkit against the real server on the default model."""

from typing import Annotated, Literal

import pytest
from openai import OpenAI
from pydantic import BaseModel, Field

from antiphon import Chat, ToolLimits, ToolLoopError, TruncatedAnswerWarning, count_tokens, extract, tool

pytestmark = [pytest.mark.model, pytest.mark.slow]


class Review(BaseModel):
    rating: Literal[1, 2, 3, 4, 5]
    words: Annotated[list[Annotated[str, Field(max_length=10)]], Field(max_length=3)]


@pytest.fixture
def client(local_server: str) -> OpenAI:
    return OpenAI(base_url=local_server, api_key="local", timeout=120, max_retries=5)


@tool
def get_weather(city: Annotated[str, Field(max_length=20)]) -> str:
    """Get the weather of a city."""
    return "sunny"


def test_a_conversation_and_its_stream(client: OpenAI) -> None:
    """Text, usage, timing and request id are the server's."""
    chat = Chat("Be brief.", client=client, temperature=0, request={"stop": ["."]}, max_completion_tokens=300)
    first = chat.send("Say hello.")
    stream = chat.stream("Say goodbye.")
    assert "".join(stream) == stream.reply.text
    assert first.usage is not None
    assert stream.reply.usage is not None
    assert stream.reply.usage.prompt_tokens > first.usage.prompt_tokens
    assert stream.reply.timing.ttft_s is not None
    assert (first.request_id or "").startswith("req_")


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


def test_an_extraction_has_the_type(client: OpenAI) -> None:
    """Even from a very small model, since the server keeps it to the schema."""
    reply = extract(Review, "A fine phone, five stars.", client=client, max_completion_tokens=300)
    assert isinstance(reply.parsed, Review)
    assert len(reply.attempts) == 1


def test_a_tool_that_must_be_called_is_called_with_valid_arguments(client: OpenAI) -> None:
    """tool_choice=required holds for each round, so the bound on rounds ends it."""
    chat = Chat(
        client=client,
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
