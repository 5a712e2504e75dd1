"""Lists: a page costs the database its own rows, however long the list is."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import openai
import pytest
from sqlalchemy import Engine, event
from tests.serving import running

from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Script

MODEL = "gpt-4o-mini"
LENGTH = 25
LIMIT = 2
MOST_ROWS = LIMIT + 1
Make = Callable[[openai.OpenAI], Callable[[dict[str, Any]], Any]]


def conversation(client: openai.OpenAI) -> Callable[[dict[str, Any]], Any]:
    made = client.conversations.create()
    for start in range(0, LENGTH, 20):
        items: Any = [{"role": "user", "content": f"n{n}"} for n in range(start, min(LENGTH, start + 20))]
        client.conversations.items.create(made.id, items=items)
    return lambda query: client.conversations.items.list(made.id, extra_query=query)


def completions(client: openai.OpenAI) -> Callable[[dict[str, Any]], Any]:
    for n in range(LENGTH):
        messages: Any = [{"role": "user", "content": f"n{n}"}]
        client.chat.completions.create(model=MODEL, messages=messages, store=True, metadata={"run": "a"})
    return lambda query: client.chat.completions.list(extra_query=query)


def files(client: openai.OpenAI) -> Callable[[dict[str, Any]], Any]:
    for n in range(LENGTH):
        client.files.create(file=(f"{n}.txt", b"x" * (n + 1)), purpose="user_data")
    return lambda query: client.files.list(extra_query=query)


def vector_stores(client: openai.OpenAI) -> Callable[[dict[str, Any]], Any]:
    for n in range(LENGTH):
        client.vector_stores.create(name=f"n{n}")
    return lambda query: client.vector_stores.list(extra_query=query)


def vector_store_files(client: openai.OpenAI) -> Callable[[dict[str, Any]], Any]:
    made = client.vector_stores.create(name="long")
    for n in range(LENGTH):
        file = client.files.create(file=(f"{n}.txt", b"word " * (n + 1)), purpose="user_data")
        client.vector_stores.files.create(made.id, file_id=file.id)
    return lambda query: client.vector_stores.files.list(made.id, extra_query=query)


def batches(client: openai.OpenAI) -> Callable[[dict[str, Any]], Any]:
    line = b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":[]}}'
    file = client.files.create(file=("b.jsonl", line), purpose="batch")
    for _ in range(LENGTH):
        client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    return lambda query: client.batches.list(extra_query={k: v for k, v in query.items() if k != "order"})


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Generator[openai.OpenAI]:
    backend = ScriptedBackend(Script(models=(MODEL,), embedding_models=("vectors",)))
    with (
        running(backend, tmp_path_factory.mktemp("home")) as up,
        openai.OpenAI(base_url=up.url, api_key="any", max_retries=0) as made,
    ):
        yield made


@contextmanager
def rows_of(table: str) -> Generator[list[int]]:
    """Collect how many rows each statement for a part of a table reads. The driver reads all rows of a statement at once."""
    counts: list[int] = []

    def count(_connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        words = " ".join(statement.split())
        if words.startswith("SELECT") and f"FROM {table} " in words and "ORDER BY" in words:
            counts.append(len(cursor._rows))

    event.listen(Engine, "after_cursor_execute", count)
    try:
        yield counts
    finally:
        event.remove(Engine, "after_cursor_execute", count)


@pytest.mark.parametrize(
    ("make", "table"),
    [
        (conversation, "conversation_items"),
        (completions, "stored_completions"),
        (files, "files"),
        (vector_stores, "vector_stores"),
        (vector_store_files, "vector_store_files"),
        (batches, "batches"),
    ],
)
def test_a_page_reads_its_own_rows(client: openai.OpenAI, make: Make, table: str) -> None:
    """At the beginning, behind a cursor, in either order; the pages join to the whole list without gap."""
    read_list = make(client)
    for order in ("desc", "asc"):
        shown: list[str] = []
        query: dict[str, Any] = {"limit": LIMIT, "order": order}
        has_more = True
        while has_more:
            with rows_of(table) as counts:
                page = read_list(query)
            assert counts
            assert max(counts) <= MOST_ROWS
            shown += [item.id for item in page.data]
            has_more, query = page.has_more, {**query, "after": shown[-1]}
        assert len(shown) == len(set(shown)) >= LENGTH
        whole = [item.id for item in read_list({"limit": 100, "order": order}).data]
        assert shown == whole[: len(shown)]


def test_one_item_of_a_conversation_is_read_alone(client: openai.OpenAI) -> None:
    """A lookup by id does not read its neighbours."""
    read_list = conversation(client)
    (item,) = read_list({"limit": 1}).data
    conversation_id = read_list({"limit": 1})._options.url.split("/")[2]
    with rows_of("conversation_items") as counts:
        assert client.conversations.items.retrieve(item.id, conversation_id=conversation_id).id == item.id
    assert counts == [1]


def test_completions_are_narrowed_by_metadata_a_batch_at_a_time(client: openai.OpenAI) -> None:
    """Metadata are compared outside the database; no statement reads more than a batch, and cursors hold among what is shown."""
    for n in range(6):
        messages: Any = [{"role": "user", "content": "x"}]
        client.chat.completions.create(model=MODEL, messages=messages, store=True, metadata={"run": f"b{n % 2}"})
    found = [item.id for item in client.chat.completions.list(metadata={"run": "b1"}, limit=1)]
    assert len(found) == len(set(found)) == 3
    before = client.chat.completions.list(metadata={"run": "b1"}, extra_query={"before": found[2]}).data
    assert [item.id for item in before] == found[:2]
    with pytest.raises(openai.BadRequestError, match="no item with id"):
        client.chat.completions.list(extra_query={"after": "chatcmpl-none"})
