"""When may the next request be sent, so that no limit per minute is ever passed?

Pure values: every method takes the time, nothing sleeps. Two models of a budget must both agree.

* ``Window``, the promise: in any 60 seconds no more than the limit is sent, of requests and of tokens. A stream
  that keeps it is within the limit for servers that count by sliding window, by fixed window or by leaky bucket.
* ``LeakyTwin``, the server's view: OpenAI's limiter is a leaky bucket (``reset = (limit - remaining) * 60 / limit``,
  ``wait = (used + requested - limit) * 60 / limit``). The twin follows what the answers' headers prove, so it
  notices other users of the same key, and whether the server settles a reservation on the real usage.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from antiphon.toolkit.errors import RequestTooLargeError
from antiphon.toolkit.pacing.rate_limits import RateLimit, RateLimits

MINUTE_S = 60.0
# Requests may arrive closer together than they were sent. A window longer by one second keeps the promise on the
# server's clock too, and still uses 60/61 of the budget.
SLACK_S = 1.0
# Float arithmetic on seconds: what is due within a microsecond is due.
_TICK_S = 1e-6


@dataclass(slots=True)
class Entry:
    """An amount that was admitted at a time (seconds, monotonic); settling changes the amount."""

    at: float
    amount: float


class Window:
    """The exact log of the last minute."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._entries: deque[Entry] = deque()
        self._used = 0.0

    def used(self, now: float) -> float:
        """Return what was admitted and not yet forgotten."""
        while self._entries and self._entries[0].at + MINUTE_S + SLACK_S <= now + _TICK_S:
            self._used -= self._entries.popleft().amount
        return self._used

    def wait_s(self, amount: float, now: float) -> float:
        """Return the seconds until ``amount`` fits; 0.0 means now."""
        excess = self.used(now) + amount - self.limit
        if excess <= 0:
            return 0.0
        freed = 0.0
        for entry in self._entries:
            freed += entry.amount
            if freed >= excess:
                return entry.at + MINUTE_S + SLACK_S - now
        return MINUTE_S + SLACK_S

    def admit(self, amount: float, now: float) -> Entry:
        """Record ``amount`` as sent now."""
        entry = Entry(now, amount)
        self._entries.append(entry)
        self._used += amount
        return entry

    def settle(self, entry: Entry, actual: float, now: float) -> None:
        """Replace a reservation by what was really used."""
        if entry.at + MINUTE_S + SLACK_S > now + _TICK_S:
            self._used += actual - entry.amount
        entry.amount = actual


class LeakyTwin:
    """A copy of the server's bucket: fills by what is sent, leaks ``limit`` per minute."""

    def __init__(self, limit: int, level: float, now: float) -> None:
        self.limit = limit
        self._level = level
        self._at = now

    def level(self, now: float) -> float:
        """Return what is in the bucket."""
        self._level = max(0.0, self._level - (now - self._at) * self.limit / MINUTE_S)
        self._at = now
        return self._level

    def wait_s(self, amount: float, now: float) -> float:
        """Return the seconds until ``amount`` fits, arrivals closer together by ``SLACK_S`` included."""
        # A request as large as the limit fits only an empty bucket; less the slack it would fit never.
        capacity = max(self.limit * (1 - SLACK_S / MINUTE_S), amount)
        return max(0.0, (self.level(now) + amount - capacity) * MINUTE_S / self.limit)

    def charge(self, amount: float, now: float) -> None:
        """Fill by ``amount``."""
        self._level = self.level(now) + amount

    def bound(self, low: float, high: float, now: float) -> None:
        """Move the level into what an answer proves about the server's bucket."""
        self._level = max(low, min(self.level(now), high))


@dataclass(slots=True)
class Ticket:
    """One admitted request: its reservation, and when it was under way."""

    tokens: int
    sent_at: float
    requests_entry: Entry | None
    tokens_entry: Entry | None
    done_at: float | None = None


@dataclass(frozen=True, slots=True)
class PacerStatistics:
    """The limits in force (None: none known), what the last minute used of them, and how many are under way."""

    rpm: int | None
    tpm: int | None
    requests_last_minute: int
    tokens_last_minute: int
    in_flight: int
    held_until: float


