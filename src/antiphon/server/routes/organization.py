"""``GET /v1/organization/usage/completions``, ``/usage/embeddings`` and ``/costs``, in OpenAI's shape.

They show what every key used, so they need a key made with ``--admin`` (none while no key exists). Groups and filters that
this server does not have - projects, users, service tiers - are refused, not ignored.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from antiphon.accounts import Kind
from antiphon.accounts.errors import not_an_admin
from antiphon.accounts.reports import Group, UsageQuery, UsageTotal
from antiphon.protocol import problems
from antiphon.protocol.errors import ApiError
from antiphon.server.request.access import Access
from antiphon.server.request.call import Call
from antiphon.server.request.query import given_twice, query_parameters

Report = Callable[[UsageQuery], Awaitable[list[UsageTotal]]]
ToResult = Callable[[UsageTotal], dict[str, Any]]


class _Width(NamedTuple):
    """A width of buckets in seconds, and how many buckets a page has by default and at most."""

    seconds: int
    default_limit: int
    max_limit: int


_WIDTHS = {"1m": _Width(60, 60, 1440), "1h": _Width(3600, 24, 168), "1d": _Width(86_400, 7, 31)}
_COST_WIDTHS = {"1d": _Width(86_400, 7, 180)}
_GROUPS: dict[str, Group] = {"api_key_id": "key", "model": "model"}
_COMPLETION_GROUPS: dict[str, Group] = {**_GROUPS, "batch": "batch"}
_COST_GROUPS: dict[str, Group] = {"api_key_id": "key", "line_item": "model"}
_ONLY_OPENAI = {"project_id", "user_id", "service_tier", "api_source"}
_COMMON = {"start_time", "end_time", "bucket_width", "limit", "page", "group_by", "api_key_ids"}
_LISTS = {"group_by", "api_key_ids", "models", "line_items"}


class _Question(NamedTuple):
    """A validated query: which buckets of time (Unix seconds), and the rows in them."""

    starts: range
    end: int
    has_more: bool
    query: UsageQuery


class OrganizationRoutes:
    """``report`` adds up usage rows; see ``Accounts.report``."""

    def __init__(self, access: Access, report: Report) -> None:
        self._access = access
        self._report = report

    async def usage_completions(self, call: Call) -> None:
        """Report tokens and requests of chat and completions, those of batches too."""
        await self._require_admin(call)
        question = _parse(call, _COMMON | {"models", "batch"}, _WIDTHS, _COMPLETION_GROUPS, ("chat", "completion"))
        await _respond(call, question, await self._report(question.query), _completions_result)

    async def usage_embeddings(self, call: Call) -> None:
        """Report tokens and requests of embeddings."""
        await self._require_admin(call)
        question = _parse(call, _COMMON | {"models"}, _WIDTHS, _GROUPS, ("embedding",))
        await _respond(call, question, await self._report(question.query), _embeddings_result)

    async def costs(self, call: Call) -> None:
        """Report dollars of requests whose model has a price; a model without one is left out, not shown as 0.

        ``saved_amount``, a field of ours, is what answers out of the response cache would have cost; absent where there were
        none.
        """
        await self._require_admin(call)
        question = _parse(call, _COMMON | {"line_items"}, _COST_WIDTHS, _COST_GROUPS, None)
        found = await self._report(question.query)
        await _respond(call, question, [total for total in found if total.usd is not None], _cost_result)

    async def _require_admin(self, call: Call) -> None:
        principal = await self._access.authenticate(call)
        if not principal.is_admin:
            raise not_an_admin()


def _parse(
    call: Call,
    known: set[str],
    widths: dict[str, _Width],
    groups: dict[str, Group],
    kinds: tuple[Kind, ...] | None,
) -> _Question:
    given = _parameters(call, known)
    width_name = _one(given, "bucket_width", "1d")
    if width_name not in widths:
        raise _invalid_value("bucket_width", width_name, widths)
    width = widths[width_name]
    limit = _integer(given, "limit", width.default_limit)
    if not 1 <= limit <= width.max_limit:
        is_above = limit > width.max_limit
        bound = width.max_limit if is_above else 1
        raise problems.out_of_range("limit", "integer", bound, limit, above=is_above)
    start = _integer(given, "start_time", None)
    # Until now: the future has no usage.
    end = _integer(given, "end_time", max(int(time.time()) + 1, start))
    if "end_time" in given and end <= start:
        raise ApiError(
            400,
            f"Invalid 'end_time': {end} is not after 'start_time' {start}.",
            param="end_time",
            code="invalid_value",
        )
    first = min(start - start % width.seconds, end) if start < end else end
    if "page" in given:
        first = _page(given["page"][0], first, width.seconds)
    last = min(end, first + limit * width.seconds)
    by = _grouping(given.get("group_by", []), groups)
    models = given.get("models") or given.get("line_items")
    query = UsageQuery(
        start_ms=max(start, first) * 1000,
        end_ms=last * 1000,
        by=("time", *by),
        bucket_ms=width.seconds * 1000,
        kinds=kinds,
        key_ids=tuple(given["api_key_ids"]) if "api_key_ids" in given else None,
        models=tuple(models) if models else None,
        is_batch=_boolean(given, "batch"),
    )
    return _Question(range(first, last, width.seconds), end, first + limit * width.seconds < end, query)


def _parameters(call: Call, known: set[str]) -> dict[str, list[str]]:
    given: dict[str, list[str]] = {}
    for name, value in query_parameters(call):
        # The official client writes lists as name[]=a&name[]=b; people also write name=a,b.
        plain = name.removesuffix("[]")
        if plain.removesuffix("s") in _ONLY_OPENAI:
            raise ApiError(400, f"This server does not support '{plain}'.", param=plain, code="unsupported_parameter")
        if plain in _LISTS & known:
            given.setdefault(plain, []).extend(value.split(","))
        elif name not in known:
            raise problems.unknown(name, ())
        elif name in given:
            raise given_twice(name)
        else:
            given[name] = [value]
    return given


def _one(given: dict[str, list[str]], name: str, default: str) -> str:
    return given[name][0] if name in given else default


def _integer(given: dict[str, list[str]], name: str, default: int | None) -> int:
    if name not in given:
        if default is None:
            raise ApiError(400, f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")
        return default
    text = given[name][0]
    if not text.isascii() or not text.isdigit() or len(text) > 11:  # noqa: PLR2004 - seconds until the year 5138
        raise ApiError(
            400,
            f"Invalid type for '{name}': expected an integer, but got {text!r} instead.",
            param=name,
            code="invalid_type",
        )
    return int(text)


def _boolean(given: dict[str, list[str]], name: str) -> bool | None:
    if name not in given:
        return None
    text = given[name][0]
    if text not in {"true", "false"}:
        raise _invalid_value(name, text, ("true", "false"))
    return text == "true"


def _page(cursor: str, first: int, width_s: int) -> int:
    start = cursor.removeprefix("page_")
    if not start.isdigit() or len(start) > 11 or int(start) % width_s or int(start) < first:  # noqa: PLR2004 - as above
        raise ApiError(
            400, f"Invalid 'page': {cursor!r} is not a page of this query.", param="page", code="invalid_value"
        )
    return int(start)


def _grouping(names: list[str], groups: dict[str, Group]) -> list[Group]:
    for name in names:
        if name in _ONLY_OPENAI:
            raise ApiError(
                400,
                f"This server does not support grouping by '{name}'.",
                param="group_by",
                code="unsupported_value",
            )
        if name not in groups:
            raise _invalid_value("group_by", name, groups)
    return [groups[name] for name in dict.fromkeys(names)]


def _invalid_value(param: str, value: str, supported: Any) -> ApiError:
    values = ", ".join(f"'{name}'" for name in supported)
    return ApiError(
        400, f"Invalid value: '{value}'. Supported values are: {values}.", param=param, code="invalid_value"
    )


async def _respond(call: Call, question: _Question, found: list[UsageTotal], result: ToResult) -> None:
    results: dict[int, list[Any]] = {}
    for total in found:
        assert total.bucket_ms is not None
        results.setdefault(total.bucket_ms // 1000, []).append(result(total))
    step = question.starts.step
    buckets = [
        {
            "object": "bucket",
            "start_time": max(start, question.query.start_ms // 1000),
            "end_time": min(start + step, question.end),
            "results": results.get(start, []),
        }
        for start in question.starts
    ]
    next_page = f"page_{question.starts[-1] + step}" if question.has_more else None
    page = {"object": "page", "data": buckets, "has_more": question.has_more, "next_page": next_page}
    await call.respond_json(page)


def _completions_result(total: UsageTotal) -> dict[str, Any]:
    return {
        "object": "organization.usage.completions.result",
        "input_tokens": total.prompt_tokens,
        "output_tokens": total.completion_tokens,
        "input_cached_tokens": total.cached_tokens,
        "input_audio_tokens": 0,
        "output_audio_tokens": 0,
        "num_model_requests": total.num_requests,
        "project_id": None,
        "user_id": None,
        "api_key_id": total.key_id,
        "model": total.model,
        "batch": total.is_batch,
        "service_tier": None,
    }


def _embeddings_result(total: UsageTotal) -> dict[str, Any]:
    return {
        "object": "organization.usage.embeddings.result",
        "input_tokens": total.prompt_tokens,
        "num_model_requests": total.num_requests,
        "project_id": None,
        "user_id": None,
        "api_key_id": total.key_id,
        "model": total.model,
    }


def _cost_result(total: UsageTotal) -> dict[str, Any]:
    saved = {} if total.saved_usd is None else {"saved_amount": {"value": total.saved_usd, "currency": "usd"}}
    return {
        "object": "organization.costs.result",
        "amount": {"value": total.usd, "currency": "usd"},
        **saved,
        "line_item": total.model,
        "project_id": None,
        "user_id": None,
        "api_key_id": total.key_id,
    }
