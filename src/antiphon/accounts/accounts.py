"""The entry point of accounts: authentication, admission, and usage."""

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Self, TypeVar

import msgspec
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from antiphon.accounts.admission import Admission
from antiphon.accounts.billing import BatchBilling
from antiphon.accounts.budgets import Budgets
from antiphon.accounts.database import database_errors, open_database
from antiphon.accounts.errors import (
    budget_reserved,
    rate_limited,
    request_too_large,
    says_when_to_retry,
    store_unreachable,
    too_many_at_once,
)
from antiphon.accounts.keyring import Keyring
from antiphon.accounts.keys import KeyStore
from antiphon.accounts.ledger import Ledger, LedgerStatistics, UnwrittenRowsError
from antiphon.accounts.levels import LimitLeft, LimitLevels
from antiphon.accounts.limiter import BudgetHold, LimitDecision, Limiter, LimiterStatistics, make_limiter
from antiphon.accounts.outcome import Kind, Outcome, how_it_failed
from antiphon.accounts.prices import PriceBook
from antiphon.accounts.principal import Principal
from antiphon.accounts.reading import Reading
from antiphon.accounts.reports import UsageQuery, UsageTotal, totals
from antiphon.accounts.request import Request
from antiphon.accounts.request_log import LoggedRequest, RequestQuery, find_request, list_requests
from antiphon.accounts.sessions import Sessions
from antiphon.accounts.settings import AccountSettings, Limits
from antiphon.accounts.tiers import tier_limits
from antiphon.accounts.usage import UsageRow, usage_row, within_bounds
from antiphon.accounts.watch import KeyWatch, open_watch
from antiphon.protocol.errors import model_not_found
from antiphon.protocol.events import Usage

T = TypeVar("T")
_MAX_REMEMBERED = 10_000
"""Combinations of key limits and model whose limits are kept worked out; a wildcard route can have any number of names."""


class AccountStatistics(msgspec.Struct, frozen=True):
    """``is_open``: no key exists, and any request is admitted."""

    is_open: bool
    limiter: LimiterStatistics
    ledger: LedgerStatistics


