"""A long text summed up within the context and the budget."""

import asyncio
from typing import Any

import httpx2
import pytest
from tests.toolkit.model_endpoints import ReasoningEndpoint, ThinkingEndpoint, completion

from antiphon import Budget, BudgetExceededError, HistoryError, Report, asummarise, count_tokens, summarise

SENTENCE = "The library of the village opens at nine and closes at noon, except on Sundays. "
CONTEXT = 1_500


class Server(ThinkingEndpoint):
    """Refuses what its context does not hold; sums up in the words that it is allowed."""

    words = 30

    def chat(self, body: dict[str, Any]) -> httpx2.Response:
        tokens = sum(count_tokens(m["content"], model="gpt-4o").tokens for m in body["messages"])
        assert tokens + body["max_completion_tokens"] <= CONTEXT
        self.num_answers += 1
        first = body["messages"][1]["content"].split()[: self.words]
        return completion(body, {"role": "assistant", "content": " ".join(first)})


@pytest.fixture
def server(endpoint: object, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Counted offline as OpenAI counts, whatever the environment names."""
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    return Server()


def test_a_text_of_twenty_contexts_is_summed_up_part_by_part(server: Server) -> None:
    """Each call stays within the context, in a fixed order, with few calls besides one for each part."""
    text = "".join(f"{n}. {SENTENCE}" for n in range(1_500))
    report, seen = Report(), list[tuple[int, int]]()
    summary = summarise(
        text,
        words=40,
        client=server.client(),
        context_tokens=CONTEXT,
        report=report,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert summary.text.startswith("0. The library")
    assert summary.num_parts > 20
    assert summary.num_levels == 3
    assert len(summary.records) == report.statistics().num_calls == server.num_answers
    assert server.num_answers <= summary.num_parts * 1.2
    assert seen[-1] == (server.num_answers, server.num_answers)
    assert str(summary) == summary.text
    again = Server()
    assert summarise(text, words=40, client=again.client(), context_tokens=CONTEXT).text == summary.text


def test_a_text_that_fits_takes_one_call(server: Server) -> None:
    """What matters goes into the instructions."""
    summary = asyncio.run(
        asummarise(SENTENCE, words=40, about="opening hours", client=server.async_client(), context_tokens=CONTEXT)
    )
    assert (summary.num_parts, summary.num_levels, server.num_answers) == (1, 1, 1)
    assert "What matters: opening hours." in server.requests[-1][1]["messages"][0]["content"]
    assert server.requests[-1][1]["temperature"] == 0
    assert not summary.is_truncated


def test_a_budget_bounds_all_parts_together(server: Server) -> None:
    """It is spent to its end, and never passed."""
    budget = Budget(calls=5)
    with pytest.raises(BudgetExceededError):
        summarise(SENTENCE * 600, words=40, client=server.client(), context_tokens=CONTEXT, budget=budget)
    assert budget.statistics().num_calls == server.num_answers == 5


@pytest.mark.parametrize(("words", "why"), [(4_000, "cannot hold two summaries"), (60, "as long as the parts")])
def test_summaries_that_make_nothing_shorter_are_refused(server: Server, words: int, why: str) -> None:
    """Instead of going on for ever."""
    server.words = 10_000
    with pytest.raises(HistoryError, match=why):
        summarise(SENTENCE * 200, words=words, client=server.client(), context_tokens=CONTEXT)


def test_a_model_that_reasons_gets_no_limit_that_its_thoughts_would_fill(endpoint: object) -> None:
    """Nobody knows beforehand how much it thinks."""
    server = ReasoningEndpoint("https://api.openai.com/v1")
    assert summarise(SENTENCE, model="gpt-5-mini", client=server.client()).text == "It is so [1]."
    assert "max_output_tokens" not in server.sent("/responses")[0]
