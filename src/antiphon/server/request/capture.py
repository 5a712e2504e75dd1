"""The last requests with their contents, in memory, for the console; off unless ``[console] capture`` is set.

Keys are never kept: no header that could carry one is, and what looks like a key in a body is replaced.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from antiphon.backends.trace import CapturedBytes, RequestContents, RequestTrace
from antiphon.server.request.call import Call

CAPTURED_PATHS = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/rerank",
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
_LEAST_WAIT_S = 0.05


class CapturedRequest(msgspec.Struct, frozen=True):
    """One request with its contents. ``at`` is on the clock of the ring, ``headers`` are those that cannot carry a key."""

    request_id: str
    path: str
    at: float
    headers: dict[str, str]
    trace: RequestTrace
    contents: RequestContents


class CaptureRing:
    """Holds at most ``max_bytes`` of contents, none longer than ``max_age_s`` seconds; the oldest go first.

    Belongs to one event loop, whose timer drops what is too old.
    """

    def __init__(self, max_bytes: int, max_age_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.max_bytes = max_bytes
        self.max_age_s = max_age_s
        self._clock = clock
        self._entries: OrderedDict[str, CapturedRequest] = OrderedDict()
        self._total = CapturedBytes()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, call: Call) -> None:
        """Keep the contents of a request from here on, if it has the room that every request may have."""
        call.trace.contents = RequestContents(min(self.max_bytes // _PARTS, _MOST_BYTES), self._total)
        headers = {name.decode(): value for name in _KEPT_HEADERS if (value := call.header(name)) is not None}
        self._entries[call.request_id] = CapturedRequest(
            call.request_id, call.scope["path"], self._clock(), headers, call.trace, call.trace.contents
        )
        self.trim()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.max_age_s, self._expire)

    def _expire(self) -> None:
        """Drop what is too old also while no request comes."""
        self._timer = None
        self.trim()
        if self._entries:
            age_s = self._clock() - next(iter(self._entries.values())).at
            wait_s = max(_LEAST_WAIT_S, self.max_age_s - age_s)
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._expire)

    def close(self) -> None:
        """Drop everything."""
        if self._timer is not None:
            self._timer.cancel()
        self._entries.clear()

    def find(self, request_id: str) -> CapturedRequest | None:
        """Return a request that is still held."""
        self.trim()
        return self._entries.get(request_id)

    def trim(self) -> None:
        """Drop what is too old, and the oldest while all together are too large."""
        oldest_at = self._clock() - self.max_age_s
        while self._entries:
            entry = next(iter(self._entries.values()))
            if entry.at >= oldest_at and self._total.count <= self.max_bytes and len(self._entries) <= _MAX_ENTRIES:
                return
            entry.contents.drop()
            del self._entries[entry.request_id]

    @property
    def num_bytes(self) -> int:
        """The memory that the contents take, an estimate."""
        self.trim()
        return self._total.count

    def __len__(self) -> int:
        self.trim()
        return len(self._entries)
