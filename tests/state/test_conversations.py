"""Conversations: items in order, whoever writes at the same time."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import event, select
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.waiting import PATIENCE_S

from antiphon.accounts.schema import conversations
from antiphon.protocol.errors import ApiError
from antiphon.state import ConversationStore
from antiphon.state import claims as claims_module

pytestmark = pytest.mark.anyio


async def test_items_keep_their_order(engine: AsyncEngine) -> None:
    """Those it was made with, then those added, less those removed; another key finds nothing."""
    store = ConversationStore(engine)
    made = await store.create("conv_1", "a", {"k": "v"}, [{"id": "1"}])
    await store.append("conv_1", [{"id": "2"}, {"id": "3"}])
    assert await store.delete_item("conv_1", "2")
    assert not await store.delete_item("conv_1", "2")
    await store.append("conv_1", [{"id": "4"}])
    assert [item["id"] for item in await store.items("conv_1")] == ["1", "3", "4"]
    assert await store.find("conv_1", "a") == made
    assert await store.find("conv_1", "b") is None
    await store.delete("conv_1")
    assert await store.find("conv_1", "a") is None
    assert await store.items("conv_1") == ()


async def test_two_that_write_at_once_both_arrive_whole(engine: AsyncEngine) -> None:
    """Blocks of items never interleave; past some attempts a writer is told to try again, and nothing of it is there."""
    store = ConversationStore(engine)
    await store.create("conv_1", "a", {}, [])
    blocks = [[{"id": f"{writer}.{n}"} for n in range(5)] for writer in range(6)]
    ended = await asyncio.gather(*(store.append("conv_1", block) for block in blocks), return_exceptions=True)
    assert all(end is None or (isinstance(end, ApiError) and end.status == 409) for end in ended)
    ids = [item["id"] for item in await store.items("conv_1")]
    written = [block for block, end in zip(blocks, ended, strict=True) if end is None]
    assert len(ids) == 5 * len(written)
    assert {tuple(ids[at : at + 5]) for at in range(0, len(ids), 5)} == {
        tuple(i["id"] for i in block) for block in written
    }


async def test_nothing_is_added_to_what_was_deleted_meanwhile(engine: AsyncEngine) -> None:
    """A response that ends after its conversation was deleted leaves no items that nobody could find or delete."""
    store = ConversationStore(engine)
    await store.create("conv_1", "a", {}, [])
    await store.delete("conv_1")
    await store.append("conv_1", [{"id": "1"}])
    assert await store.items("conv_1") == ()
    assert await store.length("conv_1") == 0


async def test_one_response_at_a_time_has_a_conversation(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one is refused until the first lets go, or its process is gone for the time of a lease."""
    here, there = ConversationStore(engine), ConversationStore(engine)
    await here.create("conv_1", "a", {}, [])
    first = await here.claim("conv_1", "a")
    assert first is not None
    with pytest.raises(ApiError, match="currently operating") as refused:
        await there.claim("conv_1", "a")
    assert (refused.value.status, refused.value.code) == (409, "conversation_locked")
    assert await there.claim("conv_1", "b") is None, "another's is none"
    await first.release()
    await first.release()
    second = await there.claim("conv_1", "a")
    assert second is not None
    await first.release()
    with pytest.raises(ApiError, match="currently operating"):
        await here.claim("conv_1", "a")
    late = claims_module._now_ms() + round(claims_module.LEASE_S * 1000) + 1
    monkeypatch.setattr(claims_module, "_now_ms", lambda: late)
    third = await here.claim("conv_1", "a")
    assert third is not None
    await second.release()
    with pytest.raises(ApiError, match="currently operating"):
        await there.claim("conv_1", "a")
    await third.release()


async def test_a_claim_is_renewed_while_it_is_held(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long answer keeps its conversation."""
    monkeypatch.setattr(claims_module, "LEASE_S", 0.03)
    store = ConversationStore(engine)
    await store.create("conv_1", "a", {}, [])
    held = await store.claim("conv_1", "a")
    assert held is not None
    first = await taken_until_ms(engine)
    async with held:
        async with asyncio.timeout(PATIENCE_S):
            while await taken_until_ms(engine) <= first:
                pass
    again = await store.claim("conv_1", "a")
    assert again is not None
    await again.release()


async def test_a_late_holder_goes_on_unless_another_came_between(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it says then does not follow what the conversation has, so nothing of it is added, and it is told."""
    store = ConversationStore(engine)
    await store.create("conv_1", "a", {}, [])
    first = await store.claim("conv_1", "a")
    assert first is not None
    late = claims_module._now_ms() + 2 * round(claims_module.LEASE_S * 1000)
    monkeypatch.setattr(claims_module, "_now_ms", lambda: late)
    await store.append("conv_1", [{"id": "1"}], first)
    second = await store.claim("conv_1", "a")
    assert second is not None
    with pytest.raises(ApiError, match="lost the conversation") as refused:
        await store.append("conv_1", [{"id": "2"}], first)
    assert (refused.value.status, refused.value.code) == (409, "conversation_locked")
    await store.append("conv_1", [{"id": "3"}], second)
    assert [item["id"] for item in await store.items("conv_1")] == ["1", "3"]
    await store.delete("conv_1")
    await store.append("conv_1", [{"id": "4"}], first)
    await first.release()
    await second.release()


async def test_claims_of_one_moment_are_told_apart(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder that lost its claim neither renews nor ends the one that another made."""
    now = claims_module._now_ms()
    monkeypatch.setattr(claims_module, "_now_ms", lambda: now)
    monkeypatch.setattr(claims_module, "_end_ms", lambda: now)
    store = ConversationStore(engine)
    await store.create("conv_1", "a", {}, [])
    first, second = await store.claim("conv_1", "a"), await store.claim("conv_1", "a")
    assert first is not None
    assert second is not None
    await first.release()
    assert await taken_until_ms(engine) == now
    await second.release()
    assert await taken_until_ms(engine) == 0


@pytest.mark.parametrize("failure", [asyncio.CancelledError(), OSError("connection lost")])
async def test_a_claim_that_nobody_got_is_not_renewed(engine: AsyncEngine, failure: BaseException) -> None:
    """A client that leaves while the claim is written, or a connection that is lost, keeps no conversation for ever."""
    store = ConversationStore(engine)
    await store.create("conv_1", "a", {}, [])
    others = asyncio.all_tasks()

    def lose(_connection: Any) -> None:
        raise failure

    event.listen(engine.sync_engine, "commit", lose)
    with pytest.raises((ApiError, asyncio.CancelledError)):
        await store.claim("conv_1", "a")
    event.remove(engine.sync_engine, "commit", lose)
    assert not [task for task in asyncio.all_tasks() - others if "_renew" in repr(task)]


async def taken_until_ms(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return (await connection.execute(select(conversations.c.taken_until_ms))).scalar_one()
