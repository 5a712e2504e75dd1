"""SQLite: ask the file itself, every time. No process ever acts on a stale key.

``PRAGMA data_version`` compares a counter in shared memory with the last one seen on this connection and takes about ten
microseconds; only when anything was written (also the ledger) is the generation of the keys read.
"""

import sqlite3


class SqliteWatch:
    """Implements ``KeyWatch`` over a connection of its own, which reads and never writes."""

    def __init__(self, path: str) -> None:
        # Asked on the event loop, so it must not wait: while the file is locked, which is rare in WAL mode, the generation is unknown.
        self._connection = sqlite3.connect(path, isolation_level=None, timeout=0)
        self._data_version = -1
        self._generation = -1

    def epoch(self) -> int | None:
        try:
            (data_version,) = self._connection.execute("PRAGMA data_version").fetchone()
            if data_version != self._data_version:
                (self._generation,) = self._connection.execute("SELECT generation FROM key_state").fetchone()
                self._data_version = data_version
        except sqlite3.DatabaseError:
            # Locked, damaged or gone.
            return None
        return self._generation

    async def aclose(self) -> None:
        self._connection.close()
