"""Who may use the console: anyone on this machine while no key exists, afterwards admins.

A browser proves it with a session cookie, a program with an admin's key in the ``Authorization`` header. Only pages of this very
server may call: a page of another port of this machine is another site to us, though not to a browser's ``SameSite``.
"""

from http.cookies import CookieError, SimpleCookie

from antiphon.accounts import Accounts, Principal
from antiphon.accounts.principal import OPEN
from antiphon.accounts.sessions import SESSION_S
from antiphon.backends.base import Backend
from antiphon.protocol.errors import ApiError
from antiphon.server.request.access import Access
from antiphon.server.request.call import Call
from antiphon.server.request.origin_check import is_same_host

_COOKIE = "antiphon_console"
_OWN_SITE = {"same-origin", "none"}
_READS = {"GET", "HEAD"}


def sign_in_required() -> ApiError:
    """401: keys exist, and the browser has no session."""
    return ApiError(
        401,
        "The console needs a session. Sign in with a key made with `antiphon keys create --admin`.",
        code="console_sign_in",
    )


class ConsoleAccess(Access):
    """Answers for the console's endpoints; otherwise as ``Access``, so that the playground passes the same checks."""

    def __init__(self, accounts: Accounts, backend: Backend) -> None:
        super().__init__(accounts, backend)
        self._accounts = accounts

    async def authenticate(self, call: Call) -> Principal:
        """Return the admin who sends the request. Raises ``ApiError``: 403 for a page of another site, 401, 503."""
        principal = await self.find(call)
        if principal is None:
            raise sign_in_required()
        call.note["key"] = principal.name
        return principal

    async def find(self, call: Call) -> Principal | None:
        """Return the admin who sends the request, None for nobody. Raises ``ApiError`` 403 for a page of another site."""
        require_own_page(call)
        if not await self._accounts.has_keys():
            return OPEN
        token = _cookie(call)
        if token is not None:
            return await self._accounts.sessions.principal(token)
        if call.header(b"authorization") is None:
            return None
        return _admin(await self._accounts.authenticate(call.header(b"authorization")))

    async def sign_in(self, call: Call, key: str) -> Principal:
        """Begin a session for an admin's key; its cookie goes out with the answer. Raises ``ApiError`` 401, 403."""
        require_own_page(call)
        principal = _admin(await self._accounts.authenticate(f"Bearer {key}"))
        if principal.key_id is not None:
            self._set_cookie(call, await self._accounts.sessions.issue(principal), SESSION_S)
        return principal

    def sign_out(self, call: Call) -> None:
        """End the browser's session."""
        require_own_page(call)
        self._set_cookie(call, "", 0)

    def _set_cookie(self, call: Call, value: str, max_age_s: int) -> None:
        secure = "; Secure" if call.scope.get("scheme") == "https" else ""
        call.extra["set-cookie"] = (
            f"{_COOKIE}={value}; Path=/console; Max-Age={max_age_s}; HttpOnly; SameSite=Strict{secure}"
        )


def require_own_page(call: Call) -> None:
    """Raise ``ApiError`` 403 for a request that a page of another origin made; a program sends none of these headers."""
    origin = call.header(b"origin")
    site = call.header(b"sec-fetch-site")
    is_own = is_same_host(origin, call.header(b"host")) if origin is not None else site is None or site in _OWN_SITE
    has_cookie = _cookie(call) is not None
    if origin is None and site is None and has_cookie and call.scope["method"] not in _READS:
        # Every browser names the origin of such a request; without it nothing shows that our page made it.
        is_own = False
    if not is_own:
        raise ApiError(403, "Only the console's own pages may call its endpoints.", code="origin_not_allowed")


def _admin(principal: Principal) -> Principal:
    if not principal.is_admin:
        raise ApiError(
            403,
            "The console needs a key made with `antiphon keys create --admin`; this one is not.",
            code="missing_scope",
        )
    return principal


def _cookie(call: Call) -> str | None:
    given = call.header(b"cookie")
    if given is None:
        return None
    try:
        found = SimpleCookie(given).get(_COOKIE)
    except CookieError:
        return None
    return None if found is None else found.value or None
