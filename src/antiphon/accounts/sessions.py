"""Sessions of the console: a token in place of an admin's key in a browser, without holding it.

A token names the key's id and when it ends, and is authenticated by HMAC-SHA256 over both and the key's digest, under a key
derived from the server's secret. Nothing is stored: every server that shares the secret accepts it, and it ends with the key,
when that is revoked, rotated or expires.
"""

import hashlib
import hmac
import time
from collections.abc import Callable

from antiphon.accounts.keyring import Keyring
from antiphon.accounts.keys import KeyRecord
from antiphon.accounts.principal import Principal

SESSION_S = 12 * 3600
"""How long a session lasts."""
_MAX_TOKEN = 200


class Sessions:
    """Issues and checks tokens. Belongs to one event loop."""

    def __init__(self, keyring: Keyring, clock: Callable[[], float] = time.time) -> None:
        self._keyring = keyring
        self._clock = clock
        self._secret = keyring.derive("console session")

    async def issue(self, principal: Principal) -> str:
        """Return a token for the holder of a key, who has just shown it."""
        ends = int(self._clock()) + SESSION_S
        record = await self._keyring.find(principal.key_id or "")
        assert record is not None
        return f"{record.principal.key_id}.{ends}.{self._mac(record, ends)}"

    async def principal(self, token: str) -> Principal | None:
        """Return whose session it is, None for a token that is forged, over, or of a key that no longer works.

        Raises ``ApiError`` 503 while the keys cannot be read.
        """
        key_id, _, rest = token[:_MAX_TOKEN].partition(".")
        ends, _, mac = rest.partition(".")
        if not (ends.isascii() and ends.isdigit()):
            return None
        record = await self._keyring.find(key_id)
        if record is None or not hmac.compare_digest(self._mac(record, int(ends)).encode(), mac.encode()):
            return None
        now = self._clock()
        is_active = now < int(ends) and record.state(int(now * 1000)) == "active"
        return record.principal if is_active else None

    def _mac(self, record: KeyRecord, ends: int) -> str:
        message = f"{record.principal.key_id}.{ends}.".encode() + record.digest
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()
