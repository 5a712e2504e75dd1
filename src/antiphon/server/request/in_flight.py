"""How many requests are in flight."""

from collections.abc import Generator
from contextlib import contextmanager

from prometheus_client import Gauge

from antiphon.protocol.errors import overloaded


class InFlight:
    """Counts requests that reached a model, and refuses those past ``limit``. ``gauge`` follows the count."""

    def __init__(self, limit: int, gauge: Gauge) -> None:
        self._limit = limit
        self._gauge = gauge
        self.count = 0

    @contextmanager
    def one(self) -> Generator[None]:
        """Count one request until the block ends; ``ApiError`` 503 at once past the limit."""
        if self.count >= self._limit:
            raise overloaded(retry_after_s=1)
        self.count += 1
        self._gauge.inc()
        try:
            yield
        finally:
            self.count -= 1
            self._gauge.dec()
