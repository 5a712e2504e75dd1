"""Conversations: items in order, whoever writes at the same time."""

import asyncio

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from antiphon.protocol.errors import ApiError
from antiphon.state import ConversationStore

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
