"""Files on their way into vector stores: changed, removed, taken over, swept, on SQLite and PostgreSQL."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event
from tests.vector_stores.world import ACCOUNT, GatedEmbedding, World, counts, query, read_all
from tests.waiting import until

from antiphon.protocol.errors import ApiError, context_length_exceeded, prompt_too_long
from antiphon.protocol.paging import PageQuery
from antiphon.search.index_file import IndexFile
from antiphon.server.routes.vector_store_parts import new_files
from antiphon.vector_stores import NewStoreFile, VectorStore, VectorStores

pytestmark = pytest.mark.anyio
RED: Any = {"type": "eq", "key": "colour", "value": "red"}
WORDS = b"The lighthouse keeper wrote the state of the lamp into his log every evening. "


async def store_with(server: VectorStores, *files: NewStoreFile) -> VectorStore:
    store = await server.create(ACCOUNT, {})
    await server.table.add_files(store, files)
    return store


async def found(server: VectorStores, *stores: VectorStore, **body: Any) -> list[str]:
    return [one.file_id for one in await server.search(stores, query("lamp", **body), ACCOUNT, "/v1/test")]


async def test_changes_of_one_moment_are_all_kept(world: World) -> None:
    """Two requests read a store, and each changes something else in it."""
    server = world.server()
    store = await server.create(ACCOUNT, {})
    for changes in ({"name": "new"}, {"expires_after_days": 3}, {"metadata": {"a": "b"}}):
        await server.table.update(store, changes)
    await server.table.touch(store)
    found = await server.require(store.id, ACCOUNT)
    assert (found.name, found.metadata, found.expires_after_days) == ("new", {"a": "b"}, 3)
    assert found.expires_at_ms == found.last_active_at_ms + 3 * 86_400_000


async def test_a_store_is_filled_searched_and_emptied(world: World) -> None:
    """What the API promises, on each database: counts, filters, texts, pages, deletion."""
    server = world.server()
    files = [await world.file(WORDS + str(number).encode(), colour="red" if number else "blue") for number in range(3)]
    store = await store_with(server, *files)
    await read_all(server)
    assert (await counts(server, store)).by_status == {"completed": 3}
    assert set(await found(server, store)) == {file.file_id for file in files}
    assert set(await found(server, store, filters=RED)) == {file.file_id for file in files[1:]}
    page, has_more = await server.table.file_page(store.id, PageQuery(limit=2, descending=False))
    assert (len(page), has_more) == (2, True)
    assert "lighthouse" in "".join(await server.texts(page[0]))
    assert await server.ingestion.remove(store.id, files[0].file_id)
    assert not await server.ingestion.remove(store.id, files[0].file_id)
    assert set(world.chunks(store)) == {file.file_id for file in files[1:]}
    assert await server.delete(store)
    assert not list((world.home / "vector_stores").glob("*.sqlite*"))


async def test_attributes_changed_while_a_file_is_written_are_in_the_index(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However late they come: after the row was read for the index, and before the index has it."""
    server = world.server()
    file = await world.file(WORDS, colour="blue")
    store = await store_with(server, file)
    claimed = await server.table.find_file(store.id, file.file_id)
    assert claimed is not None
    run = server._indexes.run  # pyright: ignore[reportPrivateUsage] - the moment of the change
    is_changed = False

    async def change_first(store_id: str, work: Callable[[IndexFile], Any]) -> Any:
        nonlocal is_changed
        if not is_changed:
            is_changed = True
            assert await server.set_attributes(claimed, {"colour": "red"})
        return await run(store_id, work)

    monkeypatch.setattr(server._indexes, "run", change_first)  # pyright: ignore[reportPrivateUsage]
    await read_all(server)
    assert is_changed
    assert await found(server, store, filters=RED) == [file.file_id]


async def test_attributes_changed_by_many_at_once_end_as_the_row_says(world: World) -> None:
    """The index and the list agree, whichever request came last."""
    server = world.server()
    file = await world.file(WORDS)
    store = await store_with(server, file)
    await read_all(server)
    held = await server.table.find_file(store.id, file.file_id)
    assert held is not None
    await asyncio.gather(
        *(server.set_attributes(held, {"colour": colour}) for colour in ("red", "blue", "red", "green"))
    )
    last = await server.table.find_file(store.id, file.file_id)
    assert last is not None
    wanted = {"type": "eq", "key": "colour", "value": last.attributes["colour"]}
    assert await found(server, store, filters=wanted) == [file.file_id]


