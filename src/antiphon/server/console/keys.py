"""``/console/api/keys``: list, create, change, rotate and revoke keys. A key itself is in one answer, and kept nowhere."""

import time
from typing import Annotated, Any

import msgspec

from antiphon.accounts import AccountError, Accounts, KeyBudget, Limits, Principal
from antiphon.accounts.keys import KeyRecord
from antiphon.accounts.principal import BudgetPeriod
from antiphon.protocol.errors import ApiError
from antiphon.server.console.access import ConsoleAccess
from antiphon.server.console.bodies import read_body
from antiphon.server.request.body import RequestBodies
from antiphon.server.request.call import Call
from antiphon.server.request.query import refuse_query

_Limit = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
_Dollars = Annotated[float, msgspec.Meta(gt=0, le=1e9)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
_Model = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern="^[^,]+$")]
_Models = Annotated[tuple[_Model, ...], msgspec.Meta(min_length=1, max_length=50)]


class KeyLimitsForm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a key may do; None means no limit of its own, and any model."""

    rpm: _Limit | None = None
    tpm: _Limit | None = None
    rpd: _Limit | None = None
    concurrency: _Limit | None = None
    budget_usd: _Dollars | None = None
    budget_period: BudgetPeriod = "total"
    models: _Models | None = None

    def fields(self) -> dict[str, Any]:
        """Return the fields of a principal."""
        budget = None if self.budget_usd is None else KeyBudget(usd=self.budget_usd, period=self.budget_period)
        limits = Limits(rpm=self.rpm, tpm=self.tpm, rpd=self.rpd, concurrency=self.concurrency)
        return {"limits": limits, "budget": budget, "models": self.models}


class NewKeyForm(KeyLimitsForm, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key to create; ``expires_days`` from now."""

    name: _Name
    is_admin: bool = False
    expires_days: Annotated[float, msgspec.Meta(gt=0, le=36_500)] | None = None


class KeyRoutes:
    """The handlers; every one needs an admin."""

    def __init__(self, access: ConsoleAccess, accounts: Accounts, bodies: RequestBodies) -> None:
        self._access = access
        self._accounts = accounts
        self._bodies = bodies

    async def list_keys(self, call: Call) -> None:
        """List every key ever made, with its limits and what its budget has left."""
        await self._access.authenticate(call)
        refuse_query(call)
        records = await self._accounts.keys.all()
        await self._respond(call, {"data": [await self._view(record) for record in records]})

    async def create(self, call: Call) -> None:
        """Create a key. The first one is an admin's: with it the server begins to ask for keys, here too."""
        principal = await self._access.authenticate(call)
        form = await read_body(call, self._bodies, NewKeyForm)
        if not form.name.strip() or not form.name.isprintable():
            raise ApiError(
                400, "Invalid 'name': expected printable characters in one line.", param="name", code="invalid_value"
            )
        is_first = principal.key_id is None
        expires_at_ms = None if form.expires_days is None else int((time.time() + form.expires_days * 86_400) * 1000)
        wanted = Principal(
            name=form.name.strip(), is_admin=form.is_admin or is_first, expires_at_ms=expires_at_ms, **form.fields()
        )
        key, record = await _allowed(self._accounts.keys.create(wanted))
        if is_first:
            await self._access.sign_in(call, key)
        await self._respond(call, {"key": key, **await self._view(record)})

    async def change(self, call: Call) -> None:
        """Replace the limits, the budget and the models of a key."""
        await self._access.authenticate(call)
        form = await read_body(call, self._bodies, KeyLimitsForm)
        record = await _allowed(self._accounts.keys.change(call.path_param("key_id"), **form.fields()))
        await self._respond(call, await self._view(record))

    async def rotate(self, call: Call) -> None:
        """Replace the secret of a key. A browser that rotates the key of its own session stays signed in."""
        principal = await self._access.authenticate(call)
        refuse_query(call)
        key, record = await _allowed(self._accounts.keys.rotate(call.path_param("key_id")))
        if principal.key_id == record.principal.key_id and call.header(b"cookie") is not None:
            await self._access.sign_in(call, key)
        await self._respond(call, {"key": key, **await self._view(record)})

    async def revoke(self, call: Call) -> None:
        """Revoke a key: every server refuses it from its next request on."""
        await self._access.authenticate(call)
        refuse_query(call)
        key_id = call.path_param("key_id")
        await _allowed(self._accounts.keys.revoke(key_id))
        await self._respond(call, await self._view(await _allowed(self._accounts.keys.find(key_id))))

    async def _respond(self, call: Call, value: dict[str, Any]) -> None:
        call.extra["cache-control"] = "no-store"
        await call.respond_json(value)

    async def _view(self, record: KeyRecord) -> dict[str, Any]:
        principal = record.principal
        return {
            "id": principal.key_id,
            "name": principal.name,
            "hint": record.hint,
            "state": record.state(int(time.time() * 1000)),
            "is_admin": principal.is_admin,
            "created_at": record.created_at_ms / 1000,
            "expires_at": None if principal.expires_at_ms is None else principal.expires_at_ms / 1000,
            "limits": msgspec.structs.asdict(principal.limits),
            "server_limits": msgspec.structs.asdict(self._accounts.settings.limits),
            "budget_usd": None if principal.budget is None else principal.budget.usd,
            "budget_period": None if principal.budget is None else principal.budget.period,
            "spent_usd": await self._accounts.spent_usd(principal),
            "left": msgspec.to_builtins(self._accounts.limits_left(principal)),
            "models": principal.models,
        }


async def _allowed(change: Any) -> Any:
    """Do a change of keys; what the table refuses becomes ``ApiError`` 400."""
    try:
        return await change
    except AccountError as error:
        raise ApiError(400, f"{error.message}. {error.hint}".strip(), code="key_not_changed") from error
