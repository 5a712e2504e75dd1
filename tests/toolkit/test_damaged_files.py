"""Damaged, full and unwritable files: one line with the step to take, and nothing that was paid for is lost."""

import os
import sqlite3
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.toolkit.scripted_endpoint import Endpoint, answer

from antiphon.toolkit.bulk.batchfile import Request, Result
from antiphon.toolkit.bulk.journal import Journal
from antiphon.toolkit.cache_file import CacheWriteWarning
from antiphon.toolkit.calls.response_cache import ResponseCache
from antiphon.toolkit.chat.chat import Chat
from antiphon.toolkit.embeddings.embedding_cache import EmbeddingCache
from antiphon.toolkit.errors import CacheError, IndexingError, JournalError, ToolkitError
from antiphon.toolkit.index import Index
from antiphon.toolkit.index.store import IndexStore

pytestmark = pytest.mark.anyio
OPENERS: dict[str, tuple[Any, type[ToolkitError]]] = {
    "response cache": (ResponseCache, CacheError),
    "embedding cache": (EmbeddingCache, CacheError),
    "index": (lambda path: IndexStore(Path(path)), IndexingError),
}


def overwrite(path: Path, start: int) -> None:
    """Damage the file from ``start`` on, as a failing disk does."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xaa" * (size - start))


@pytest.mark.parametrize("kind", OPENERS)
def test_a_file_that_is_not_a_database_is_refused_with_the_step_to_take(kind: str, tmp_path: Path) -> None:
    """By its name."""
    opener, error = OPENERS[kind]
    path = tmp_path / "a.sqlite"
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(error, match=r"a\.sqlite") as caught:
        opener(path)
    assert caught.value.hint


@pytest.mark.parametrize("kind", OPENERS)
def test_a_folder_that_cannot_be_made_is_one_error(kind: str, tmp_path: Path) -> None:
    """As in a home that is read-only."""
    opener, error = OPENERS[kind]
    (tmp_path / "file").write_text("")
    with pytest.raises(error, match="unable to make") as caught:
        opener(tmp_path / "file" / "below" / "a.sqlite")
    assert "written" in caught.value.hint


def test_an_index_that_is_damaged_while_it_is_in_use_says_so(tmp_path: Path) -> None:
    """Whatever is asked of it."""
    path = tmp_path / "i.sqlite"
    client = openai.OpenAI(api_key="k", base_url="http://127.0.0.1:9/v1")
    Index(path, client=client).close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    overwrite(path, 4096)
    with pytest.raises(IndexingError, match=r"i\.sqlite") as caught:
        Index(path, client=client).search("x", mode="bm25")
    assert "damaged" in caught.value.hint


def test_a_damaged_vector_is_an_indexing_error(tmp_path: Path) -> None:
    """Not one of numpy."""
    store = IndexStore(tmp_path / "i.sqlite")
    store._db.execute("INSERT INTO documents VALUES (1, 'a', 'f', '', '{}', 1)")
    store._db.execute("INSERT INTO chunks VALUES (1, 1, '', 'a', 0, 1, x'00')")
    import numpy as np  # noqa: PLC0415 - this test alone has vectors

    with pytest.raises(IndexingError, match="cannot be used"):
        store.by_vector(np.ones(2, np.float32), 1)


def test_a_damaged_entry_of_the_response_cache_counts_as_absent(endpoint: Endpoint, tmp_path: Path) -> None:
    """And the next answer replaces it."""
    endpoint.replies = [answer("one"), answer("two")]
    cache = ResponseCache(tmp_path / "c.sqlite")
    for _ in range(2):
        assert Chat(client=endpoint.client(), temperature=0, cache=cache).send("x").text == "one"
    cache._file.database.execute("UPDATE answers SET completion = '{'")
    for _ in range(2):
        assert Chat(client=endpoint.client(), temperature=0, cache=cache).send("x").text == "two"


def test_an_answer_that_a_cache_cannot_take_is_not_lost(endpoint: Endpoint, tmp_path: Path) -> None:
    """It is returned, with a warning."""
    cache = ResponseCache(tmp_path / "c.sqlite")
    cache._file.database.execute("PRAGMA query_only = ON")
    with pytest.warns(CacheWriteWarning, match="could not be written"):
        assert Chat(client=endpoint.client(), temperature=0, cache=cache).send("x").text == "ok"


@pytest.mark.parametrize("out", ["/dev/null", "/dev/full"])
def test_a_device_is_no_place_for_the_answers_of_a_run(out: str) -> None:
    """It is neither replaced, nor is a journal put beside it."""
    with pytest.raises(JournalError, match="not a regular file"), Journal(Path(out)):
        pass
    assert not Path(out + ".journal").exists()
    assert not Path(out).is_file()


def test_a_run_into_a_folder_that_is_not_there_says_so(tmp_path: Path) -> None:
    """Before anything is sent."""
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="cannot be written") as caught, Journal(tmp_path / "file" / "o.jsonl"):
        pass
    assert "folder" in caught.value.hint


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a disk that is always full")  # noqa: PTH110
async def test_a_full_disk_ends_a_run_with_the_step_to_take(tmp_path: Path) -> None:
    """The same command goes on later."""
    with pytest.raises(JournalError, match="No space left") as caught, Journal(tmp_path / "o.jsonl") as journal:  # noqa: PT012 - the journal is left by the error
        assert journal._file is not None
        journal._file.close()
        journal._file = open("/dev/full", "r+b", buffering=0)  # noqa: ASYNC230, PTH123, SIM115 - closed by the journal
        await journal.append((Request.chat("a", "x", model="m"), Result("a", 200, body={})))
    assert "free some space" in caught.value.hint
    with Journal(tmp_path / "o.jsonl") as journal:
        assert journal.entries == {}
