"""Batches over HTTP, with the official client."""

import asyncio
import json
import sqlite3
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Batch
from sqlalchemy import update
from tests.server.test_accounts_over_http import new_key
from tests.serving import Running, running
from tests.waiting import PATIENCE_S, wait_until

from antiphon.accounts import AccountSettings, KeyBudget, Limits, ModelPrice, Principal
from antiphon.accounts.schema import batches as table
from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Pattern, Reply, Script, ScriptedError
from antiphon.batches import BatchSettings

CHAT, EMBEDDINGS = "gpt-4o-mini", "text-embedding-3-small"
SCRIPT = Script(
    models=(CHAT,),
    embedding_models=(EMBEDDINGS,),
    replies=(
        Reply(match=Pattern(last_message="slow"), text="one two", first_token_s=600.0),
        Reply(match=Pattern(last_message="busy", calls=(1, 2)), error=ScriptedError(status=503, message="busy")),
    ),
)
PRICES = {CHAT: ModelPrice(input=2.0, output=4.0)}


@pytest.fixture
def server(tmp_path: Path) -> Generator[Running]:
    with running(ScriptedBackend(SCRIPT), tmp_path, accounts=AccountSettings(prices=PRICES)) as up:
        yield up


@pytest.fixture
def client(server: Running) -> Generator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url, api_key="any", max_retries=0) as made:
        yield made


