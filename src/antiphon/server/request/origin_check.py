"""Refuses requests that foreign web pages make to a server on this machine.

A web page can make a browser send requests to ``localhost``: directly (a drive-by page, recognised by its ``Origin``) or
through a name that it rebinds to 127.0.0.1 (DNS rebinding, recognised by its ``Host``). Both are refused before anything else.
"""

from collections.abc import Iterable
from urllib.parse import urlsplit

from antiphon.protocol.errors import ApiError

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})


class OriginCheck:
    """Checks the Host and Origin headers of a request; immutable."""

    def __init__(self, *, host: str, allowed_hosts: Iterable[str] = (), cors_origins: Iterable[str] = ()) -> None:
        names = {name.lower() for name in allowed_hosts}
        self._any_host = "*" in names
        self._hosts = names | _LOOPBACK_NAMES | {host.lower()}
        # Bound to every interface, the server does not know the machine's names; there it requires keys, which protect it.
        self._any_host |= host in {"0.0.0.0", "::"} and not names  # noqa: S104 - compared, not bound
        self._origins = frozenset(origin.rstrip("/").lower() for origin in cors_origins)

    def check_host(self, host: str | None) -> None:
        """Refuse a Host header that does not name this server: 403."""
        if self._any_host or host is None:
            return
        name = host.lower()
        bare = name.rsplit(":", 1)[0] if not name.endswith("]") and ":" in name else name
        if bare not in self._hosts and name not in self._hosts:
            raise ApiError(
                403,
                f"This server does not answer to the host name {host!r}. To allow it, add the name to "
                "[server] allowed_hosts.",
                code="host_not_allowed",
            )

    def allows_origin(self, origin: str) -> bool:
        """Whether a page of ``origin`` may call: one of the configured origins, or a page of this machine."""
        origin = origin.rstrip("/").lower()
        if "*" in self._origins or origin in self._origins:
            return True
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        # Only pages that a server of this machine delivers: extensions and apps name themselves as they like.
        return parts.scheme in {"http", "https"} and (parts.hostname or "") in _LOOPBACK_NAMES

    def check_origin(self, origin: str | None, *, own_host: str | None = None) -> None:
        """Refuse a request that a foreign web page made: 403. Pages that the server itself delivers at ``own_host`` may call."""
        if own_host is not None and is_same_host(origin, own_host):
            return
        if origin is not None and not self.allows_origin(origin):
            raise ApiError(
                403,
                f"Pages of {origin!r} may not call this server. To allow them, add the origin to [server] cors_origins.",
                code="origin_not_allowed",
            )


def is_same_host(origin: str | None, host: str | None) -> bool:
    """Whether a page of ``origin`` was delivered by ``host``, the Host header of its request; ports count."""
    if origin is None or host is None:
        return False
    scheme, _, place = origin.lower().partition("://")
    default = {"http": ":80", "https": ":443"}.get(scheme)
    return default is not None and place.removesuffix(default) == host.lower().removesuffix(default)
