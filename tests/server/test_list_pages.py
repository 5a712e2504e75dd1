"""Lists: each route's pages join to its list, whatever is added meanwhile, and cost the database their own rows."""

import itertools
import sqlite3
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from sqlalchemy import Engine, event
from tests.serving import running

from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Script
from antiphon.server.app import ROUTES

MODEL = "gpt-4o-mini"
LENGTH = 7
LIMIT = 2
Json = dict[str, Any]
Add = Callable[[], object]


@dataclass(frozen=True)
class Made:
    """A list to read: its address, what its query has always, and what puts one more object into it, if anything can."""

    path: str
    add: Add | None
    narrowed: Json | None = None


def conversation_items(client: openai.OpenAI) -> Made:
    made = client.conversations.create()

    def add() -> None:
        client.conversations.items.create(made.id, items=[{"role": "user", "content": "x"}])

    return filled(Made(f"/conversations/{made.id}/items", add))


def completions(client: openai.OpenAI) -> Made:
    messages: Any = [{"role": "user", "content": "x"}]
    return filled(
        Made(
            "/chat/completions",
            lambda: client.chat.completions.create(model=MODEL, messages=messages, store=True, metadata={"run": "a"}),
            {"metadata[run]": "a"},
        )
    )


def completion_messages(client: openai.OpenAI) -> Made:
    messages: Any = [{"role": "user", "content": "x"}] * LENGTH
    made = client.chat.completions.create(model=MODEL, messages=messages, store=True)
    return Made(f"/chat/completions/{made.id}/messages", None)


def input_items(client: openai.OpenAI) -> Made:
    items: Any = [{"role": "user", "content": "x"}] * LENGTH
    made = client.responses.create(model=MODEL, input=items)
    return Made(f"/responses/{made.id}/input_items", None)


def files(client: openai.OpenAI) -> Made:
    def add() -> None:
        client.files.create(file=("a.txt", b"x"), purpose="evals")

    return filled(Made("/files", add, {"purpose": "evals"}))


def batches(client: openai.OpenAI) -> Made:
    line = b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":[]}}'
    file = client.files.create(file=("b.jsonl", line), purpose="batch")

    def add() -> None:
        client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")

    return filled(Made("/batches", add))


def vector_stores(client: openai.OpenAI) -> Made:
    return filled(Made("/vector_stores", client.vector_stores.create))


def vector_store_files(client: openai.OpenAI) -> Made:
    made = client.vector_stores.create()

    def add() -> None:
        file = client.files.create(file=("a.txt", b"word"), purpose="user_data")
        client.vector_stores.files.create(made.id, file_id=file.id)

    return filled(Made(f"/vector_stores/{made.id}/files", add))


def batch_files(client: openai.OpenAI) -> Made:
    made = client.vector_stores.create()
    ids = [client.files.create(file=("a.txt", b"word"), purpose="user_data").id for _ in range(LENGTH)]
    batch = client.vector_stores.file_batches.create(made.id, file_ids=ids)
    return Made(f"/vector_stores/{made.id}/file_batches/{batch.id}/files", None)


def filled(made: Made) -> Made:
    for _ in range(LENGTH):
        assert made.add is not None
        made.add()
    return made


@dataclass(frozen=True)
class ListRoute:
    """A route, the table that its objects are rows of, and what its query may have. ``table`` None: one row holds the list."""

    path: str
    make: Callable[[openai.OpenAI], Made]
    table: str | None
    max_limit: int = 100
    orders: tuple[str, ...] = ("desc", "asc")
    is_oldest_first: bool = False
    takes_before: bool = True


