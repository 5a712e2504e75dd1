"""Runs against the real server over a scripted backend, through the official client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import openai
import pydantic
import pytest
from tests.serving import Running, running
from tests.waiting import wait_until

from antiphon.accounts import AccountSettings
from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Script
from antiphon.toolkit.bulk import Request, read_results, run, write_requests
from antiphon.toolkit.calls.retry import RetryPolicy
from antiphon.toolkit.errors import BatchFileError, BulkError, JournalError, OutputError

CHAT, EMBEDDING = "gpt-4o-mini", "text-embedding-3-small"


def backend() -> ScriptedBackend:
    return ScriptedBackend(Script(models=(CHAT,), embedding_models=(EMBEDDING,)))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Running]:
    with running(backend(), tmp_path_factory.mktemp("home")) as up:
        yield up


@pytest.fixture
def client(server: Running) -> Generator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url, api_key="any") as made:
        yield made


def mixed(count: int) -> list[Request]:
    chats = [Request.chat(f"chat-{n}", f"message {n}", model=CHAT, max_tokens=16) for n in range(count)]
    vectors = [Request.embedding(f"text-{n}", f"text {n}", model=EMBEDDING) for n in range(count)]
    return [request for pair in zip(chats, vectors, strict=True) for request in pair]


def test_chat_and_embeddings_in_one_run(client: openai.OpenAI, tmp_path: Path) -> None:
    """Every request has one line, in order, with the answer readable by what it was."""
    requests = mixed(10)
    report = run(requests, tmp_path / "o.jsonl", client=client)
    results = list(read_results(tmp_path / "o.jsonl"))
    assert [r.custom_id for r in results] == [r.custom_id for r in requests]
    assert results[0].text == "message 0"
    assert len(results[1].vectors[0]) > 1
    assert (report.statistics.num_succeeded, report.statistics.num_failed) == (20, 0)
    assert report.statistics.usage.total_tokens > 0
    assert report.statistics.cost is None  # nobody told what a token costs here


def test_a_batch_file_goes_in_and_comes_out(client: openai.OpenAI, tmp_path: Path) -> None:
    """The formats are those of OpenAI's batch interface."""
    write_requests(tmp_path / "in.jsonl", mixed(1))
    first = json.loads((tmp_path / "in.jsonl").read_text().splitlines()[0])
    assert first.keys() == {"custom_id", "method", "url", "body"}
    assert (first["method"], first["url"]) == ("POST", "/v1/chat/completions")
    run(tmp_path / "in.jsonl", tmp_path / "out.jsonl", client=client)
    line = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert line.keys() == {"id", "custom_id", "response", "error"}
    assert line["response"].keys() == {"status_code", "request_id", "body"}
    assert line["response"]["request_id"].startswith("req_")


def test_a_failure_of_one_is_its_line(client: openai.OpenAI, tmp_path: Path) -> None:
    """A refused request does not end the run; its line holds the server's words; it can be tried again."""
    requests = [*mixed(1), Request.chat("bad", "hello", model="no-such-model")]
    report = run(requests, tmp_path / "o.jsonl", client=client)
    bad = list(read_results(tmp_path / "o.jsonl"))[-1]
    assert (report.is_ok, bad.status_code) == (False, 404)
    assert "no-such-model" in bad.reason
    with pytest.raises(OutputError, match="no-such-model"):
        _ = bad.text
    resumed = run(requests, tmp_path / "o.jsonl", client=client)
    assert (resumed.is_ok, resumed.statistics.num_resumed, resumed.statistics.num_failed_before) == (False, 3, 1)
    again = run(requests, tmp_path / "o.jsonl", client=client, retry_failed=True)
    assert (again.statistics.num_resumed, again.statistics.num_failed_before, again.statistics.num_failed) == (2, 0, 1)


