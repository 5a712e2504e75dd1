"""Which backend answers for which model name, with which retries: ``[[gateway.routes]]``, ``retry`` and ``breaker``."""

import math
from typing import Literal

import msgspec


class RetrySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the router retries, which it does only before the first token.

    ``attempts`` requests in all to the backends of a route, within ``total_s`` seconds, waiting included. Between attempts
    at the same backend it waits as ``Retry-After`` says, else ``backoff_s`` doubled each time up to ``max_backoff_s``, less up
    to half of it at random; another backend is tried at once.
    """

    attempts: int = 3
    total_s: float = 20.0
    backoff_s: float = 0.25
    max_backoff_s: float = 4.0

    def __post_init__(self) -> None:
        times = (self.total_s, self.backoff_s, self.max_backoff_s)
        if self.attempts < 1 or not all(0 <= seconds < math.inf for seconds in times):
            raise ValueError("retry: attempts must be at least 1 and times not negative")


class BreakerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When the circuit breaker of a failing backend opens.

    After ``failures`` in a row no request is sent to it for ``cooldown_s``; then one request tries it, and if that fails too the
    time is doubled, up to ``max_cooldown_s``.
    """

    failures: int = 5
    cooldown_s: float = 2.0
    max_cooldown_s: float = 60.0

    def __post_init__(self) -> None:
        if self.failures < 1 or not 0 < self.cooldown_s <= self.max_cooldown_s < math.inf:
            raise ValueError("breaker: failures must be at least 1 and 0 < cooldown_s <= max_cooldown_s")


class TargetSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A backend of a route. ``model`` is its name there, None: the requested name. ``weight``: its share of the load."""

    backend: str
    model: str | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise ValueError(f"the weight of {self.backend!r} must be more than 0, not {self.weight}")


class RouteSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ``[[gateway.routes]]``.

    ``model`` is a name or a pattern with ``*``. ``balance``: ``least-outstanding`` picks the backend with the fewest requests
    in flight for its weight; ``prefix`` picks the one that saw the beginning of this conversation before, unless it has more
    than its share of the load. ``fallbacks`` are model names that are tried one after another when all targets fail.
    """

    model: str
    targets: tuple[TargetSettings, ...]
    balance: Literal["least-outstanding", "prefix"] = "least-outstanding"
    fallbacks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.targets:
            raise ValueError(f"the route {self.model!r} has no targets")


class DefaultName(msgspec.Struct, frozen=True):
    """A pattern of names that ``local`` answers where nothing else does, and the model that answers."""

    pattern: str
    model: str


class NameSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Names in addition to those of the routes. ``aliases`` maps a name to the name of any model that is served."""

    aliases: dict[str, str] = {}
    defaults: tuple[DefaultName, ...] = ()
