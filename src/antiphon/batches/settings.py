"""The settings ``[batches]``."""

import msgspec

from antiphon.errors import ConfigError


class BatchSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``concurrency``: requests of all batches that one process has in flight. ``max_lines``: requests in one batch.

    ``price_factor``: what a request of a batch costs, as a part of its price. ``window_hours``: after how long a batch expires.
    ``lease_s``: after how many seconds without news of its process another takes a batch over.
    """

    concurrency: int = 32
    max_lines: int = 50_000
    price_factor: float = 0.5
    window_hours: float = 24.0
    lease_s: float = 15.0

    def __post_init__(self) -> None:
        if self.concurrency <= 0 or self.max_lines <= 0:
            raise ConfigError("[batches] concurrency and max_lines must be above 0")
        if not 0 <= self.price_factor <= 1:
            raise ConfigError(f"[batches] price_factor must be from 0 to 1, not {self.price_factor}")
        if self.window_hours <= 0:
            raise ConfigError("[batches] window_hours must be above 0")
        if self.lease_s <= 0:
            raise ConfigError("[batches] lease_s must be above 0")
