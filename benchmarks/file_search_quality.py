"""Does a vector store find what the toolkit's index finds, and do citations point at it? Over Python's documentation.

    python -m benchmarks.file_search_quality [--sources FOLDER] [--folders faq tutorial ...] [--queries 100]

Pages and queries are those of ``search_quality.py``: no text of a query is in what is searched. The same server and the same
embedding model serve both: the toolkit's index, and a vector store to which each page is uploaded as a text file. Prints
recall@10 and MRR@10 of both, by the kind of query.

Then each query is a question of ``POST /v1/responses`` with ``file_search``, to a chat-only model behind an upstream that searches
for the question's words and cites the first three results. A citation is right when the file that it names has the very passage
that the model saw under this number; printed is also how many first citations lie in the section that the query is about.
"""

import argparse
import json
import random
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import openai
from tests.processes import home_with_models, serving

from antiphon.toolkit.embeddings.embedding_cache import EmbeddingCache
from antiphon.toolkit.index import Document, Index
from benchmarks.search_quality import FOLDERS, SOURCES, K, Query, first_right, read

CITED = 3
KINDS = ("questions", "headings", "sentences")
MODEL = "text-embedding-3-small"


class Place(NamedTuple):
    """Where a passage lies: as a ``Hit`` of the index, as far as ``first_right`` looks at it."""

    document: str
    start: int
    end: int


class _Citing(BaseHTTPRequestHandler):
    """A chat model that searches for what the user said, and then cites the first results."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        last = body["messages"][-1]
        if last["role"] == "tool":
            message: dict[str, Any] = {"content": " ".join(f"As the text says [{n}]." for n in range(1, CITED + 1))}
        else:
            arguments = json.dumps({"queries": [_text(last)]})
            call = {"id": "call_1", "type": "function", "function": {"name": "file_search", "arguments": arguments}}
            message = {"content": None, "tool_calls": [call]}
        reason = "stop" if last["role"] == "tool" else "tool_calls"
        choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        if body.get("stream"):
            self._stream(message, reason, usage)
            return
        self._send("application/json", json.dumps({"choices": [choice], "usage": usage, "model": "citing"}).encode())

    def do_GET(self) -> None:
        self._send("application/json", b'{"object": "list", "data": [{"id": "citing", "object": "model"}]}')

    def _stream(self, message: dict[str, Any], reason: str, usage: dict[str, int]) -> None:
        calls = [call | {"index": 0} for call in message.get("tool_calls", [])]
        delta = {"role": "assistant", "content": message["content"]} | ({"tool_calls": calls} if calls else {})
        chunks: list[dict[str, Any]] = [
            {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]},
            {"choices": [], "usage": usage},
        ]
        frames = [
            json.dumps({"id": "c", "object": "chat.completion.chunk", "model": "citing", **one}) for one in chunks
        ]
        self._send("text/event-stream", "".join(f"data: {frame}\n\n" for frame in [*frames, "[DONE]"]).encode())

    def _send(self, kind: str, content: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Say nothing."""


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


@contextmanager
def citing_model() -> Generator[str]:
    """Yield the base URL of the citing model."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Citing)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def filled_store(client: openai.OpenAI, documents: Sequence[Document]) -> tuple[str, dict[str, Document]]:
    """Upload each page as a text file; return the store's id and the page of each file."""
    files: dict[str, Document] = {}
    for document in documents:
        name = document.id.replace("/", "-") + ".txt"
        made = client.files.create(file=(name, document.text.encode()), purpose="assistants")
        files[made.id] = document
    store = client.vector_stores.create(file_ids=list(files))
    began = time.perf_counter()
    while (store := client.vector_stores.retrieve(store.id)).status != "completed":
        time.sleep(0.2)
    counts = store.file_counts
    print(f"vector store: {counts.completed} files read, {counts.failed} failed, {time.perf_counter() - began:.0f} s")
    for failed in client.vector_stores.files.list(store.id, filter="failed"):
        print(f"failed: {files[failed.id].id}: {failed.last_error and failed.last_error.message}")
    return store.id, files


def place_of(text: str, document: Document) -> Place | None:
    """Return where a passage stands in a page; None if it does not."""
    start = document.text.find(text)
    return None if start < 0 else Place(document.id, start, start + len(text))