async def test_a_file_removed_while_it_is_read_leaves_nothing(world: World) -> None:
    """Its vectors come too late: neither a row nor a chunk is left, and the file may be added again."""
    embedding = GatedEmbedding()
    server = world.server(embedding)
    file = await world.file(WORDS)
    store = await store_with(server, file)
    embedding.gate.clear()
    reading = asyncio.create_task(read_all(server))
    await until(lambda: embedding.waiting == 1)
    assert await server.ingestion.remove(store.id, file.file_id)
    embedding.gate.set()
    await reading
    assert (await counts(server, store)).by_status == {}
    assert world.chunks(store) == []
    await server.table.add_files(store, [file])
    await read_all(server)
    assert world.chunks(store) == [file.file_id]


async def test_a_file_added_again_while_it_is_read_is_there_once(world: World) -> None:
    """The later way of cutting it holds."""
    embedding = GatedEmbedding()
    server = world.server(embedding)
    file = await world.file(WORDS * 30)
    store = await store_with(server, file)
    embedding.gate.clear()
    reading = asyncio.create_task(read_all(server))
    await until(lambda: embedding.waiting == 1)
    await asyncio.sleep(0.002)  # a row made in the same millisecond would be the same row
    whole = NewStoreFile(
        file_id=file.file_id, filename=file.filename, attributes={}, chunk_tokens=4096, chunk_overlap=0
    )
    await server.table.add_files(store, [whole])
    embedding.gate.set()
    await reading
    await read_all(server)
    assert (await counts(server, store)).by_status == {"completed": 1}
    assert world.chunks(store) == [file.file_id]


async def test_a_store_deleted_while_a_file_is_read_is_gone(world: World) -> None:
    """The file's index cannot be written, and that is nobody's error."""
    embedding = GatedEmbedding()
    server = world.server(embedding)
    store = await store_with(server, await world.file(WORDS))
    embedding.gate.clear()
    reading = asyncio.create_task(read_all(server))
    await until(lambda: embedding.waiting == 1)
    assert await server.delete(store)
    embedding.gate.set()
    await reading
    assert await server.table.find(store.id, ACCOUNT) is None
    assert not list((world.home / "vector_stores").glob("*.sqlite"))


async def test_a_store_deleted_while_it_is_searched_ends_the_search(world: World) -> None:
    """With nothing found, or the error of a store that is not there: never with a fault of the server."""
    embedding = GatedEmbedding()
    server = world.server(embedding)
    store = await store_with(server, await world.file(WORDS))
    await read_all(server)
    embedding.gate.clear()
    searching = asyncio.create_task(found(server, store))
    await until(lambda: embedding.waiting == 1)
    await server.delete(store)
    embedding.gate.set()
    with pytest.raises(Exception) as ended:  # noqa: PT011 - its status is what counts
        await searching
    assert getattr(ended.value, "status", None) == 404


async def test_another_server_takes_up_what_a_dead_one_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the lease; should the first come back, its chunks take the place of the same ones."""
    clock = [1_000_000.0]
    monkeypatch.setattr("antiphon.vector_stores.store.time.time", lambda: clock[0])
    stalled = GatedEmbedding()
    first, second = world.server(stalled), world.server()
    file = await world.file(WORDS * 30)
    store = await store_with(first, file)
    stalled.gate.clear()
    reading = asyncio.create_task(read_all(first))
    await until(lambda: stalled.waiting == 1)
    await read_all(second)
    assert (await counts(second, store)).by_status == {"in_progress": 1}, "its lease holds"
    clock[0] += 31
    await read_all(second)
    assert (await counts(second, store)).by_status == {"completed": 1}
    once = world.chunks(store)
    stalled.gate.set()
    await reading
    assert (await counts(first, store)).by_status == {"completed": 1}
    assert world.chunks(store) == once
    assert len(once) > 1


async def test_two_servers_read_many_files_once_each(world: World) -> None:
    """Neither a file twice nor one left out."""
    embeddings = [GatedEmbedding(), GatedEmbedding()]
    servers = [world.server(embedding) for embedding in embeddings]
    files = [await world.file(WORDS + str(number).encode()) for number in range(20)]
    store = await store_with(servers[0], *files)
    await asyncio.gather(*(read_all(server) for server in servers))
    assert (await counts(servers[0], store)).by_status == {"completed": 20}
    assert sorted(world.chunks(store)) == sorted(file.file_id for file in files)
    assert sum(len(embedding.texts) for embedding in embeddings) == 20


async def test_a_store_past_its_time_is_emptied_and_then_forgotten(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its index goes at once, its row a month later; a search puts its end off."""
    clock = [1_000_000.0]
    monkeypatch.setattr("antiphon.vector_stores.store.time.time", lambda: clock[0])
    server = world.server()
    store = await server.create(ACCOUNT, {"expires_after": {"anchor": "last_active_at", "days": 1}})
    await server.table.add_files(store, [await world.file(WORDS)])
    await read_all(server)
    clock[0] += 86_000
    assert len(await found(server, store)) == 1
    clock[0] += 86_000
    await server.ingestion.sweep()
    assert len(await found(server, await server.require_live(store.id, ACCOUNT))) == 1
    clock[0] += 86_401
    await server.ingestion.sweep()
    expired = await server.require(store.id, ACCOUNT)
    assert (await server.value(expired))["status"] == "expired"
    with pytest.raises(Exception, match="expired"):
        await server.require_live(store.id, ACCOUNT)
    assert not list((world.home / "vector_stores").glob("*.sqlite"))
    assert (await counts(server, store)).by_status == {}
    clock[0] += 31 * 86_400
    await server.ingestion.sweep()
    assert await server.table.find(store.id, ACCOUNT) is None


