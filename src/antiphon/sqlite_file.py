"""Open a SQLite file that several processes write: write-ahead log, and no race between two that open it first."""

import os
import sqlite3
import time
from pathlib import Path

_RETRY_S = 0.01


def keep_private(path: Path) -> None:
    """Make the file, if it is not there, readable by its owner alone; SQLite gives its companion files the same mode.

    Raises ``OSError`` if it cannot be made.
    """
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT, 0o600))


def open_sqlite(
    path: Path, script: str, *, busy_timeout_s: float = 30.0, is_private: bool = False
) -> sqlite3.Connection:
    """Return an autocommitting connection in WAL mode, for use under the caller's own lock by any thread.

    The folder is made, and ``script`` is run: pragmas, and tables if they are missing. A write waits up to
    ``busy_timeout_s`` for other writers, and so does opening. ``is_private``: a new file is its owner's alone to read.

    Raises:
        sqlite3.OperationalError: the file is locked for longer, or it or its folder cannot be opened or made.
        sqlite3.DatabaseError: the file is not a database.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if is_private:
            keep_private(path)
    except OSError as error:
        raise sqlite3.OperationalError(f"unable to make {error.filename}: {error.strerror}") from error
    connection = sqlite3.connect(path, timeout=busy_timeout_s, check_same_thread=False, isolation_level=None)
    try:
        _write_ahead(connection, time.monotonic() + busy_timeout_s)
        connection.executescript(script)
    except BaseException:
        connection.close()
        raise
    return connection


def sqlite_hint(error: BaseException | None) -> str:
    """Return what to do about an error of SQLite."""
    # Wrappers keep the text and lose the code.
    said = str(error).lower()
    if "malformed" in said or "not a database" in said:
        return (
            "The file is damaged: restore a backup, or move it away (`sqlite3 FILE .recover` saves what can be read)."
        )
    if "full" in said:
        return "Free some space on its disk, then try again."
    if "readonly" in said or "read-only" in said or "unable to open" in said or "unable to make" in said:
        return "Check that the file and its folder can be written, or set ANTIPHON_HOME to a folder of yours."
    if "locked" in said:
        return "Another program holds it locked: wait, or end that program."
    return "Check that the path names a file on a disk that can be written."


def _write_ahead(connection: sqlite3.Connection, deadline: float) -> None:
    # SQLite does not call its busy handler when two connections switch a new file at once: one of them fails at once.
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_S)
        else:
            return
