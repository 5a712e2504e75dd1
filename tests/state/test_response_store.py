"""What is kept of responses: by owner, for a time, within a bound, and never half."""

import time
import zlib
from typing import Any

import msgspec
import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from antiphon.accounts.schema import response_items, responses
from antiphon.protocol.ids import new_id, new_item_id
from antiphon.state import KeptResponse, ResponseSettings, ResponseStore
from antiphon.state import responses as responses_module

pytestmark = pytest.mark.anyio


def kept(
    response_id: str, *, account: str = "a", status: str = "completed", text: str = "hi", **more: Any
) -> KeptResponse:
    item = {"type": "message", "role": "user", "content": text, "id": f"msg_{response_id}"}
    body = {
        "id": response_id,
        "status": status,
        "created_at": time.time(),
        "output": [{"type": "message", "id": f"out_{response_id}"}],
    }
    return KeptResponse(id=response_id, account=account, body=body, input=(item,), **more)


async def test_a_response_comes_back_whole_to_its_owner_alone(engine: AsyncEngine) -> None:
    """Another key gets nothing, not even a hint that it exists."""
    store = ResponseStore(engine, ResponseSettings())
    one = kept("resp_1", history=({"id": "earlier"},), conversation="conv_1")
    await store.save(one)
    assert await store.find("resp_1", "a") == one
    assert await store.find("resp_1", "b") is None
    assert not await store.delete("resp_1", "b")
    assert [item["id"] for item in one.items] == ["earlier", "msg_resp_1", "out_resp_1"]


async def test_items_are_found_by_their_ids(engine: AsyncEngine) -> None:
    """Clients refer to items of earlier responses; another's are not found, deleted ones no more."""
    store = ResponseStore(engine, ResponseSettings())
    await store.save(kept("resp_1"))
    await store.save(kept("resp_2", account="b"))
    found = await store.find_items(["msg_resp_1", "out_resp_1", "msg_resp_2", "nothing"], "a")
    assert set(found) == {"msg_resp_1", "out_resp_1"}
    assert await store.delete("resp_1", "a")
    assert await store.find_items(["msg_resp_1"], "a") == {}
    assert await store.find("resp_1", "a") is None


async def test_an_item_is_found_through_the_id_of_its_response(engine: AsyncEngine) -> None:
    """Items that the server names need no row of an index; those that clients name have one each."""
    store = ResponseStore(engine, ResponseSettings())
    first, second, foreign = (new_id("resp", "_") for _ in range(3))
    await store.save(numbered(first))
    await store.save(numbered(second, (*numbered(first).input, {"id": "mine", "type": "message"})))
    await store.save(msgspec.structs.replace(numbered(foreign), account="b"))
    assert await indexed(engine) == {(new_item_id("msg", first, 0), second), ("mine", second)}
    wanted = [new_item_id("msg", one, number) for one in (first, foreign) for number in (0, 1)]
    assert set(await store.find_items([*wanted, "mine", "msg_short"], "a")) == {*wanted[:2], "mine"}
    assert await store.delete(first, "a")
    assert set(await store.find_items(wanted, "a")) == {wanted[0]}, "it was the input of a later response"
    assert await store.delete(second, "a")
    assert await store.find_items([*wanted, "mine"], "a") == {}
    assert await indexed(engine) == set()


def numbered(response_id: str, given: tuple[dict[str, Any], ...] | None = None) -> KeptResponse:
    """A response whose items have the ids that the server gives them."""
    own = [{"id": new_item_id("msg", response_id, number), "type": "message"} for number in (0, 1)]
    body = {"id": response_id, "status": "completed", "output": own[1:]}
    return KeptResponse(id=response_id, account="a", body=body, input=(own[0],) if given is None else given)


async def indexed(engine: AsyncEngine) -> set[tuple[str, str]]:
    async with engine.connect() as connection:
        return {(row.item_id, row.response_id) for row in await connection.execute(select(response_items))}


@pytest.mark.parametrize("length", [0, 10, 511, 512, 5000, 30_000])
async def test_what_was_compressed_is_read_as_it_was(engine: AsyncEngine, length: int) -> None:
    """Short items lie in the database as they are, long ones compressed; so did all of earlier versions."""
    store = ResponseStore(engine, ResponseSettings())
    one = kept("resp_1", text="x" * length, history=({"id": "earlier", "text": "y" * length},))
    await store.save(one, body=msgspec.json.encode(one.body))
    assert await store.find("resp_1", "a") == one
    change = update(responses).values(input=zlib.compress(msgspec.json.encode(one.input)))
    async with engine.begin() as connection:
        await connection.execute(change)
    assert await store.find("resp_1", "a") == one


