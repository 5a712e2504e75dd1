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
from contextlib import closing
from pathlib import Path

import httpx2 as httpx
import openai
import pytest
from tests.accounts.services import redis_server
from tests.processes import ServerProcess, children, home_with_models, serving
from tests.waiting import PATIENCE_S, until, wait_until

pytestmark = [pytest.mark.model, pytest.mark.slow]

RPM = 100
ASK: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]


def workers(server: ServerProcess) -> list[int]:
    return children(server, b"antiphon.server.process.worker")


def run(home: Path, *words: str) -> str:
    environ = {**os.environ, "ANTIPHON_HOME": str(home)}
    command = [sys.executable, "-m", "antiphon", *words]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout


def new_key(home: Path, name: str) -> str:
    return next(word for word in run(home, "keys", "create", "--name", name).split() if word.startswith("sk-"))


@pytest.fixture(scope="module")
def redis_url() -> Generator[str]:
    with redis_server() as url:
        yield url


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return home_with_models(tmp_path_factory.mktemp("workers"))


@pytest.fixture(scope="module")
def key(home: Path) -> str:
    """A key of the tests' own: once there is one, no other word is taken for it."""
    return new_key(home, "tests")


@pytest.fixture(scope="module")
def server(home: Path, redis_url: str, key: str) -> Generator[ServerProcess]:
    environ = {
        "ANTIPHON_SERVER_WORKERS": "2",
        "ANTIPHON_ACCOUNTS_REDIS_URL": redis_url,
        "ANTIPHON_ACCOUNTS_RPM": str(RPM),
        "ANTIPHON_SERVER_SHUTDOWN_GRACE_S": "0.5",
    }
    with serving(home, **environ) as up:
        yield up


def test_one_engine_for_each_model(server: ServerProcess) -> None:
    """Two workers, two engines; not two for each worker."""
    wait_until(lambda: len(workers(server)) == 2)
    wait_until(lambda: len(children(server, b"antiphon.engine")) == 2)


@pytest.mark.anyio
async def test_many_requests_are_shared_out_and_written_down(server: ServerProcess, home: Path, key: str) -> None:
    """Each is answered, counted in one limit, and has its one row in the ledger."""
    remaining: list[int] = []
    async with openai.AsyncOpenAI(base_url=server.url, api_key=key, max_retries=0) as client:

        async def ask() -> str:
            answer = await client.chat.completions.with_raw_response.create(
                model="gpt-4o-mini", messages=ASK, max_tokens=4
            )
            remaining.append(int(answer.headers["x-ratelimit-remaining-requests"]))
            return answer.headers["x-request-id"]

        began = asyncio.get_running_loop().time()
        ids = await asyncio.gather(*(ask() for _ in range(20)))
    # The last one sees all of them, though each worker answered about half. What leaked meanwhile is free again.
    leaked = (asyncio.get_running_loop().time() - began) * RPM / 60
    assert min(remaining) <= RPM - len(ids) + leaked + 1
    await until(lambda: len(_rows(home, ids)) >= 20)
    assert Counter(_rows(home, ids)) == Counter(ids)


def _rows(home: Path, ids: list[str]) -> list[str]:
    with closing(sqlite3.connect(home / "antiphon.db", timeout=PATIENCE_S)) as database:
        marks = ",".join("?" * len(ids))
        return [row[0] for row in database.execute(f"SELECT request_id FROM usage WHERE request_id IN ({marks})", ids)]


def test_whichever_worker_is_asked_answers_for_all(server: ServerProcess, key: str) -> None:
    """The metrics of requests are those of every worker."""
    before = _num_answered(server)
    with openai.OpenAI(base_url=server.url, api_key=key, max_retries=5) as client:
        for _ in range(4):
            client.chat.completions.create(model="gpt-4o-mini", messages=ASK, max_tokens=2)
    # A request is counted when it is over, a moment after its client has the answer. From then on all say the same.
    wait_until(lambda: _num_answered(server) >= before + 4)
    assert len({_num_answered(server) for _ in range(16)}) == 1


def _num_answered(server: ServerProcess) -> int:
    line = re.compile(r'^antiphon_requests_total{path="/v1/chat/completions",status="200"} (\d+)', re.MULTILINE)
    found = line.search(httpx.get(f"{server.url.removesuffix('/v1')}/metrics").text)
    return int(found[1]) if found else 0


def test_a_worker_that_dies_is_replaced(server: ServerProcess, key: str) -> None:
    """The other goes on answering, and soon there are two again."""
    victim = workers(server)[0]
    os.kill(victim, signal.SIGKILL)
    with openai.OpenAI(base_url=server.url, api_key=key, max_retries=100) as client:
        for _ in range(5):
            assert client.chat.completions.create(model="gpt-4o-mini", messages=ASK, max_tokens=2).choices
    wait_until(lambda: len(workers(server)) == 2 and victim not in workers(server))


def test_an_engine_that_dies_is_found_again_by_all(server: ServerProcess, key: str) -> None:
    """The owner replaces it, and every worker connects to the new one."""
    for victim in children(server, b"antiphon.engine"):
        os.kill(victim, signal.SIGKILL)
    with openai.OpenAI(base_url=server.url, api_key=key, max_retries=100) as client:
        for _ in range(6):
            assert client.chat.completions.create(model="gpt-4o-mini", messages=ASK, max_tokens=2).choices


def test_a_key_is_revoked_for_all_at_once(server: ServerProcess, home: Path) -> None:
    """What the command line does holds for the next request, whichever worker answers it."""
    headers = {"authorization": f"Bearer {new_key(home, 'ada')}"}
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
