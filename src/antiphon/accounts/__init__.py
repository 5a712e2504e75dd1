"""Keys, limits, usage, budgets, and the database behind them.

The server needs ``Accounts`` alone; the other names are what goes into it and comes out.
"""

from antiphon.accounts.accounts import Accounts, AccountStatistics
from antiphon.accounts.admission import Admission
from antiphon.accounts.billing import BatchBilling
from antiphon.accounts.errors import AccountError
from antiphon.accounts.outcome import CLIENT_CLOSED_REQUEST, Kind, Outcome, how_it_failed
from antiphon.accounts.principal import KeyBudget, Principal
from antiphon.accounts.settings import AccountSettings, Limits, ModelPrice, Tier

__all__ = [
    "CLIENT_CLOSED_REQUEST",
    "AccountError",
    "AccountSettings",
    "AccountStatistics",
    "Accounts",
    "Admission",
    "BatchBilling",
    "KeyBudget",
    "Kind",
    "Limits",
    "ModelPrice",
    "Outcome",
    "Principal",
    "Tier",
    "how_it_failed",
]
