"""Sends one request to the targets of its route until one of them sends its first token."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from antiphon.backends.routing.balance import Load, by_outstanding, by_prefix
from antiphon.backends.routing.retry_decision import RetryDecision, classify_error
from antiphon.backends.routing.settings import RetrySettings
from antiphon.backends.routing.table import Route, Target
from antiphon.backends.trace import TRACE, RouteAttempt
from antiphon.protocol.errors import ApiError, overloaded

T = TypeVar("T")
Start = Callable[[Target, str], Awaitable[T]]
"""Sends the request to a target, for the model of that name, and returns with its first token."""

_GIVEN_UP = 499
_LOOK_AGAIN_S = 0.5
"""The longest single wait: targets may be free sooner than they announced."""


class Clock(msgspec.Struct, frozen=True):
    """Time and chance, for tests to replace. ``now`` is monotonic, in seconds; ``chance`` is uniform in 0..1."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    chance: Callable[[], float] = random.random


class Attempts:
    """The attempts of one request: how many, until when, and which targets are excluded."""

    def __init__(self, settings: RetrySettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._deadline = clock.now() + settings.total_s
        self._num_made = 0
        self._out: set[int] = set()
        self._not_before: dict[int, float] = {}
        self.error: ApiError | None = None

    @property
    def is_spent(self) -> bool:
        return self._num_made >= self._settings.attempts

    def again(self) -> None:
        """Begin with another route, which has its own number of attempts within the same time."""
        self._num_made = 0

    def usable(self, target: Target) -> bool:
        return id(target) not in self._out

    def wait_s(self, target: Target, model: str) -> float:
        """Return the seconds until the target may be tried (again)."""
        own = self._not_before.get(id(target), 0.0) - self._clock.now()
        return max(own, target.state.wait_s(target.model or model), 0.0)

    def has_time(self, wait_s: float) -> bool:
        return self._clock.now() + wait_s < self._deadline

    def failed(self, target: Target, error: ApiError, decision: RetryDecision) -> None:
        """Record a failed attempt."""
        self._num_made += 1
        self.error = error
        if decision.again == "elsewhere":
            self._out.add(id(target))
        elif decision.pause_s is not None:
            # The whole pause that was announced: a request without the time for it gives up now.
            self._not_before[id(target)] = self._clock.now() + decision.pause_s
        else:
            backoff = min(self._settings.backoff_s * 2 ** (self._num_made - 1), self._settings.max_backoff_s)
            self._not_before[id(target)] = self._clock.now() + backoff * (1 - self._clock.chance() / 2)


class Dispatcher:
    """Chooses targets, tries them, waits and gives up. One per router."""

    def __init__(self, settings: RetrySettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock

    def attempts(self) -> Attempts:
        return Attempts(self._settings, self._clock)

    async def send(
        self, route: Route, model: str, key: bytes | None, attempts: Attempts, start: Start[T]
    ) -> tuple[T, Target]:
        """Return what ``start`` returned for the target that answered; the caller has to end its state.

        Raises the last error when attempts or time are used up; at once an error that every target would give.
        """
        while not attempts.is_spent:
            target, wait_s = self._choose(route, model, key, attempts)
            if target is None:
                if wait_s is None or not attempts.has_time(wait_s):
                    raise attempts.error or overloaded(wait_s or 1)
                # Checks again at intervals: a breaker may close or a pause may end sooner than announced.
                await self._clock.sleep(min(wait_s, _LOOK_AGAIN_S))
                continue
            try:
                return await self._try(target, target.model or model, start), target
            except ApiError as error:
                decision = classify_error(error)
                if decision.again == "nowhere" or not attempts.has_time(0):
                    raise
                attempts.failed(target, error, decision)
        raise attempts.error or overloaded(1)

    async def _try(self, target: Target, model: str, start: Start[T]) -> T:
        is_trial = target.state.begin()
        began = self._clock.now()
        try:
            result = await start(target, model)
        except BaseException as error:
            self._note(target, model, began, error)
            target.state.end()
            if isinstance(error, ApiError):
                target.state.failed(classify_error(error), is_trial=is_trial)
            else:
                target.state.abandoned(is_trial=is_trial)
            raise
        target.state.succeeded(is_trial=is_trial)
        self._note(target, model, began, None)
        return result

    def _note(self, target: Target, model: str, began: float, error: BaseException | None) -> None:
        """Put the try into the request's trace."""
        trace = TRACE.get()
        if trace is None:
            return
        status = 200 if error is None else error.status if isinstance(error, ApiError) else _GIVEN_UP
        code = (error.code or error.type) if isinstance(error, ApiError) else None
        now = self._clock.now()
        trace.attempted(RouteAttempt(target.state.name, model, began - trace.arrived, now - began, status, code))

    def _choose(
        self, route: Route, model: str, key: bytes | None, attempts: Attempts
    ) -> tuple[Target | None, float | None]:
        """Return the target to try now, or the seconds to wait for one; neither when all are excluded."""
        usable = [target for target in route.targets if attempts.usable(target)]
        if not usable:
            return None, None
        # If all are reported down, the reports may be out of date: try them.
        alive = [target for target in usable if not target.state.is_down] or usable
        waits = [attempts.wait_s(target, model) for target in alive]
        ready = [target for target, wait_s in zip(alive, waits, strict=True) if wait_s <= 0]
        if not ready:
            return None, min(waits)
        if len(ready) == 1:
            return ready[0], 0.0
        loads = [
            Load(f"{target.state.name}/{target.model or ''}", target.weight, target.state.outstanding)
            for target in ready
        ]
        route.turn += 1
        order = by_outstanding(loads, route.turn) if key is None else by_prefix(loads, key, route.turn)
        return ready[order[0]], 0.0