async def test_several_stores_are_searched_as_one(world: World) -> None:
    """One ranking over all; a file in two of them is found in each."""
    server = world.server()
    files = [await world.file(WORDS + str(number).encode()) for number in range(3)]
    stores = [await store_with(server, *files[:2]), await store_with(server, *files[1:])]
    await read_all(server)
    results = await server.search(stores, query("lamp"), ACCOUNT, "/v1/test")
    assert sorted((one.vector_store_id, one.file_id) for one in results) == sorted(
        (store.id, file.file_id) for store, some in zip(stores, (files[:2], files[1:]), strict=True) for file in some
    )
    assert [one.score for one in results] == sorted((one.score for one in results), reverse=True)
    limited = await server.search(stores, query("lamp", max_num_results=1), ACCOUNT, "/v1/test")
    assert len(limited) == 1


async def test_a_model_gets_the_words_that_it_was_trained_with(world: World) -> None:
    """Before a passage and before a question; neither is shown or found by them."""
    embedding = GatedEmbedding()
    embedding.name = "nomic-embed-text-v1.5"
    server = world.server(embedding)
    file = await world.file(WORDS)
    store = await store_with(server, file)
    await read_all(server)
    results = await server.search([store], query("lamp"), ACCOUNT, "/v1/test")
    assert embedding.texts == [f"search_document: x.txt\n\n{WORDS.decode().strip()}", "search_query: lamp"]
    assert [one.text for one in results] == [WORDS.decode().strip()]


@pytest.mark.parametrize(
    "refusal",
    [
        prompt_too_long(512, 600, 0),
        context_length_exceeded(512, 600),
        ApiError(413, "Input is too long for the requested model."),
    ],
    ids=["this server's words", "with a code", "another's words"],
)
async def test_a_chunk_that_the_model_cannot_hold_is_cut(world: World, refusal: ApiError) -> None:
    """However the refusal is worded: no file fails because the model's tokens are shorter than those that chunks count."""
    embedding = GatedEmbedding()
    embedding.too_long = refusal
    server = world.server(embedding)
    file = await world.file(WORDS * 20)
    store = await store_with(server, file)
    await read_all(server)
    assert (await counts(server, store)).by_status == {"completed": 1}
    held = await server.table.find_file(store.id, file.file_id)
    assert held is not None
    texts = "".join(await server.texts(held))
    assert "".join(texts.split()) == "".join((WORDS * 20).decode().split())
    assert max(map(len, embedding.texts)) <= 200


async def test_another_refusal_of_the_model_fails_the_file(world: World) -> None:
    """A key without access, say: cutting would ask for ever."""
    embedding = GatedEmbedding()
    embedding.too_long = ApiError(403, "The text is too long for this key.")
    server = world.server(embedding)
    store = await store_with(server, await world.file(WORDS * 20))
    await read_all(server)
    assert (await counts(server, store)).by_status == {"failed": 1}


async def test_a_batch_asks_for_all_its_files_at_once(world: World) -> None:
    """The statements do not grow with the batch."""
    server = world.server()
    kept = [await world.file(WORDS + str(number).encode()) for number in range(60)]
    statements: list[str] = []
    target = world.files.engine.sync_engine
    event.listen(target, "before_cursor_execute", lambda *given: statements.append(given[2]))
    made = await new_files(server, ACCOUNT, [{"file_id": file.file_id} for file in kept], 100, 10)
    assert [file.file_id for file in made] == [file.file_id for file in kept]
    assert len([statement for statement in statements if statement.startswith("SELECT")]) == 1
