"""Errors of the operating system and of SQLite in one line, with what to do about them."""

import errno
import sqlite3

from antiphon.errors import AntiphonError
from antiphon.sqlite_file import sqlite_hint

_HINTS = {
    errno.EACCES: "run as the user who owns it, or set ANTIPHON_HOME to a folder of yours",
    errno.EPERM: "run as the user who owns it, or set ANTIPHON_HOME to a folder of yours",
    errno.EROFS: "name a place that can be written, or set ANTIPHON_HOME to a folder of yours",
    errno.ENOSPC: "free some space, then run the same command again",
    errno.EDQUOT: "free some space, then run the same command again",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EISDIR: "name a file, not a folder",
    errno.EEXIST: "name another place, or remove what is there",
    errno.ENXIO: "name an ordinary file",
    errno.ENODEV: "name an ordinary file",
    errno.EINVAL: "name an ordinary file",
    errno.ESPIPE: "name an ordinary file",
    errno.EIO: "check the disk",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "allow more open files: ulimit -n 4096",
    errno.ENOMEM: "free some memory, or choose a smaller model or context",
}


def explained(error: BaseException) -> AntiphonError | None:
    """Return the error as a person can act on it; None for an error that no table knows."""
    if isinstance(error, OSError) and error.errno in _HINTS:
        place = f"{error.filename}: " if error.filename is not None else ""
        return AntiphonError(f"{place}{error.strerror or error}", hint=_HINTS[error.errno])
    # SQLAlchemy's text adds the statement, its values and a link to what the database said.
    said = getattr(error, "orig", None) or error
    if isinstance(said, sqlite3.Error):
        return AntiphonError(f"SQLite: {said}", hint=sqlite_hint(said))
    return None
