"""Keys, limits, usage and cost over HTTP, asked by the official client."""

import asyncio
import random
import socket
import sqlite3
import time
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2
import openai
import pytest
from tests.serving import Running, running
from tests.waiting import PATIENCE_S

from antiphon.accounts import AccountSettings, KeyBudget, Limits, ModelPrice, Principal
from antiphon.accounts.database import open_database
from antiphon.accounts.keys import KeyStore
from antiphon.accounts.limiter import MemoryLimiter
from antiphon.accounts.reports import UsageQuery, UsageTotal
from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Pattern, Reply, Script

T = TypeVar("T")
MODEL = "gpt-4o-mini"


def backend() -> ScriptedBackend:
    return ScriptedBackend(Script(models=(MODEL,), embedding_models=("text-embedding-3-small",)))


@contextmanager
def server(home: Path, **settings: object) -> Generator[Running]:
    with running(backend(), home, accounts=AccountSettings(**settings)) as up:  # type: ignore[arg-type]
        yield up


def in_database(home: Path, change: Callable[[KeyStore], Awaitable[T]]) -> T:
    """Change keys as another process does: over another connection."""

    async def run() -> T:
        engine = await open_database(None, home)
        try:
            return await change(await KeyStore.open(engine, None, home))
        finally:
            await engine.dispose()

    return asyncio.run(run())


def new_key(home: Path, principal: Principal) -> str:
    return in_database(home, lambda store: store.create(principal))[0]


def ask(client: openai.OpenAI, text: str = "hello there") -> openai.types.chat.ChatCompletion:
    return client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": text}])


def rows(up: Running) -> list[UsageTotal]:
    """Sum per model and key of what the server recorded, written or not."""
    query = UsageQuery(by=("key", "model"))
    return asyncio.run_coroutine_threadsafe(up.service.accounts.report(query), up.loop).result(PATIENCE_S)


