"""Section ``[gateway]``: the backends of this server other than the models in this machine."""

import os
from collections.abc import Mapping

import msgspec

from antiphon.backends.routing.settings import BreakerSettings, RetrySettings, RouteSettings
from antiphon.backends.upstream import UpstreamBackend, UpstreamSettings


class SocketSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[gateway.websockets]``: connections that are forwarded to an upstream.

    ``max_open``: at once, per process; ``max_per_key``: of them, those of one key. ``limit_s``: how long one may last;
    ``idle_s``: how long neither side may send anything.
    """

    max_open: int = 256
    max_per_key: int = 64
    limit_s: float = 3600.0
    idle_s: float = 600.0

    def __post_init__(self) -> None:
        if min(self.max_open, self.max_per_key) < 0 or min(self.limit_s, self.idle_s) <= 0:
            raise ValueError("max_open, max_per_key, limit_s and idle_s in [gateway.websockets] must be positive")


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[[gateway.upstreams]]`` and ``[[gateway.routes]]``, with ``[gateway.retry]`` and ``[gateway.breaker]`` for all of them.

    ``script`` is the path of a script (TOML) whose models are served as the backend ``scripted``; None: no script.
    ``default_upstream`` is the upstream for paths that this server does not answer, where a request names neither a model nor an
    object of another upstream; None: such requests get a 404. ``max_forward_bytes`` bounds a body that is sent on as it comes.
    """

    upstreams: tuple[UpstreamSettings, ...] = ()
    routes: tuple[RouteSettings, ...] = ()
    retry: RetrySettings = RetrySettings()
    breaker: BreakerSettings = BreakerSettings()
    script: str | None = None
    default_upstream: str | None = None
    max_forward_bytes: int = 1 << 30
    websockets: SocketSettings = SocketSettings()

    def __post_init__(self) -> None:
        names = [upstream.name for upstream in self.upstreams]
        for name in names:
            if names.count(name) > 1 or name in {"local", "scripted"}:
                raise ValueError(f"the name {name!r} of an upstream is taken")
        if self.default_upstream is not None and self.default_upstream not in names:
            raise ValueError(f"default_upstream names {self.default_upstream!r}, which is not an upstream")
        if self.max_forward_bytes < 1:
            raise ValueError("max_forward_bytes must be positive")


def upstream_backends(settings: GatewaySettings, environ: Mapping[str, str] = os.environ) -> dict[str, UpstreamBackend]:
    """Make the upstreams' backends by name; ``ConfigError`` where a key cannot be found."""
    return {upstream.name: UpstreamBackend(upstream, environ=environ) for upstream in settings.upstreams}
