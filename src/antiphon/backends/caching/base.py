"""Where answers are kept: the contract of a store."""

from typing import Protocol

import msgspec


class StoreStatistics(msgspec.Struct, frozen=True):
    """``bytes`` and ``entries`` are None where the store cannot tell at once; ``errors_total``: reads and writes that failed."""

    entries: int | None
    bytes: int | None
    errors_total: int = 0


class Store(Protocol):
    """Keeps values under 32-byte keys for a time.

    A store that fails loses what it keeps and nothing else: ``get`` then finds nothing, ``put`` stores nothing, and the
    failure is counted.
    """

    async def get(self, key: bytes) -> bytes | None: ...

    async def put(self, key: bytes, value: bytes) -> None:
        """Keep a value; what is older or used less goes when room is needed."""
        ...

    def statistics(self) -> StoreStatistics: ...

    async def aclose(self) -> None: ...