@pytest.mark.parametrize("limit", ["rpm", "tpm", "concurrency"])
def test_a_limit_below_one_is_refused(limit: str, client: openai.OpenAI, tmp_path: Path) -> None:
    """No worker would send anything, or each would wait for ever: neither is a run that ended well."""
    with pytest.raises(BulkError, match=f"{limit} must be at least 1, not 0"):
        run(mixed(1), tmp_path / "o.jsonl", client=client, **{limit: 0})
    assert not list(tmp_path.iterdir())


class Person(pydantic.BaseModel):
    name: str


def test_parse_requests_carry_a_strict_schema(client: openai.OpenAI) -> None:
    """A pydantic model becomes a response format that the API's strict mode accepts."""
    body = Request.parse("p", Person, "who?", model=CHAT).body
    schema = body["response_format"]["json_schema"]
    assert (schema["name"], schema["strict"]) == ("Person", True)
    assert schema["schema"]["additionalProperties"] is False


def test_what_can_never_fit_fails_at_once(client: openai.OpenAI, tmp_path: Path) -> None:
    """A request above the limit per minute gets its error line without being sent, and the others go on."""
    large = Request.chat("large", "hello", model=CHAT, max_tokens=5_000)
    run([large, *mixed(1)], tmp_path / "o.jsonl", client=client, tpm=1_000)
    results = {r.custom_id: r for r in read_results(tmp_path / "o.jsonl")}
    assert results["large"].error is not None
    assert results["large"].error["code"] == "request_too_large"
    assert results["chat-0"].is_ok


def test_a_repeated_id_is_refused_before_anything_is_sent(client: openai.OpenAI, tmp_path: Path) -> None:
    """Two requests of one name cannot both be told apart in the output."""
    with pytest.raises(BatchFileError, match="'chat-0'"):
        run([*mixed(1), *mixed(1)], tmp_path / "o.jsonl", client=client)


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("nonsense", "not a JSON object"),
        ('{"custom_id": "a", "url": "/v1/embeddings"}', "'body' is missing"),
        ('{"custom_id": "a", "url": "/embeddings", "body": {}}', "must begin with '/v1/'"),
        ('{"custom_id": "a", "url": "/v1/embeddings", "body": {}, "extra": 1}', "unknown keys"),
        ('{"custom_id": "a", "url": "/v1/chat/completions", "body": {"stream": true}}', "streamed"),
    ],
)
def test_an_unreadable_line_is_named(tmp_path: Path, line: str, wrong: str) -> None:
    """The message has the file, the line number and what is wrong."""
    (tmp_path / "in.jsonl").write_text(line + "\n")
    with pytest.raises(BatchFileError, match=f"in.jsonl:1: .*{wrong}"):
        run(
            tmp_path / "in.jsonl",
            tmp_path / "o.jsonl",
            client=openai.OpenAI(base_url="http://127.0.0.1:1", api_key="x"),
        )


def test_an_unreachable_server_ends_the_run_and_loses_nothing(tmp_path: Path) -> None:
    """When every request would fail alike, none is written off: the run says so and can be resumed."""
    client = openai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key="x")
    with pytest.raises(BulkError, match="cannot be reached") as caught:
        run(mixed(3), tmp_path / "o.jsonl", client=client, retry=RetryPolicy(attempts=1))
    assert "antiphon doctor --base-url http://127.0.0.1:9/v1" in caught.value.hint
    assert (tmp_path / "o.jsonl.journal").read_bytes() == b""


def test_limits_are_learnt_and_kept(tmp_path: Path) -> None:
    """From the headers of the first answer on, a server with limits is never asked for more than they allow."""
    accounts = AccountSettings(rpm=60, tpm=50_000)
    with running(backend(), tmp_path, accounts=accounts) as up, openai.OpenAI(base_url=up.url, api_key="any") as client:
        report = run(mixed(25), tmp_path / "o.jsonl", client=client)
    assert (report.statistics.pacer.rpm, report.statistics.pacer.tpm) == (60, 50_000)
    assert (report.statistics.num_retries, report.statistics.num_succeeded) == (0, 50)


