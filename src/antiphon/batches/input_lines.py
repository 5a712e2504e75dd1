"""Reads the input file of a batch: cuts it into lines, and checks all of them before the first is answered. Pure."""

from collections.abc import Iterator
from typing import Any, cast

import msgspec

from antiphon.protocol import problems
from antiphon.protocol.batches import check_line, unparseable
from antiphon.protocol.errors import ApiError

Json = dict[str, Any]
_MAX_ERRORS = 100
"""Errors that a batch shows; OpenAI shows the first ones too."""
_MAX_EMBEDDING_INPUTS = 50_000
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class BatchLine(msgspec.Struct, frozen=True):
    """One request: ``number`` is its line in the file, from 1; ``body`` is JSON."""

    number: int
    custom_id: str
    body: bytes


class LineSplitter:
    """Cuts pieces of a file into numbered lines. ``max_bytes`` bounds one line; a longer one comes as None."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._number = 0
        self._held = b""
        self._is_too_long = False

    def feed(self, piece: bytes) -> Iterator[tuple[int, bytes | None]]:
        """Yield the lines that ``piece`` completes."""
        *ends, rest = piece.split(b"\n")
        for end in ends:
            yield self._line(end)
        self._add(rest)

    def end(self) -> Iterator[tuple[int, bytes | None]]:
        """Yield the last line if no line break ended it."""
        if self._held or self._is_too_long:
            yield self._line(b"")

    def _line(self, end: bytes) -> tuple[int, bytes | None]:
        self._add(end)
        line = None if self._is_too_long else self._held
        self._number += 1
        self._held, self._is_too_long = b"", False
        return self._number, line

    def _add(self, more: bytes) -> None:
        if len(self._held) + len(more) > self._max_bytes:
            self._held, self._is_too_long = b"", True
        elif not self._is_too_long:
            self._held += more


def parse_line(number: int, line: bytes, endpoint: str) -> BatchLine:
    """Return a line that was checked before."""
    value = check_line(_decode(line), endpoint)
    return BatchLine(number, value["custom_id"], _encode(value["body"]))


class InputCheck:
    """Checks every line of a file, and remembers what must hold among them."""

    def __init__(self, endpoint: str, *, max_lines: int, max_line_bytes: int) -> None:
        self._endpoint = endpoint
        self._max_lines = max_lines
        self._max_line_bytes = max_line_bytes
        self._custom_ids: set[str] = set()
        self._num_inputs = 0
        self._blank: int | None = None
        self.num_lines = 0
        self.model: str | None = None
        self.errors: list[Json] = []

    @property
    def is_over(self) -> bool:
        """Whether nothing more needs to be read."""
        return len(self.errors) >= _MAX_ERRORS

    def take(self, number: int, line: bytes | None) -> None:
        """Check one line; None is one that is too long."""
        if self.is_over:
            return
        if line is not None and not line.strip():
            self._blank = self._blank or number
            return
        if self._blank is not None:
            # Blank lines are accepted at the end alone, and this one was not there.
            self.add_error(unparseable(), self._blank)
            self._blank = None
        try:
            if line is None:
                raise problems.bad_request(
                    f"This line is longer than {self._max_line_bytes:,} bytes, the limit of a request.",
                    None,
                    "request_too_large",
                )
            self._check(line)
        except ApiError as error:
            self.add_error(error, number)

    def end(self) -> None:
        """Check what concerns the whole file."""
        if not self.num_lines and not self.errors:
            message = "The input file is empty. Please ensure that the batch contains at least one request."
            self.add_error(problems.bad_request(message, None, "empty_file"), None)
        if self.num_lines > self._max_lines:
            message = f"The batch has {self.num_lines:,} requests, but may have at most {self._max_lines:,}."
            self.add_error(problems.bad_request(message, None, "too_many_tasks"), None)
        if self._num_inputs > _MAX_EMBEDDING_INPUTS:
            message = f"The requests have {self._num_inputs:,} inputs, but may have at most {_MAX_EMBEDDING_INPUTS:,}."
            self.add_error(problems.bad_request(message, None, "too_many_tasks"), None)

    def add_error(self, error: ApiError, number: int | None) -> None:
        """Note an error in the form in which a batch shows it."""
        self.errors.append(
            {"code": error.code, "line": number, "message": error.message, "param": error.param, "object": "error"}
        )

    def _check(self, line: bytes) -> None:
        try:
            value: Any = _decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise unparseable() from error
        checked = check_line(value, self._endpoint)
        self.num_lines += 1
        if checked["custom_id"] in self._custom_ids:
            raise problems.bad_request(
                f"The custom_id '{checked['custom_id']}' is a duplicate of another request's. "
                "The custom_id must be unique for each request in a batch.",
                "custom_id",
                "duplicate_custom_id",
            )
        self._custom_ids.add(checked["custom_id"])
        body: Json = checked["body"]
        self.model = self.model or body["model"]
        if body["model"] != self.model:
            raise problems.bad_request(
                f"All requests in a batch must have the same model: expected '{self.model}', but got "
                f"'{body['model'][:200]}' instead.",
                "body.model",
                "model_mismatch",
            )
        if self._endpoint == "/v1/embeddings":
            self._num_inputs += _num_inputs(body.get("input"))


def _num_inputs(given: Any) -> int:
    """Return how many inputs a request has: texts, or lists of token ids; one text or list alone is one."""
    inputs = cast("list[Any]", given) if isinstance(given, list) else []
    return len(inputs) if inputs and isinstance(inputs[0], (str, list)) else 1
