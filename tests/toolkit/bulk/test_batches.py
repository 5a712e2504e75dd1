"""Batches at half the price, at a scripted server of files and batches: each request is billed once, whatever happens."""

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import OpenAI
from tests.serving import running

from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Script
from antiphon.toolkit.bulk import Request, batch_plan, batch_run, read_results, run
from antiphon.toolkit.calls.retry import RetryPolicy
from antiphon.toolkit.costs.budget import Budget, BudgetStatistics
from antiphon.toolkit.costs.prices import Price, PriceTable
from antiphon.toolkit.costs.report import Report
from antiphon.toolkit.errors import BudgetExceededError, BulkError, JournalError

PRICES = PriceTable({"m": Price("1", "2")})


class Killed(BaseException):
    """The process dies here."""


class BatchServer:
    """Files and batches in memory. ``dies_at``: the process dies at that step, after the server has done its part."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[str, str]] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.billed: list[str] = []
        self.expires: set[str] = set()
        self.status = "completed"
        self.steps = 0
        self.dies_at: int | None = None
        self.called: list[dict[str, Any]] = []
        self.no_flex: httpx2.Response | None = None
        self.line_status: dict[str, int] = {}
        self.says = ""

    def step(self) -> None:
        self.steps += 1
        if self.steps == self.dies_at:
            raise Killed

    def client(self) -> OpenAI:
        http = httpx2.Client(transport=httpx2.MockTransport(self.handle))
        return OpenAI(api_key="k", base_url="http://batches.test/v1", http_client=http)

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        response = self.answer(request.method, request.url.path.removeprefix("/v1"), request)
        self.step()
        return response

    def answer(self, method: str, path: str, request: httpx2.Request) -> httpx2.Response:  # noqa: PLR0911 - a table
        match method, path.strip("/").split("/"):
            case "GET", ["files"]:
                data = [{"id": id_, "filename": name} for id_, (name, _) in self.files.items()]
                return httpx2.Response(200, json={"data": data, "has_more": False})
            case "POST", ["files"]:
                text = request.content.decode()
                name = re.search(r'filename="([^"]+)"', text)
                lines = re.findall(r"^\{.*\}$", text.replace("\r", ""), re.MULTILINE)
                id_ = self.keep(name[1] if name else "", "\n".join(lines))
                return httpx2.Response(200, json={"id": id_, "object": "file", "filename": name and name[1]})
            case "GET", ["files", id_, "content"]:
                return httpx2.Response(200, text=self.files[id_][1])
            case "GET", ["batches"]:
                return httpx2.Response(200, json={"data": list(self.batches.values()), "has_more": False})
            case "POST", ["batches"]:
                return httpx2.Response(200, json=self.start(json.loads(request.content)))
            case "GET", ["batches", id_]:
                return httpx2.Response(200, json=self.batches[id_])
            case "POST", ["chat", "completions"]:
                return self.chat(json.loads(request.content))
            case _:
                return httpx2.Response(404, json={"error": {"message": "no"}})

    def chat(self, body: dict[str, Any]) -> httpx2.Response:
        """Answer at once, in the tier that is asked for; ``no_flex`` is the answer to one that has no room."""
        if body.get("service_tier") == "flex" and self.no_flex is not None:
            return self.no_flex
        self.called.append(body)
        answer = json.loads(answer_line(body["messages"][0]["content"]))["response"]["body"]
        return httpx2.Response(200, json={**answer, "service_tier": body.get("service_tier", "default")})

    def keep(self, name: str, text: str) -> str:
        id_ = f"file-{len(self.files)}"
        self.files[id_] = (name, text)
        return id_

    def start(self, asked: dict[str, Any]) -> dict[str, Any]:
        id_ = f"batch-{len(self.batches)}"
        batch = {"id": id_, "object": "batch", "status": self.status, "metadata": asked["metadata"]}
        self.batches[id_] = batch
        if self.status in {"completed", "expired"}:
            self.finish(batch, asked["input_file_id"])
        elif self.status == "failed":
            batch["errors"] = {"data": [{"message": "line 1 is wrong"}]}
        return batch

    def finish(self, batch: dict[str, Any], file_id: str) -> None:
        asked = [json.loads(line)["custom_id"] for line in self.files[file_id][1].split("\n")]
        answered = [name for name in asked if name not in self.expires]
        self.billed += answered
        batch["output_file_id"] = self.keep(
            "out", "\n".join(answer_line(self.says or name, self.line_status.get(name, 200), name) for name in answered)
        )
        if self.expires:
            lost = {"response": None, "error": {"code": "batch_expired", "message": "too late"}}
            lines = [json.dumps({"id": "x", "custom_id": name, **lost}) for name in asked if name in self.expires]
            batch["error_file_id"] = self.keep("err", "\n".join(lines))


def answer_line(text: str, status: int = 200, name: str = "") -> str:
    if status != 200:
        response = {"status_code": status, "request_id": "r", "body": {"error": {"message": "no"}}}
        return json.dumps({"id": "x", "custom_id": name, "response": response, "error": None})
    usage = {"prompt_tokens": 1_000_000, "completion_tokens": 0, "total_tokens": 1_000_000}
    choice = {"index": 0, "message": {"role": "assistant", "content": text.upper()}, "finish_reason": "stop"}
    response = {"status_code": 200, "request_id": "r", "body": {"model": "m", "choices": [choice], "usage": usage}}
    return json.dumps({"id": "x", "custom_id": name, "response": response, "error": None}, ensure_ascii=False)


REQUESTS = [Request.chat(name, "hi", model="m") for name in ("a", "b", "c")]


@pytest.fixture
def server() -> BatchServer:
    return BatchServer()


def texts(out: Path) -> list[str]:
    return [result.text for result in read_results(out)]


def test_a_batch_is_answered_at_half_the_price(server: BatchServer, tmp_path: Path) -> None:
    """Lines in the order of the requests, cost halved in statistics, report and budget."""
    report, budget = Report(), Budget(usd=2)
    options: Any = {"prices": PRICES, "report": report, "budget": budget}
    done = run(REQUESTS, tmp_path / "out.jsonl", client=server.client(), via="batch", **options)
    assert (done.is_ok, done.is_pending, texts(tmp_path / "out.jsonl")) == (True, False, ["A", "B", "C"])
    assert done.statistics.cost == Decimal("1.5")
    assert report.statistics().usd == Decimal("1.5")
    assert budget.statistics().spent_usd == Decimal("1.5")
    again = run(REQUESTS, tmp_path / "out.jsonl", client=server.client(), via="batch")
    assert (again.statistics.num_resumed, len(server.batches)) == (3, 1)


@pytest.mark.parametrize("dies_at", range(1, 14))
def test_a_run_that_is_killed_at_any_step_bills_each_request_once(
    server: BatchServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    """After each answer of the server (which is lost then), and around each write of the plan."""
    save = batch_plan.BatchPlan.save

    def saved(plan: batch_plan.BatchPlan) -> None:
        server.step()
        save(plan)
        server.step()

    monkeypatch.setattr(batch_plan.BatchPlan, "save", saved)
    server.dies_at = dies_at
    out = tmp_path / "out.jsonl"
    with pytest.raises(Killed):
        run(REQUESTS, out, client=server.client(), via="batch")
    done = run(REQUESTS, out, client=server.client(), via="batch")
    assert (done.is_ok, texts(out), sorted(server.billed)) == (True, ["A", "B", "C"], ["a", "b", "c"])
    assert (len(server.batches), len([name for name, _ in server.files.values() if name.startswith("antiphon")])) == (
        1,
        1,
    )


def test_nobody_has_to_wait(server: BatchServer, tmp_path: Path) -> None:
    """The same call later takes the answers."""
    server.status = "in_progress"
    out = tmp_path / "out.jsonl"
    pending = run(REQUESTS, out, client=server.client(), via="batch", wait=False)
    assert (pending.is_pending, pending.statistics.num_pending, texts(out)) == (True, 3, [])
    changed = [Request.chat("a", "another", model="m"), *REQUESTS[1:]]
    with pytest.raises(JournalError, match="'a' is not the one"):
        run(changed, out, client=server.client(), via="batch")
    batch = next(iter(server.batches.values()))
    batch["status"] = "completed"
    server.finish(batch, "file-0")
    done = run(REQUESTS, out, client=server.client(), via="batch", wait=False)
    assert (done.is_pending, texts(out), server.billed) == (False, ["A", "B", "C"], ["a", "b", "c"])


def test_the_call_that_takes_the_answers_is_charged_for_them(server: BatchServer, tmp_path: Path) -> None:
    """Not the one that sent them, nor both; a limit does not refuse what was sent before."""
    server.status = "in_progress"
    out, shared, later = tmp_path / "out.jsonl", Budget(usd=2, calls=3), Budget(usd="0.5", calls=1)
    run(REQUESTS, out, client=server.client(), via="batch", wait=False, prices=PRICES, budget=shared)
    assert shared.statistics() == BudgetStatistics()
    batch = next(iter(server.batches.values()))
    batch["status"] = "completed"
    server.finish(batch, "file-0")
    run(REQUESTS, out, client=server.client(), via="batch", prices=PRICES, budget=later)
    charged = later.statistics()
    assert (charged.spent_usd, charged.num_calls, charged.reserved_usd) == (Decimal("1.5"), 3, 0)
    assert texts(out) == ["A", "B", "C"]


def test_a_budget_gets_back_what_a_refused_batch_reserved(server: BatchServer, tmp_path: Path) -> None:
    """Nothing of it was answered."""
    server.status, budget = "failed", Budget(usd=2)
    with pytest.raises(BulkError):
        run(REQUESTS, tmp_path / "out.jsonl", client=server.client(), via="batch", prices=PRICES, budget=budget)
    assert budget.statistics() == BudgetStatistics()


def test_answers_hold_every_character(server: BatchServer, tmp_path: Path) -> None:
    """Also those that some programs take for the end of a line."""
    server.says = "ONE\u2028TWO\x85THREE\u2029FOUR"
    out = tmp_path / "out.jsonl"
    assert run(REQUESTS, out, client=server.client(), via="batch").is_ok
    assert texts(out) == [server.says] * 3


def test_the_answers_of_a_batch_share_a_sync(
    server: BatchServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sync for each would take minutes for a large batch."""
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", synced.append)
    for number in (1, 3):
        requests = [Request.chat(f"{number}-{each}", "hi", model="m") for each in range(number)]
        run(requests, tmp_path / f"{number}.jsonl", client=server.client(), via="batch")
        synced.append(-1)
    few, many = synced.index(-1), len(synced) - synced.index(-1) - 2
    assert few == many


