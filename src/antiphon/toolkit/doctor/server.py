"""The server: does it take the key, what does it serve, how fast may one go, is its clock ours?"""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping, Sequence

import openai

from antiphon.toolkit.clients import Connection, is_about_model
from antiphon.toolkit.doctor.findings import Finding, Status
from antiphon.toolkit.doctor.tiers import tier_of
from antiphon.toolkit.pacing.rate_limits import RateLimits

# Dates in headers are whole seconds, and an answer may take one.
MAX_SKEW_S = 5.0
_SHOWN_MODELS = 8


async def check_server(connection: Connection, timeout_s: float) -> tuple[list[Finding], list[str]]:
    """Ask for the list of models; return the findings and the models' names (empty when there is no list)."""
    client = connection.client.with_options(max_retries=0, timeout=timeout_s)
    try:
        if isinstance(client, openai.AsyncOpenAI):
            raw = await client.models.with_raw_response.list()
        else:
            raise TypeError("the doctor calls with an AsyncOpenAI")
        models = [model.id for model in raw.parse().data]
    except openai.APIError as error:
        return [explain(error, connection)], []
    headers = {key.lower(): value for key, value in raw.headers.items()}
    findings = [_version(headers), _models(models), *_skew(headers)]
    return findings, models


def check_model(model: str, models: Sequence[str]) -> Finding:
    """Tell whether ``model`` is among those that are served."""
    if model in models:
        return Finding("model", "ok", f"{model} is served")
    near = [name for name in models if model.split("-", maxsplit=1)[0] in name][:_SHOWN_MODELS]
    listed = ", ".join(near or models[:_SHOWN_MODELS])
    return Finding("model", "warning", f"{model!r} is not in the list of models", f"use one of: {listed}")


def check_limits(headers: Mapping[str, str], model: str) -> Finding:
    """Read the limits of an answer, and name OpenAI's usage tier that has them."""
    told = RateLimits.from_headers(headers)
    if told is None:
        return Finding("limits", "ok", "the server tells no rate limits")
    parts = [
        f"{allowance.limit} {noun} a minute, {allowance.remaining} left"
        for allowance, noun in ((told.requests, "requests"), (told.tokens, "tokens"))
        if allowance is not None
    ]
    tier = tier_of(told, model)
    return Finding("limits", "ok", "; ".join(parts) + (f" (usage tier {tier})" if tier else ""))


def explain(error: openai.APIError, connection: Connection) -> Finding:
    """Say what an error of the client means, and what fixes it."""
    where = connection.endpoint.base_url
    if error.code == "insufficient_quota":
        message, fix = (
            "The account has no credit left",
            "add credit on the billing page, or raise the budget of the key",
        )
        return Finding("server", "problem", message, fix)
    if is_about_model(error):
        told = error.__cause__ or error.message
        message, fix = (
            f"The model cannot be asked at {where}: {told}",
            f"antiphon doctor --base-url {where}   # lists them",
        )
        return Finding("server", "problem", message, fix)
    for kind, status, message, fix in _MEANINGS:
        if isinstance(error, kind):
            named = {"told": error.__cause__ or error.message, "where": where, "v1": where.removesuffix("/v1") + "/v1"}
            return Finding("server", status, message.format(**named), fix.format(**named))
    return Finding("server", "problem", f"The server failed: {error.message}", "look at the log of the server")


# The first that fits: a timeout is a connection error too.
_MEANINGS: tuple[tuple[type[openai.APIError], Status, str, str], ...] = (
    (
        openai.AuthenticationError,
        "problem",
        "The server refuses the key: {told}",
        "export OPENAI_API_KEY=...   # a key of this server",
    ),
    (
        openai.PermissionDeniedError,
        "problem",
        "The key may not do this: {told}",
        "name another model, or check the key's project and permissions, or OPENAI_PROJECT_ID",
    ),
    (
        openai.NotFoundError,
        "problem",
        "{where} knows no such route: {told}",
        "export OPENAI_BASE_URL={v1}",
    ),
    (
        openai.BadRequestError,
        "problem",
        "The server refuses the request: {told}",
        "fix what it names",
    ),
    (
        openai.RateLimitError,
        "warning",
        "A rate limit is reached: {told}",
        "wait, or pace your calls: antiphon bulk",
    ),
    (
        openai.APITimeoutError,
        "problem",
        "The server did not answer in time",
        "antiphon doctor --base-url {where} --timeout 60   # a model that is being loaded takes a while",
    ),
    (
        openai.APIConnectionError,
        "problem",
        "The connection failed: {told}",
        "antiphon doctor --base-url {where}   # its checks of proxy, DNS and TLS say where it fails",
    ),
)


def _version(headers: Mapping[str, str]) -> Finding:
    told = [f"{name} {headers[name]}" for name in ("server", "openai-version", "x-request-id") if name in headers]
    return Finding("server", "ok", "answers (" + (", ".join(told) or "and tells nothing of itself") + ")")


def _models(models: Sequence[str]) -> Finding:
    if not models:
        return Finding(
            "models",
            "warning",
            "the server lists no model",
            "antiphon serve   # on this machine, with the models that come with it",
        )
    more = f" and {len(models) - _SHOWN_MODELS} more" if len(models) > _SHOWN_MODELS else ""
    return Finding("models", "ok", f"{len(models)}: {', '.join(models[:_SHOWN_MODELS])}{more}")


def _skew(headers: Mapping[str, str]) -> list[Finding]:
    told = email.utils.parsedate_tz(headers.get("date", ""))
    if told is None:
        return []
    skew_s = time.time() - email.utils.mktime_tz(told)
    if abs(skew_s) <= MAX_SKEW_S:
        return [Finding("clock", "ok", "agrees with the server's")]
    way = "ahead of" if skew_s > 0 else "behind"
    message = f"This machine's clock is {abs(skew_s):.0f} s {way} the server's; TLS and waits given as dates go wrong"
    return [Finding("clock", "warning", message, "timedatectl set-ntp true")]