class _Dimension:
    """Requests or tokens: the promise, and the server's view once an answer told it."""

    def __init__(self, limit: int | None) -> None:
        self.window: Window | None = None if limit is None else Window(limit)
        self.twin: LeakyTwin | None = None

    def wait_s(self, amount: float, now: float) -> float:
        models = [model for model in (self.window, self.twin) if model is not None]
        return max((model.wait_s(amount, now) for model in models), default=0.0)

    def admit(self, amount: float, now: float) -> Entry | None:
        if self.twin is not None:
            self.twin.charge(amount, now)
        return None if self.window is None else self.window.admit(amount, now)

    def learn(self, reported: RateLimit, sent_at: float, unseen: float, now: float) -> None:
        """Take over a limit and a level from an answer to what was sent at ``sent_at``.

        ``unseen`` is the sum of what else was under way meanwhile and may not be in the server's figure yet.
        """
        if self.window is None:
            self.window = Window(reported.limit)
        # The user's own limit stands when it is the lower one.
        self.window.limit = min(self.window.limit, reported.limit)
        high = reported.used + unseen
        if self.twin is None or self.twin.limit != reported.limit:
            self.twin = LeakyTwin(reported.limit, high, now)
        leaked = (now - sent_at) * reported.limit / MINUTE_S
        self.twin.bound(reported.used - leaked, high, now)


class Pacer:
    """Decides when a request may be sent under limits per minute; learns limits from the answers.

    Usage: ``wait_s`` until it says 0.0, then ``admit``, then ``settle`` when the answer is there. Until the first
    answer an unlimited pacer lets one request out (``is_probing``), since it does not know the limits yet.
    """

    def __init__(self, rpm: int | None = None, tpm: int | None = None) -> None:
        self._requests = _Dimension(rpm)
        self._tokens = _Dimension(tpm)
        self._tickets: list[Ticket] = []
        self._is_answered = rpm is not None and tpm is not None
        self._held_until = 0.0

    def wait_s(self, tokens: int, now: float) -> float | None:
        """Return the seconds until a request of ``tokens`` may go; 0.0: now; None: when another one is answered.

        Raises RequestTooLargeError when it is larger than the limit per minute and can therefore never go.
        """
        limit = self.tpm
        if limit is not None and tokens > limit:
            raise RequestTooLargeError(tokens, limit)
        if self.is_probing and self.in_flight:
            return None
        wait_s = max(self._held_until - now, self._requests.wait_s(1, now), self._tokens.wait_s(tokens, now))
        return wait_s if wait_s > _TICK_S else 0.0

    def admit(self, tokens: int, now: float) -> Ticket:
        """Reserve for a request that is sent now."""
        ticket = Ticket(tokens, now, self._requests.admit(1, now), self._tokens.admit(tokens, now))
        self._tickets.append(ticket)
        return ticket

    def settle(
        self, ticket: Ticket, now: float, *, used_tokens: int | None = None, reported: RateLimits | None = None
    ) -> None:
        """Replace a reservation by the usage (None: not known, the reservation stays) and learn from the headers."""
        ticket.done_at = now
        self._is_answered = True
        if used_tokens is not None and self._tokens.window is not None and ticket.tokens_entry is not None:
            self._tokens.window.settle(ticket.tokens_entry, used_tokens, now)
        others = [t for t in self._tickets if t is not ticket and (t.done_at is None or t.done_at > ticket.sent_at)]
        if reported is not None and reported.requests is not None:
            self._requests.learn(reported.requests, ticket.sent_at, len(others), now)
        if reported is not None and reported.tokens is not None:
            self._tokens.learn(reported.tokens, ticket.sent_at, sum(t.tokens for t in others), now)
        self._forget_settled()

    def hold(self, seconds: float, now: float) -> None:
        """Send nothing for a while: the server asked for it (``Retry-After``)."""
        self._held_until = max(self._held_until, now + seconds)

    @property
    def rpm(self) -> int | None:
        return None if self._requests.window is None else self._requests.window.limit

    @property
    def tpm(self) -> int | None:
        return None if self._tokens.window is None else self._tokens.window.limit

    @property
    def in_flight(self) -> int:
        return sum(ticket.done_at is None for ticket in self._tickets)

    @property
    def is_probing(self) -> bool:
        """Whether the limits are not known yet: nobody gave both, and no answer came."""
        return not self._is_answered

    def statistics(self, now: float) -> PacerStatistics:
        """Return an immutable picture of the budgets."""
        requests, tokens = self._requests.window, self._tokens.window
        return PacerStatistics(
            rpm=self.rpm,
            tpm=self.tpm,
            requests_last_minute=0 if requests is None else round(requests.used(now)),
            tokens_last_minute=0 if tokens is None else round(tokens.used(now)),
            in_flight=self.in_flight,
            held_until=self._held_until,
        )

    def _forget_settled(self) -> None:
        """Drop the tickets that were answered before everything still under way was sent: all headers count them."""
        oldest = min((t.sent_at for t in self._tickets if t.done_at is None), default=float("inf"))
        self._tickets = [t for t in self._tickets if t.done_at is None or t.done_at > oldest]