LISTS = (
    ListRoute("/v1/conversations/{conversation_id}/items", conversation_items, "conversation_items"),
    ListRoute("/v1/chat/completions", completions, "stored_completions", is_oldest_first=True),
    ListRoute("/v1/chat/completions/{completion_id}/messages", completion_messages, None, is_oldest_first=True),
    ListRoute("/v1/responses/{response_id}/input_items", input_items, None),
    ListRoute("/v1/files", files, "files", max_limit=10_000, takes_before=False),
    ListRoute("/v1/batches", batches, "batches", orders=(), takes_before=False),
    ListRoute("/v1/vector_stores", vector_stores, "vector_stores"),
    ListRoute("/v1/vector_stores/{vector_store_id}/files", vector_store_files, "vector_store_files"),
    ListRoute("/v1/vector_stores/{vector_store_id}/file_batches/{batch_id}/files", batch_files, "vector_store_files"),
)
every_list = pytest.mark.parametrize("route", LISTS, ids=lambda route: route.make.__name__)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def client(home: Path) -> Generator[openai.OpenAI]:
    backend = ScriptedBackend(Script(models=(MODEL,), embedding_models=("vectors",)))
    with (
        running(backend, home) as up,
        openai.OpenAI(base_url=up.url, api_key="any", max_retries=0) as made,
    ):
        yield made


class Reader:
    """Reads pages of one list."""

    def __init__(self, client: openai.OpenAI, made: Made) -> None:
        self._client = client
        self.made = made

    def page(self, **query: Any) -> Json:
        whole = {**(self.made.narrowed or {}), **query}
        return self._client.get(self.made.path, cast_to=dict[str, Any], options={"params": whole})

    def ids(self, **query: Any) -> list[str]:
        return [item["id"] for item in self.page(**query)["data"]]

    def walk(self, **query: Any) -> Generator[list[str]]:
        """Yield the ids of each page up to the last, each behind the one before."""
        has_more = True
        while has_more:
            page = self.page(limit=LIMIT, **query)
            ids = [item["id"] for item in page["data"]]
            assert (page["first_id"], page["last_id"]) == (ids[0], ids[-1])
            yield ids
            has_more, query = page["has_more"], {**query, "after": ids[-1]}


_made: dict[str, Made] = {}


@pytest.fixture
def reader(client: openai.OpenAI, route: ListRoute) -> Reader:
    if route.path not in _made:
        _made[route.path] = route.make(client)
    return Reader(client, _made[route.path])


def orders_of(route: ListRoute) -> list[Json]:
    """Return the queries for each order of a list, the one without a word of it first."""
    return [{}, *({"order": order} for order in route.orders)]


def test_no_list_is_missing_here() -> None:
    """Models are no pages: there are few, and OpenAI's list of them has none either."""
    named = {
        path
        for path, methods in ROUTES.items()
        if path.startswith("/v1/") and "GET" in methods and methods["GET"].__code__.co_names[-1].startswith("list_")
    }
    assert named - {"/v1/models"} == {route.path for route in LISTS}


@every_list
def test_a_page_has_bounds(client: openai.OpenAI, reader: Reader, route: ListRoute) -> None:
    """A limit, an order or a parameter that does not exist is refused, and so is one that comes twice."""
    assert len(reader.ids(limit=1)) == 1
    assert len(reader.ids(limit=route.max_limit)) >= LENGTH
    wrong: list[tuple[str, Any]] = [("limit", value) for value in (0, -1, route.max_limit + 1, "", "1.0", "x")]
    wrong += [("order", "up"), ("offset", 1)]
    wrong += [] if route.takes_before else [("before", "x")]
    for name, value in wrong:
        with pytest.raises(openai.BadRequestError) as refused:
            reader.page(**{name: value})
        assert refused.value.param == name
    for twice in ("limit=1&limit=1", "after=a&after=b"):
        with pytest.raises(openai.BadRequestError, match="given more than once"):
            client.get(f"{reader.made.path}?{twice}", cast_to=dict[str, Any])


@every_list
def test_a_cursor_that_names_nothing_is_refused(reader: Reader, route: ListRoute) -> None:
    """In every list with the same words."""
    for name in ("after", "before") if route.takes_before else ("after",):
        with pytest.raises(openai.BadRequestError, match=f"Invalid '{name}': no item with id 'none'") as refused:
            reader.page(**{name: "none"})
        assert (refused.value.param, refused.value.code) == (name, "invalid_value")


