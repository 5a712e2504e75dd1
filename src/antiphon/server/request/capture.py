"""The last requests with their contents, in memory, for the console; off unless ``[console] capture`` is set.

Keys are never kept: no header that could carry one is, and what looks like a key in a body is replaced.
"""

import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from antiphon.backends.trace import RequestContents, RequestTrace
from antiphon.server.request.call import Call

CAPTURED_PATHS = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/console/api/chat/completions",
        "/console/api/completions",
        "/console/api/embeddings",
        "/console/api/responses",
    }
)
_KEPT_HEADERS = (
    b"user-agent",
    b"content-type",
    b"x-antiphon-cache",
    b"x-stainless-lang",
    b"x-stainless-package-version",
)
_PARTS = 8
"""One part of a request may have this share of the memory for all."""
_MOST_BYTES = 1024 * 1024
"""What one part of a request may have at most: larger ones would take long to search for keys."""
_MAX_ENTRIES = 1000


class CapturedRequest(msgspec.Struct, frozen=True):
    """One request with its contents. ``at`` is on the clock of the ring, ``headers`` are those that cannot carry a key."""

    request_id: str
    path: str
    at: float
    headers: dict[str, str]
    trace: RequestTrace
    contents: RequestContents


class CaptureRing:
    """Holds at most ``max_bytes`` of contents, none longer than ``max_age_s`` seconds; the oldest go first."""

    def __init__(self, max_bytes: int, max_age_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.max_bytes = max_bytes
        self.max_age_s = max_age_s
        self._clock = clock
        self._entries: OrderedDict[str, CapturedRequest] = OrderedDict()

    def begin(self, call: Call) -> None:
        """Keep the contents of a request from here on, if it has the room that every request may have."""
        call.trace.contents = RequestContents(min(self.max_bytes // _PARTS, _MOST_BYTES))
        headers = {name.decode(): value for name in _KEPT_HEADERS if (value := call.header(name)) is not None}
        self._entries[call.request_id] = CapturedRequest(
            call.request_id, call.scope["path"], self._clock(), headers, call.trace, call.trace.contents
        )
        self.trim()

    def find(self, request_id: str) -> CapturedRequest | None:
        """Return a request that is still held."""
        self.trim()
        return self._entries.get(request_id)

    def trim(self) -> None:
        """Drop what is too old, and the oldest while all together are too large."""
        oldest_at = self._clock() - self.max_age_s
        num_bytes = sum(entry.contents.num_bytes for entry in self._entries.values())
        while self._entries:
            entry = next(iter(self._entries.values()))
            if entry.at >= oldest_at and num_bytes <= self.max_bytes and len(self._entries) <= _MAX_ENTRIES:
                return
            num_bytes -= entry.contents.num_bytes
            del self._entries[entry.request_id]

    @property
    def num_bytes(self) -> int:
        """The memory that the contents take, an estimate."""
        self.trim()
        return sum(entry.contents.num_bytes for entry in self._entries.values())

    def __len__(self) -> int:
        self.trim()
        return len(self._entries)