def test_what_expired_is_a_failure_that_can_be_made_again(server: BatchServer, tmp_path: Path) -> None:
    """At the normal way, or in another batch."""
    server.status, server.expires = "expired", {"b"}
    out = tmp_path / "out.jsonl"
    done = run(REQUESTS, out, client=server.client(), via="batch")
    assert (done.is_ok, done.statistics.num_failed) == (False, 1)
    assert [result.is_ok for result in read_results(out)] == [True, False, True]
    server.status, server.expires = "completed", set()
    again = run(REQUESTS, out, client=server.client(), via="batch", retry_failed=True)
    assert (again.is_ok, texts(out), server.billed) == (True, ["A", "B", "C"], ["a", "c", "b"])


NAMED = [Request.chat(name, name, model="m") for name in ("a", "b", "c")]


def test_the_rest_of_a_batch_can_be_made_now(server: BatchServer, tmp_path: Path) -> None:
    """What expired and what may pass; what the API refuses stays a failure. Each has the price of its way."""
    server.status, server.expires, server.line_status = "expired", {"b"}, {"a": 429}
    requests = [*NAMED, Request.chat("d", "d", model="m")]
    server.line_status["d"] = 400
    report, budget = Report(), Budget(usd=20)
    options: Any = {"prices": PRICES, "report": report, "budget": budget}
    done = run(requests, tmp_path / "o.jsonl", client=server.client(), via="batch", rest="now", **options)
    assert [result.status_code for result in read_results(tmp_path / "o.jsonl")] == [200, 200, 200, 400]
    assert sorted(body["messages"][0]["content"] for body in server.called) == ["a", "b"]
    # One at half the price, two at the whole.
    assert done.statistics.cost == report.statistics().usd == budget.statistics().spent_usd == Decimal("2.5")
    assert (budget.statistics().reserved_usd, done.statistics.num_failed) == (0, 1)


