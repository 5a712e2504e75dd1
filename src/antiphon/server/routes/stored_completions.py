"""Stored chat completions: ``GET /v1/chat/completions`` and what is below it."""

from typing import Any, cast

from antiphon.protocol.errors import ApiError
from antiphon.protocol.metadata import update_metadata
from antiphon.server.request.access import Access
from antiphon.server.request.body import RequestBodies
from antiphon.server.request.call import Call
from antiphon.server.request.pages import listed, page_of, read_page
from antiphon.server.request.query import note_unused_query, query_values, refuse_query
from antiphon.state import CompletionStore, StoredCompletion

Json = dict[str, Any]


class StoredCompletionRoutes:
    """The handlers of chat completions that were made with ``store: true``."""

    def __init__(self, access: Access, bodies: RequestBodies, store: CompletionStore) -> None:
        self._access = access
        self._bodies = bodies
        self._store = store

    async def list_completions(self, call: Call) -> None:
        """List this key's stored completions, oldest first; ``model`` and ``metadata[key]`` narrow the list."""
        principal = await self._access.authenticate(call)
        given = query_values(call)
        keys = {name: name[len("metadata[") : -1] for name in given if name.startswith("metadata[") and name[-1] == "]"}
        page = read_page(call, default_order="asc", also=("model", *keys))
        metadata = {key: given[name] for name, key in keys.items()}
        found, has_more = await self._store.page(principal.account, page, given.get("model"), metadata)
        await call.respond_json(listed([one.value() for one in found], has_more=has_more))

    async def retrieve(self, call: Call) -> None:
        """Show a stored completion."""
        note_unused_query(call)
        await call.respond_json((await self._found(call)).value())

    async def update(self, call: Call) -> None:
        """Replace a stored completion's metadata."""
        stored = await self._found(call)
        refuse_query(call)
        body = await self._bodies.read_object(call, update_metadata)
        metadata: dict[str, str] = body["metadata"] or {}
        await self._store.set_metadata(stored.id, metadata)
        await call.respond_json(stored.value() | {"metadata": metadata})

    async def delete(self, call: Call) -> None:
        """Remove a stored completion."""
        stored = await self._found(call)
        refuse_query(call)
        await self._store.delete(stored.id)
        await call.respond_json({"object": "chat.completion.deleted", "id": stored.id, "deleted": True})

    async def list_messages(self, call: Call) -> None:
        """List the messages of a stored completion's request, oldest first."""
        stored = await self._found(call)
        page = read_page(call, default_order="asc")
        await call.respond_json(
            page_of([_message(stored.id, at, message) for at, message in enumerate(stored.messages)], page)
        )

    async def _found(self, call: Call) -> StoredCompletion:
        principal = await self._access.authenticate(call)
        completion_id = call.path_param("completion_id")
        stored = await self._store.find(completion_id, principal.account)
        if stored is None:
            raise ApiError(404, f"Chat completion with id '{completion_id}' not found.")
        return stored


def _message(completion_id: str, position: int, message: Json) -> Json:
    content: Any = message.get("content")
    if not isinstance(content, list):
        return {"refusal": None, **message, "id": f"{completion_id}-{position}", "content_parts": None}
    parts = cast("list[Json]", content)
    text = "".join(part.get("text", "") for part in parts)
    return {"refusal": None, **message, "id": f"{completion_id}-{position}", "content": text, "content_parts": parts}
