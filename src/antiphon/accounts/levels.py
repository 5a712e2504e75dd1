"""What the limits of each key had left at its last request, for people to look at; deciding about requests is the limiter's."""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

import msgspec

from antiphon.accounts.reading import Reading

_MAX_KEPT = 10_000
"""Combinations of key and model; the one that was used longest ago goes first."""


class LimitLeft(msgspec.Struct, frozen=True):
    """What one bucket of a key has left for one model. ``scope`` is ``rpm``, ``tpm`` or ``rpd``; ``left`` in requests or tokens."""

    model: str
    scope: str
    limit: int
    left: int


class LimitLevels:
    """Keeps the last reading of each key and model, and lets it drain as the bucket itself does.

    It knows the requests of this process: where several share their limits, others may have used more since. What was reserved
    and not used counts as used until the next request.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: OrderedDict[tuple[str, str], tuple[float, Sequence[Reading]]] = OrderedDict()

    def note(self, account: str, model: str, readings: Sequence[Reading]) -> None:
        """Take what the limiter said after a request."""
        self._last[account, model] = self._clock(), readings
        self._last.move_to_end((account, model))
        if len(self._last) > _MAX_KEPT:
            self._last.popitem(last=False)

    def left(self, account: str) -> list[LimitLeft]:
        """Return what is left now, by model, for those with requests in this process."""
        now = self._clock()
        return [
            LimitLeft(model, reading.scope.label, reading.limit, _drained(reading, now - at).remaining)
            for (owner, model), (at, readings) in self._last.items()
            if owner == account
            for reading in readings
        ]


def _drained(reading: Reading, seconds: float) -> Reading:
    used = reading.used - seconds * reading.limit / reading.scope.period_s
    return msgspec.structs.replace(reading, used=max(0.0, used))