def test_a_batch_that_is_refused_as_a_whole_can_be_made_now(server: BatchServer, tmp_path: Path) -> None:
    """Without an error; a process that was killed in between does not send the rest in another batch."""
    server.status = "failed"
    out = tmp_path / "o.jsonl"
    server.dies_at = 6
    with pytest.raises(Killed):
        run(NAMED, out, client=server.client(), via="batch", rest="now", concurrency=1)
    assert len(server.called) == 1
    done = run(NAMED, out, client=server.client(), via="batch", rest="now")
    assert (done.is_ok, texts(out), len(server.batches)) == (True, ["A", "B", "C"], 1)


def test_what_expired_gives_back_its_part_of_the_budget(server: BatchServer, tmp_path: Path) -> None:
    """It was not answered, and is not billed."""
    server.status, server.expires, budget = "expired", {"b"}, Budget(usd=20)
    run(NAMED, tmp_path / "o.jsonl", client=server.client(), via="batch", prices=PRICES, budget=budget)
    assert (budget.statistics().spent_usd, budget.statistics().reserved_usd) == (Decimal("1.0"), 0)


def test_flex_is_asked_for_where_no_tier_is_named(server: BatchServer, tmp_path: Path) -> None:
    """And costs what the tier costs that the answer names."""
    requests = [NAMED[0], Request.chat("b", "b", model="gpt-5-mini", service_tier="priority")]
    done = run(requests, tmp_path / "o.jsonl", client=server.client(), via="flex", concurrency=1)
    assert [body["service_tier"] for body in server.called] == ["flex", "priority"]
    assert done.is_ok
    openai = httpx2.Client(transport=httpx2.MockTransport(server.handle))
    costs = [
        run(
            [Request.chat("a", "a", model="gpt-5-mini")],
            tmp_path / f"{via}.jsonl",
            client=OpenAI(api_key="k", http_client=openai),
            via=via,
        ).statistics.cost
        for via in ("calls", "flex")
    ]
    assert costs[0] is not None
    assert costs[1] == costs[0] / 2


