"""``/v1/vector_stores/{id}/files`` and ``/file_batches``: what is in a vector store."""

from typing import Any

from antiphon.accounts import Principal
from antiphon.protocol import problems
from antiphon.protocol.ids import new_id
from antiphon.protocol.vector_stores import check_chunking, create_batch, create_file, update_file
from antiphon.server.request.access import Access
from antiphon.server.request.admissions import Admissions
from antiphon.server.request.body import RequestBodies
from antiphon.server.request.call import Call
from antiphon.server.request.pages import listed, read_page
from antiphon.server.request.query import note_unused_query, query_values, refuse_query
from antiphon.server.request.reservation import TokenReservation
from antiphon.server.routes.vector_store_parts import new_files
from antiphon.server.routes.vector_stores import LIST_PARAMETERS
from antiphon.vector_stores import FileBatch, NewStoreFile, StoreFile, VectorStore, VectorStores
from antiphon.vector_stores.errors import no_such_store_batch, no_such_store_file
from antiphon.vector_stores.records import STATUSES

Json = dict[str, Any]


class VectorStoreFileRoutes:
    """The handlers of the files in vector stores, one by one and in batches."""

    def __init__(self, access: Access, admissions: Admissions, bodies: RequestBodies, stores: VectorStores) -> None:
        self._access = access
        self._admissions = admissions
        self._bodies = bodies
        self._stores = stores

    async def add(self, call: Call) -> None:
        """Put a file into a store; it is read in the background."""
        principal = await self._access.authenticate(call)
        refuse_query(call)
        body = await self._bodies.read_object(call, create_file)
        store = await self._stores.require_live(call.path_param("vector_store_id"), principal.account)
        new = await new_files(self._stores, principal.account, [body], *check_chunking(None, ""))
        await self._add(call, principal, store, new)
        await call.respond_json((await self._file(store, new[0].file_id)).value())

    async def list_files(self, call: Call) -> None:
        """List the files of a store, newest first unless asked otherwise."""
        store = await self._store(call)
        await self._respond_page(call, store)

    async def retrieve(self, call: Call) -> None:
        """Show a file of a store."""
        file = await self._found(call)
        note_unused_query(call)
        await call.respond_json(file.value())

    async def update(self, call: Call) -> None:
        """Replace the attributes of a file, by which searches may filter."""
        file = await self._found(call)
        refuse_query(call)
        body = await self._bodies.read_object(call, update_file)
        attributes: Json = body["attributes"] or {}
        if not await self._stores.set_attributes(file, attributes):
            raise no_such_store_file(file.file_id, file.vector_store_id)
        await call.respond_json(file.value() | {"attributes": attributes})

    async def remove(self, call: Call) -> None:
        """Take a file out of a store; the file itself stays."""
        file = await self._found(call)
        refuse_query(call)
        if not await self._stores.ingestion.remove(file.vector_store_id, file.file_id):
            raise no_such_store_file(file.file_id, file.vector_store_id)
        await call.respond_json({"id": file.file_id, "object": "vector_store.file.deleted", "deleted": True})

    async def content(self, call: Call) -> None:
        """Show the text of a file as it was read."""
        file = await self._found(call)
        note_unused_query(call)
        texts = await self._stores.texts(file)
        page = {"data": [{"type": "text", "text": text} for text in texts], "has_more": False, "next_page": None}
        await call.respond_json({"object": "vector_store.file_content.page", **page})

    async def add_batch(self, call: Call) -> None:
        """Put files into a store as one batch."""
        principal = await self._access.authenticate(call)
        refuse_query(call)
        body = await self._bodies.read_object(call, create_batch)
        store = await self._stores.require_live(call.path_param("vector_store_id"), principal.account)
        given = _batch_files(body)
        size = check_chunking(body.get("chunking_strategy"), "chunking_strategy")
        new = await new_files(self._stores, principal.account, given, *size)
        batch_id = new_id("vsfb", "_")
        await self._add(call, principal, store, new, batch_id)
        await self._respond_batch(call, await self._batch(store, batch_id))

    async def retrieve_batch(self, call: Call) -> None:
        """Show a batch."""
        store = await self._store(call)
        note_unused_query(call)
        await self._respond_batch(call, await self._batch(store, call.path_param("batch_id")))

    async def cancel_batch(self, call: Call) -> None:
        """Stop reading what of a batch is not read yet."""
        store = await self._store(call)
        batch = await self._batch(store, call.path_param("batch_id"))
        refuse_query(call)
        await self._stores.table.cancel_batch(batch)
        await self._respond_batch(call, await self._batch(store, batch.id))

    async def list_batch_files(self, call: Call) -> None:
        """List the files of a batch."""
        store = await self._store(call)
        batch = await self._batch(store, call.path_param("batch_id"))
        await self._respond_page(call, store, batch.id)

    async def _add(
        self,
        call: Call,
        principal: Principal,
        store: VectorStore,
        new: list[NewStoreFile],
        batch_id: str | None = None,
    ) -> None:
        # Held to the key's limits and budget as a request for embeddings; the vectors themselves have usage rows of their own.
        async with await self._admissions.admit(call, principal, "embedding", store.model, TokenReservation(0, 0)):
            await self._stores.table.add_files(store, new, batch_id)
        self._stores.ingestion.wake()

    async def _respond_page(self, call: Call, store: VectorStore, batch_id: str | None = None) -> None:
        page = read_page(call, parameters=LIST_PARAMETERS, also=("filter",))
        status = query_values(call).get("filter")
        if status is not None and status not in STATUSES:
            raise problems.not_in_enum("filter", status, STATUSES)
        found, has_more = await self._stores.table.file_page(store.id, page, status=status, batch_id=batch_id)
        await call.respond_json(listed([file.value() for file in found], has_more=has_more))

    async def _respond_batch(self, call: Call, batch: FileBatch) -> None:
        store_id = batch.vector_store_id
        counts = await self._stores.table.counts([store_id], batch_id=batch.id)
        await call.respond_json(batch.value(counts[store_id]))

    async def _store(self, call: Call) -> VectorStore:
        principal = await self._access.authenticate(call)
        return await self._stores.require(call.path_param("vector_store_id"), principal.account)

    async def _found(self, call: Call) -> StoreFile:
        return await self._file(await self._store(call), call.path_param("file_id"))

    async def _file(self, store: VectorStore, file_id: str) -> StoreFile:
        file = await self._stores.table.find_file(store.id, file_id)
        if file is None:
            raise no_such_store_file(file_id, store.id)
        return file

    async def _batch(self, store: VectorStore, batch_id: str) -> FileBatch:
        batch = await self._stores.table.find_batch(store.id, batch_id)
        if batch is None:
            raise no_such_store_batch(batch_id, store.id)
        return batch


def _batch_files(body: Json) -> list[Json]:
    """Return what a batch adds, each file once. ``ApiError`` 400 unless it names files in one of the two ways."""
    if ("file_ids" in body) == ("files" in body):
        raise problems.bad_request("Provide one of 'file_ids' and 'files'.", "file_ids", "invalid_value")
    if "files" not in body:
        attributes = body.get("attributes")
        return [{"file_id": file_id, "attributes": attributes} for file_id in dict.fromkeys(body["file_ids"])]
    for name in ("attributes", "chunking_strategy"):
        if body.get(name) is not None:
            raise problems.bad_request(
                f"Invalid '{name}': with 'files', each file says this for itself.", name, "invalid_value"
            )
    return list({one["file_id"]: one for one in body["files"]}.values())
