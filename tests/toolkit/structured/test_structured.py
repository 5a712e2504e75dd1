"""Values out of text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field
from tests.toolkit.scripted_endpoint import Endpoint, answer
from typing_extensions import TypedDict

from antiphon.toolkit.calls.response_cache import ResponseCache
from antiphon.toolkit.chat.chat import Chat
from antiphon.toolkit.errors import ExtractionError, SchemaError
from antiphon.toolkit.structured.extract import aextract, astream_items, extract, extract_many, stream_items


class Person(BaseModel):
    name: str
    age: int = Field(ge=0)


@dataclass
class Place:
    name: str


class Fact(TypedDict):
    text: str


def test_a_model_is_read_from_text(endpoint: Endpoint) -> None:
    """At temperature 0, with the text as the message."""
    endpoint.replies = [answer('{"name": "Ann", "age": 3}')]
    reply = extract(Person, "Ann is three.", client=endpoint.client(), model="m")
    assert reply.parsed == Person(name="Ann", age=3)
    assert (endpoint.requests[0]["temperature"], endpoint.sent()[-1]) == (0, ("user", "Ann is three."))


@pytest.mark.parametrize(
    ("output", "text", "expected"),
    [
        (Place, '{"value": {"name": "Oslo"}}', Place("Oslo")),
        (Fact, '{"value": {"text": "a"}}', {"text": "a"}),
        (list[int], '{"value": [1, 2]}', [1, 2]),
        (int, '{"value": 5}', 5),
    ],
)
def test_other_types_are_wrapped_in_the_object_that_the_api_wants(
    endpoint: Endpoint, output: Any, text: str, expected: object
) -> None:
    """The value comes back as what was asked for."""
    endpoint.replies = [answer(text)]
    assert extract(output, "x", client=endpoint.client()).parsed == expected
    schema = endpoint.requests[0]["response_format"]["json_schema"]["schema"]
    assert (schema["type"], schema["required"], schema["additionalProperties"]) == ("object", ["value"], False)


def test_many_are_found_at_once(endpoint: Endpoint) -> None:
    """As a list of the type."""
    endpoint.replies = [answer('{"value": [{"name": "A", "age": 1}, {"name": "B", "age": 2}]}')]
    assert [person.name for person in extract_many(Person, "x", client=endpoint.client()).parsed] == ["A", "B"]


def test_items_come_one_by_one(endpoint: Endpoint) -> None:
    """Each validated as soon as the next one begins, the last at the end."""
    endpoint.replies = [answer('{"value": [{"name": "A", "age": 1}, {"name": "B", "age": 2}]}')]
    stream = stream_items(Person, "x", client=endpoint.client())
    assert list(stream) == [Person(name="A", age=1), Person(name="B", age=2)]
    assert stream.reply.parsed == [Person(name="A", age=1), Person(name="B", age=2)]


@pytest.mark.anyio
async def test_an_item_that_is_not_valid_ends_the_stream(endpoint: Endpoint) -> None:
    """Those before it were given; nothing is asked again."""
    endpoint.replies = [
        answer('{"value": [{"name": "A", "age": 1}, {"name": "B", "age": -2}, {"name": "C", "age": 1}]}')
    ]
    people = aiter(astream_items(Person, "x", client=endpoint.async_client()))
    assert await anext(people) == Person(name="A", age=1)
    with pytest.raises(ExtractionError):
        await anext(people)
    assert len(endpoint.requests) == 1


def test_a_growing_object_is_seen_as_plain_data(endpoint: Endpoint) -> None:
    """What it says so far, then the valid whole."""
    endpoint.replies = [answer('{"name": "Annabel", "age": 3}')]
    stream = Chat(client=endpoint.client()).stream_parse(Person, "who?")
    grown = list(stream)
    assert {"name": "An"} in grown or {"name": "Annab"} in grown
    assert grown[-1] == {"name": "Annabel", "age": 3}
    assert stream.reply.parsed == Person(name="Annabel", age=3)


@pytest.mark.anyio
async def test_the_asynchronous_twin_asks_again_too(endpoint: Endpoint) -> None:
    """With the validators' words."""
    endpoint.replies = [answer('{"name": "A", "age": -1}'), answer('{"name": "A", "age": 1}')]
    reply = await aextract(Person, "x", client=endpoint.async_client())
    assert [attempt.text for attempt in reply.attempts] == ['{"name": "A", "age": -1}', '{"name": "A", "age": 1}']


def test_the_same_extraction_is_answered_from_disk(endpoint: Endpoint, tmp_path: Path) -> None:
    """Temperature 0 makes it deterministic."""
    endpoint.replies = [answer('{"name": "A", "age": 1}')]
    with ResponseCache(tmp_path / "c.sqlite") as cache:
        for _ in range(3):
            extract(Person, "x", client=endpoint.client(), cache=cache)
    assert len(endpoint.requests) == 1


def test_a_type_that_a_strict_schema_cannot_say_is_refused(endpoint: Endpoint) -> None:
    """Before anything is sent."""
    with pytest.raises(SchemaError, match="free keys"):
        extract(dict[str, int], "x", client=endpoint.client())
    assert endpoint.requests == []