def request(name: str, text: str = "hello there", url: str = "/v1/chat/completions", **body: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {"model": CHAT, "messages": [{"role": "user", "content": text}]}
    return {"custom_id": name, "method": "POST", "url": url, "body": body or fields}


def begin(client: openai.OpenAI, requests: list[Any], endpoint: Any = "/v1/chat/completions", **more: Any) -> Batch:
    content = "\n".join(json.dumps(each) for each in requests).encode()
    file = client.files.create(file=("batch.jsonl", content), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **more)


def ended(client: openai.OpenAI, batch: Batch, *statuses: str) -> Batch:
    """Wait until a batch has one of ``statuses``, by default one in which it is over."""
    wanted = statuses or ("completed", "failed", "expired", "cancelled")
    wait_until(lambda: client.batches.retrieve(batch.id).status in wanted)
    return client.batches.retrieve(batch.id)


def lines(client: openai.OpenAI, file_id: str | None) -> dict[str, Any]:
    assert file_id is not None
    listed = [json.loads(line) for line in client.files.content(file_id).text.splitlines()]
    by_name = {line["custom_id"]: line for line in listed}
    assert len(by_name) == len(listed), "each line is there once"
    return by_name


def rows(home: Path) -> list[tuple[Any, ...]]:
    """Return the usage rows of generations: whether of a batch, status, tokens, dollars."""
    with sqlite3.connect(home / "antiphon.db") as database:
        query = "SELECT is_batch, status, prompt_tokens, completion_tokens, usd FROM usage WHERE kind != 'file'"
        return database.execute(query).fetchall()


@pytest.mark.parametrize(
    ("endpoint", "body", "kind"),
    [
        ("/v1/chat/completions", {"model": CHAT, "messages": [{"role": "user", "content": "hi"}]}, "chat.completion"),
        ("/v1/completions", {"model": CHAT, "prompt": "hi"}, "text_completion"),
        ("/v1/embeddings", {"model": EMBEDDINGS, "input": ["a", "b"]}, "list"),
        ("/v1/responses", {"model": CHAT, "input": "hi"}, "response"),
    ],
)
def test_a_batch_goes_through_its_course(client: openai.OpenAI, endpoint: str, body: Any, kind: str) -> None:
    """OpenAI's quick start: a file, a batch, its state and counts, its output with the client's own ids."""
    requests = [request(f"request-{n}", url=endpoint, **body) for n in range(40)]
    batch = begin(client, requests, endpoint, metadata={"night": "1"})
    assert (batch.status, batch.endpoint, batch.metadata) == ("validating", endpoint, {"night": "1"})
    assert batch.expires_at == batch.created_at + 86_400
    done = ended(client, batch)
    assert done.status == "completed"
    assert done.request_counts is not None
    assert done.request_counts.to_dict() == {"total": 40, "completed": 40, "failed": 0}
    assert (done.error_file_id, done.model) == (None, body["model"])
    assert done.usage is not None
    assert done.usage.total_tokens
    assert None not in {done.in_progress_at, done.finalizing_at, done.completed_at}
    answers = lines(client, done.output_file_id)
    assert list(answers) == [each["custom_id"] for each in requests]
    assert {answer["response"]["body"]["object"] for answer in answers.values()} == {kind}
    assert all(answer["response"]["status_code"] == 200 and answer["error"] is None for answer in answers.values())
    output = client.files.retrieve(done.output_file_id or "")
    assert (output.purpose, output.filename, output.expires_at) == ("batch_output", f"{batch.id}_output.jsonl", None)
    assert batch.id in [each.id for each in client.batches.list(limit=1)]


def test_requests_in_one_conversation_wait_for_one_another(client: openai.OpenAI) -> None:
    """Each is answered, and the conversation has every question before its answer."""
    conversation = client.conversations.create().id
    requests = [
        request(f"r{n}", url="/v1/responses", model=CHAT, input=f"hi {n}", conversation=conversation) for n in range(3)
    ]
    done = ended(client, begin(client, requests, "/v1/responses"))
    assert done.request_counts is not None
    assert done.request_counts.completed == 3
    items: list[Any] = list(client.conversations.items.list(conversation, order="asc"))
    assert [item.role for item in items] == ["user", "assistant"] * 3


def test_a_request_costs_half_and_no_rate_limit_holds(tmp_path: Path) -> None:
    """The same requests, interactive and in a batch: half the dollars, the same tokens, one row each; the key's limit is for others."""
    key = new_key(tmp_path, Principal(name="a", limits=Limits(rpm=2), budget=KeyBudget(usd=1.0)))
    with (
        running(ScriptedBackend(SCRIPT), tmp_path, accounts=AccountSettings(prices=PRICES)) as up,
        openai.OpenAI(base_url=up.url, api_key=key, max_retries=0) as client,
    ):
        client.chat.completions.create(**request("x")["body"])
        batch = ended(client, begin(client, [request(str(n)) for n in range(5)]))
        assert batch.status == "completed"
        asyncio.run_coroutine_threadsafe(up.service.accounts.flush(), up.loop).result(PATIENCE_S)
    (alone,) = [row for row in rows(tmp_path) if not row[0]]
    of_batch = [row for row in rows(tmp_path) if row[0]]
    assert of_batch == [(1, 200, alone[2], alone[3], alone[4] / 2)] * 5
    with sqlite3.connect(tmp_path / "antiphon.db") as database:
        (spent,) = database.execute("SELECT SUM(usd) FROM spend").fetchone()
    assert spent == pytest.approx(alone[4] * 3.5)


def test_failed_requests_have_a_file_of_their_own(client: openai.OpenAI, tmp_path: Path) -> None:
    """With the status and the error that they would have had over HTTP; what passes is tried again, and charged once."""
    bad = request("bad") | {"body": {"model": CHAT, "messages": []}}
    done = ended(client, begin(client, [request("good"), bad, request("busy", "busy")]))
    assert done.request_counts is not None
    assert (done.status, done.request_counts.completed, done.request_counts.failed) == ("completed", 2, 1)
    assert set(lines(client, done.output_file_id)) == {"good", "busy"}
    (failed,) = lines(client, done.error_file_id).values()
    assert failed["response"]["status_code"] == 400
    assert failed["response"]["body"]["error"]["code"] == "empty_array"
    assert sorted(row[:2] for row in rows(tmp_path)) == [(1, 200), (1, 200), (1, 400)]


def test_a_wrong_file_fails_the_batch_before_it_begins(client: openai.OpenAI, tmp_path: Path) -> None:
    """Every mistake with its line; nothing was answered. A file that is not there is found so, too."""
    done = ended(client, begin(client, [request("a"), request("a"), {"custom_id": "b"}]))
    assert (done.status, done.failed_at is not None, done.output_file_id) == ("failed", True, None)
    assert done.errors is not None
    assert [(each.line, each.code) for each in done.errors.data or ()] == [
        (2, "duplicate_custom_id"),
        (3, "missing_required_parameter"),
    ]
    missing = client.batches.create(input_file_id="file-none", endpoint="/v1/responses", completion_window="24h")
    assert [each.code for each in getattr(ended(client, missing).errors, "data", [])] == ["invalid_file_id"]
    unknown = request("a") | {"body": {"model": "nobody", "messages": []}}
    assert [each.code for each in getattr(ended(client, begin(client, [unknown])).errors, "data", [])] == [
        "model_not_found"
    ]
    assert rows(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"endpoint": "/v1/images/generations"}, "unsupported_value", "endpoint"),
        ({"endpoint": "/v1/nothing"}, "invalid_value", "endpoint"),
        ({"completion_window": "1h"}, "invalid_value", "completion_window"),
        ({"metadata": {"a": 1}}, "invalid_type", "metadata.a"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "integer_below_min_value", "output_expires_after.seconds"),
        ({"extra_body": {"model": "x"}}, "unknown_parameter", "model"),
    ],
)  # fmt: skip
def test_a_wrong_request_for_a_batch_is_refused(client: openai.OpenAI, change: Any, code: str, param: str) -> None:
    """With OpenAI's errors; no batch is made."""
    given: Any = {"input_file_id": "file-x", "endpoint": "/v1/embeddings", "completion_window": "24h", **change}
    with pytest.raises(openai.BadRequestError) as raised:
        client.batches.create(**given)
    assert (raised.value.code, raised.value.param) == (code, param)
    assert not list(client.batches.list())


