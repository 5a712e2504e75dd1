"""``/v1/conversations``: named lists of items that responses read and add to."""

from collections.abc import Sequence
from typing import Any

from antiphon.accounts import Principal
from antiphon.protocol import problems
from antiphon.protocol.errors import ApiError
from antiphon.protocol.ids import new_id
from antiphon.protocol.metadata import METADATA, update_metadata
from antiphon.protocol.responses import with_ids
from antiphon.protocol.responses.found import without_found
from antiphon.protocol.responses.item_fields import ItemSpec, kind_of
from antiphon.protocol.shapes import Array, Object
from antiphon.server.request.access import Access
from antiphon.server.request.body import RequestBodies
from antiphon.server.request.call import Call
from antiphon.server.request.pages import listed, read_page
from antiphon.server.request.query import note_unused_query, refuse_query
from antiphon.state import Conversation, ConversationStore

Json = dict[str, Any]
MAX_NEW_ITEMS = 20
_INCLUDE = ("include",)
"""It has no effect: items are always whole here."""
_items = Array(ItemSpec(), "objects", max_length=MAX_NEW_ITEMS, nullable=True)
_create = Object({"metadata": METADATA, "items": _items})
_add = Object({"items": Array(ItemSpec(), "objects", min_length=1, max_length=MAX_NEW_ITEMS)}, required=("items",))


class ConversationRoutes:
    """The handlers of conversations and their items."""

    def __init__(self, access: Access, bodies: RequestBodies, store: ConversationStore) -> None:
        self._access = access
        self._bodies = bodies
        self._store = store

    async def create(self, call: Call) -> None:
        """Make a conversation, with up to 20 items."""
        principal = await self._access.authenticate(call)
        refuse_query(call)
        body = await self._bodies.read_object(call, _create, optional=True)
        items = _new_items(body.get("items") or ())
        made = await self._store.create(new_id("conv", "_"), principal.account, body.get("metadata") or {}, items)
        await call.respond_json(made.value())

    async def retrieve(self, call: Call) -> None:
        """Show a conversation."""
        _, conversation = await self._found(call)
        note_unused_query(call)
        await call.respond_json(conversation.value())

    async def update(self, call: Call) -> None:
        """Replace a conversation's metadata."""
        _, conversation = await self._found(call)
        refuse_query(call)
        body = await self._bodies.read_object(call, update_metadata)
        metadata: dict[str, str] = body["metadata"] or {}
        await self._store.set_metadata(conversation.id, metadata)
        await call.respond_json(conversation.value() | {"metadata": metadata})

    async def delete(self, call: Call) -> None:
        """Remove a conversation and its items."""
        _, conversation = await self._found(call)
        refuse_query(call)
        await self._store.delete(conversation.id)
        await call.respond_json({"id": conversation.id, "object": "conversation.deleted", "deleted": True})

    async def list_items(self, call: Call) -> None:
        """List a conversation's items, newest first unless asked otherwise."""
        _, conversation = await self._found(call)
        items, has_more = await self._store.page(conversation.id, read_page(call))
        await call.respond_json(listed([without_found(item) for item in items], has_more=has_more))

    async def add_items(self, call: Call) -> None:
        """Add up to 20 items at the end."""
        _, conversation = await self._found(call)
        refuse_query(call, but=_INCLUDE)
        body = await self._bodies.read_object(call, _add)
        items = _new_items(body["items"])
        await self._store.append(conversation.id, items)
        await call.respond_json(listed(items, has_more=False))

    async def retrieve_item(self, call: Call) -> None:
        """Show one item."""
        _, conversation = await self._found(call)
        refuse_query(call, but=_INCLUDE)
        item_id = call.path_param("item_id")
        found = await self._store.find_item(conversation.id, item_id)
        if found is None:
            raise _no_item(item_id)
        await call.respond_json(without_found(found))

    async def delete_item(self, call: Call) -> None:
        """Remove one item; answers with the conversation."""
        _, conversation = await self._found(call)
        refuse_query(call)
        item_id = call.path_param("item_id")
        if not await self._store.delete_item(conversation.id, item_id):
            raise _no_item(item_id)
        await call.respond_json(conversation.value())

    async def _found(self, call: Call) -> tuple[Principal, Conversation]:
        principal = await self._access.authenticate(call)
        conversation_id = call.path_param("conversation_id")
        found = await self._store.find(conversation_id, principal.account)
        if found is None:
            raise ApiError(404, f"Conversation with id '{conversation_id}' not found.")
        return principal, found


def _new_items(given: Sequence[Json]) -> tuple[Json, ...]:
    for index, item in enumerate(given):
        if kind_of(item) == "item_reference":
            raise problems.bad_request("Items of a conversation cannot be references.", f"items[{index}].type")
    return with_ids(given)


def _no_item(item_id: str) -> ApiError:
    return ApiError(404, f"Item with id '{item_id}' not found.")
