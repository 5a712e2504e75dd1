"""``/v1/vector_stores``: stores of files that can be searched by meaning."""

import asyncio
from typing import Any

from antiphon.accounts import Principal
from antiphon.protocol.vector_stores import check_chunking, create_store, search, update_store
from antiphon.server.request.access import Access
from antiphon.server.request.admissions import Admissions
from antiphon.server.request.body import RequestBodies
from antiphon.server.request.call import Call
from antiphon.server.request.pages import listed, read_page
from antiphon.server.request.query import note_unused_query, refuse_query
from antiphon.server.request.reservation import TokenReservation
from antiphon.server.routes.vector_store_parts import new_files
from antiphon.vector_stores import Found, VectorStore, VectorStores, search_query
from antiphon.vector_stores.errors import no_such_store
from antiphon.wire.token_estimate import CHARACTERS_PER_TOKEN

Json = dict[str, Any]
RANKER_HEADER = "x-antiphon-ranker"
"""Header of a search: by what its results are ordered."""
LIST_PARAMETERS = ("limit", "order", "after", "before")


class VectorStoreRoutes:
    """The handlers of vector stores and of the search in one."""

    def __init__(self, access: Access, admissions: Admissions, bodies: RequestBodies, stores: VectorStores) -> None:
        self._access = access
        self._admissions = admissions
        self._bodies = bodies
        self._stores = stores

    async def create(self, call: Call) -> None:
        """Make a vector store; its files are read in the background."""
        principal = await self._access.authenticate(call)
        refuse_query(call)
        body = await self._bodies.read_object(call, create_store, optional=True)
        tokens, overlap = check_chunking(body.get("chunking_strategy"), "chunking_strategy")
        given = [{"file_id": file_id} for file_id in dict.fromkeys(body.get("file_ids") or ())]
        new = await new_files(self._stores, principal.account, given, tokens, overlap)
        async with await self._admissions.admit(
            call, principal, "embedding", self._stores.embedding.model(), TokenReservation(0, 0)
        ):
            store = await self._stores.create(principal.account, body)
            if new:
                await self._stores.table.add_files(store, new)
                self._stores.ingestion.wake()
        await call.respond_json(await self._stores.value(store))

    async def list_stores(self, call: Call) -> None:
        """List this key's vector stores, newest first unless asked otherwise."""
        principal = await self._access.authenticate(call)
        page = read_page(call, parameters=LIST_PARAMETERS)
        found, has_more = await self._stores.table.page(principal.account, page)
        await call.respond_json(listed(await self._stores.values(found), has_more=has_more))

    async def retrieve(self, call: Call) -> None:
        """Show a vector store."""
        _, store = await self._found(call)
        note_unused_query(call)
        await call.respond_json(await self._stores.value(store))

    async def update(self, call: Call) -> None:
        """Change a vector store's name, metadata or end."""
        _, store = await self._found(call)
        refuse_query(call)
        body = await self._bodies.read_object(call, update_store, optional=True)
        changes: Json = {}
        if body.get("name") is not None:
            changes["name"] = body["name"]
        if "metadata" in body:
            changes["metadata"] = body["metadata"] or {}
        if "expires_after" in body:
            expiry: Json = body["expires_after"] or {}
            changes["expires_after_days"] = expiry.get("days")
        await call.respond_json(await self._stores.value(await self._stores.table.update(store, changes)))

    async def delete(self, call: Call) -> None:
        """Remove a vector store and its index; the files stay."""
        _, store = await self._found(call)
        refuse_query(call)
        if not await self._stores.delete(store):
            raise no_such_store(store.id)
        await call.respond_json({"id": store.id, "object": "vector_store.deleted", "deleted": True})

    async def search(self, call: Call) -> None:
        """Return the chunks of a vector store that answer a query best."""
        principal = await self._access.authenticate(call)
        refuse_query(call)
        body = await self._bodies.read_object(call, search)
        store = await self._stores.require_live(call.path_param("vector_store_id"), principal.account)
        query = search_query(body)
        reranker = await self._stores.ranking.reranker(query.ranker, principal.account, "ranking_options.ranker")
        reservation = TokenReservation(sum(map(len, query.queries)) // CHARACTERS_PER_TOKEN, 0)
        # The query's vector has a usage row of its own, so this request has one without tokens.
        async with await self._admissions.admit(call, principal, "embedding", store.model, reservation):
            found = await self._stores.search([store], query, principal.account, call.scope["path"], reranker)
        call.extra[RANKER_HEADER] = reranker or query.own_ranker
        data = await asyncio.to_thread(lambda: [_shown(one) for one in found])
        await call.respond_json(
            {
                "object": "vector_store.search_results.page",
                "search_query": list(query.queries),
                "data": data,
                "has_more": False,
                "next_page": None,
            }
        )

    async def _found(self, call: Call) -> tuple[Principal, VectorStore]:
        principal = await self._access.authenticate(call)
        return principal, await self._stores.require(call.path_param("vector_store_id"), principal.account)


def _shown(found: Found) -> Json:
    return {
        "file_id": found.file_id,
        "filename": found.filename,
        "score": found.score,
        "attributes": dict(found.attributes),
        "content": [{"type": "text", "text": found.text}],
    }
