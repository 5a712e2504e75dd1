"""Making keys and hashing them.

A key carries 256 random bits, so it cannot be found by trying, and a slow password hash would protect nothing; it would
cost every request a tenth of a second. A *keyed* hash (HMAC-SHA256 with a secret outside the database) adds that
who can read or write the database alone can neither check nor plant a key. See docs/decisions/0013.
"""

import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path

from antiphon.accounts.errors import AccountError

PREFIX = "sk-antiphon-"
_SECRET_BYTES = 32


class KeyHasher:
    """Hashes keys with the server's secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def digest(self, key: str) -> bytes:
        """Return 32 bytes; takes about a microsecond."""
        return hmac.digest(self._secret, key.encode(), hashlib.sha256)

    def check(self) -> bytes:
        """Return what the database keeps to notice a wrong secret; reveals nothing about it."""
        return hmac.digest(self._secret, b"antiphon: is this the secret of these keys?", hashlib.sha256)

    def derive(self, purpose: str) -> bytes:
        """Return a key of 32 bytes for another purpose; the secret cannot be found from it."""
        return hmac.digest(self._secret, b"antiphon: derived for " + purpose.encode(), hashlib.sha256)

    def __repr__(self) -> str:
        return "KeyHasher(secret=****)"


def new_key() -> str:
    """Return a key of 32 random bytes: ``sk-antiphon-`` and 43 URL-safe characters."""
    return PREFIX + secrets.token_urlsafe(_SECRET_BYTES)


def load_hasher(path: Path) -> KeyHasher:
    """Read the secret from ``path``; make it, readable by its owner alone, if it is not there.

    Safe when several processes start at once. Raises ``AccountError`` for a file that cannot be read or made, or that is
    not a secret.
    """
    path = path.expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _create(path)
        secret = path.read_bytes()
    except OSError as error:
        raise AccountError(
            f"The key secret {str(path)!r} cannot be read or made: {error.strerror or error}",
            hint="Check the path and its permissions, or set ANTIPHON_HOME to a folder of yours.",
        ) from error
    if len(secret) != _SECRET_BYTES:
        raise AccountError(
            f"{str(path)!r} is {len(secret)} bytes long; a key secret has {_SECRET_BYTES}",
            hint="Restore the file from a backup. Without it the keys in the database are of no use.",
        )
    return KeyHasher(secret)


def _create(path: Path) -> None:
    # Written under another name and linked into place: a reader sees all of it or nothing, and the first link wins.
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_SECRET_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
