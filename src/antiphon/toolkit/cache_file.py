"""The SQLite file of a cache: what goes wrong with it is one error with the step to take.

Reading raises, since nothing has been paid yet. Writing warns: an answer that was paid for is worth more than its copy.
"""

from __future__ import annotations

import sqlite3
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from antiphon.sqlite_file import open_sqlite, sqlite_hint
from antiphon.toolkit.errors import CacheError


class CacheWriteWarning(UserWarning):
    """Something could not be written to a cache; the call itself succeeded."""


def open_cache(path: Path, script: str) -> sqlite3.Connection:
    """Open the file, made if it is missing. Raises CacheError if it cannot be opened or is not a database."""
    with reading(path):
        return open_sqlite(path, script)


@contextmanager
def reading(path: Path) -> Generator[None]:
    """Raise CacheError for what SQLite raises in the block."""
    try:
        yield
    except sqlite3.Error as error:
        raise CacheError(f"The cache {str(path)!r} cannot be used: {error}", hint=sqlite_hint(error)) from error


@contextmanager
def writing(path: Path) -> Generator[None]:
    """Warn of what SQLite raises in the block."""
    try:
        yield
    except sqlite3.Error as error:
        text = f"The cache {str(path)!r} could not be written: {error}. {sqlite_hint(error)}"
        warnings.warn(text, CacheWriteWarning, stacklevel=4)
