"""A month of made-up use, so that the pictures in the docs look like a server that is used."""

import asyncio
import math
import random
import time
from pathlib import Path

from antiphon.accounts import AccountSettings, KeyBudget, Limits, Principal
from antiphon.accounts.database import open_database
from antiphon.accounts.keys import KeyStore
from antiphon.accounts.outcome import Kind
from antiphon.accounts.usage import UsageRow, new_row_id
from antiphon.accounts.usage_table import write_rows

_DAYS = 30
_REQUESTS_A_DAY = 160
_MODELS = (("smollm2-135m-instruct", 5, 0.01, 0.02), ("qwen3-4b", 3, 0.05, 0.2), ("gpt-4o-mini", 2, 0.15, 0.6))
_FAILURES = ((429, "rate_limit_exceeded"), (400, "context_length_exceeded"), (503, None), (499, "client_closed"))


def fill(home: Path) -> str:
    """Write keys and usage rows into the database of ``home``; return an admin's key."""
    return asyncio.run(_fill(home))


async def _fill(home: Path) -> str:
    engine = await open_database(AccountSettings().database_url, home)
    store = await KeyStore.open(engine, None, home)
    admin, _ = await store.create(Principal(name="console", is_admin=True))
    named = [
        Principal(name="web-app", limits=Limits(rpm=600, tpm=200_000), budget=KeyBudget(usd=20, period="month")),
        Principal(name="nightly-batch", limits=Limits(concurrency=8), budget=KeyBudget(usd=5, period="day")),
        Principal(name="notebook", models=("smollm2*", "qwen3*")),
    ]
    ids = [(await store.create(principal))[1].principal.key_id for principal in named]
    chance = random.Random(7)
    await write_rows(engine, _rows(chance, ids), is_retry=False)
    await engine.dispose()
    return admin


def _rows(chance: random.Random, key_ids: list[str | None]) -> list[UsageRow]:
    now_ms = int(time.time() * 1000)
    rows: list[UsageRow] = []
    for day in range(_DAYS):
        # Busier on some days, and growing over the month.
        wave = 0.6 + 0.4 * math.sin(day * 2 * math.pi / 7) ** 2
        for _ in range(int(_REQUESTS_A_DAY * wave * (1 - day / (2 * _DAYS)))):
            at_ms = now_ms - day * 86_400_000 - int(chance.random() ** 2 * 80_000_000) - 60_000
            rows.append(_row(chance, at_ms, chance.choices(key_ids, (5, 3, 2))[0]))
    return rows


def _row(chance: random.Random, at_ms: int, key_id: str | None) -> UsageRow:
    model, _, input_usd, output_usd = chance.choices(_MODELS, [weight for _, weight, _, _ in _MODELS])[0]
    kind: Kind = "embedding" if chance.random() < 0.12 else "chat"
    if kind == "embedding":
        model, input_usd, output_usd = "all-minilm-l6-v2", 0.002, 0.0
    status, error = (200, None) if chance.random() > 0.03 else chance.choice(_FAILURES)
    prompt = int(chance.lognormvariate(6, 0.8))
    completion = int(chance.lognormvariate(4.6, 0.7)) if kind == "chat" and status == 200 else 0
    cached = prompt // 16 * 16 * 3 // 4 if chance.random() < 0.5 and kind == "chat" else 0
    ttft = chance.lognormvariate(-1.6, 0.5) if completion else None
    path = "/v1/embeddings" if kind == "embedding" else chance.choice(("/v1/chat/completions", "/v1/responses"))
    return UsageRow(
        id=new_row_id(at_ms), at_ms=at_ms, request_id=f"req_{chance.getrandbits(128):032x}", key_id=key_id, kind=kind,
        model_asked=model, model_answered=model if status == 200 else None, status=status, error_code=error,
        prompt_tokens=prompt if status == 200 else 0, completion_tokens=completion, cached_tokens=cached if completion else 0,
        reasoning_tokens=0, cache=None, ttft_s=ttft, duration_s=(ttft or 0.02) + completion / 70, compute_s=None,
        usd=(prompt * input_usd + completion * output_usd) / 1e4 if status == 200 else None, saved_usd=None,
        path=path, queue_s=0.002 if ttft else None, prefill_s=ttft * 0.9 if ttft else None,
    )  # fmt: skip
