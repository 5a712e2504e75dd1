"""``file_search`` as a tool of one turn: the model writes queries, and reads what vector stores have on them."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast

import msgspec

from antiphon.protocol.chat import Tool
from antiphon.protocol.errors import ApiError
from antiphon.protocol.ids import new_id
from antiphon.protocol.responses.file_search import NAME
from antiphon.protocol.responses.found import found_by
from antiphon.protocol.responses.output_items import ItemAdded, ItemDone, ItemEvent, ItemNews
from antiphon.protocol.responses.tools import ServedTool
from antiphon.server.responses.server_tool import ServerCall
from antiphon.vector_stores import Found, SearchQuery, VectorStores, search_query

Json = dict[str, Any]
DEFAULT_RESULTS = 8
"""Where a request names no number: about 2,000 tokens, which a small model can read. OpenAI shows up to 20."""
MAX_QUERIES = 8
_MAX_QUERY = 2000
_SERVER_ERROR = 500
_PATH = "/v1/responses"
_DEFINITION = Tool(
    name=NAME,
    description=(
        "Search the user's files for passages that answer a question. Write one or more queries. The results are numbered; "
        "cite each result that you use by its number in square brackets at the end of the sentence, like this: [1]."
    ),
    parameters={
        "type": "object",
        "properties": {"queries": {"type": "array", "items": {"type": "string"}}},
        "required": ["queries"],
        "additionalProperties": False,
    },
)


class FileSearch:
    """Opens the tool for a turn."""

    def __init__(self, stores: VectorStores) -> None:
        self._stores = stores

    def open(self, served: ServedTool, account: str) -> "FileSearchTool":
        return FileSearchTool(served, self._stores, account)


class FileSearchTool:
    """Implements ``ServerTool``. Results are numbered through the whole conversation."""

    def __init__(self, served: ServedTool, stores: VectorStores, account: str) -> None:
        self._spec = served.spec
        self._shows_results = served.shows_results
        self._stores = stores
        self._account = account
        self._num_results = 0
        self._reranker: str | None = None

    @property
    def definitions(self) -> Sequence[Tool]:
        return (_DEFINITION,)

    async def prepare(self, items: Sequence[Json]) -> AsyncGenerator[ItemEvent]:
        # The numbers of earlier turns stay taken: the model still sees their results.
        self._num_results = max((result["marker"] for result in found_by(items)), default=0)
        for store_id in self._spec["vector_store_ids"]:
            await self._stores.require_live(store_id, self._account)
        self._reranker = await self._stores.ranking.reranker(
            self._query(("",)).ranker, self._account, "tools.ranking_options.ranker"
        )
        for nothing in ():
            yield nothing

    async def resume(self, items: Sequence[Json]) -> AsyncGenerator[ItemEvent]:  # noqa: ARG002 - no call waits
        for nothing in ():
            yield nothing

    def begin(self, call: ServerCall) -> list[ItemEvent]:
        call.item_id = new_id("fs", "_")
        return [
            ItemAdded(self._item(call, "in_progress", ())),
            ItemNews(call.item_id, "response.file_search_call.in_progress"),
        ]

    def add_arguments(self, call: ServerCall, text: str) -> list[ItemEvent]:  # noqa: ARG002 - there is no such event
        return []

    async def run(self, call: ServerCall) -> AsyncGenerator[ItemEvent]:
        queries = _queries(call.arguments)
        if not queries:
            item = self._item(call, "failed", ())
            yield ItemDone(item, item | {"error": 'The arguments must be JSON of the form {"queries": ["..."]}.'})
            return
        yield ItemNews(call.item_id, "response.file_search_call.searching")
        try:
            found = await self._search(queries)
        except ApiError as error:
            if error.status >= _SERVER_ERROR:
                raise
            item = self._item(call, "failed", queries)
            yield ItemDone(item, item | {"error": error.message})
            return
        results = [_result(one) for one in found]
        item = self._item(call, "completed", queries)
        first = self._num_results + 1
        self._num_results += len(results)
        marked = [result | {"marker": number} for number, result in enumerate(results, first)]
        yield ItemNews(call.item_id, "response.file_search_call.completed")
        shown = item | {"results": results} if self._shows_results else item
        yield ItemDone(shown, item | {"results": marked})

    def abandon(self, call: ServerCall) -> list[ItemEvent]:
        return [ItemDone(self._item(call, "incomplete", ()))]

    async def aclose(self) -> None:
        """It holds nothing."""

    async def _search(self, queries: Sequence[str]) -> list[Found]:
        stores = [await self._stores.require_live(id_, self._account) for id_ in self._spec["vector_store_ids"]]
        return await self._stores.search(stores, self._query(queries), self._account, _PATH, self._reranker)

    def _query(self, queries: Sequence[str]) -> SearchQuery:
        return search_query({"max_num_results": DEFAULT_RESULTS, **_given(self._spec), "query": list(queries)})

    def _item(self, call: ServerCall, status: str, queries: Sequence[str]) -> Json:
        return {
            "id": call.item_id,
            "type": "file_search_call",
            "status": status,
            "queries": list(queries),
            "results": None,
        }


def _given(spec: Json) -> Json:
    names = ("filters", "max_num_results", "ranking_options")
    return {name: spec[name] for name in names if spec.get(name) is not None}


def _queries(arguments: str) -> list[str]:
    """Return the queries that the model wrote, empty if it wrote none."""
    try:
        value: Any = msgspec.json.decode(arguments or "{}")
    except msgspec.DecodeError:
        return []
    given: Any = cast("Json", value).get("queries") if isinstance(value, dict) else None
    if not isinstance(given, list):
        return []
    texts = [one.strip()[:_MAX_QUERY] for one in cast("list[Any]", given) if isinstance(one, str) and one.strip()]
    return list(dict.fromkeys(texts))[:MAX_QUERIES]


def _result(found: Found) -> Json:
    return {
        "attributes": dict(found.attributes),
        "file_id": found.file_id,
        "filename": found.filename,
        "score": found.score,
        "text": found.text,
    }