class Clock:
    """The limiter's clock, moved by each sleep."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class PatientClient(openai.OpenAI):
    """The official client, whose waits move the clock instead of lasting."""

    clock: Clock

    def _sleep_for_retry(self, *, retries_taken: int, max_retries: int, options: Any, response: Any) -> None:
        headers = response.headers if response else None
        self.clock.sleep(self._calculate_retry_timeout(max_retries - retries_taken, options, headers))


@contextmanager
def on_a_clock(home: Path, **settings: object) -> Generator[tuple[Running, Clock]]:
    clock = Clock()
    with server(home, **settings) as up:
        up.service.accounts._limiter = MemoryLimiter(lambda: clock.now)
        yield up, clock


def test_the_client_waits_as_the_headers_say_and_succeeds(tmp_path: Path) -> None:
    """With two retries against three requests a minute every request succeeds, after exactly the waits in the headers."""
    with on_a_clock(tmp_path, rpm=3) as (up, clock):
        with PatientClient(base_url=up.url, api_key="any", max_retries=2) as client:
            client.clock = clock
            for _ in range(6):
                assert ask(client).choices[0].message.content == "hello there"
        assert clock.slept == [20.0, 20.0, 20.0]


def succeeds(client: openai.OpenAI) -> bool:
    try:
        ask(client)
    except openai.RateLimitError:
        return False
    return True


def test_a_backoff_loop_of_ones_own_succeeds(tmp_path: Path) -> None:
    """The loop that everybody writes - double the wait, add some jitter - gets through a limit as well."""
    rng = random.Random(7)
    with on_a_clock(tmp_path, rpm=3) as (up, clock):
        with openai.OpenAI(base_url=up.url, api_key="any", max_retries=0) as client:
            for _ in range(4):
                delay_s = 1.0
                while not succeeds(client):
                    clock.sleep(delay_s)
                    delay_s *= 2 * (1 + rng.random())
        assert 20 <= clock.now < 60


def test_in_real_time(tmp_path: Path) -> None:
    """The same with clocks that really run: 120 a minute leave half a second between requests once they are used up."""
    with server(tmp_path, rpm=120) as up, openai.OpenAI(base_url=up.url, api_key="any", max_retries=2) as client:
        started = time.monotonic()
        for _ in range(122):
            ask(client)
        assert time.monotonic() - started >= 0.9


def test_a_request_that_can_never_fit_fails_at_once(tmp_path: Path) -> None:
    """The answer says not to retry, and the client does not."""
    with server(tmp_path, tpm=100) as up, openai.OpenAI(base_url=up.url, api_key="any", max_retries=2) as client:
        with pytest.raises(openai.RateLimitError, match="Request too large for gpt-4o-mini") as caught:
            ask(client, "word " * 500)
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert [total.num_requests for total in rows(up)] == [1]


def test_the_six_headers_are_on_bodies_streams_and_refusals(tmp_path: Path) -> None:
    """Limits, what remains and when all is free again, whatever the answer is."""
    with (
        on_a_clock(tmp_path, rpm=2, tpm=6_000) as (up, _),
        openai.OpenAI(base_url=up.url, api_key="any", max_retries=0) as client,
    ):
        messages: list[Any] = [{"role": "user", "content": "hello there"}]
        body = client.chat.completions.with_raw_response.create(model=MODEL, messages=messages)
        assert limits(body.headers)[:5] == ["2", "6000", "1", "5998", "30s"]
        with client.chat.completions.with_streaming_response.create(
            model=MODEL, messages=messages, stream=True
        ) as stream:
            assert limits(stream.headers)[2:5] == ["0", limits(stream.headers)[3], "1m0s"]
            stream.read()
        with pytest.raises(openai.RateLimitError) as caught:
            ask(client)
        headers = caught.value.response.headers
        assert limits(headers)[2] == "0"
        assert (headers["retry-after"], headers["retry-after-ms"]) == ("30", "30000")


def limits(headers: httpx2.Headers) -> list[str]:
    names = [
        f"x-ratelimit-{what}-{kind}" for what in ("limit", "remaining", "reset") for kind in ("requests", "tokens")
    ]
    return [headers[name] for name in names]


def test_keys_made_and_revoked_while_the_server_runs(tmp_path: Path) -> None:
    """The first key closes the server to everybody else; a revoked one ends with the next request."""
    with server(tmp_path) as up, openai.OpenAI(base_url=up.url, api_key="any", max_retries=0) as anybody:
        ask(anybody)
        key = new_key(tmp_path, Principal(name="bob", models=(MODEL,)))
        with pytest.raises(openai.AuthenticationError) as caught:
            ask(anybody)
        assert caught.value.code == "invalid_api_key"
        bob = anybody.with_options(api_key=key)
        ask(bob)
        with pytest.raises(openai.NotFoundError):
            bob.embeddings.create(model="text-embedding-3-small", input="x")
        in_database(tmp_path, lambda store: store.revoke("bob"))
        with pytest.raises(openai.AuthenticationError):
            ask(bob)
        response = httpx2.get(f"{up.url}/models")
        assert response.status_code == 401
        assert response.json()["error"]["message"].startswith("You didn't provide an API key.")


def test_a_spent_budget_is_refused_without_a_retry(tmp_path: Path) -> None:
    """The quota error names itself, and the client does not try again."""
    prices = {MODEL: ModelPrice(input=1e6, output=1e6)}
    with server(tmp_path, prices=prices) as up:
        key = new_key(tmp_path, Principal(name="bob", budget=KeyBudget(usd=1.0)))
        with openai.OpenAI(base_url=up.url, api_key=key, max_retries=2) as client:
            ask(client)
            with pytest.raises(openai.RateLimitError, match="exceeded your current quota") as caught:
                ask(client)
        assert (caught.value.code, caught.value.type) == ("insufficient_quota", "insufficient_quota")
        (total,) = rows(up)
        assert (total.num_requests, total.num_failed) == (2, 1)


def test_concurrency(tmp_path: Path) -> None:
    """A key that has all its requests in flight is refused; when one ends the next is taken."""
    script = Script(models=(MODEL,), replies=(Reply(match=Pattern(calls=(1,)), fault="hang", after=1),))
    with running(ScriptedBackend(script), tmp_path) as up:
        key = new_key(tmp_path, Principal(name="bob", limits=Limits(concurrency=1)))
        with openai.OpenAI(base_url=up.url, api_key=key, max_retries=0) as client:
            stream = client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "one two"}], stream=True
            )
            next(stream)
            with pytest.raises(openai.RateLimitError, match="concurrent requests: Limit 1, Used 1"):
                ask(client)
            stream.close()
            while not succeeds(client):
                pass
        (total,) = rows(up)
        assert total.num_failed >= 2


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, str, str]]:
    """A server that bob used: two chats and an embedding at a price. Yields it, bob's key and an admin's."""
    home = tmp_path_factory.mktemp("used")
    with server(home, prices={MODEL: ModelPrice(input=1.0, output=1.0)}) as up:
        bob, admin = (new_key(home, Principal(name=name, is_admin=name == "admin")) for name in ("bob", "admin"))
        with openai.OpenAI(base_url=up.url, api_key=bob) as client:
            ask(client)
            ask(client)
            client.embeddings.create(model="text-embedding-3-small", input="hello there")
        yield up, bob, admin


@pytest.fixture
def admin(used: tuple[Running, str, str]) -> Iterator[openai.OpenAI]:
    up, _, key = used
    with openai.OpenAI(base_url=up.url, api_key=key, admin_api_key=key) as client:
        yield client


def test_usage_in_openais_shape(admin: openai.OpenAI) -> None:
    """The official client's own types read the page: one bucket with the tokens of both chats."""
    page = admin.admin.organization.usage.completions(
        start_time=int(time.time()) - 3_600, group_by=["model", "api_key_id"]
    )
    assert (page.object, page.has_more) == ("page", False)
    results = [result for bucket in page.data for result in bucket.results]
    (result,) = results
    assert result.object == "organization.usage.completions.result"
    assert (result.num_model_requests, result.model) == (2, MODEL)
    assert result.api_key_id is not None
    assert result.input_tokens > 0
    assert result.output_tokens > 0