NO_ROOM = httpx2.Response(429, json={"error": {"message": "no room", "code": "resource_unavailable"}})
NOT_IN_FLEX = httpx2.Response(400, json={"error": {"message": "Invalid service_tier argument", "param": None}})


@pytest.mark.parametrize("refusal", [NO_ROOM, NOT_IN_FLEX], ids=["no room", "not in flex"])
def test_what_flex_does_not_take_is_made_in_the_usual_tier_if_asked(
    server: BatchServer, tmp_path: Path, refusal: httpx2.Response
) -> None:
    """Else it is a failure with the server's words."""
    server.no_flex, once = refusal, RetryPolicy(attempts=2, initial_s=1e-4, longest_s=1e-4)
    failed = run(NAMED[:1], tmp_path / "f.jsonl", client=server.client(), via="flex", retry=once)
    assert not failed.is_ok
    done = run(NAMED[:1], tmp_path / "o.jsonl", client=server.client(), via="flex", rest="now", retry=once)
    assert (done.is_ok, texts(tmp_path / "o.jsonl")) == (True, ["A"])
    assert "service_tier" not in server.called[0]


def test_a_batch_that_is_refused_says_why(server: BatchServer, tmp_path: Path) -> None:
    """The server's own words."""
    server.status = "failed"
    with pytest.raises(BulkError, match="line 1 is wrong"):
        run(REQUESTS, tmp_path / "out.jsonl", client=server.client(), via="batch")


def test_large_runs_are_split(server: BatchServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By number, by bytes, and by URL."""
    monkeypatch.setattr(batch_plan, "MAX_REQUESTS", 2)
    requests = [*REQUESTS, Request.embedding("d", "text", model="m")]
    assert run(requests, tmp_path / "a.jsonl", client=server.client(), via="batch").is_ok
    assert len(server.batches) == 3
    monkeypatch.setattr(batch_plan, "MAX_BYTES", 10)
    assert run(REQUESTS, tmp_path / "b.jsonl", client=server.client(), via="batch").is_ok
    assert len(server.batches) == 6


def test_a_budget_that_does_not_cover_it_sends_nothing(server: BatchServer, tmp_path: Path) -> None:
    """Nor does an option that a batch cannot keep to, or a plan that cannot be read."""
    with pytest.raises(BudgetExceededError):
        run(REQUESTS, tmp_path / "a.jsonl", client=server.client(), via="batch", budget=Budget(calls=2))
    with pytest.raises(BulkError, match="takes no fallbacks"):
        run(REQUESTS, tmp_path / "a.jsonl", client=server.client(), via="batch", fallbacks=["other"])
    with pytest.raises(BulkError, match="rest='now' is for"):
        run(REQUESTS, tmp_path / "a.jsonl", client=server.client(), rest="now")
    with pytest.raises(BulkError, match="wait=False"):
        run(REQUESTS, tmp_path / "a.jsonl", client=server.client(), wait=False)
    (tmp_path / "b.jsonl.batches").write_text("{")
    with pytest.raises(JournalError, match="cannot be read"):
        run(REQUESTS, tmp_path / "b.jsonl", client=server.client(), via="batch")
    assert server.steps == 0


def test_the_same_at_our_own_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files, batches and the lines of their answers over HTTP."""
    monkeypatch.setattr(batch_run, "FIRST_LOOK_S", 0.05)
    with running(ScriptedBackend(Script(models=("m",))), tmp_path / "home") as up:
        client = OpenAI(base_url=up.url, api_key="any")
        done = run(REQUESTS, tmp_path / "out.jsonl", client=client, via="batch")
        assert (done.is_ok, texts(tmp_path / "out.jsonl")) == (True, ["hi", "hi", "hi"])
