"""Recorded answers of a real API, played back without one.

A tape is a JSON file: for each request its method, path and JSON, and the answer's status, chosen headers, and bytes in the
pieces in which they came. Neither the request's headers nor the key are written. A request is answered only if it is the
same as a recorded one; otherwise the test fails with the difference to the nearest recording that was not used.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import AsyncIterator, Awaitable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx2

from antiphon.errors import AntiphonError
from antiphon.testing.interception import AsyncSend, Send, UnexpectedRequestError, intercepted
from antiphon.testing.playing import PlayedStream

FORMAT = "antiphon-tape/1"
_KEPT_HEADERS = ("content-type", "retry-after", "retry-after-ms", "x-should-retry", "x-request-id")
_KEPT_PREFIXES = ("x-ratelimit-", "openai-processing", "openai-version")
_SECRET_HEADERS = ("authorization", "api-key", "x-api-key", "proxy-authorization")
_MIN_SECRET = 8
"""Shorter keys ("local", "any") are not secret, and might be words of the answers."""
_MAX_DIFF_LINES = 60
_BOUNDARY = re.compile(r"^multipart/form-data;.*boundary=\"?([^\";]+)")


class TapeError(AntiphonError):
    """A file that is not a tape."""


@dataclass(slots=True)
class RecordedExchange:
    """One request and its answer. ``pieces`` are bytes as text; bytes that are not UTF-8 are lone surrogates.

    ``failure`` is the name of httpx2's error where the connection failed; ``status`` is then 0.
    """

    method: str
    path: str
    request: Any
    status: int
    headers: Mapping[str, str]
    pieces: list[str] = field(default_factory=list[str])
    failure: str | None = None
    is_used: bool = False

    def as_json(self) -> dict[str, Any]:
        answer: dict[str, Any] = {"status": self.status, "headers": dict(self.headers), "pieces": self.pieces}
        if self.failure is not None:
            answer = {"failure": self.failure}
        return {"method": self.method, "path": self.path, "request": self.request, "answer": answer}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RecordedExchange:
        answer = value["answer"]
        asked = (value["method"], value["path"], value["request"])
        if "failure" in answer:
            return cls(*asked, 0, {}, failure=answer["failure"])
        return cls(*asked, answer["status"], answer["headers"], answer["pieces"])

    def response(self) -> httpx2.Response:
        """Return the answer; raises the error with which the connection failed."""
        if self.failure is not None:
            error: type[httpx2.TransportError] = getattr(httpx2, self.failure, httpx2.ConnectError)
            raise error("the connection failed when the tape was recorded")
        parts = [piece.encode("utf-8", "surrogateescape") for piece in self.pieces]
        return httpx2.Response(self.status, headers=dict(self.headers), stream=PlayedStream(parts))


class Tape:
    """A file of recorded answers: ``recording`` and ``write`` make it, ``playing`` answers from it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.base_url: str | None = None
        self.unexpected: list[str] = []
        self._exchanges: list[RecordedExchange] = []
        self._secrets: set[str] = set()

    @contextmanager
    def recording(self) -> Generator[None]:
        """Send requests over the network until the block ends, and keep them and their answers for ``write``."""
        self._exchanges = []
        with intercepted(self._record, self._record_async):
            yield
        # At the end, since a fixture of the test may have named the server.
        self.base_url = _without_credentials(os.environ.get("OPENAI_BASE_URL"))

    @contextmanager
    def playing(self) -> Generator[None]:
        """Answer requests from the file until the block ends; nothing is sent. Raises TapeError without a valid file."""
        self.read()
        with intercepted(lambda request, _: self._play(request), self._play_async):
            yield

    def read(self) -> None:
        """Read the file; raises TapeError if it is missing or is not a tape."""
        hint = "record it: pytest --record, with the API's key in the environment"
        try:
            value = json.loads(self.path.read_text(encoding="utf-8"))
            if value["format"] != FORMAT:
                raise TapeError(f"{str(self.path)!r} has the format {value['format']!r}; this version reads {FORMAT!r}")
            self.base_url = value["base_url"]
            self._exchanges = [RecordedExchange.from_json(each) for each in value["exchanges"]]
        except FileNotFoundError:
            raise TapeError(f"There is no tape {str(self.path)!r}", hint=hint) from None
        except (ValueError, KeyError, TypeError) as error:
            raise TapeError(f"{str(self.path)!r} is not a tape: {error!r}", hint=hint) from error

    def write(self) -> None:
        """Write what was recorded, in place of what the file held."""
        value = {
            "format": FORMAT,
            "base_url": self.base_url,
            "exchanges": [exchange.as_json() for exchange in self._exchanges],
        }
        text = json.dumps(value, indent=1, ensure_ascii=True)
        for secret in self._secrets:
            text = text.replace(json.dumps(secret)[1:-1], "[key]")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(f"{text}\n", encoding="utf-8")

    def _play(self, request: httpx2.Request) -> httpx2.Response:
        asked = _asked(request)
        same = [each for each in self._exchanges if (each.method, each.path, each.request) == asked]
        if (found := next((each for each in same if not each.is_used), None)) is None:
            self.unexpected.append(self._explain(asked, num_same=len(same)))
            raise UnexpectedRequestError(self.unexpected[-1])
        found.is_used = True
        return found.response()

    async def _play_async(self, request: httpx2.Request, _: AsyncSend) -> httpx2.Response:
        return self._play(request)

    def _record(self, request: httpx2.Request, send: Send) -> httpx2.Response:
        self._prepare(request)
        try:
            response = send(request)
        except httpx2.TransportError as error:
            self._fail(request, error)
            raise
        pieces = self._begin(request, response)
        response.stream = _SyncRecorder(response.stream, pieces)  # pyright: ignore[reportArgumentType]
        return response

    async def _record_async(self, request: httpx2.Request, send: AsyncSend) -> httpx2.Response:
        self._prepare(request)
        try:
            response = await send(request)
        except httpx2.TransportError as error:
            self._fail(request, error)
            raise
        pieces = self._begin(request, response)
        response.stream = _AsyncRecorder(response.stream, pieces)  # pyright: ignore[reportArgumentType]
        return response

    def _prepare(self, request: httpx2.Request) -> None:
        # Compressed bytes would make a tape that nobody can read or compare.
        request.headers["accept-encoding"] = "identity"
        for name in _SECRET_HEADERS:
            secret = request.headers.get(name, "").removeprefix("Bearer ").strip()
            if len(secret) >= _MIN_SECRET:
                self._secrets.add(secret)

    def _fail(self, request: httpx2.Request, error: httpx2.TransportError) -> None:
        method, path, asked = _asked(request)
        self._exchanges.append(RecordedExchange(method, path, asked, 0, {}, failure=type(error).__name__))

    def _begin(self, request: httpx2.Request, response: httpx2.Response) -> list[str]:
        method, path, asked = _asked(request)
        exchange = RecordedExchange(method, path, asked, response.status_code, _kept_headers(response.headers))
        self._exchanges.append(exchange)
        return exchange.pieces

    def _explain(self, asked: tuple[str, str, Any], *, num_same: int) -> str:
        method, path, _ = asked
        if num_same:
            return f"{self.path}: {method} {path} was sent more than the {num_same} times that it was recorded"
        unused = [each for each in self._exchanges if not each.is_used and (each.method, each.path) == (method, path)]
        sent = _lines(asked[2])
        if not unused:
            return "\n".join([f"{self.path}: {method} {path} was not recorded; it was sent with:", *sent])
        nearest = max(unused, key=lambda each: difflib.SequenceMatcher(None, _lines(each.request), sent).ratio())
        changes = list(difflib.unified_diff(_lines(nearest.request), sent, "recorded", "sent", lineterm="", n=2))
        left_out = [f"... {len(changes) - _MAX_DIFF_LINES} more lines"] if len(changes) > _MAX_DIFF_LINES else []
        return "\n".join(
            [
                f"{self.path}: {method} {path} is not what was recorded. If the change is meant: pytest --record",
                *changes[:_MAX_DIFF_LINES],
                *left_out,
            ]
        )