def test_usage_of_batches(admin: openai.OpenAI) -> None:
    """Requests of batches have a group and a filter of their own; outside a batch nothing is one."""
    usage, start = admin.admin.organization.usage, int(time.time()) - 3_600
    grouped = usage.completions(start_time=start, group_by=["batch"])
    assert [result.batch for bucket in grouped.data for result in bucket.results] == [False]  # type: ignore[union-attr]
    for is_batch, expected in [(True, 0), (False, 1)]:
        page = usage.completions(start_time=start, batch=is_batch)
        assert sum(len(bucket.results) for bucket in page.data) == expected


def test_usage_of_embeddings(admin: openai.OpenAI) -> None:
    """Embeddings have their own page; fields that were not grouped by are null."""
    page = admin.admin.organization.usage.embeddings(start_time=int(time.time()) - 3_600, bucket_width="1h")
    (result,) = [result for bucket in page.data for result in bucket.results]
    assert result.object == "organization.usage.embeddings.result"
    assert (result.num_model_requests, result.model, result.api_key_id) == (1, None, None)


def test_costs(admin: openai.OpenAI) -> None:
    """Dollars by model; the local embedding, which has a public price, was charged it."""
    page = admin.admin.organization.usage.costs(start_time=int(time.time()) - 3_600, group_by=["line_item"])
    found = {result.line_item: result.amount for bucket in page.data for result in bucket.results}  # type: ignore[union-attr]
    assert set(found) == {MODEL, "text-embedding-3-small"}
    amount = found[MODEL]
    assert amount is not None
    assert amount.currency == "usd"
    assert amount.value is not None
    assert 0 < amount.value < 0.001


def test_pages_follow_each_other(admin: openai.OpenAI) -> None:
    """Buckets without usage are there, empty; the next page begins where this one ends."""
    start = int(time.time()) // 86_400 * 86_400 - 9 * 86_400
    end = start + 10 * 86_400
    first = admin.admin.organization.usage.completions(start_time=start, end_time=end)
    assert (len(first.data), first.has_more) == (7, True)
    assert first.data[0].start_time == start
    assert first.next_page is not None
    second = admin.admin.organization.usage.completions(start_time=start, end_time=end, page=first.next_page)
    assert second.data[0].start_time == first.data[-1].end_time
    assert (len(second.data), second.has_more, second.next_page) == (3, False, None)
    assert sum(len(bucket.results) for page in (first, second) for bucket in page.data) == 1


def test_an_ordinary_key_sees_no_usage_of_others(used: tuple[Running, str, str]) -> None:
    """An ordinary key is refused as OpenAI refuses it."""
    up, bob, _ = used
    with (
        openai.OpenAI(base_url=up.url, api_key=bob, admin_api_key=bob) as client,
        pytest.raises(openai.PermissionDeniedError, match="insufficient permissions"),
    ):
        client.admin.organization.usage.costs(start_time=0)


def test_keys_are_listed_with_commas_too(used: tuple[Running, str, str]) -> None:
    """All lists of a question are read alike: as ``name[]`` more than once, or with commas."""
    up, _, admin_key = used
    headers = {"authorization": f"Bearer {admin_key}"}
    url = f"{up.url}/organization/usage/completions"
    day = int(time.time()) - 3_600
    grouped = httpx2.get(url, params={"start_time": day, "group_by": "api_key_id"}, headers=headers).json()
    (key,) = [result["api_key_id"] for bucket in grouped["data"] for result in bucket["results"]]
    both = httpx2.get(url, params={"start_time": day, "api_key_ids": f"{key},other"}, headers=headers).json()
    assert [result["num_model_requests"] for bucket in both["data"] for result in bucket["results"]] == [2]


