"""Model names to routes: exact names, patterns, and what the backends serve by themselves."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal

from antiphon.backends.base import Backend, BackendModel, RelayingBackend
from antiphon.backends.routing.settings import NameSettings, RouteSettings
from antiphon.backends.routing.target_state import TargetState
from antiphon.errors import ConfigError
from antiphon.protocol.errors import model_not_found

Balance = Literal["least-outstanding", "prefix"]
_MAX_NAME = 256
"""The longest name that a pattern answers, in characters."""
MakeTargetState = Callable[[str, Backend], TargetState]


class Target:
    """One destination of requests. ``model`` is its name there, None: the requested name."""

    __slots__ = ("model", "state", "weight")

    def __init__(self, state: TargetState, model: str | None = None, weight: float = 1.0) -> None:
        self.state = state
        self.model = model
        self.weight = weight


class Route:
    """Where requests for a name go. ``relays``: every target can relay bytes.

    ``shown_as`` is the model that describes a name which no backend lists, None: the target's own.
    """

    def __init__(
        self,
        name: str,
        targets: Sequence[Target],
        balance: Balance = "least-outstanding",
        fallbacks: Sequence[str] = (),
        shown_as: str | None = None,
    ) -> None:
        self.name = name
        self.targets = targets
        self.balance: Balance = balance
        self.fallbacks = fallbacks
        self.turn = 0
        # These models answer whatever the requested name is: behind a pattern, clients can vary it for each request.
        self.is_alias = shown_as is not None or all(target.model is not None for target in targets)
        self.shown_as = shown_as
        self.relays = all(target.state.relaying is not None for target in targets)
        # A single backend in this process reports by itself that it is full: nothing to choose, nothing to retry.
        self.is_direct = len(targets) == 1 and not fallbacks and not self.relays

    def only(self, name: str) -> "Route":
        """Return the route to one backend alone: what it keeps cannot be continued elsewhere. ``ApiError`` 404 if it left the route."""
        targets = [target for target in self.targets if target.state.name == name]
        if not targets:
            raise model_not_found(self.name)
        return Route(self.name, targets)


class RouteTable:
    """Finds the route of a name.

    A route of the settings with that very name comes first, then patterns, those with more fixed characters before others,
    then the backends that serve the name, those in this process before others; the pattern ``*`` alone is for names that no other
    route or backend serves. Last come the patterns of ``names.defaults``. An alias of ``names`` is looked up before all: it has its target's route.
    """

    def __init__(
        self,
        routes: Sequence[RouteSettings],
        backends: Mapping[str, Backend],
        make_state: MakeTargetState,
        names: NameSettings | None = None,
    ) -> None:
        self._backends = backends
        self._make_state = make_state
        self._far = frozenset(name for name, backend in backends.items() if isinstance(backend, RelayingBackend))
        self._states: dict[tuple[str, str], TargetState] = {}
        self._exact: dict[str, Route] = {}
        self._patterns: list[tuple[re.Pattern[str], Route]] = []
        self._given: set[str] = set()
        self._rest: Route | None = None
        self._implicit: dict[str, tuple[tuple[str, ...], Route]] = {}
        for settings in sorted(routes, key=lambda route: -len(route.model.replace("*", ""))):
            self._add(settings)
        self._check_fallbacks(routes)
        names = names or NameSettings()
        self._aliases = dict(names.aliases)
        self._aliased: dict[str, tuple[Route, Route]] = {}
        self._defaults = [
            (
                default.pattern,
                Route(default.pattern, [Target(self._state("local", default.pattern))], shown_as=default.model),
            )
            for default in names.defaults
        ]
        self._check_aliases()

    def find(self, model: str) -> Route | None:
        """Return the route of the name, None if no backend serves it."""
        target = self._aliases.get(model)
        if target is None:
            return self._find(model)
        base = self._find(target)
        if base is None:
            return None
        known = self._aliased.get(model)
        if known is None or known[0] is not base:
            targets = [Target(each.state, each.model or target, each.weight) for each in base.targets]
            known = self._aliased[model] = (base, Route(model, targets, base.balance, base.fallbacks, base.shown_as))
        return known[1]

    def _find(self, model: str) -> Route | None:
        found = self._exact.get(model)
        if found is None and len(model) > _MAX_NAME:
            # Names that a pattern answers are remembered, with their limits and prices.
            return None
        if found is None:
            found = next((route for pattern, route in self._patterns if pattern.fullmatch(model)), None)
        return found or self._served(model) or self._rest or self._default(model)

    def _default(self, model: str) -> Route | None:
        return next((route for pattern, route in self._defaults if fnmatchcase(model, pattern)), None)

    def states(self) -> Iterator[tuple[str, TargetState]]:
        """Yield the state of every target with its model."""
        for (_, model), state in self._states.items():
            yield model, state

    def models(self) -> list[BackendModel]:
        """Return every name that can be requested and is not a pattern, described as its first target describes it."""
        found: dict[str, BackendModel] = {}
        for name in self._aliases:
            if (aliased := self.find(name)) is not None:
                found[name] = _described(name, aliased)
        for name, route in self._exact.items():
            found[name] = _described(name, route)
        for backend in self._backends.values():
            for model in backend.models:
                found.setdefault(model.id, model)
        return list(found.values())

    def describe(self, model: str) -> BackendModel | None:
        """Return the first target of the name's route, under that name; None if no backend serves it."""
        route = self.find(model)
        return None if route is None else _described(model, route)

    def _add(self, settings: RouteSettings) -> None:
        targets = [
            Target(self._state(target.backend, target.model or settings.model), target.model, target.weight)
            for target in settings.targets
        ]
        route = Route(settings.model, targets, settings.balance, settings.fallbacks)
        if settings.model in self._given:
            raise ConfigError(f"two routes have the model {settings.model!r}", hint="give one route both targets")
        self._given.add(settings.model)
        if settings.model == "*":
            self._rest = route
        elif "*" in settings.model:
            pattern = ".*".join(map(re.escape, settings.model.split("*")))
            self._patterns.append((re.compile(pattern, re.DOTALL), route))
        else:
            self._exact[settings.model] = route

    def _served(self, model: str) -> Route | None:
        serving = tuple(name for name, backend in self._backends.items() if backend.serves(model))
        # A request for a name that a local model serves does not leave this machine unless a route says so.
        serving = tuple(name for name in serving if name not in self._far) or serving
        if not serving:
            return None
        known = self._implicit.get(model)
        if known is None or known[0] != serving:
            route = Route(model, [Target(self._state(name, model)) for name in serving])
            self._implicit[model] = known = (serving, route)
        return known[1]

    def _state(self, name: str, model: str) -> TargetState:
        if name not in self._backends:
            known = ", ".join(sorted(self._backends)) or "none"
            raise ConfigError(f"a route names the backend {name!r}, which does not exist", hint=f"backends: {known}")
        if (name, model) not in self._states:
            self._states[name, model] = self._make_state(name, self._backends[name])
        return self._states[name, model]

    def _check_aliases(self) -> None:
        for alias, target in self._aliases.items():
            if alias in self._given:
                raise ConfigError(
                    f"the name {alias!r} is both an alias and the model of a route", hint="keep one of them"
                )
            if target in self._aliases:
                raise ConfigError(f"the alias {alias!r} is for another alias, {target!r}", hint="name a model")

    def _check_fallbacks(self, routes: Sequence[RouteSettings]) -> None:
        for route in routes:
            for name in route.fallbacks:
                if name == route.model:
                    raise ConfigError(f"the route {name!r} falls back to itself")


def _described(name: str, route: Route) -> BackendModel:
    target = route.targets[0]
    wanted = route.shown_as or target.model or name
    described = next((model for model in target.state.backend.models if model.id == wanted), None)
    kind = described.kind if described else "chat"
    created = described.created if described else 0
    length = described.context_length if described else None
    return BackendModel(name, created, target.state.name, kind, length)
