"""Rate limits: one contract, in memory or shared through Redis."""

from antiphon.accounts.limiter.base import BudgetHold, LimitDecision, Limiter, LimiterStatistics, Reservation
from antiphon.accounts.limiter.factory import make_limiter
from antiphon.accounts.limiter.memory import MemoryLimiter

__all__ = [
    "BudgetHold",
    "LimitDecision",
    "Limiter",
    "LimiterStatistics",
    "MemoryLimiter",
    "Reservation",
    "make_limiter",
]
