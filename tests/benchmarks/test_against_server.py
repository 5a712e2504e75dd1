import asyncio
import os
import re
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace

import pytest
from benchmarks.client import Client, RequestFailed
from benchmarks.contenders import contenders
from benchmarks.texts import sentences, words
from benchmarks.workloads import Run, arrivals
from tests.processes import ServerProcess

from antiphon.models import Catalogue, ModelStore
from benchmarks import machine

pytestmark = pytest.mark.anyio


def client_of(server: ServerProcess, model: str = "gpt-4o-mini") -> "aclosing[Client]":
    return aclosing(Client(int(re.search(r":(\d+)/", server.url)[1]), model))


@pytest.mark.model
@pytest.mark.slow
async def test_the_bare_client_reads_what_our_server_says(local_process: ServerProcess) -> None:
    """Text, usage, times and errors arrive; the answer has exactly the length that was asked for."""
    count = [{"role": "user", "content": "Count."}]
    async with client_of(local_process) as client:
        result = await client.chat(count, max_tokens=12, end_tokens=[0, 2])
        again = await client.chat(count, max_tokens=12, end_tokens=[0, 2])
    assert again.text == result.text
    assert result.completion_tokens == 12
    assert result.prompt_tokens > 5
    assert result.text
    assert 0 < result.ttft_s < result.total_s
    async with client_of(local_process, "text-embedding-3-small") as client:
        assert await client.embed(["a", "b"]) == 2
    async with client_of(local_process, "absent") as client:
        with pytest.raises(RequestFailed, match="HTTP 404"):
            await client.chat(count, max_tokens=1, end_tokens=[])


@pytest.mark.model
@pytest.mark.slow
async def test_memory_does_not_grow_under_random_load(local_process: ServerProcess) -> None:
    """Chats that arrive and leave at random leave no more behind than the first ones did."""
    async with client_of(local_process) as client:
        await arrivals(Run(client, "soak-1", [0, 2]), seconds=90, count=24)
        settled = machine.rss_bytes(local_process.pid)
        answered = await arrivals(Run(client, "soak-2", [0, 2]), seconds=90, count=24)
    assert answered > 0
    assert machine.rss_bytes(local_process.pid) < settled * 1.15


def test_texts_are_the_same_for_everyone() -> None:
    """A seed gives the same words on every machine, another seed others."""
    assert words(5, "a") == words(5, "a") != words(5, "b")
    assert len(words(600, "x").split()) == 600
    lengths = [len(s.split()) for s in sentences(1000, "s")]
    assert min(lengths) >= 4
    assert max(lengths) <= 30
    assert 8 < sum(lengths) / 1000 < 13


def test_a_peer_that_is_not_there_says_how_to_get_it(tmp_path: Path) -> None:
    """A missing peer is reported with the package to install; Antiphon itself is always available."""
    ours, *peers = contenders("/bin/true", "/bin/true", [], tmp_path)
    assert ours.missing() is None
    environment = os.environ.get("PATH", "")
    os.environ["PATH"] = ""
    try:
        assert all("pip install" in (peer.missing() or "") for peer in peers)
    finally:
        os.environ["PATH"] = environment


def test_each_contender_serves_the_model_it_is_given(tmp_path: Path) -> None:
    """The command names the file and the port."""
    for contender in contenders("/bin/true", "/bin/true", [], tmp_path):
        if contender.name not in {"llama-server", "vllm"}:  # these are looked for, or unpack the file
            launch = contender.launch("chat", tmp_path / "m.gguf", 1234, 2)
            assert str(tmp_path / "m.gguf") in launch.command
            assert "1234" in launch.command


@pytest.mark.model
def test_bytes_of_the_cache_are_found_or_reckoned_up(tmp_path: Path, model_home: Path) -> None:
    """Ours has a metric; a peer has its cells, of the size that the file says; an encoder keeps nothing that we know of."""
    store, catalogue = ModelStore(model_home), Catalogue.default()
    chat, embedding = (store.ensure(catalogue.default_of(task)) for task in ("chat", "embedding"))
    ours, *peers = contenders("/bin/true", "/bin/true", [], tmp_path)
    metrics = '# TYPE antiphon_engine_kv_bytes gauge\nantiphon_engine_kv_bytes{model="m"} 377487360\n'
    assert ours.kv_bytes(chat, metrics) == 16384 * 23040
    assert [peer.kv_bytes(chat, "") for peer in peers] == [
        cells * 23040 for cells in (16384, 16384, 8192, 16384, 16384)
    ]
    assert {contender.kv_bytes(embedding, "") for contender in (ours, *peers)} == {None}


def test_bytes_that_cannot_be_reckoned_up_are_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where layers differ, in keys or in queries, the size is unknown and not estimated."""
    metadata: dict[str, object] = {"general.architecture": "a", "a.block_count": 2, "a.embedding_length": 64}
    heads: list[tuple[object, object]] = [(4, 2), ([4, 4], 2), (4, [2, 2])]
    peer = contenders("/bin/true", "/bin/true", [], tmp_path)[1]
    found: list[int | None] = []
    for queries, keys in heads:
        header = SimpleNamespace(
            metadata=metadata | {"a.attention.head_count": queries, "a.attention.head_count_kv": keys}
        )
        monkeypatch.setattr("benchmarks.contenders.read_header", lambda _, header=header: header)
        found.append(peer.kv_bytes(tmp_path / "m.gguf", ""))
    assert found == [16384 * 2 * 2 * 32 * 2, None, None]


async def test_a_connection_that_breaks_is_an_error() -> None:
    """Half an answer is never taken for a whole one."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\ndata:")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        client = Client(server.sockets[0].getsockname()[1], "m")
        with pytest.raises(asyncio.IncompleteReadError):
            await client.chat([], max_tokens=1, end_tokens=[])
