"""The principal of a request: a key as the server sees it, or the open mode in which no key exists."""

from fnmatch import fnmatchcase
from typing import Literal

import msgspec

from antiphon.accounts.settings import Limits

BudgetPeriod = Literal["day", "month", "total"]


class KeyBudget(msgspec.Struct, frozen=True, kw_only=True):
    """Dollars per calendar ``period`` in UTC; ``total`` never starts anew."""

    usd: float
    period: BudgetPeriod = "total"


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """``key_id`` is None in open mode: no key was ever created, and every request is allowed.

    ``limits`` are the key's own and go before the server's. ``models`` may end in ``*``; None is every model.
    ``expires_at_ms`` is in Unix milliseconds.
    """

    key_id: str | None = None
    name: str = ""
    limits: Limits = Limits()
    budget: KeyBudget | None = None
    models: tuple[str, ...] | None = None
    is_admin: bool = False
    expires_at_ms: int | None = None

    @property
    def account(self) -> str:
        """Under which name the limiter counts."""
        return self.key_id or "open"

    def may_use(self, model: str) -> bool:
        return self.models is None or any(fnmatchcase(model, pattern) for pattern in self.models)


OPEN = Principal(name="(no key)", is_admin=True)
