"""The contract of a watch over the keys."""

from typing import Protocol

CHANNEL = "antiphon_keys"
"""What PostgreSQL's NOTIFY is sent on when a key changes."""


class KeyWatch(Protocol):
    """Asked before every request is let in, so it must answer in microseconds."""

    def epoch(self) -> int | None:
        """Return the generation of the keys, which every change raises; None while it is unknown.

        With None, keys that were read before may be stale: read them again, and refuse requests if that fails.
        """
        ...

    async def aclose(self) -> None:
        """Release the connection; idempotent."""
        ...
