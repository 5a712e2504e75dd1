"""Finds the field ``model`` in a multipart form while the form passes by. Pure: bytes in, a name out."""

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from antiphon.protocol.errors import ApiError

_MAX_NAME = 256
_FIELD = b"model"


class ModelField:
    """Follows a form. ``is_found`` says whether the whole field has come; ``is_over`` whether looking on is of no use."""

    def __init__(self, content_type: str) -> None:
        kind, options = parse_options_header(content_type)
        self._boundary = options.get(b"boundary", b"") if kind == b"multipart/form-data" else b""
        self._header = b""
        self._header_value = b""
        self._is_field = False
        self._value = bytearray()
        self.is_found = False
        self.is_over = not self._boundary
        if not self.is_over:
            self._parser = self._make_parser()

    @property
    def model(self) -> str | None:
        """The field's value, None as long as it has not come, or is not a name."""
        if not self.is_found or not 0 < len(self._value) <= _MAX_NAME:
            return None
        try:
            return self._value.decode()
        except UnicodeDecodeError:
            return None

    def feed(self, data: bytes) -> None:
        """Read on. A form that is broken is for the upstream to refuse. ``ApiError`` 400 for a second model."""
        if self.is_over:
            return
        try:
            self._parser.write(data)
        except FormParserError:
            self.is_over = True

    def renamed(self, form: bytes, model: str) -> bytes:
        """Return the beginning of the form, in which the field was found, with another model in it."""
        value = bytes(self._value)
        ended = b"\r\n\r\n" + value + b"\r\n--" + self._boundary
        at = form.find(ended)
        while at >= 0:
            head = form[form.rfind(b"--" + self._boundary, 0, at) : at]
            if b'name="model"' in head or b"name=model" in head:
                start = at + 4
                return form[:start] + model.encode() + form[start + len(value) :]
            at = form.find(ended, at + 1)
        raise AssertionError("unreachable: the parser found the field in these bytes")

    def _end_header(self) -> None:
        if self._header.lower() != b"content-disposition":
            return
        _, options = parse_options_header(self._header_value)
        self._is_field = options.get(b"name") == _FIELD and b"filename" not in options
        if self._is_field and self.is_found:
            raise ApiError(400, "The form has more than one field 'model'.", param="model", code="invalid_value")

    def _make_parser(self) -> MultipartParser:
        def part_begins() -> None:
            self._is_field = False

        def header_begins() -> None:
            self._header = self._header_value = b""

        def header_field(data: bytes, start: int, end: int) -> None:
            self._header += data[start:end]

        def header_value(data: bytes, start: int, end: int) -> None:
            self._header_value += data[start:end]

        def part_data(data: bytes, start: int, end: int) -> None:
            if self._is_field and len(self._value) <= _MAX_NAME:
                self._value += data[start:end]

        def part_ends() -> None:
            self.is_found |= self._is_field

        return MultipartParser(
            self._boundary,
            {
                "on_part_begin": part_begins,
                "on_header_begin": header_begins,
                "on_header_field": header_field,
                "on_header_value": header_value,
                "on_header_end": self._end_header,
                "on_part_data": part_data,
                "on_part_end": part_ends,
            },
        )
