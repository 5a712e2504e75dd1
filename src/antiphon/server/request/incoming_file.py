"""Takes a form with one file: the file goes into the storage while it arrives, the text fields are collected."""

from collections.abc import Callable, Mapping

from antiphon.files.files import Content
from antiphon.protocol import problems
from antiphon.server.request.multipart import FormReceiver


class IncomingFile(FormReceiver):
    """``field_name`` is the form's name for the file. ``check_field`` looks at a text field as soon as it is there."""

    def __init__(
        self, content: Content, field_name: str, check_field: Callable[[Mapping[str, str]], None] | None = None
    ) -> None:
        self._content = content
        self._field_name = field_name
        self._check_field = check_field
        self.fields: dict[str, str] = {}
        self.filename: str | None = None

    async def field(self, name: str, value: str) -> None:
        if name == self._field_name:
            raise problems.wrong_type(name, "a file", value)
        if name in self.fields:
            raise problems.bad_request(f"The form has the field '{name}' twice.", name, "invalid_value")
        self.fields[name] = value
        if self._check_field is not None:
            self._check_field(self.fields)

    async def begin_file(self, name: str, filename: str) -> None:
        if name != self._field_name:
            raise problems.unknown(name, ())
        if self.filename is not None:
            raise problems.bad_request("The form has more than one file.", name, "invalid_value")
        self.filename = filename

    async def data(self, data: bytes) -> None:
        await self._content.write(data)

    def require_file(self) -> str:
        """Return the file's name as the client wrote it; ``ApiError`` 400 if there was no file."""
        if self.filename is None:
            raise problems.missing(self._field_name)
        return self.filename
