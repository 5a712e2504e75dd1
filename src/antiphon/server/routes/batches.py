"""``/v1/batches``: many requests in a file, answered below interactive ones."""

from collections.abc import Callable

from antiphon.batches import BatchDetail, BatchSettings, BatchStore, StoredBatch
from antiphon.batches.store import now_ms
from antiphon.files import FileStore
from antiphon.protocol import problems
from antiphon.protocol.batches import batch_request
from antiphon.protocol.errors import ApiError
from antiphon.protocol.ids import new_id
from antiphon.server.request.access import Access
from antiphon.server.request.body import RequestBodies
from antiphon.server.request.call import Call
from antiphon.server.request.pages import listed, read_page
from antiphon.server.request.query import note_unused_query, refuse_query

_HOUR_MS = 3_600_000


class BatchRoutes:
    """The handlers of batches. ``look`` tells who works on batches that there is a new one."""

    def __init__(
        self,
        access: Access,
        bodies: RequestBodies,
        *,
        store: BatchStore,
        files: FileStore,
        settings: BatchSettings,
        look: Callable[[], None],
    ) -> None:
        self._access = access
        self._bodies = bodies
        self._store = store
        self._files = files
        self._settings = settings
        self._look = look

    async def create(self, call: Call) -> None:
        """Begin a batch. What is wrong with its file is found afterwards, and shown by the batch, as with OpenAI."""
        principal = await self._access.authenticate(call)
        refuse_query(call)
        given = await self._bodies.read_object(call, batch_request)
        file = await self._files.find(given["input_file_id"], principal.account)
        if file is not None and file.purpose != "batch":
            raise problems.bad_request(
                f"Invalid purpose of file '{file.id}': expected 'batch', but got '{file.purpose}' instead.",
                "input_file_id",
                "invalid_value",
            )
        expiry = given.get("output_expires_after")
        created_at_ms = now_ms()
        batch = StoredBatch(
            id=new_id("batch", "_"),
            account=principal.account,
            created_at_ms=created_at_ms,
            expires_at_ms=created_at_ms + round(self._settings.window_hours * _HOUR_MS),
            status="validating",
            detail=BatchDetail(
                endpoint=given["endpoint"],
                input_file_id=given["input_file_id"],
                input_digest=None if file is None else file.digest,
                metadata=given.get("metadata"),
                output_expires_after_s=None if expiry is None else expiry["seconds"],
            ),
        )
        batch = await self._store.create(batch)
        call.note["batch"] = batch.id
        self._look()
        await call.respond_json(batch.value())

    async def list_batches(self, call: Call) -> None:
        """List this key's batches, newest first."""
        principal = await self._access.authenticate(call)
        page = read_page(call, parameters=("limit", "after"))
        found, has_more = await self._store.page(principal.account, page)
        await call.respond_json(listed([batch.value() for batch in found], has_more=has_more))

    async def retrieve(self, call: Call) -> None:
        """Show a batch."""
        batch = await self._found(call)
        note_unused_query(call)
        await call.respond_json(batch.value())

    async def cancel(self, call: Call) -> None:
        """Stop a batch; what is finished until then is in its output file."""
        batch = await self._found(call)
        refuse_query(call)
        if not await self._store.cancel(batch):
            batch = await self._found(call)
            if batch.status not in {"cancelling", "cancelled"}:
                raise problems.bad_request(f"Cannot cancel a batch with status '{batch.status}'.")
        await call.respond_json((await self._found(call)).value())

    async def _found(self, call: Call) -> StoredBatch:
        principal = await self._access.authenticate(call)
        return await self._require(call.path_param("batch_id"), principal.account)

    async def _require(self, batch_id: str, account: str) -> StoredBatch:
        batch = await self._store.find(batch_id, account)
        if batch is None:
            raise ApiError(404, f"No batch found with id '{batch_id}'.")
        return batch
