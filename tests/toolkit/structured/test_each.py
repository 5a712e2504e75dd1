"""A typed value out of each of many texts."""

from collections.abc import Iterator
from typing import Any, Literal

import httpx2
import pytest
from openai import APIConnectionError, AuthenticationError, BadRequestError
from pydantic import BaseModel
from tests.toolkit.model_endpoints import ThinkingEndpoint, completion, error
from tests.toolkit.moved_clock import MovedClock
from tests.waiting import until

from antiphon import (
    AsyncChat,
    Budget,
    BudgetExceededError,
    OutputError,
    Pace,
    RetryPolicy,
    TruncatedError,
    aembed,
    aextract_each,
    extract_each,
)


class Person(BaseModel):
    name: str


class PatientClock(MovedClock):
    """Moves only when no call that was let through is still under way, so that each is sent when it was let through."""

    pace: Pace

    async def sleep(self, seconds: float) -> None:
        await until(lambda: self.pace.statistics().in_flight == 0)
        await super().sleep(seconds)


class Server(ThinkingEndpoint):
    """Answers with the last word of the text as the name; refuses a text that holds ``refused``."""

    failing: Any = None

    def chat(self, body: dict[str, Any]) -> httpx2.Response:
        self.num_answers += 1
        text = body["messages"][-1]["content"]
        if "refused" in text:
            return error(400, "no")
        if "garbage" in text:
            return completion(body, {"role": "assistant", "content": "not json"})
        if self.failing is not None and self.num_answers > 3:
            return self.failing()
        return completion(body, {"role": "assistant", "content": f'{{"name": "{text.split()[-1]}"}}'})


@pytest.fixture
def server(endpoint: object) -> Server:
    """Of which nothing is remembered yet."""
    return Server()


def test_every_text_has_its_place_and_an_error_is_one_of_them(server: Server) -> None:
    """Order is kept, whatever takes longer; an error of one text does not touch the others."""
    texts = [f"It is {n}" for n in range(20)]
    texts[3], texts[7] = "refused", "garbage"
    seen: list[int] = []
    made = list(extract_each(Person, texts, client=server.client(), concurrency=4, on_progress=seen.append))
    assert [item.text for item in made] == texts
    assert [item.parsed.name for item in made if item.error is None] == [str(n) for n in range(20) if n not in {3, 7}]
    assert isinstance(made[3].error, BadRequestError)
    assert isinstance(made[7].error, OutputError)
    with pytest.raises(OutputError):
        _ = made[7].parsed
    assert seen == list(range(1, 21))


def test_texts_are_read_as_they_are_needed(server: Server) -> None:
    """A generator of a million takes no memory: what is read ahead is bounded by the concurrency."""
    num_read = 0

    def texts() -> Iterator[str]:
        nonlocal num_read
        for number in range(1_000_000):
            num_read += 1
            yield f"It is {number}"

    items = extract_each(Person, texts(), client=server.client(), concurrency=2)
    for _ in range(10):
        next(items)
    items.close()
    assert num_read <= 10 + 8


@pytest.mark.parametrize(
    ("failing", "raised"),
    [
        (lambda: error(401, "no key"), AuthenticationError),
        (lambda: (_ for _ in ()).throw(httpx2.ConnectError("gone")), APIConnectionError),
    ],
)
def test_what_fails_them_all_is_raised_after_what_was_under_way(
    server: Server, failing: Any, raised: type[Exception]
) -> None:
    """Nothing that was paid for is lost, and nothing more is asked."""
    server.failing = failing
    items = extract_each(
        Person, (f"It is {n}" for n in range(1000)), client=server.client(max_retries=0), concurrency=2
    )
    got: list[str] = []
    with pytest.raises(raised):
        got.extend(item.parsed.name for item in items)
    assert len(got) == 3
    assert server.num_answers < 12


