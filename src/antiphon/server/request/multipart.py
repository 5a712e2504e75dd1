"""Reads ``multipart/form-data`` piece by piece (RFC 7578), so that a file of any size takes a fixed amount of memory.

The parser is ``python-multipart``. It works on pieces of a quarter of a megabyte, in a thread, because a hostile piece may
hold a great number of delimiters. What is wrong with the form is answered when the whole body has arrived: a client that is
still sending would find its connection closed instead of the error.
"""

import asyncio
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

import msgspec
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState, parse_options_header

from antiphon.protocol import problems
from antiphon.protocol.errors import ApiError, overloaded
from antiphon.server.request.asgi import ClientGone
from antiphon.server.request.call import Call

_PIECE_BYTES = 256 * 1024
_MAX_FORMS = 256
"""Forms that are read at once. Each holds about two pieces in memory: 128 MiB for all."""
_MAX_FIELDS = 16
_MAX_FIELD_BYTES = 4096
_MAX_NAME_BYTES = 256
_FRAMING_BYTES = 64 * 1024
"""How much longer than its file a form may be."""


class FieldValue(msgspec.Struct, frozen=True):
    """A text field, whole."""

    name: str
    value: str


class FileBegin(msgspec.Struct, frozen=True):
    """From here on comes the content of a file; ``filename`` as the client wrote it."""

    name: str
    filename: str


class FileData(msgspec.Struct, frozen=True):
    """More content of the file that began last."""

    data: bytes


FormEvent = FieldValue | FileBegin | FileData


class FormReceiver(Protocol):
    """Takes the form's parts in the order in which they arrive. What it raises is the answer."""

    async def field(self, name: str, value: str) -> None: ...
    async def begin_file(self, name: str, filename: str) -> None: ...
    async def data(self, data: bytes) -> None: ...


class MultipartForms:
    """Reads forms, at most ``max_forms`` at once; further requests get a 503."""

    def __init__(self, *, max_forms: int = _MAX_FORMS) -> None:
        self._max_forms = max_forms
        self.num_open = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="forms")

    async def read(self, call: Call, receiver: FormReceiver, max_file_bytes: int) -> None:
        """Give the form to ``receiver``. Raises ``ClientGone``, what ``receiver`` raises, and ``ApiError``.

        413 for a body that is larger than the largest file in a form, 415 for another content type, 400 for a broken form, 503
        while as many forms are read as may be.
        """
        max_bytes = max_file_bytes + _FRAMING_BYTES
        announced = call.header(b"content-length")
        if announced is not None and announced.isdigit() and int(announced) > max_bytes:
            raise _too_large(max_file_bytes)
        form = FormReader(_boundary(call.header(b"content-type")))
        problem: ApiError | None = None
        num_bytes = 0
        with self._one():
            async for piece in _pieces(call):
                num_bytes += len(piece)
                if num_bytes > max_bytes:
                    raise _too_large(max_file_bytes)
                if problem is None:
                    problem = await self._take(form, piece, receiver)
        if problem is not None:
            raise problem
        form.check_end()

    async def _take(self, form: "FormReader", piece: bytes, receiver: FormReceiver) -> ApiError | None:
        """Parse a piece and pass its parts on; return what is wrong with it."""
        try:
            events = await asyncio.get_running_loop().run_in_executor(self._thread, form.feed, piece)
            for event in events:
                match event:
                    case FieldValue(name, value):
                        await receiver.field(name, value)
                    case FileBegin(name, filename):
                        await receiver.begin_file(name, filename)
                    case FileData(data):
                        await receiver.data(data)
        except ApiError as error:
            return error
        return None

    @contextmanager
    def _one(self) -> Generator[None]:
        if self.num_open >= self._max_forms:
            raise overloaded(retry_after_s=1)
        self.num_open += 1
        try:
            yield
        finally:
            self.num_open -= 1


async def _pieces(call: Call) -> AsyncGenerator[bytes]:
    """Yield the body in pieces of about a quarter of a megabyte."""
    held: list[bytes] = []
    num_held = 0
    has_more = True
    while has_more:
        message = await call.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk: bytes = message.get("body", b"")
        held.append(chunk)
        num_held += len(chunk)
        has_more = message.get("more_body", False)
        if num_held >= _PIECE_BYTES or not has_more:
            yield b"".join(held)
            held.clear()
            num_held = 0


class FormReader:
    """Collects the parser's callbacks into events, and bounds what a form may have."""

    def __init__(self, boundary: bytes) -> None:
        self._events: list[FormEvent] = []
        self._headers: dict[bytes, bytes] = {}
        self._header_name = b""
        self._header_value = b""
        self._name = ""
        self._is_file = False
        self._value = b""
        self._num_parts = 0
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_part_data": self._part_data,
                "on_part_end": self._end_part,
                "on_header_field": self._header_field,
                "on_header_value": self._add_header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
            },
        )

    def feed(self, piece: bytes) -> list[FormEvent]:
        """Return the parts that ``piece`` completes or goes on with. ``ApiError`` 400 for a broken form."""
        self._events = []
        try:
            self._parser.write(piece)
        except FormParserError as error:
            raise _broken(str(error)) from error
        return self._events

    def check_end(self) -> None:
        """Raise ``ApiError`` 400 if the form broke off."""
        if self._parser.state != MultipartState.END:
            raise _broken("it ends before its last boundary")

    def _begin_part(self) -> None:
        self._num_parts += 1
        if self._num_parts > _MAX_FIELDS:
            raise _broken(f"it has more than {_MAX_FIELDS} parts")
        self._headers = {}
        self._value = b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name = self._header_value = b""

    def _end_headers(self) -> None:
        kind, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"")
        if kind != b"form-data" or not name or len(name) > _MAX_NAME_BYTES:
            raise _broken("a part has no 'Content-Disposition: form-data' with a name")
        self._name = _text(name)
        self._is_file = b"filename" in options
        if self._is_file:
            self._events.append(FileBegin(self._name, _text(options[b"filename"])))

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._events.append(FileData(data[start:end]))
            return
        self._value += data[start:end]
        if len(self._value) > _MAX_FIELD_BYTES:
            raise problems.wrong_length(self._name, "string", _MAX_FIELD_BYTES, len(self._value), above=True)

    def _end_part(self) -> None:
        if not self._is_file:
            self._events.append(FieldValue(self._name, _text(self._value)))


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _boundary(content_type: str | None) -> bytes:
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        raise ApiError(
            415,
            f"Unsupported content type: {(content_type or '')[:200]!r}. This API method takes 'multipart/form-data'.",
            code="unsupported_content_type",
        )
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 70:  # noqa: PLR2004 - RFC 2046, section 5.1.1
        raise _broken("its content type names no boundary of 1 to 70 characters")
    return boundary


def _broken(reason: str) -> ApiError:
    return problems.bad_request(f"The multipart form cannot be read: {reason}.", code="invalid_multipart_form")


def _too_large(max_file_bytes: int) -> ApiError:
    return ApiError(
        413,
        f"The request is larger than a form with a file of {max_file_bytes:,} bytes, the limit of this server.",
        code="request_too_large",
        headers={"connection": "close"},
    )
