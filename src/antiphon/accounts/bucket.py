"""The leaky bucket as a pure value: time comes in as an argument, a new bucket comes out.

A bucket of capacity ``limit`` leaks ``limit / period_s`` units a second. A request is poured in when it fits.
This is OpenAI's limiter: from ``limit - remaining`` follows ``reset``, from ``used + requested - limit`` the wait.

Requests are poured in with an estimate and corrected later. A correction may only take out what has not leaked
away yet: else a late refund would take out what *another* request poured in, and more than the limit would pass.
So a bucket counts all that ever left it (``outflow``) and a reservation remembers the ``mark`` that outflow reaches when
the last of its own units has leaked (first in, first out).
"""

import msgspec


class Bucket(msgspec.Struct, frozen=True, gc=False):
    """``used`` units are in it at time ``at`` (seconds, any clock that does not jump); ``outflow`` units have left it."""

    used: float = 0.0
    outflow: float = 0.0
    at: float = 0.0

    @property
    def mark(self) -> float:
        """The outflow at which all that is in the bucket now has left it."""
        return self.outflow + self.used

    def drained(self, now: float, limit: int, period_s: float) -> "Bucket":
        """Leak until ``now``. A clock that went back leaks nothing."""
        elapsed_s = now - self.at
        if elapsed_s <= 0:
            return self
        leaked = min(self.used, elapsed_s * limit / period_s)
        return Bucket(self.used - leaked, self.outflow + leaked, now)

    def has_room(self, n: int, limit: int) -> bool:
        """Whether ``n`` more fit. The tolerance is that of float arithmetic, a millionth of a unit."""
        return self.used + n <= limit + 1e-6

    def poured(self, n: float) -> "Bucket":
        """Add ``n`` units, also beyond the limit: work that was done is counted."""
        return Bucket(self.used + n, self.outflow, self.at)

    def settled(self, *, reserved: int, actual: int, mark: float) -> "Bucket":
        """Correct a reservation of ``reserved`` units that left the bucket at ``mark`` to what was ``actual``ly used."""
        if actual >= reserved:
            return self.poured(actual - reserved)
        own = min(float(reserved), max(0.0, mark - self.outflow))
        refund = min(float(reserved - actual), own, self.used)
        return Bucket(self.used - refund, self.outflow + refund, self.at)
