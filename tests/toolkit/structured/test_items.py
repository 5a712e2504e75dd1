"""Streams of items: each as soon as it is complete."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import date
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI
from pydantic import BaseModel, ConfigDict
from tests.toolkit.scripted_endpoint import Endpoint, answer

from antiphon.toolkit.chat.chat import AsyncChat
from antiphon.toolkit.chat.partial import ItemScanner
from antiphon.toolkit.errors import ExtractionError, OutputError
from antiphon.toolkit.structured.extract import astream_items

pytestmark = pytest.mark.anyio
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    name: str
    born: date


class Paused(httpx2.AsyncByteStream):
    """A stream of pieces of an answer; before those after the first it waits to be let on."""

    def __init__(self, pieces: list[str]) -> None:
        self.go_on = asyncio.Event()
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        for number, piece in enumerate(self._pieces):
            if number:
                await self.go_on.wait()
            yield _event({**head, "choices": [{"index": 0, "delta": {"content": piece}}]})
        yield _event({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def client_of(stream: Paused) -> AsyncOpenAI:
    headers = {"content-type": "text/event-stream"}
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, headers=headers, stream=stream))
    return AsyncOpenAI(api_key="k", base_url="http://i.test/v1", http_client=httpx2.AsyncClient(transport=transport))


ANN, BOB = '{"name": "Ann, {[\\"", "born": "2020-01-02"}', '{"name": "Bob", "born": "2021-01-02"}'


@pytest.mark.parametrize(
    ("output", "pieces", "first", "others"),
    [
        (Strict, [f'{{"value": [{ANN}', f", {BOB}]}}"], Strict(name='Ann, {["', born=date(2020, 1, 2)), 1),
        (int, ['{"value": [12,', " 3]}"], 12, 1),
        (str, ['{"value": ["a, b"', "]}"], "a, b", 0),
        (list[int], ['{"value": [[1, 2]', ", [3]]}"], [1, 2], 1),
        (bool, ['{"value": [true ,', "false]}"], True, 1),
    ],
)
async def test_an_item_is_there_before_the_next_begins(
    endpoint: Endpoint, output: Any, pieces: list[str], first: object, others: int
) -> None:
    """Of strict models too: the server is silent until the first item was received."""
    stream = Paused(pieces)
    items = aiter(astream_items(output, "x", client=client_of(stream), model="m", context_tokens=4_000))
    assert await anext(items) == first
    assert not stream.go_on.is_set()
    stream.go_on.set()
    assert len([item async for item in items]) == others


@given(st.lists(JSON, max_size=4), st.data())
def test_the_scanner_counts_what_is_complete(items: list[Any], data: st.DataObject) -> None:
    """In any pieces: at the end all items, and before never one of which a part is to come."""
    text = json.dumps({"value": items})
    cut = data.draw(st.integers(0, len(text)))
    scanner = ItemScanner()
    complete = scanner.feed(text[:cut])
    ends = [len(json.dumps({"value": items[: n + 1]})) - 2 for n in range(len(items))]
    assert complete <= sum(end <= cut for end in ends)
    # A number is complete when the character behind it is there.
    assert complete >= sum(end < cut for end in ends)
    assert scanner.feed(text[cut:]) == len(items)


@pytest.mark.parametrize(
    "text",
    [
        '{"items": [{"name": "A"}, {"name": "B"}]}',
        "Here they are: [{1}, {2}]",
        '{"value": {"a": {"b": {}}}}',
        "[[[1]]]",
        "[" * 3000,
    ],
)
async def test_an_answer_in_another_form_is_the_toolkits_own_error(endpoint: Endpoint, text: str) -> None:
    """A server that does not keep to the schema is named; nothing else is raised on the way."""
    endpoint.replies = [answer(text)]
    with pytest.raises((OutputError, ExtractionError)):
        async for _ in astream_items(list[Strict], "x", client=endpoint.async_client(), model="m"):
            pass
    chat = AsyncChat(client=endpoint.async_client(), model="m", attempts=1)
    with pytest.raises((OutputError, ExtractionError)):
        async for _ in chat.stream_parse(Strict, "x"):
            pass
