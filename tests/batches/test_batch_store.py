"""Batches in the database: leases, the journal, and usage that is written with a result or not at all."""

import asyncio
import json

import msgspec
import pytest
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from antiphon.accounts import Outcome, Principal
from antiphon.accounts.request import Request
from antiphon.accounts.schema import batch_results, spend, usage
from antiphon.accounts.schema import batches as table
from antiphon.accounts.usage import UsageRow, usage_row
from antiphon.batches import BatchDetail, BatchStore, FinishedLine, LeaseLost, StoredBatch
from antiphon.batches.store import now_ms
from antiphon.protocol.events import Usage
from antiphon.protocol.paging import PageQuery

pytestmark = pytest.mark.anyio


def store(engine: AsyncEngine, owner: str = "one", lease_s: float = 60.0) -> BatchStore:
    return BatchStore(engine, owner, lease_s=lease_s)


async def made(engine: AsyncEngine, name: str = "batch_1", account: str = "a", created_at_ms: int = 1) -> StoredBatch:
    batch = StoredBatch(
        id=name,
        account=account,
        created_at_ms=created_at_ms,
        expires_at_ms=now_ms() + 10_000_000,
        status="in_progress",
        detail=BatchDetail(endpoint="/v1/embeddings", input_file_id="file-1"),
        num_total=10,
    )
    return await store(engine).create(batch)


def row(usd: float = 0.25) -> UsageRow:
    outcome = Outcome(request_id="req", started_at=1.0, duration_s=1.0, model="m", usage=Usage(10, 5, 4))
    return usage_row(Request(principal=Principal(key_id="k"), model="m", kind="chat"), outcome, usd, None)


def line(number: int, *, is_error: bool = False) -> FinishedLine:
    return FinishedLine(number, is_error, json.dumps({"n": number}).encode(), (row(),))


async def total(engine: AsyncEngine) -> tuple[int, float]:
    """Return how many usage rows there are, and the dollars spent."""
    async with engine.connect() as connection:
        number = (await connection.execute(select(func.count()).select_from(usage))).scalar_one()
        return number, (await connection.execute(select(func.coalesce(func.sum(spend.c.usd), 0.0)))).scalar_one()


async def test_one_process_works_on_a_batch(engine: AsyncEngine) -> None:
    """Of several that look at once one gets it, the oldest first; when the lease has ended another may."""
    await made(engine, "batch_2", created_at_ms=2)
    await made(engine, "batch_1", created_at_ms=1)
    stores = [store(engine, str(n)) for n in range(6)]
    claimed = [batch.id for batch in await asyncio.gather(*(each.claim() for each in stores)) if batch is not None]
    while (more := await stores[0].claim()) is not None:
        claimed.append(more.id)
    assert sorted(claimed) == ["batch_1", "batch_2"]
    await asyncio.gather(*(each.let_go("batch_1") for each in stores))
    taken = await stores[5].claim()
    assert taken is not None
    assert taken.id == "batch_1"


async def test_a_line_is_written_with_its_usage_or_not_at_all(engine: AsyncEngine) -> None:
    """A process that has lost its lease changes nothing; nor does one whose line is finished already."""
    await made(engine)
    first, second = store(engine, "first", lease_s=-1), store(engine, "second")
    batch = await first.claim()
    assert batch is not None
    batch = await first.finish(batch, [line(1), line(2, is_error=True)])
    assert (batch.num_completed, batch.num_failed) == (1, 1)
    assert await total(engine) == (2, 0.5)
    again = await second.claim()
    assert again is not None
    assert (again.num_completed, again.num_failed, again.detail.usage.input_tokens) == (1, 1, 20)
    for late in (first.finish(batch, [line(3)]), first.renew(batch.id), first.advance(batch)):
        with pytest.raises(LeaseLost):
            await late
    assert await total(engine) == (2, 0.5)
    assert await second.finished_numbers(again.id) == {1, 2}
    await second.finish(again, [line(3)])
    assert await total(engine) == (3, 0.75)
    assert [each async for each in second.results(again.id, is_error=False, page=1)] == [b'{"n": 1}\n', b'{"n": 3}\n']
    assert [each async for each in second.results(again.id, is_error=True)] == [b'{"n": 2}\n']


async def test_a_request_to_cancel_is_not_overwritten(engine: AsyncEngine) -> None:
    """It may come while the batch is being validated; a batch that is over is not cancelled."""
    await made(engine)
    owner = store(engine)
    batch = await owner.claim()
    assert batch is not None
    assert await owner.cancel(batch)
    assert not await owner.cancel(batch)
    advanced = await owner.advance(batch)
    assert (advanced.status, advanced.cancelling_at_ms is not None) == ("cancelling", True)
    async with engine.begin() as connection:
        ended = msgspec.structs.replace(advanced, status="cancelled")
        assert await owner.end(connection, ended) is None
    assert not await owner.cancel(ended)
    assert await owner.claim() is None
    async with engine.connect() as connection:
        assert (await connection.execute(select(func.count()).select_from(batch_results))).scalar_one() == 0


async def test_batches_are_their_owners_and_old_ones_are_forgotten(engine: AsyncEngine) -> None:
    """Newest first, in pages; another account sees none."""
    for n in range(5):
        await made(engine, f"batch_{n}", created_at_ms=now_ms() + n // 2)
    owner = store(engine)
    first, has_more = await owner.page("a", PageQuery(limit=2))
    second, _ = await owner.page("a", PageQuery(limit=9, after=first[-1].id))
    assert has_more
    assert [batch.id for batch in (*first, *second)] == [f"batch_{n}" for n in (4, 3, 2, 1, 0)]
    assert await owner.page("b", PageQuery(limit=9)) == ([], False)
    assert await owner.find("batch_0", "b") is None
    async with engine.begin() as connection:
        await connection.execute(update(table).values(created_at_ms=1))
        await connection.execute(update(table).where(table.c.id != "batch_0").values(status="completed"))
    await owner.forget()
    assert [batch.id for batch in (await owner.page("a", PageQuery(limit=9)))[0]] == ["batch_0"]