class Accounts:
    """Made by ``open``, ended by ``aclose``. Belongs to one event loop."""

    def __init__(
        self, settings: AccountSettings, engine: AsyncEngine, keyring: Keyring, watch: KeyWatch, limiter: Limiter
    ) -> None:
        self.settings = settings
        self.engine = engine
        self._keyring = keyring
        self.keys = keyring.store
        """Creates, changes and revokes keys; every server follows at once."""
        self.sessions = Sessions(keyring)
        self._watch = watch
        self._limiter = limiter
        self._ledger = Ledger(engine)
        self._budgets = Budgets(engine, self._ledger)
        self._prices = PriceBook(settings.prices, settings.price_provider)
        self._limits: dict[tuple[Limits, str, bool], Limits] = {}
        self._levels = LimitLevels()
        self.listeners: list[Callable[[UsageRow], None]] = []
        """Called with every row that is handed to the ledger; they return at once."""

    @classmethod
    async def open(cls, settings: AccountSettings, home: Path) -> Self:
        """Open the database, bring it to the newest revision and start the ledger.

        Raises ``ConfigError`` for a bad URL, ``AccountError`` for a database that cannot be reached, is too new, or whose
        keys were made with another secret.
        """
        engine = await open_database(settings.database_url, home)
        try:
            with database_errors(engine.url):
                store = await KeyStore.open(engine, settings.key_secret_file, home)
                watch = await open_watch(engine)
                keyring = Keyring(store, watch)
                await keyring.load()
        except BaseException:
            await engine.dispose()
            raise
        return cls(settings, engine, keyring, watch, make_limiter(settings))

    @property
    def is_open(self) -> bool:
        """Whether no key was ever created: the server then listens on loopback only."""
        return self._keyring.is_open

    async def has_keys(self) -> bool:
        """Return whether a key was ever created. Raises ``ApiError`` 503 while the keys cannot be read."""
        return await self._keyring.has_keys()

    async def authenticate(self, authorization: str | None) -> Principal:
        """Return the principal of this ``Authorization`` header; in open mode the same one for any header or none.

        Raises ``ApiError`` 401 for a missing, wrong, revoked or expired key; 503 while the keys cannot be read.
        """
        return await self._keyring.authenticate(authorization)

    async def principal_of(self, account: str) -> Principal:
        """Return who an account is, for work that goes on without a request. ``ApiError`` 401 for a key that has ended."""
        return await self._keyring.principal_of(account)

    def derive_key(self, purpose: str) -> bytes:
        """Return 32 bytes that follow from the server's secret; servers that share the secret get the same."""
        return self._keyring.derive(purpose)

    async def admit(
        self,
        principal: Principal,
        *,
        model: str,
        kind: Kind,
        estimated_tokens: int,
        request_id: str,
        counted_as: str | None = None,
        expected: Usage | None = None,
        path: str | None = None,
        billing: BatchBilling | None = None,
        yields: bool = False,
    ) -> Admission:
        """Let a request in, reserving ``estimated_tokens`` (prompt and longest possible answer together).

        ``model`` is the name asked for: limits are counted per key and that name, as OpenAI does, unless ``counted_as`` is
        another one. A key's budget is charged for ``expected`` until the real usage is known: tokens of the prompt and of the
        longest answer, 0 if the request does not limit it; None: ``estimated_tokens`` in the prompt. ``billing`` is that of a
        request of a batch, for which no rate limit holds: batches are paced by what the engine has left. ``yields`` is for
        work in the background, which leaves room to requests (``Limiter.reserve``).

        Raises ``ApiError``: 404 for a model that the key may not use, 429 ``insufficient_quota`` for a spent budget, 429
        ``rate_limit_exceeded``, 503 when the limits' store does not answer. A request that is refused, or whose client leaves
        meanwhile, has its usage row, too; work in the background that has to wait has none: it was not refused.
        """
        started_at, started = time.time(), time.perf_counter()
        request = Request(principal=principal, model=model, kind=kind)
        try:
            self._require_allowed(request)
            expected = expected or Usage(estimated_tokens)
            hold = await self._hold(request, expected)
            decision = (
                await self._reserve(request, counted_as or model, estimated_tokens, hold, yields=yields)
                if billing is None
                else await self._limiter.reserve(principal.account, f"batch {model}", Limits(), 0)
            )
        except BaseException as error:
            if not (yields and says_when_to_retry(error)):
                status, error_code = how_it_failed(error)
                outcome = Outcome(
                    request_id=request_id,
                    started_at=started_at,
                    duration_s=time.perf_counter() - started,
                    status=status,
                    error_code=error_code,
                    path=path,
                )
                self.record(request, outcome, billing=billing)
            raise
        return Admission(request, decision, self, expected=expected, hold=hold, billing=billing)

    def refuse(
        self,
        principal: Principal,
        *,
        model: str,
        kind: Kind,
        outcome: Outcome,
        billing: BatchBilling | None = None,
    ) -> None:
        """Write the usage row of a request rejected before admission (invalid body, unknown model).

        ``model`` is the requested name as far as it could be read.
        """
        self.record(Request(principal=principal, model=model, kind=kind), outcome, billing=billing)

    def _require_allowed(self, request: Request) -> None:
        principal = request.principal
        # A file is for no model; a key for certain models may keep files.
        if request.kind != "file" and principal.models is not None and not principal.may_use(request.model):
            raise model_not_found(request.model)

    async def _hold(self, request: Request, expected: Usage) -> BudgetHold | None:
        if request.kind == "file":
            return None  # it costs nothing
        left_usd = await self._budgets.left_usd(request.principal)
        if left_usd is None:
            return None
        usd = self._prices.estimated_usd(request.model, expected, request.kind)
        hold = await self._limiter.hold(request.principal.account, usd, left_usd)
        if hold is None:
            raise budget_reserved()
        return hold

    async def _reserve(
        self, request: Request, counted_as: str, n_tokens: int, hold: BudgetHold | None, *, yields: bool
    ) -> LimitDecision:
        try:
            return await self._within_limits(request, counted_as, n_tokens, yields=yields)
        except BaseException:
            if hold is not None:
                hold.release(0.0)
            raise

    async def _within_limits(self, request: Request, counted_as: str, n_tokens: int, *, yields: bool) -> LimitDecision:
        limits = self.limits_of(request.principal, counted_as, request.kind)
        organization = self.settings.organization
        if limits.tpm is not None and n_tokens > limits.tpm:
            # It counts as a request, as every failed one, and for no tokens.
            decision = await self._limiter.reserve(request.principal.account, counted_as, limits, 0)
            if decision.reservation is not None:
                decision.reservation.settle(0)
            raise request_too_large(request.model, organization, limits.tpm, n_tokens, decision.headers())
        decision = await self._limiter.reserve(request.principal.account, counted_as, limits, n_tokens, yields=yields)
        if decision.readings:
            self._levels.note(request.principal.account, counted_as, decision.readings)
        refused_by = decision.refused_by
        if refused_by is None:
            return decision
        if not isinstance(refused_by, Reading):
            assert limits.concurrency is not None
            raise too_many_at_once(request.model, organization, limits.concurrency, decision.headers())
        requested = n_tokens if refused_by.scope.kind == "tokens" else 1
        raise rate_limited(
            request.model,
            organization,
            refused_by,
            requested=requested,
            wait_s=decision.wait_s,
            headers=decision.headers(),
        )

    def limits_of(self, principal: Principal, model: str, kind: Kind) -> Limits:
        """Return what holds for this key and model: the key's own numbers, else the settings', else the tier's."""
        is_embedding = kind in {"embedding", "rerank"}
        name = principal.limits, model, is_embedding
        limits = self._limits.get(name)
        if limits is None:
            tier = self.settings.tier
            preset = Limits() if tier is None else tier_limits(tier, model, is_embedding=is_embedding)
            if len(self._limits) >= _MAX_REMEMBERED:
                self._limits.clear()
            limits = self._limits[name] = principal.limits.over(self.settings.limits.over(preset))
        return limits

    def record(
        self,
        request: Request,
        outcome: Outcome,
        hold: BudgetHold | None = None,
        billing: BatchBilling | None = None,
    ) -> None:
        """Price a request that is over, release its hold, and hand its row to the ledger or its batch; returns at once."""
        outcome = within_bounds(outcome)
        usd = self._prices.usd(outcome, request.model)
        if usd is not None and billing is not None:
            usd *= billing.price_factor
        if hold is not None:
            hold.release(usd or 0.0)
        if usd is not None and request.principal.key_id is not None:
            self._budgets.add(request.principal.key_id, usd)
        saved_usd = self._prices.saved_usd(outcome, request.model)
        row = usage_row(request, outcome, usd, saved_usd)
        if billing is None:
            self._ledger.append(row)
        else:
            billing.append(msgspec.structs.replace(row, is_batch=True))
        for listener in self.listeners:
            listener(row)

    async def flush(self) -> None:
        """Commit every waiting row now, so that a report right after a request includes it.

        Raises ``UnwrittenRowsError`` when the database cannot take rows.
        """
        await self._ledger.flush()

    async def report(self, query: UsageQuery) -> list[UsageTotal]:
        """Add up usage rows; those that this process still holds are written first.

        Raises ``ApiError`` 503 when the database cannot be written or read.
        """
        return await self._from_ledger(lambda: totals(self.engine, query))

    async def _from_ledger(self, read: Callable[[], Awaitable[T]]) -> T:
        try:
            await self._ledger.flush()
            return await read()
        except (UnwrittenRowsError, SQLAlchemyError, OSError) as error:
            raise store_unreachable("usage database") from error

    async def requests(self, query: RequestQuery) -> list[LoggedRequest]:
        """List single requests, those that this process still holds included. Raises as ``report``."""
        return await self._from_ledger(lambda: list_requests(self.engine, query))

    async def request(self, request_id: str) -> LoggedRequest | None:
        """Return one request that is over; None if there is none. Raises as ``report``."""
        return await self._from_ledger(lambda: find_request(self.engine, request_id))

    def limits_left(self, principal: Principal) -> list[LimitLeft]:
        """Return what the limits of a key have left, by the models that it used lately; see ``LimitLevels``."""
        return self._levels.left(principal.account)

    def key_name(self, key_id: str | None) -> str | None:
        """Return the name of a key without waiting; None for a request without a key."""
        return self._keyring.name_of(key_id)

    async def spent_usd(self, principal: Principal) -> float | None:
        """Return what a key has spent in the current period of its budget; None without one. Raises as ``report``."""
        return await self._budgets.spent_usd(principal)

    def statistics(self) -> AccountStatistics:
        """Return counts without waiting."""
        return AccountStatistics(self.is_open, self._limiter.statistics(), self._ledger.statistics())

    async def aclose(self) -> None:
        """Write what the ledger still holds and release everything. Raises ``AccountError`` if rows could not be saved."""
        try:
            await self._ledger.aclose()
        finally:
            await self._limiter.aclose()
            await self._watch.aclose()
            await self.engine.dispose()
