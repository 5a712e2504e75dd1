"""Sums over the usage table, in both databases."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from antiphon.accounts import AccountError, Principal
from antiphon.accounts.database import open_database
from antiphon.accounts.keys import KeyStore
from antiphon.accounts.ledger import write_rows
from antiphon.accounts.outcome import Kind
from antiphon.accounts.reports import UsageQuery, ids_of, totals
from antiphon.accounts.usage import UsageRow, new_row_id

pytestmark = pytest.mark.anyio

DAY_MS = 86_400_000


def row(
    at_ms: int,
    key_id: str | None,
    *,
    model: str | None = "small",
    kind: Kind = "chat",
    status: int = 200,
    usd: float | None = None,
    saved_usd: float | None = None,
    ttft_s: float | None = None,
    is_batch: bool = False,
) -> UsageRow:
    n_tokens = 10 if status == 200 else 0
    return UsageRow(
        id=new_row_id(at_ms),
        at_ms=at_ms,
        request_id="req_1",
        key_id=key_id,
        kind=kind,
        model_asked="asked",
        model_answered=model,
        status=status,
        error_code=None,
        prompt_tokens=n_tokens,
        completion_tokens=n_tokens,
        cached_tokens=n_tokens // 2,
        reasoning_tokens=0,
        cache=None,
        ttft_s=ttft_s,
        duration_s=1.0,
        compute_s=0.5,
        usd=usd,
        saved_usd=saved_usd,
        is_batch=is_batch,
    )


@pytest.fixture
async def engine(database_url: str, tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    """Five requests: two keys and none, three days, one failed."""
    opened = await open_database(database_url, tmp_path)
    rows = [
        row(DAY_MS, "key_1", usd=1.0, ttft_s=1.0),
        row(DAY_MS + 1, "key_1", kind="embedding", model="vectors"),
        row(2 * DAY_MS, "key_2", usd=4.0, ttft_s=3.0),
        row(2 * DAY_MS + 5, "key_1", usd=2.0),
        row(3 * DAY_MS, None, status=429, model=None),
    ]
    await write_rows(opened, rows, is_retry=False)
    yield opened
    await opened.dispose()


async def test_everything_in_one_sum(engine: AsyncEngine) -> None:
    """Without a grouping there is one sum over all rows."""
    (total,) = await totals(engine, UsageQuery())
    assert (total.num_requests, total.num_failed, total.prompt_tokens, total.cached_tokens) == (5, 1, 40, 20)
    assert (total.usd, total.num_unpriced, total.compute_s, total.mean_ttft_s) == (7.0, 1, 2.5, 2.0)
    assert (total.bucket_ms, total.key_id, total.model) == (None, None, None)


async def test_by_time_and_key(engine: AsyncEngine) -> None:
    """Buckets of a day, told apart by key; a bucket without a price has no dollars, which is not 0."""
    found = await totals(engine, UsageQuery(by=("time", "key")))
    got = {(total.bucket_ms, total.key_id): (total.num_requests, total.usd) for total in found}
    assert got == {
        (DAY_MS, "key_1"): (2, 1.0),
        (2 * DAY_MS, "key_1"): (1, 2.0),
        (2 * DAY_MS, "key_2"): (1, 4.0),
        (3 * DAY_MS, None): (1, None),
    }


async def test_by_model_names_the_one_that_answered(engine: AsyncEngine) -> None:
    """A request that nobody answered counts under the model that was asked for."""
    found = await totals(engine, UsageQuery(by=("model",)))
    assert {total.model: total.num_requests for total in found} == {"small": 3, "vectors": 1, "asked": 1}


async def test_filters(engine: AsyncEngine) -> None:
    """Time, kind, key and model narrow the rows down; the start is in, the end is not."""
    for query, expected in [
        (UsageQuery(start_ms=2 * DAY_MS, end_ms=3 * DAY_MS), 2),
        (UsageQuery(kinds=("embedding",)), 1),
        (UsageQuery(key_ids=("key_1",)), 3),
        (UsageQuery(models=("small", "vectors")), 4),
    ]:
        (total,) = await totals(engine, query)
        assert total.num_requests == expected


async def test_requests_of_batches_are_told_apart(engine: AsyncEngine) -> None:
    """Grouped by batch, or one of both alone; without either, a sum has both and does not say which."""
    await write_rows(engine, [row(9 * DAY_MS, "key_1", is_batch=True)], is_retry=False)
    grouped = await totals(engine, UsageQuery(by=("batch",)))
    assert {total.is_batch: total.num_requests for total in grouped} == {False: 5, True: 1}
    for wanted, expected in [(True, 1), (False, 5), (None, 6)]:
        (total,) = await totals(engine, UsageQuery(is_batch=wanted))
        assert (total.num_requests, total.is_batch) == (expected, None)


async def test_what_the_cache_saved_is_added_up_beside_what_was_spent(engine: AsyncEngine) -> None:
    """Saved dollars are no spent ones; of rows that saved nothing the sum is unknown, not 0."""
    await write_rows(
        engine,
        [row(8 * DAY_MS, "key_1", usd=0.0, saved_usd=saved) for saved in (0.5, 0.25, None)],
        is_retry=False,
    )
    before, after = (
        await totals(engine, UsageQuery(end_ms=8 * DAY_MS)),
        await totals(engine, UsageQuery(start_ms=8 * DAY_MS)),
    )
    assert [(total.usd, total.saved_usd) for total in (*before, *after)] == [(7.0, None), (0.0, 0.75)]


async def test_key_names_are_shown(engine: AsyncEngine, tmp_path: Path) -> None:
    """A sum by key has the key's name beside its id, also after the key was revoked."""
    store = await KeyStore.open(engine, None, tmp_path)
    _, record = await store.create(Principal(name="one"))
    key_id = record.principal.key_id
    await write_rows(engine, [row(9 * DAY_MS, key_id)], is_retry=False)
    await store.revoke("one")
    found = await totals(engine, UsageQuery(by=("key",), start_ms=9 * DAY_MS))
    assert [(total.key_id, total.key_name) for total in found] == [(key_id, "one")]
    assert await ids_of(engine, "one") == (key_id,)
    with pytest.raises(AccountError, match="There is no key 'two'"):
        await ids_of(engine, "two")
