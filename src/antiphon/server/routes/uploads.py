"""``/v1/uploads``: a large file in parts."""

from typing import Any

from antiphon.accounts import Principal
from antiphon.files import FileStore, NewFile, StoredUpload, UploadStore
from antiphon.files.errors import no_such_upload
from antiphon.protocol import problems
from antiphon.protocol.errors import ApiError
from antiphon.protocol.files import (
    check_batch_size,
    check_file_name,
    complete_upload_request,
    expiry_s,
    safe_filename,
    upload_request,
)
from antiphon.server.request.access import Access
from antiphon.server.request.admissions import Admissions
from antiphon.server.request.body import RequestBodies
from antiphon.server.request.call import Call
from antiphon.server.request.departure import until_gone
from antiphon.server.request.incoming_file import IncomingFile
from antiphon.server.request.multipart import MultipartForms
from antiphon.server.request.query import refuse_query
from antiphon.server.request.reservation import TokenReservation
from antiphon.server.routes.files import MODEL

Json = dict[str, Any]
MAX_PART_BYTES = 64 * 1024 * 1024


class UploadRoutes:
    """The handlers of uploads. Each part counts as a request against the key's limits, as a file does."""

    def __init__(
        self,
        access: Access,
        admissions: Admissions,
        bodies: RequestBodies,
        forms: MultipartForms,
        *,
        files: FileStore,
        uploads: UploadStore,
    ) -> None:
        self._access = access
        self._admissions = admissions
        self._bodies = bodies
        self._forms = forms
        self._files = files
        self._uploads = uploads

    async def create(self, call: Call) -> None:
        """Begin an upload."""
        principal = await self._access.authenticate(call)
        refuse_query(call)
        body = await self._bodies.read_object(call, upload_request)
        filename = safe_filename(body["filename"])
        check_file_name(filename, body["purpose"])
        if body["bytes"]:
            check_batch_size(body["purpose"], body["bytes"])
        new = NewFile(
            account=principal.account,
            filename=filename,
            purpose=body["purpose"],
            expires_after_s=expiry_s(body["purpose"], body.get("expires_after")),
        )
        made = await self._uploads.create(new, body["mime_type"], body["bytes"])
        await call.respond_json(made.value())

    async def add_part(self, call: Call) -> None:
        """Keep one part."""
        principal, upload = await self._found(call)
        try:
            refuse_query(call)
            admitted = await self._admissions.admit(call, principal, "file", MODEL, TokenReservation(0, 0))
            async with admitted:
                async with self._files.arriving(principal.account, max_bytes=MAX_PART_BYTES) as content:
                    incoming = IncomingFile(content, "data")
                    await self._forms.read(call, incoming, MAX_PART_BYTES)
                    incoming.require_file()
                    for name in incoming.fields:
                        raise problems.unknown(name, ())
                    written = await content.commit()
                part = await self._uploads.add_part(upload, written)
                await call.respond_json(part.value())
        except ApiError as error:
            self._admissions.record_refusal(call, principal, "file", MODEL, error)
            raise

    async def complete(self, call: Call) -> None:
        """Make a file of the parts."""
        _, upload = await self._found(call)
        refuse_query(call)
        body = await self._bodies.read_object(call, complete_upload_request)
        await until_gone(call, self._complete(call, upload, body))

    async def _complete(self, call: Call, upload: StoredUpload, body: Json) -> None:
        done, file = await self._uploads.complete(upload, body["part_ids"], body.get("md5"))
        await call.respond_json(done.value(file))

    async def cancel(self, call: Call) -> None:
        """End an upload and remove its parts."""
        _, upload = await self._found(call)
        refuse_query(call)
        ended = await self._uploads.end(upload, "cancelled")
        await call.respond_json(ended.value())

    async def _found(self, call: Call) -> tuple[Principal, StoredUpload]:
        principal = await self._access.authenticate(call)
        upload_id = call.path_param("upload_id")
        upload = await self._uploads.find(upload_id, principal.account)
        if upload is None:
            raise no_such_upload(upload_id)
        return principal, upload