def test_a_file_for_something_else_is_refused(client: openai.OpenAI) -> None:
    """The input of a batch is uploaded for that purpose."""
    file = client.files.create(file=("x.jsonl", b"{}"), purpose="user_data")
    with pytest.raises(openai.BadRequestError, match="expected 'batch'"):
        client.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h")


def test_a_cancelled_batch_keeps_what_is_finished(tmp_path: Path) -> None:
    """Its requests in flight are stopped and not charged; cancelling again changes nothing, a finished batch cannot be."""
    requests = [request(str(n), "slow" if n >= 5 else "hello") for n in range(40)]
    with (
        running(ScriptedBackend(SCRIPT), tmp_path, batches=BatchSettings(lease_s=0.2)) as up,
        openai.OpenAI(base_url=up.url, api_key="any", max_retries=0) as client,
    ):
        batch = begin(client, requests)
        wait_until(lambda: getattr(client.batches.retrieve(batch.id).request_counts, "completed", 0) == 5)
        assert client.batches.cancel(batch.id).status in {"cancelling", "cancelled"}
        done = ended(client, batch)
        assert (done.status, done.cancelling_at is not None, done.cancelled_at is not None) == ("cancelled", True, True)
        assert set(lines(client, done.output_file_id)) == set("01234")
        assert client.batches.cancel(batch.id).status == "cancelled"
        over = ended(client, begin(client, [request("a")]))
        with pytest.raises(openai.BadRequestError, match="Cannot cancel a batch with status 'completed'"):
            client.batches.cancel(over.id)
        assert up.service.in_flight.count == 0
    assert len(rows(tmp_path)) == 6


def test_an_expired_batch_says_what_was_not_executed(tmp_path: Path) -> None:
    """What is finished is in the output file, the rest in the error file with the code batch_expired."""
    requests = [request(str(n), "slow" if n >= 3 else "hello") for n in range(40)]
    with (
        running(ScriptedBackend(SCRIPT), tmp_path, batches=BatchSettings(lease_s=0.2, window_hours=1 / 3600)) as up,
        openai.OpenAI(base_url=up.url, api_key="any", max_retries=0) as client,
    ):
        done = ended(client, begin(client, requests))
        assert (done.status, done.expired_at is not None) == ("expired", True)
        assert set(lines(client, done.output_file_id)) == set("012")
        rest = lines(client, done.error_file_id)
        assert len(rest) == 37
        assert {(line["error"]["code"], line["response"]) for line in rest.values()} == {("batch_expired", None)}


