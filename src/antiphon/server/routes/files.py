"""``/v1/files``: files that clients upload and download."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any
from urllib.parse import quote

from antiphon.accounts import Principal
from antiphon.files import FileStore, NewFile, StoredFile
from antiphon.files.errors import no_such_file
from antiphon.protocol.errors import ApiError
from antiphon.protocol.files import check_batch_size, check_file_name, file_form, parse_file_form, safe_filename
from antiphon.server.logs import log
from antiphon.server.request.access import Access
from antiphon.server.request.admissions import Admissions
from antiphon.server.request.asgi import ClientGone
from antiphon.server.request.call import Call
from antiphon.server.request.departure import until_gone
from antiphon.server.request.headers import encoded
from antiphon.server.request.incoming_file import IncomingFile
from antiphon.server.request.multipart import MultipartForms
from antiphon.server.request.pages import listed, read_page
from antiphon.server.request.query import note_unused_query, query_values, refuse_query
from antiphon.server.request.reservation import TokenReservation

MODEL = "files"
"""What limits count uploads under, and what their usage rows name in place of a model."""
_MAX_LISTED = 10_000
_MANY = 500
"""Rows that are turned into JSON in a thread."""


class FileRoutes:
    """The handlers of files."""

    def __init__(
        self,
        access: Access,
        admissions: Admissions,
        forms: MultipartForms,
        store: FileStore,
        forget: Callable[[str], Awaitable[None]],
    ) -> None:
        """``forget`` takes a file that was deleted out of what was made of it."""
        self._access = access
        self._admissions = admissions
        self._forms = forms
        self._store = store
        self._forget = forget

    async def create(self, call: Call) -> None:
        """Keep an uploaded file."""
        principal = await self._access.authenticate(call)
        try:
            refuse_query(call)
            admitted = await self._admissions.admit(call, principal, "file", MODEL, TokenReservation(0, 0))
            async with admitted:
                made = await self._received(call, principal)
                await call.respond_json(made.value())
        except ApiError as error:
            self._admissions.record_refusal(call, principal, "file", MODEL, error)
            raise

    async def _received(self, call: Call, principal: Principal) -> StoredFile:
        async with self._store.arriving(principal.account) as content:
            incoming = IncomingFile(content, "file", _check_purpose)
            await self._forms.read(call, incoming, self._store.settings.max_file_bytes)
            filename = safe_filename(incoming.require_file())
            form = parse_file_form(incoming.fields)
            check_file_name(filename, form.purpose)
            check_batch_size(form.purpose, content.num_bytes)
            written = await content.commit()
        call.note |= {"file_bytes": written.num_bytes, "purpose": form.purpose}
        new = NewFile(
            account=principal.account, filename=filename, purpose=form.purpose, expires_after_s=form.expires_after_s
        )
        return await self._store.add(new, written)

    async def list_files(self, call: Call) -> None:
        """List this key's files, newest first unless asked otherwise."""
        principal = await self._access.authenticate(call)
        page = read_page(
            call,
            parameters=("limit", "order", "after", "purpose"),
            default_limit=_MAX_LISTED,
            max_limit=_MAX_LISTED,
        )
        found, has_more = await self._store.page(principal.account, page, query_values(call).get("purpose"))
        shown = _values(found) if len(found) <= _MANY else await asyncio.to_thread(_values, found)
        await call.respond_json(listed(shown, has_more=has_more))

    async def retrieve(self, call: Call) -> None:
        """Show a file."""
        file = await self._found(call)
        note_unused_query(call)
        await call.respond_json(file.value())

    async def content(self, call: Call) -> None:
        """Send a file's bytes as they were uploaded."""
        file = await self._found(call)
        note_unused_query(call)
        await until_gone(call, self._send(call, file))

    async def _send(self, call: Call, file: StoredFile) -> None:
        async with aclosing(self._store.read(file)) as pieces:
            first = await anext(pieces, b"")
            headers = {
                "content-type": "application/octet-stream",
                "content-length": str(file.num_bytes),
                "content-disposition": f"attachment; filename*=UTF-8''{quote(file.filename, safe='')}",
                # A browser that opens the address shows nothing that the file says it is.
                "x-content-type-options": "nosniff",
            }
            await call.stream(_whole(call, first, pieces), encoded(headers))

    async def delete(self, call: Call) -> None:
        """Remove a file."""
        file = await self._found(call)
        refuse_query(call)
        if not await self._store.delete(file):
            raise no_such_file(file.id)
        await self._forget(file.id)
        await call.respond_json({"object": "file", "deleted": True, "id": file.id})

    async def _found(self, call: Call) -> StoredFile:
        principal = await self._access.authenticate(call)
        file_id = call.path_param("file_id")
        file = await self._store.find(file_id, principal.account)
        if file is None:
            raise no_such_file(file_id)
        return file


async def _whole(call: Call, first: bytes, rest: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """Pass the content on. The status is sent already: what breaks it off must break the connection off, too."""
    try:
        yield first
        async for piece in rest:
            yield piece
    except ApiError as error:
        log.error("a download broke off", request_id=call.request_id, error=error.message)
        call.cut()
        raise ClientGone from error


def _check_purpose(fields: Mapping[str, str]) -> None:
    """Refuse a purpose that does not exist before the file arrives, where it comes first."""
    if "purpose" in fields:
        file_form.fields["purpose"].check(fields["purpose"], "purpose")


def _values(found: list[StoredFile]) -> list[dict[str, Any]]:
    return [file.value() for file in found]
