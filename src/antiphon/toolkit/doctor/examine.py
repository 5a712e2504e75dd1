"""The checks in the order in which a request meets what they are about; later ones are skipped where they must fail."""

from __future__ import annotations

import os
from collections.abc import Mapping

import openai
from openai import AsyncOpenAI

from antiphon.toolkit._sync import portal
from antiphon.toolkit.clients import Connection, Endpoint
from antiphon.toolkit.doctor.findings import Diagnosis, Finding
from antiphon.toolkit.doctor.key import check_key
from antiphon.toolkit.doctor.network import check_connection, check_proxy, check_url
from antiphon.toolkit.doctor.server import check_limits, check_model, check_server, explain
from antiphon.toolkit.doctor.truncation import explain_answer

OPENAI_URL = "https://api.openai.com/v1"
TRIAL_TOKENS = 16


async def aexamine(
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    model: str | None = None,
    timeout_s: float = 10.0,
    environ: Mapping[str, str] = os.environ,
) -> Diagnosis:
    """Examine what the official client would use: arguments, else ``OPENAI_BASE_URL`` and ``OPENAI_API_KEY``.

    With ``model`` one short call is made (at most 16 tokens of answer), which also tells the rate limits. Never raises
    for what it is there to find.
    """
    url = base_url or environ.get("OPENAI_BASE_URL") or OPENAI_URL
    key = api_key or environ.get("OPENAI_API_KEY")
    findings = [check_key(key, _endpoint(url)), check_url(url, environ)]
    if findings[-1].status == "problem":
        return _ended(findings, "proxy", "connection", "server")
    findings += [check_proxy(url), *await check_connection(url, timeout_s)]
    if findings[-1].status == "problem":
        return _ended(findings, "server")
    if findings[0].status == "problem" and key is None:
        return _ended(findings, "server")
    async with AsyncOpenAI(base_url=url, api_key=(key or "").strip() or "none", max_retries=0) as client:
        return Diagnosis(tuple(findings + await _ask(Connection(client), model, timeout_s)))


def examine(
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    model: str | None = None,
    timeout_s: float = 10.0,
    environ: Mapping[str, str] = os.environ,
) -> Diagnosis:
    """Do what ``aexamine`` does, and wait for it."""
    return portal.call(aexamine(base_url=base_url, api_key=api_key, model=model, timeout_s=timeout_s, environ=environ))


async def _ask(connection: Connection, model: str | None, timeout_s: float) -> list[Finding]:
    findings, models = await check_server(connection, timeout_s)
    if findings[0].status == "problem" or model is None:
        return findings
    if models:
        findings.append(check_model(model, models))
    request = {
        "model": model,
        "messages": [{"role": "user", "content": "Say OK."}],
        "max_completion_tokens": TRIAL_TOKENS,
        "timeout": timeout_s,
    }
    try:
        answer = await connection.chat(request, max_retries=0)
    except openai.APIError as error:
        return [*findings, explain(error, connection)]
    return [*findings, check_limits(answer.headers, model), _trial(answer.value.to_dict(), answer.seconds)]


def _trial(answer: Mapping[str, object], seconds: float) -> Finding:
    found = explain_answer(answer, max_tokens=TRIAL_TOKENS)
    # The trial's own bound may cut it; that is nobody's fault.
    ending = "cut at the trial's own bound" if found.status == "problem" else found.message
    return Finding("call", "ok", f"a trial call took {seconds:.2f} s; its answer is {ending}")


def _ended(findings: list[Finding], *skipped: str) -> Diagnosis:
    rest = (Finding(check, "skipped", "not tried, since a check above failed") for check in skipped)
    return Diagnosis((*findings, *rest))


def _endpoint(url: str) -> Endpoint:
    return Endpoint(url.strip().rstrip("/"))
