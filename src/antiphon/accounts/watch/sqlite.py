"""SQLite: ask the file itself, every time. No process ever acts on a stale key.

``PRAGMA data_version`` compares a counter in shared memory with the last one seen on this connection and takes a few
microseconds; only when anything was written (also the ledger) is the generation of the keys read.
"""

import sqlite3


class SqliteWatch:
    """Implements ``KeyWatch`` over a connection of its own, which reads and never writes."""

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._data_version = -1
        self._generation = -1

    def epoch(self) -> int:
        (data_version,) = self._connection.execute("PRAGMA data_version").fetchone()
        if data_version != self._data_version:
            (self._generation,) = self._connection.execute("SELECT generation FROM key_state").fetchone()
            self._data_version = data_version
        return self._generation

    async def aclose(self) -> None:
        self._connection.close()