async def test_saving_again_replaces(engine: AsyncEngine) -> None:
    """A background response is written at its start and at its end."""
    store = ResponseStore(engine, ResponseSettings())
    await store.save(kept("resp_1", status="queued"))
    await store.save(kept("resp_1", status="completed"), replaces=True)
    found = await store.find("resp_1", "a")
    assert found is not None
    assert found.status == "completed"


@pytest.mark.parametrize("by", ["deletion", "cancellation"])
async def test_the_end_of_a_response_does_not_undo_what_another_process_did(engine: AsyncEngine, by: str) -> None:
    """Deleted or cancelled there, it stays so, whatever its own process has to say later."""
    here, there = (ResponseStore(engine, ResponseSettings()) for _ in range(2))
    await here.save(kept("resp_1", status="in_progress"))
    if by == "deletion":
        assert await there.delete("resp_1", "a")
    else:
        await there.save(kept("resp_1", status="cancelled"), replaces=True)
    await here.save(kept("resp_1", status="completed"), replaces=True)
    found = await here.find("resp_1", "a")
    assert (found and found.status) == (None if by == "deletion" else "cancelled")
    assert ("msg_resp_1" in await here.find_items(["msg_resp_1"], "a")) == (by == "cancellation")


async def test_what_lost_its_process_is_failed(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that nobody renews runs out; the response is then failed for everybody, and stays so."""
    store = ResponseStore(engine, ResponseSettings())
    now = [time.time()]
    monkeypatch.setattr(responses_module.time, "time", lambda: now[0])
    await store.save(kept("resp_1", status="in_progress"))
    await store.save(kept("resp_2", status="in_progress"))
    now[0] += responses_module.LEASE_S - 1
    assert await store.renew(["resp_1"]) == []
    now[0] += 2
    renewed, lost = await store.find("resp_1", "a"), await store.find("resp_2", "a")
    assert renewed is not None
    assert lost is not None
    assert (renewed.status, lost.status) == ("in_progress", "failed")
    assert lost.body["error"]["code"] == "server_error"
    assert await store.renew(["resp_1", "resp_2"]) == ["resp_2"]


async def test_a_late_process_is_not_overruled(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lease has run out when another process reads the response; what it stores at that moment is what both show."""
    here, there = (ResponseStore(engine, ResponseSettings()) for _ in range(2))
    await here.save(kept("resp_1", status="in_progress"))
    late = time.time() + responses_module.LEASE_S + 1
    monkeypatch.setattr(responses_module.time, "time", lambda: late)
    give_up = there._give_up  # pyright: ignore[reportPrivateUsage]

    async def last(lost: KeptResponse) -> bool:
        await here.save(kept("resp_1", status="completed"), replaces=True)
        return await give_up(lost)

    monkeypatch.setattr(there, "_give_up", last)
    for store in (there, here):
        found = await store.find("resp_1", "a")
        assert (found and found.status) == "completed"


async def test_retention_ends(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is expired is not shown, and the next sweep removes it."""
    store = ResponseStore(engine, ResponseSettings(retention_days=1))
    now = [time.time()]
    monkeypatch.setattr(responses_module.time, "time", lambda: now[0])
    await store.save(kept("resp_1"))
    now[0] += 86_400 + 1
    assert await store.find("resp_1", "a") is None
    assert await store.sweep() == 1
    assert await store.find_items(["msg_resp_1"], "a") == {}


async def test_the_size_stays_bounded(engine: AsyncEngine) -> None:
    """Past the bound the oldest go first; the newest always stays."""
    store = ResponseStore(engine, ResponseSettings(max_bytes=40_000))
    for number in range(120):
        await store.save(kept(f"resp_{number:03}"))
    await store.sweep()
    present = [number for number in range(120) if await store.find(f"resp_{number:03}", "a")]
    assert present == list(range(present[0], 120))
    assert 5 < len(present) < 60
    assert store.statistics().swept_total == 120 - len(present)