@every_list
def test_pages_join_to_the_list(reader: Reader, route: ListRoute) -> None:
    """Behind a cursor and before one, in each order."""
    lists: list[list[str]] = []
    for order in orders_of(route):
        whole = reader.ids(limit=100, **order)
        lists.append(whole)
        assert len(set(whole)) == len(whole) >= LENGTH
        assert list(itertools.chain(*reader.walk(**order))) == whole
        if not route.takes_before:
            continue
        # As OpenAI says: where a page begins with an object, 'before' with its id is the page before that one.
        first, read, has_more = whole[-1], whole[-1:], True
        while has_more:
            page = reader.page(limit=LIMIT, before=first, **order)
            read = [*(item["id"] for item in page["data"]), *read]
            first, has_more = read[0], page["has_more"]
        assert read == whole
        assert reader.ids(limit=LIMIT, after=whole[0], before=whole[2], **order) == whole[1:2]
    if route.orders:
        default, newest_first, oldest_first = lists
        assert newest_first == oldest_first[::-1]
        assert default == (oldest_first if route.is_oldest_first else newest_first)


@every_list
def test_what_is_added_between_pages_moves_nothing(reader: Reader, route: ListRoute) -> None:
    """It is behind what is read oldest first, and before what is read newest first: nothing comes twice or is left out."""
    add = reader.made.add
    if add is None:
        return
    for order in orders_of(route):
        before = reader.ids(limit=100, **order)
        shown: list[str] = []
        for page in reader.walk(**order):
            shown += page
            if len(shown) == LIMIT:
                add()
        after = reader.ids(limit=100, **order)
        is_oldest_first = order.get("order", "asc" if route.is_oldest_first else "desc") == "asc"
        assert shown == (after if is_oldest_first else before)
        assert len(after) == len(before) + 1


Statements = list[tuple[str, Any, int]]


@contextmanager
def rows_of(table: str) -> Generator[Statements]:
    """Collect the statements for parts of a table, with the rows that each reads. The driver reads all rows of a statement at once."""
    seen: Statements = []

    def note(_connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        words = " ".join(statement.split())
        if words.startswith("SELECT") and f"FROM {table} " in words and "ORDER BY" in words:
            seen.append((statement, parameters, len(cursor._rows)))

    event.listen(Engine, "after_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(Engine, "after_cursor_execute", note)


@every_list
def test_a_page_reads_its_own_rows(reader: Reader, route: ListRoute, home: Path) -> None:
    """At the beginning and behind a cursor, in each order; an index holds them in order, so that none is sorted or passed over."""
    if route.table is None:
        return
    for order in orders_of(route):
        with rows_of(route.table) as statements:
            first = reader.ids(limit=LIMIT, **order)
            reader.ids(limit=LIMIT, after=first[-1], **order)
        assert statements
        if route.make is not completions:  # narrowed by metadata, which are compared outside the database
            assert max(num_rows for _, _, num_rows in statements) <= LIMIT + 1
        with closing(sqlite3.connect(home / "antiphon.db")) as database:
            for statement, parameters, _ in statements:
                steps = [row[-1] for row in database.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
                assert all(step.startswith("SEARCH") for step in steps), steps


def test_one_item_of_a_conversation_is_read_alone(client: openai.OpenAI) -> None:
    """A lookup by id does not read its neighbours."""
    made = conversation_items(client)
    conversation_id = made.path.split("/")[2]
    (item_id,) = Reader(client, made).ids(limit=1)
    with rows_of("conversation_items") as statements:
        assert client.conversations.items.retrieve(item_id, conversation_id=conversation_id).id == item_id
    assert [num_rows for _, _, num_rows in statements] == [1]


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


def test_a_filter_moves_no_cursor(client: openai.OpenAI) -> None:
    """What a page ended with may have another status by the time that the next one is asked for."""
    stores = Reader(client, vector_store_files(client))
    (first,) = stores.ids(limit=1)
    assert stores.ids(after=first, filter="cancelled") == []
    completed = Reader(client, completions(client))
    whole = completed.ids(limit=100, order="asc")
    client.chat.completions.update(whole[0], metadata={"run": "another"})
    assert completed.ids(limit=100, order="asc", after=whole[0]) == whole[1:]
    assert completed.ids(order="asc", after=whole[0], model="none") == []
    client.chat.completions.update(whole[0], metadata={"run": "a"})
