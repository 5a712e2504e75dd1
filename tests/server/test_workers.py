"""Several API processes behind one port: one engine per model, one set of keys, limits and rows."""

import asyncio
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import httpx2 as httpx
import openai
import pytest
from tests.accounts.services import redis_server
from tests.processes import ServerProcess, home_with_models, serving

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.timeout(300)]

ASK: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def those(server: ServerProcess, module: bytes) -> list[int]:
    return [pid for pid in children(server.pid) if module in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.fixture(scope="module")
def redis_url() -> Generator[str]:
    with redis_server() as url:
        yield url


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return home_with_models(tmp_path_factory.mktemp("workers"))


@pytest.fixture(scope="module")
def server(home: Path, redis_url: str) -> Generator[ServerProcess]:
    environ = {
        "ANTIPHON_SERVER_WORKERS": "2",
        "ANTIPHON_ACCOUNTS_REDIS_URL": redis_url,
        "ANTIPHON_ACCOUNTS_RPM": "100",
        "ANTIPHON_SERVER_SHUTDOWN_GRACE_S": "0.5",
    }
    with serving(home, **environ) as up:
        yield up


def run(home: Path, *words: str) -> str:
    environ = {**os.environ, "ANTIPHON_HOME": str(home)}
    command = [sys.executable, "-m", "antiphon", *words]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout


def test_one_engine_for_each_model(server: ServerProcess) -> None:
    """Two workers, two engines; not two for each worker."""
    assert len(those(server, b"antiphon.server.worker")) == 2
    assert len(those(server, b"antiphon.engine")) == 2


@pytest.mark.anyio
async def test_many_requests_are_shared_out_and_written_down(server: ServerProcess, home: Path) -> None:
    """Each is answered, counted in one limit, and has its one row in the ledger."""
    remaining: list[int] = []
    async with openai.AsyncOpenAI(base_url=server.url, api_key="x", max_retries=0) as client:

        async def ask() -> str:
            answer = await client.chat.completions.with_raw_response.create(
                model="gpt-4o-mini", messages=ASK, max_tokens=4
            )
            remaining.append(int(answer.headers["x-ratelimit-remaining-requests"]))
            return answer.headers["x-request-id"]

        ids = await asyncio.gather(*(ask() for _ in range(20)))
    # Counted by each worker for itself, none would have seen more than about half of them.
    assert min(remaining) < 88
    deadline = asyncio.get_running_loop().time() + 10
    counts: Counter[str] = Counter()
    while len(counts) < 20 and asyncio.get_running_loop().time() < deadline:
        await asyncio.to_thread(_count_rows, home, counts, ids)
    assert counts == Counter(ids)


def _count_rows(home: Path, counts: Counter[str], ids: list[str]) -> None:
    with sqlite3.connect(home / "antiphon.db", timeout=10) as database:
        marks = ",".join("?" * len(ids))
        rows = database.execute(f"SELECT request_id FROM usage WHERE request_id IN ({marks})", ids).fetchall()
    counts.clear()
    counts.update(row[0] for row in rows)


def test_whichever_worker_is_asked_answers_for_all(server: ServerProcess) -> None:
    """The metrics of requests are those of every worker."""
    path = f"{server.url.removesuffix('/v1')}/metrics"
    line = re.compile(r'^antiphon_requests_total{path="/v1/chat/completions",status="200"} (\d+)', re.MULTILINE)
    seen: set[str] = set()
    for _ in range(8):
        found = line.search(httpx.get(path).text)
        assert found is not None
        seen.add(found[1])
    assert len(seen) == 1
    assert float(seen.pop()) >= 20


def test_a_worker_that_dies_is_replaced(server: ServerProcess) -> None:
    """The other goes on answering, and soon there are two again."""
    victim = those(server, b"antiphon.server.worker")[0]
    os.kill(victim, signal.SIGKILL)
    with openai.OpenAI(base_url=server.url, api_key="x", max_retries=5) as client:
        for _ in range(5):
            assert client.chat.completions.create(model="gpt-4o-mini", messages=ASK, max_tokens=2).choices
    while len(workers := those(server, b"antiphon.server.worker")) < 2:
        pass
    assert victim not in workers


def test_an_engine_that_dies_is_found_again_by_all(server: ServerProcess) -> None:
    """The owner replaces it, and every worker connects to the new one."""
    for victim in those(server, b"antiphon.engine"):
        os.kill(victim, signal.SIGKILL)
    with openai.OpenAI(base_url=server.url, api_key="x", max_retries=8) as client:
        for _ in range(6):
            assert client.chat.completions.create(model="gpt-4o-mini", messages=ASK, max_tokens=2).choices


def test_a_key_is_revoked_for_all_at_once(server: ServerProcess, home: Path) -> None:
    """What the command line does holds for the next request, whichever worker answers it."""
    key = next(word for word in run(home, "keys", "create", "--name", "ada").split() if word.startswith("sk-"))
    headers = {"authorization": f"Bearer {key}"}
    assert {httpx.get(f"{server.url}/models", headers=headers).status_code for _ in range(8)} == {200}
    run(home, "keys", "revoke", "ada")
    assert {httpx.get(f"{server.url}/models", headers=headers).status_code for _ in range(8)} == {401}


def test_workers_need_one_place_to_count(home: Path) -> None:
    """Without Redis each would count for itself, so that is refused."""
    environ = {**os.environ, "ANTIPHON_HOME": str(home), "ANTIPHON_SERVER_WORKERS": "2"}
    command = [sys.executable, "-m", "antiphon", "serve", "--port", "0"]
    failed = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "redis_url" in failed.stderr
