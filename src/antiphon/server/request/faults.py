"""Fault injection: deliberate errors, delays and broken streams, to test how an application handles them.

Off unless ``[faults]`` turns it on, or lets requests ask for a fault with the header ``x-antiphon-fault``. The same settings and
the same order of requests give the same faults. A fault acts at two points: before the work (``apply``) and on the frames of the
stream (``frames``).
"""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterable
from typing import Any

import msgspec

from antiphon.backends.base import StreamCut
from antiphon.protocol.errors import ApiError

HEADER = "x-antiphon-fault"
_MALFORMED = b'data: {"id": "chatcmpl-broken", "object": "chat.completion.chunk", "choices": [{"ind\n\n'
_TOO_MANY_REQUESTS = 429
_SERVER_ERROR = 500
_LONGEST_WAIT_S = 86_400
_MAX_PLANS = 1000
"""Plans whose random sequence is kept; requests can send any number of plans."""


class FaultSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section ``[faults]``.

    ``status``: answer with this error, 400 to 599. ``retry_after_s``: the wait that the error announces. ``latency_s``: seconds
    to wait before the work. ``cut_after``: close the connection after so many chunks of a stream. ``malformed_at``: number of the
    chunk, counted from 1, that is sent as invalid JSON. ``share``: share of the requests that get the fault, 0 to 1. ``seed``:
    chooses which ones. ``allow_header``: requests may ask for faults.
    """

    status: int | None = None
    retry_after_s: float | None = None
    latency_s: float = 0.0
    cut_after: int | None = None
    malformed_at: int | None = None
    share: float = 1.0
    seed: int = 0
    allow_header: bool = False

    def __post_init__(self) -> None:
        if self.status is not None and not 400 <= self.status <= 599:  # noqa: PLR2004 - the statuses of errors
            raise ValueError(f"status must be from 400 to 599, not {self.status}")
        if self.retry_after_s is not None and (self.status is None or not 0 < self.retry_after_s <= _LONGEST_WAIT_S):
            raise ValueError(f"retry_after_s is positive, at most {_LONGEST_WAIT_S} (a day), and goes with a status")
        if not 0 <= self.latency_s <= 600:  # noqa: PLR2004 - the official client's own timeout
            raise ValueError(f"latency_s must be from 0 to 600, not {self.latency_s}")
        if not 0 <= self.share <= 1:
            raise ValueError(f"share must be from 0 to 1, not {self.share}")
        if (self.cut_after or 0) < 0 or (self.malformed_at is not None and self.malformed_at < 1):
            raise ValueError("cut_after must be at least 0, malformed_at at least 1")

    @property
    def is_on(self) -> bool:
        """Whether requests without the header can get a fault."""
        wanted = (self.status, self.cut_after, self.malformed_at)
        return self.share > 0 and (self.latency_s > 0 or any(value is not None for value in wanted))


class Fault:
    """The fault of one request."""

    def __init__(self, plan: FaultSettings) -> None:
        self._plan = plan

    async def apply(self) -> None:
        """Wait and fail as planned, before the work. Raises ``ApiError``."""
        if self._plan.latency_s:
            await asyncio.sleep(self._plan.latency_s)
        if self._plan.status is not None:
            raise _error(self._plan.status, self._plan.retry_after_s)

    async def frames(self, frames: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
        """Pass a stream's frames on, broken as planned. Raises ``StreamCut`` where the connection is to close."""
        number = 0
        async for frame in frames:
            if number == self._plan.cut_after:
                raise StreamCut
            number += 1
            yield _MALFORMED if number == self._plan.malformed_at else frame


class Faults:
    """Decides which requests get a fault, by the order in which they arrive."""

    def __init__(self, settings: FaultSettings | None = None) -> None:
        self._settings = settings or FaultSettings()
        # One random sequence per plan, so that requests with the header do not shift the sequence of the others.
        self._chances: dict[str, random.Random] = {}

    def draw(self, header: str | None) -> Fault | None:
        """Return the fault of the next request, None if it gets none. Raises ``ApiError`` 400 for an invalid header."""
        if header is None:
            return self._drawn("", self._settings) if self._settings.is_on else None
        if not self._settings.allow_header:
            raise _refused(f"The header {HEADER} is not allowed by this server; allow_header in [faults] allows it")
        return self._drawn(header, _parse(header, self._settings.seed))

    def _drawn(self, name: str, plan: FaultSettings) -> Fault | None:
        chances = self._chances.get(name)
        if chances is None:
            if len(self._chances) >= _MAX_PLANS:
                del self._chances[next(iter(self._chances))]
            chances = self._chances[name] = random.Random(f"{plan.seed}:{name}")  # noqa: S311 - repeatable on purpose
        return Fault(plan) if chances.random() < plan.share else None


def _parse(header: str, seed: int) -> FaultSettings:
    """Read ``status=503; share=0.5``; names are those of the settings."""
    given: dict[str, Any] = {"seed": seed}
    for part in header.split(";"):
        name, equals, value = part.partition("=")
        if not equals or name.strip() == "allow_header":
            raise _refused(f"{part.strip()!r} in {HEADER} is not a fault; write for example: status=503; share=0.5")
        given[name.strip()] = value.strip()
    try:
        return msgspec.convert(given, FaultSettings, strict=False)
    except (msgspec.ValidationError, ValueError) as error:
        raise _refused(f"The header {HEADER} cannot be read: {error}") from None


def _refused(message: str) -> ApiError:
    return ApiError(400, f"{message}.", param=HEADER, code="invalid_fault")


def _error(status: int, retry_after_s: float | None) -> ApiError:
    kind = "server_error" if status >= _SERVER_ERROR else "invalid_request_error"
    headers = {HEADER: "injected"}
    if retry_after_s is not None:
        headers["Retry-After"] = str(max(1, round(retry_after_s)))
        headers["retry-after-ms"] = str(round(retry_after_s * 1000))
    return ApiError(
        status,
        f"This error ({status}) was injected on purpose.",
        type="requests" if status == _TOO_MANY_REQUESTS else kind,
        code="rate_limit_exceeded" if status == _TOO_MANY_REQUESTS else "injected_fault",
        headers=headers,
    )
