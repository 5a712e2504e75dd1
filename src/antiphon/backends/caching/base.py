"""The contract of a store for answers."""

from typing import Protocol

import msgspec


class StoreStatistics(msgspec.Struct, frozen=True):
    """``bytes`` and ``entries`` are None where the store cannot count at once; ``errors_total``: reads and writes that failed."""

    entries: int | None
    bytes: int | None
    errors_total: int = 0


class Store(Protocol):
    """Stores values under 32-byte keys for a limited time.

    When a store fails, ``get`` finds nothing, ``put`` stores nothing, and the failure is counted; requests go on.
    """

    async def get(self, key: bytes) -> bytes | None: ...

    async def put(self, key: bytes, value: bytes) -> None:
        """Store a value, evicting older or less used ones when room is needed."""
        ...

    def statistics(self) -> StoreStatistics: ...

    async def aclose(self) -> None: ...