def test_a_budget_is_used_to_its_end(server: Server) -> None:
    """What others have only reserved does not end the run; when nothing is under way it ends, with all that was paid."""
    budget = Budget(tokens=200)
    items = extract_each(
        Person,
        (f"It is {n}" for n in range(1000)),
        client=server.client(),
        budget=budget,
        max_completion_tokens=40,
        concurrency=8,
    )
    got: list[str] = []
    with pytest.raises(BudgetExceededError):
        got.extend(item.parsed.name for item in items)
    spent = budget.statistics()
    assert len(got) == spent.num_calls == server.num_answers
    assert 100 < spent.spent_tokens <= 200


def test_a_type_that_cannot_be_described_is_refused_before_anything_is_sent(server: Server) -> None:
    """As with one text."""
    with pytest.raises(Exception, match="free keys"):
        list(extract_each(dict[str, int], ["a"], client=server.client()))
    assert server.requests == []


def test_literals_and_unions_are_types_too(server: Server) -> None:
    """Whatever a type form says."""
    (item,) = extract_each(Literal["a", "b"], ["a"], client=server.client())
    assert isinstance(item.error, OutputError | None)


@pytest.mark.anyio
async def test_everything_that_shares_a_pace_stays_within_its_limits(server: Server) -> None:
    """Four chats, an extraction of many texts and embeddings, in simulated time: no minute holds more than the limits,
    and at least 95 % of them are used."""
    clock = PatientClock()
    clock.pace = pace = Pace(rpm=60, tpm=100_000, clock=clock)
    sent: list[float] = []
    handle = server.handle

    def timed(request: httpx2.Request) -> httpx2.Response:
        sent.append(clock.now())
        return handle(request)

    server.handle = timed  # type: ignore[method-assign]
    client = server.async_client()
    made = [item async for item in aextract_each(Person, (f"It is {n}" for n in range(216)), client=client, pace=pace)]
    for number in range(4):
        chat = AsyncChat(client=client, pace=pace, context_tokens=10_000)
        for turn in range(20):
            await chat.send(f"{number} {turn}")
    await aembed([f"text {n}" for n in range(2000)], client=client, pace=pace, cache=False)
    assert all(item.error is None for item in made)
    asked = [
        at for at, (path, _) in zip(sent, server.requests, strict=True) if path in {"/chat/completions", "/embeddings"}
    ]
    most = max(sum(1 for other in asked if at - 60 < other <= at) for at in asked)
    assert most <= 60
    assert len(asked) / (60 * (asked[-1] / 60 + 1)) >= 0.95


@pytest.mark.anyio
async def test_a_retry_waits_for_its_turn(endpoint: Any) -> None:
    """A 429 holds everything that shares the pace for as long as the server asks."""
    clock = PatientClock()
    clock.pace = pace = Pace(rpm=600, tpm=100_000, clock=clock)
    server = Server()
    refusals = [httpx2.Response(429, headers={"retry-after": "7"}, json={"error": {"message": "slow", "code": None}})]
    chat_of = server.chat

    def limited(body: dict[str, Any]) -> httpx2.Response:
        return refusals.pop() if refusals else chat_of(body)

    server.chat = limited  # type: ignore[method-assign]
    policy = RetryPolicy(attempts=2)
    (item,) = [
        i async for i in aextract_each(Person, ["It is 1"], client=server.async_client(), pace=pace, retry=policy)
    ]
    assert item.parsed.name == "1"
    assert clock.now() >= 7


def test_an_answer_that_was_cut_is_an_error_of_its_text(server: Server) -> None:
    """Also with the text that came."""

    def cut(body: dict[str, Any]) -> httpx2.Response:
        response = completion(body, {"role": "assistant", "content": '{"na'})
        whole = response.json()
        whole["choices"][0]["finish_reason"] = "length"
        return httpx2.Response(200, json=whole)

    server.chat = cut  # type: ignore[method-assign]
    (item,) = extract_each(Person, ["x"], client=server.client())
    assert isinstance(item.error, TruncatedError)
    assert item.error.text == '{"na'