RUN = """
import sys, openai
from antiphon.toolkit.bulk import run
run(sys.argv[1], sys.argv[2], client=openai.OpenAI(base_url=sys.argv[3], api_key="any"), concurrency=8, rpm={rpm})
"""


def start(tmp_path: Path, url: str, rpm: int = 100_000) -> subprocess.Popen[bytes]:
    arguments = [str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"), url]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.Popen([sys.executable, "-c", RUN.format(rpm=rpm), *arguments], env=environment)


def kill_after_rows(process: subprocess.Popen[bytes], journal: Path, rows: int) -> None:
    def has_rows_or_ended() -> bool:
        return process.poll() is not None or (journal.exists() and journal.read_bytes().count(b"\n") >= rows)

    wait_until(has_rows_or_ended)
    process.kill()
    process.wait()


@pytest.mark.slow
def test_killed_runs_resume_with_each_item_once(server: Running, tmp_path: Path) -> None:
    """kill -9 at several points: every item is in the output once, and no answered item is asked again."""
    requests = mixed(150)
    write_requests(tmp_path / "in.jsonl", requests)
    journal = tmp_path / "out.jsonl.journal"
    for rows in (1, 60, 140, 260):
        kill_after_rows(start(tmp_path, server.url), journal, rows)
    assert start(tmp_path, server.url).wait() == 0
    assert [r.custom_id for r in read_results(tmp_path / "out.jsonl")] == [r.custom_id for r in requests]
    rows = [json.loads(row)["result"]["custom_id"] for row in journal.read_text().splitlines()]
    assert len(rows) == len(set(rows)) == len(requests)
    changed = [Request.chat("chat-0", "other", model=CHAT)]
    with pytest.raises(JournalError, match="not the one"):
        run(changed, tmp_path / "out.jsonl", client=openai.OpenAI(base_url=server.url, api_key="x"))


@pytest.mark.slow
def test_2200_requests_under_limits_killed_twice(tmp_path: Path) -> None:
    """2,000 embeddings and 200 chats under RPM and TPM, killed twice: all there once, without one 429 to a steady run."""
    requests = [Request.embedding(f"text-{n}", f"a text about {n}", model=EMBEDDING) for n in range(2_000)]
    requests += [Request.chat(f"chat-{n}", f"message {n}", model=CHAT, max_tokens=16) for n in range(200)]
    write_requests(tmp_path / "in.jsonl", requests)
    journal = tmp_path / "out.jsonl.journal"
    with running(backend(), tmp_path / "home", accounts=AccountSettings(rpm=1_800, tpm=100_000)) as up:
        for rows in (300, 900):
            kill_after_rows(start(tmp_path, up.url, 1_800), journal, rows)
        assert start(tmp_path, up.url, 1_800).wait() == 0
    results = list(read_results(tmp_path / "out.jsonl"))
    assert [r.custom_id for r in results] == [r.custom_id for r in requests]
    assert all(r.is_ok for r in results)


@pytest.mark.slow
def test_our_own_server_s_budget_is_used_without_one_429(tmp_path: Path) -> None:
    """Nearly two minutes' worth of requests under learnt limits: none is refused, and 95 % of the budget is used."""
    rpm = 60
    accounts = AccountSettings(rpm=rpm, tpm=20_000)
    requests = [Request.chat(f"chat-{n}", f"message {n}", model=CHAT, max_tokens=40) for n in range(119)]
    with running(backend(), tmp_path, accounts=accounts) as up, openai.OpenAI(base_url=up.url, api_key="any") as client:
        report = run(requests, tmp_path / "o.jsonl", client=client)
    statistics = report.statistics
    assert (statistics.num_succeeded, statistics.num_retries) == (119, 0)
    # The bucket is empty at the start and leaks at the limit.
    assert statistics.num_succeeded / (rpm * (statistics.seconds / 60 + 1)) >= 0.95