def test_a_batch_keeps_its_input_until_it_is_over(tmp_path: Path) -> None:
    """The input file may be deleted meanwhile; a server that is stopped leaves the batch to the next, which does the rest."""
    settings = BatchSettings(lease_s=5.0, concurrency=4)
    script = Script(models=(CHAT,), replies=(Reply(match=Pattern(last_message="slow"), text="x", first_token_s=600.0),))
    with (
        running(ScriptedBackend(script), tmp_path, batches=settings) as up,
        openai.OpenAI(base_url=up.url, api_key="any", max_retries=0) as client,
    ):
        batch = begin(client, [request(str(n), "slow" if n >= 10 else "hello") for n in range(30)])
        wait_until(lambda: getattr(client.batches.retrieve(batch.id).request_counts, "completed", 0) == 10)
        client.files.delete(batch.input_file_id)
    with (
        running(ScriptedBackend(Script(models=(CHAT,))), tmp_path, batches=settings) as up,
        openai.OpenAI(base_url=up.url, api_key="any", max_retries=0) as client,
    ):
        done = ended(client, batch)
        assert (done.status, len(lines(client, done.output_file_id))) == ("completed", 30)
        blobs = [path for path in (tmp_path / "files").rglob("*") if path.is_file()]
        assert len(blobs) == 1, "only the output is left"
    assert [row[:2] for row in rows(tmp_path)] == [(1, 200)] * 30


def test_two_servers_share_the_work_and_each_line_is_done_once(tmp_path: Path) -> None:
    """Two servers over one database, six batches: all lines answered once, one row each."""
    backends = [ScriptedBackend(Script(models=(CHAT,))) for _ in range(2)]
    with (
        running(backends[0], tmp_path) as one,
        running(backends[1], tmp_path) as other,
        openai.OpenAI(base_url=one.url, api_key="any", max_retries=0) as client,
        openai.OpenAI(base_url=other.url, api_key="any", max_retries=0) as second,
    ):
        batches: list[Batch] = []

        def create(maker: openai.OpenAI) -> None:
            batches.extend(begin(maker, [request(str(n)) for n in range(50)]) for _ in range(3))

        threads = [threading.Thread(target=create, args=(maker,)) for maker in (client, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        for batch in batches:
            done = ended(client, batch)
            assert len(lines(second, done.output_file_id)) == 50
    assert len(rows(tmp_path)) == 300


def test_a_batch_is_its_keys_alone(tmp_path: Path) -> None:
    """Another key does not find it; a key that is revoked meanwhile gets no more answers."""
    keys = [new_key(tmp_path, Principal(name=name)) for name in "ab"]
    with (
        running(ScriptedBackend(SCRIPT), tmp_path) as up,
        openai.OpenAI(base_url=up.url, api_key=keys[0], max_retries=0) as mine,
        openai.OpenAI(base_url=up.url, api_key=keys[1], max_retries=0) as theirs,
    ):
        batch = ended(mine, begin(mine, [request("a")]))
        for look in (theirs.batches.retrieve, theirs.batches.cancel):
            with pytest.raises(openai.NotFoundError, match="No batch found"):
                look(batch.id)
        assert not list(theirs.batches.list())
        with pytest.raises(openai.NotFoundError):
            theirs.files.content(batch.output_file_id or "")

        async def rename() -> None:
            async with up.service.accounts.engine.begin() as connection:
                await connection.execute(update(table).values(account="key_gone", status="validating"))

        asyncio.run_coroutine_threadsafe(rename(), up.loop).result(PATIENCE_S)
        find = up.service.batches.store.find
        wait_until(
            lambda: (
                getattr(asyncio.run_coroutine_threadsafe(find(batch.id), up.loop).result(PATIENCE_S), "status", "")
                == "failed"
            )
        )