class _SyncRecorder(httpx2.SyncByteStream):
    def __init__(self, stream: Any, pieces: list[str]) -> None:
        self._stream = stream
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        pieces: Iterable[bytes] = self._stream
        for piece in pieces:
            self._pieces.append(piece.decode("utf-8", "surrogateescape"))
            yield piece

    def close(self) -> None:
        self._stream.close()


class _AsyncRecorder(httpx2.AsyncByteStream):
    def __init__(self, stream: Any, pieces: list[str]) -> None:
        self._stream = stream
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._stream:
            self._pieces.append(piece.decode("utf-8", "surrogateescape"))
            yield piece

    async def aclose(self) -> None:
        closing: Awaitable[None] = self._stream.aclose()
        await closing


def _asked(request: httpx2.Request) -> tuple[str, str, Any]:
    """Return method, path and body: JSON as a value, so that the order of its keys does not matter."""
    text = request.content.decode("utf-8", "surrogateescape")
    if (boundary := _BOUNDARY.search(request.headers.get("content-type", ""))) is not None:
        # The parts of a form are separated by a text that is made up anew each time.
        text = text.replace(boundary[1], "boundary")
    try:
        body: Any = json.loads(text) if text else None
    except ValueError:
        body = text
    return request.method, request.url.path, body


def _kept_headers(headers: httpx2.Headers) -> dict[str, str]:
    return {
        name.lower(): value
        for name, value in headers.items()
        if name.lower() in _KEPT_HEADERS or name.lower().startswith(_KEPT_PREFIXES)
    }


def _lines(value: Any) -> list[str]:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).splitlines()


def _without_credentials(url: str | None) -> str | None:
    if url is None:
        return None
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