def compare(queries: Sequence[Query], searches: dict[str, Callable[[str], Sequence[Any]]]) -> None:
    """Print recall@10 and MRR@10 of each search for each kind of query."""
    print("| queries | n | searched by | recall@10 | MRR@10 |")
    print("|---|---|---|---|---|")
    for kind in (*KINDS, "all"):
        some = [query for query in queries if kind in {query.kind, "all"}]
        for name, search in searches.items():
            ranks = [first_right(search(query.text), query) for query in some]
            recall = sum(rank is not None for rank in ranks) / len(some)
            mrr = statistics.mean(1 / rank if rank else 0.0 for rank in ranks)
            print(f"| {kind} | {len(some)} | {name} | {recall:.3f} | {mrr:.3f} |", flush=True)


def citations(client: openai.OpenAI, store_id: str, files: dict[str, Document], queries: Sequence[Query]) -> None:
    """Print how many citations name the file of the passage that the model saw, and how many first ones are to the point."""
    num_cited = num_right = num_to_the_point = 0
    for query in queries:
        response = client.responses.create(
            model="citing",
            input=query.text,
            tools=[{"type": "file_search", "vector_store_ids": [store_id]}],
            include=["file_search_call.results"],
        )
        results = next(item.results or [] for item in response.output if item.type == "file_search_call")
        message = next(item for item in response.output if item.type == "message")
        assert message.content[0].type == "output_text"
        text = message.content[0]
        assert not re.search(r"\[\d\]", text.text), "a marker was left in the text"
        for number, (cited, result) in enumerate(zip(text.annotations, results, strict=False)):
            assert cited.type == "file_citation"
            place = place_of(result.text or "", files[cited.file_id]) if cited.file_id in files else None
            num_cited += 1
            num_right += place is not None and cited.file_id == result.file_id
            if number == 0 and place is not None:
                num_to_the_point += first_right([place], query) is not None  # type: ignore[list-item] # has what it reads
    print(f"citations: {num_right} of {num_cited} name the file with the passage that was seen under their number")
    print(f"first citations: {num_to_the_point} of {len(queries)} lie in the section that the question is about")


def drawn(queries: Sequence[Query], most: int) -> list[Query]:
    """Draw up to ``most`` queries of each kind, always the same ones."""
    return [query for kind in KINDS for query in _sample([query for query in queries if query.kind == kind], most)]


def _sample(some: Sequence[Query], most: int) -> list[Query]:
    return random.Random(7).sample(list(some), min(most, len(some)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", type=Path, default=SOURCES)
    parser.add_argument("--folders", nargs="*", default=FOLDERS)
    parser.add_argument("--queries", type=int, default=100, help="at most so many of each kind")
    options = parser.parse_args()
    paths = [path for folder in options.folders for path in sorted((options.sources / folder).rglob("*.rst.txt"))]
    if not paths:
        parser.error(f"no pages below {options.sources}: install Debian's python3-doc, or name its _sources")
    pages = [read(path, options.sources) for path in paths]
    documents = [document for document, _ in pages]
    queries = drawn([query for _, some in pages for query in some], options.queries)
    with tempfile.TemporaryDirectory() as folder, citing_model() as upstream:
        home = home_with_models(Path(folder) / "home")
        config = home / "antiphon.toml"
        config.write_text(
            f'[models]\nchat = "none"\n[[gateway.upstreams]]\nname = "citing"\nbase_url = "{upstream}"\n'
            'responses = "translate"\n'
        )
        with (
            serving(home, "--config", str(config)) as server,
            openai.OpenAI(base_url=server.url, api_key="bench", timeout=600) as client,
            closing(EmbeddingCache(Path(folder) / "cache.sqlite")) as cache,
            Index(Path(folder) / "i.sqlite", model=MODEL, client=client, cache=cache) as index,
        ):
            report = index.update(documents)
            print(f"index: {len(documents)} pages, {report.num_embedded} chunks, {report.seconds:.0f} s")
            store_id, files = filled_store(client, documents)

            def by_store(text: str) -> list[Place]:
                found = client.vector_stores.search(store_id, query=text, max_num_results=K).data
                places = (place_of(one.content[0].text, files[one.file_id]) for one in found)
                return [place for place in places if place is not None]

            compare(queries, {"index": lambda text: index.search(text, limit=K), "vector store": by_store})
            citations(client, store_id, files, queries)


if __name__ == "__main__":
    main()