def test_what_has_not_begun_is_empty(used: tuple[Running, str, str]) -> None:
    """A start in the future has no buckets, and none that ends before it begins."""
    up, _, admin_key = used
    url = f"{up.url}/organization/usage/completions?start_time={int(time.time()) + 9_000}"
    page = httpx2.get(url, headers={"authorization": f"Bearer {admin_key}"}).json()
    assert (page["data"], page["has_more"], page["next_page"]) == ([], False, None)


@pytest.mark.parametrize(
    ("query", "param", "words"),
    [
        ("", "start_time", "Missing required parameter"),
        ("start_time=yesterday", "start_time", "expected an integer"),
        ("start_time=0&bucket_width=2d", "bucket_width", "Supported values are: '1m', '1h', '1d'"),
        ("start_time=0&start_time=5", "start_time", "more than once"),
        ("start_time=0&limit=1&limit=2", "limit", "more than once"),
        ("start_time[]=0", "start_time[]", "Unknown parameter"),
        ("start_time=5&end_time=5", "end_time", "not after"),
        ("start_time=0&limit=32", "limit", "integer above maximum value. Expected a value <= 31"),
        ("start_time=0&limit=0", "limit", "integer below minimum value. Expected a value >= 1"),
        ("start_time=0&group_by[]=project_id", "group_by", "does not support grouping by 'project_id'"),
        ("start_time=0&group_by=colour", "group_by", "Supported values are"),
        ("start_time=0&user_ids[]=u", "user_ids", "does not support 'user_ids'"),
        ("start_time=0&batch=perhaps", "batch", "Supported values are: 'true', 'false'"),
        ("start_time=0&colour=red", "colour", "Unknown parameter"),
        ("start_time=0&page=page_7", "page", "is not a page of this query"),
    ],
)
def test_questions_that_cannot_be_answered(used: tuple[Running, str, str], query: str, param: str, words: str) -> None:
    """Nothing that is asked for is ignored."""
    up, _, admin_key = used
    response = httpx2.get(
        f"{up.url}/organization/usage/completions?{query}", headers={"authorization": f"Bearer {admin_key}"}
    )
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert words in error["message"]


@pytest.mark.parametrize(
    ("body", "asked", "status"),
    [
        ('{"model": "none", "messages": [{"role": "user", "content": "x"}]}', "none", 404),
        ('{"model": "gpt-4o-mini", "messages": [], "n": 0}', MODEL, 400),
        ('{"model": 3}', "", 400),
        ("{", "", 400),
    ],
)
def test_a_refused_request_leaves_its_row(tmp_path: Path, body: str, asked: str, status: int) -> None:
    """A request that was refused before the limits is in the ledger too, under the model that it named."""
    with server(tmp_path) as up:
        answer = httpx2.post(f"{up.url}/chat/completions", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == status
        asyncio.run_coroutine_threadsafe(up.service.accounts.flush(), up.loop).result(PATIENCE_S)
        with sqlite3.connect(tmp_path / "antiphon.db") as database:
            found = database.execute("SELECT request_id, model_asked, status FROM usage").fetchall()
    assert found == [(answer.headers["x-request-id"], asked, status)]


@pytest.mark.parametrize(("path", "field"), [("/tokenize", "prompt"), ("/v1/responses/input_tokens", "input")])
def test_counting_tokens_is_within_the_limits(tmp_path: Path, path: str, field: str) -> None:
    """To count is a request of the key, which is refused past its limit, and leaves usage rows without tokens."""
    with server(tmp_path, rpm=2) as up:
        body = {"model": MODEL, field: "one two three"}
        statuses = [httpx2.post(f"{up.root}{path}", json=body).status_code for _ in range(3)]
        refused = httpx2.post(f"{up.root}{path}", json={"model": "none"})
        asyncio.run_coroutine_threadsafe(up.service.accounts.flush(), up.loop).result(PATIENCE_S)
        with sqlite3.connect(tmp_path / "antiphon.db") as database:
            found = database.execute("SELECT kind, status, prompt_tokens FROM usage ORDER BY at_ms").fetchall()
    assert statuses == [200, 200, 429]
    assert refused.status_code == 404
    assert sorted(found) == [("tokenize", 200, 0), ("tokenize", 200, 0), ("tokenize", 404, 0), ("tokenize", 429, 0)]


def test_no_body_is_read_before_the_key(tmp_path: Path) -> None:
    """A client that waits for ``100 Continue`` gets the 401 instead, and sends no body."""
    with server(tmp_path) as up:
        new_key(tmp_path, Principal(name="bob"))
        address = urlsplit(up.url)
        with socket.create_connection((address.hostname, address.port), timeout=PATIENCE_S) as connection:
            connection.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                b"expect: 100-continue\r\ncontent-length: 30000000\r\n\r\n"
            )
            answer = connection.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 401 ")
        assert up.service.bodies.num_bytes_held == 0
