"""Files of a key at its limits: they wait, hold up nobody else's, and go on where they were."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.vector_stores.world import ACCOUNT, GatedEmbedding, World, counts, read_all
from tests.waiting import until

from antiphon.protocol.errors import ApiError
from antiphon.vector_stores import NewStoreFile, VectorStore, VectorStores

pytestmark = pytest.mark.anyio
OTHER = "b"
LONG = b"".join(
    b"Sentence %d says what the keeper saw from the lighthouse on that evening of the year. " % number
    for number in range(400)
)


async def store_of(server: VectorStores, account: str, *files: NewStoreFile) -> VectorStore:
    store = await server.create(account, {})
    await server.table.add_files(store, files)
    return store


def kept(world: World) -> list[Path]:
    return list((world.home / "vector_stores").glob("*.progress"))


async def paused_with(world: World, room: int) -> tuple[VectorStore, GatedEmbedding]:
    """Return the store of one long file, of which ``room`` chunks are embedded when its key has no more room."""
    embedding = GatedEmbedding()
    embedding.room[ACCOUNT] = room
    server = world.server(embedding)
    store = await store_of(server, ACCOUNT, await world.file(LONG))
    await read_all(server)
    assert (await counts(server, store)).by_status == {"in_progress": 1}
    assert len(embedding.texts) == room
    return store, embedding


async def test_a_file_goes_on_where_its_key_had_no_more_room(world: World) -> None:
    """After a restart too: every chunk is embedded once, in order, and nothing is left behind."""
    whole = GatedEmbedding()
    reference = world.server(whole)
    await store_of(reference, OTHER, await world.file(LONG, account=OTHER))
    await read_all(reference)
    store, before = await paused_with(world, 37)
    after = GatedEmbedding()
    restarted = world.server(after)
    await read_all(restarted)
    assert (await counts(restarted, store)).by_status == {"completed": 1}
    assert before.texts + after.texts == whole.texts
    assert len(world.chunks(store)) == len(whole.texts) > 64
    assert not kept(world)


async def test_while_a_key_waits_only_other_keys_files_are_begun(world: World) -> None:
    """Its other files do not ask again and again; those of another key are read."""
    embedding = GatedEmbedding()
    embedding.room[ACCOUNT] = 0
    server = world.server(embedding)
    files = [await world.file(b"A lamp.", name=f"{number}.txt") for number in range(5)]
    waiting = await store_of(server, ACCOUNT, *files)
    other = await store_of(server, OTHER, await world.file(b"A bell.", account=OTHER))
    await read_all(server)
    assert embedding.refused == [ACCOUNT]
    assert (await counts(server, waiting)).by_status == {"in_progress": 5}
    assert (await counts(server, other)).by_status == {"completed": 1}


async def test_a_file_is_taken_up_as_soon_as_its_key_has_room(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the limits said so, and not with the next look at the database."""
    monkeypatch.setattr("antiphon.vector_stores.ingestion.LOOK_EVERY_S", 1e6)
    embedding = GatedEmbedding()
    embedding.room[ACCOUNT] = 0
    embedding.wait_s = 0.01
    server = world.server(embedding)
    store = await store_of(server, ACCOUNT, await world.file(b"A lamp."))
    server.start()
    await until(lambda: len(embedding.refused) > 1)
    embedding.room.clear()
    await until(lambda: server.ingestion.statistics().files_completed_total == 1)
    assert (await counts(server, store)).by_status == {"completed": 1}


def torn(content: bytes) -> bytes:
    return content[:-5]


def damaged(content: bytes) -> bytes:
    return content[:-5] + bytes(byte ^ 255 for byte in content[-5:])


def emptied(content: bytes) -> bytes:
    return content[:3]


@pytest.mark.parametrize("damage", [torn, damaged, emptied], ids=lambda damage: damage.__name__)
async def test_a_record_that_a_kill_cut_off_costs_its_own_step_only(
    world: World, damage: Callable[[bytes], bytes]
) -> None:
    """What was whole is used, what was not is embedded again, and what is kept after it can be read."""
    store, before = await paused_with(world, 64)
    [path] = kept(world)
    path.write_bytes(damage(path.read_bytes()))
    second = GatedEmbedding()
    second.room[ACCOUNT] = 40
    await read_all(world.server(second))
    third = GatedEmbedding()
    last = world.server(third)
    await read_all(last)
    assert (await counts(last, store)).by_status == {"completed": 1}
    num_whole = 0 if damage is emptied else 32
    every = before.texts[:num_whole] + second.texts + third.texts
    assert len(every) == len(set(every)) == len(world.chunks(store))
    assert every[:64] == before.texts


async def test_a_chunk_that_was_cut_stays_cut(world: World) -> None:
    """After a pause the model is not asked for the whole chunk again."""
    embedding = GatedEmbedding()
    embedding.too_long = ApiError(400, "too long", code="context_length_exceeded")
    embedding.at_once = 1
    embedding.room[ACCOUNT] = 5
    store = await store_of(world.server(embedding), ACCOUNT, await world.file(LONG[:2000]))
    for _ in range(100):
        server = world.server(embedding)
        await read_all(server)
        if (await counts(server, store)).by_status == {"completed": 1}:
            break
        embedding.room[ACCOUNT] = 5
    assert len(embedding.texts) == len(set(embedding.texts)) == len(world.chunks(store)) > 10


async def test_what_is_kept_of_a_file_that_nobody_reads_is_swept(world: World) -> None:
    """Cancelled, removed or deleted with its store: the text of a file does not stay behind it."""
    store, _ = await paused_with(world, 40)
    [server] = world.servers
    await server.ingestion.sweep()
    assert kept(world)
    assert await server.delete(store)
    await server.ingestion.sweep()
    assert not kept(world)
