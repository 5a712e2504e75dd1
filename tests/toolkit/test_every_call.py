"""One way for every call: what is set around it holds for every function that sends, and nothing is sent besides."""

import asyncio
import inspect
import json
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel
from tests.toolkit.model_endpoints import ANSWER_TOKENS, PROMPT_TOKENS, ThinkingEndpoint

import antiphon
from antiphon import (
    AsyncChat,
    AsyncIndex,
    Budget,
    BudgetExceededError,
    Case,
    Chat,
    CircuitBreaker,
    CircuitOpenError,
    Document,
    Embedder,
    Evaluation,
    Index,
    Pace,
    Price,
    PriceTable,
    Report,
    Rerank,
    RetryPolicy,
    TruncatedAnswerWarning,
    acascade,
    aembed,
    aextract,
    aextract_each,
    aextract_many,
    astream_items,
    asummarise,
    cascade,
    embed,
    extract,
    extract_each,
    extract_many,
    judge,
    stream_items,
    summarise,
    tool,
)
from antiphon.toolkit._sync import portal
from antiphon.toolkit.bulk import Request, arun, run

DOCUMENTS = [Document("a", "Books are lent for three weeks."), Document("b", "A lost book costs its price.")]


class Person(BaseModel):
    name: str


def get_weather(city: str) -> str:
    return f"20 degrees in {city}"


def requests_of(path: Path) -> Iterable[Request]:
    yield Request.chat("a", "hi", model="m")
    yield Request.embedding("b", ["hi"], model="m")


def indexed(client: OpenAI, path: Path, use: Callable[[Index], object], **options: Any) -> object:
    with Index(path / "i.sqlite", model="m", client=client, **options) as index:
        return use(index)


def prepared(client: OpenAI, path: Path) -> None:
    """Fill the index beforehand, so that what is tested does not begin with an update."""
    indexed(client, path, lambda index: index.update(DOCUMENTS))


@tool(needs_approval=True)
def delete(path: str) -> str:
    return f"{path} is deleted"


# Turns that were begun elsewhere: what it took to get there is not what is tested.
PAUSED = {
    "pending": {
        "messages": [
            {"role": "user", "content": "hi"},
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "thought 0",
                "tool_calls": [{"id": "c", "type": "function", "function": {"name": "delete", "arguments": "{}"}}],
            },
        ],
        "calls": [["c", "delete", "{}", False]],
        "asking": ["c"],
        "request": {},
        "is_pinned": False,
        "rounds": 1,
    },
}


def paused(kind: type[Any], client: Any, **options: Any) -> Any:
    """Return a chat whose turn waits for a decision."""
    saved = {**Chat(client=ThinkingEndpoint().client(), model="m").to_json(), "pending": PAUSED["pending"]}
    return kind.from_json(saved, client=client, tools=[delete], **options)


def cut(kind: type[Any], client: Any, **options: Any) -> Any:
    """Return a chat whose last answer was cut."""
    begun = Chat(client=ThinkingEndpoint().client(), model="m", max_completion_tokens=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncatedAnswerWarning)
        begun.send("hi")
    chat = kind.from_json(begun.to_json(), client=client, **options)
    chat._last = begun.last_reply
    return chat


def evaluated(client: OpenAI | AsyncOpenAI) -> Evaluation:
    async def task(case: Case, model: str, **given: Any) -> Any:
        return await AsyncChat(client=client, model=model, **given).send(case.input)

    score = judge("is it good?", model="m", client=client)
    return Evaluation([Case("1", "hi")], task=task, scores=[score])


def reranked(client: OpenAI, path: Path, **options: Any) -> object:
    by = Rerank("m", num_candidates=2)
    return indexed(client, path, lambda index: index.search("lost?", mode="bm25", rerank=by), **options)


# Each: a function of an OpenAI client, a folder, and the options.
SYNCHRONOUS: dict[str, Callable[..., object]] = {
    "Chat.send": lambda client, _, **o: Chat(client=client, model="m", **o).send("hi"),
    "Chat.send with tools": lambda client, _, **o: Chat(client=client, model="m", tools=[get_weather], **o).send("hi"),
    "Chat.parse": lambda client, _, **o: Chat(client=client, model="m", **o).parse(Person, "hi"),
    "Chat.stream": lambda client, _, **o: list(Chat(client=client, model="m", **o).stream("hi")),
    "Chat.stream_parse": lambda client, _, **o: list(Chat(client=client, model="m", **o).stream_parse(Person, "hi")),
    "Chat.continue_": lambda client, _, **o: cut(Chat, client, **o).continue_(),
    "Chat.resume": lambda client, _, **o: paused(Chat, client, **o).resume(True),
    "Chat.stream_resume": lambda client, _, **o: list(paused(Chat, client, **o).stream_resume(True)),
    "Evaluation.run": lambda client, _, **o: evaluated(client).run(["m"], **o),
    "Index.search with rerank": reranked,
    "extract": lambda client, _, **o: extract(Person, "hi", model="m", client=client, **o),
    "extract_many": lambda client, _, **o: extract_many(Person, "hi", model="m", client=client, **o),
    "extract_each": lambda client, _, **o: list(extract_each(Person, ["hi", "ho"], model="m", client=client, **o)),
    "stream_items": lambda client, _, **o: list(stream_items(Person, "hi", model="m", client=client, **o)),
    "summarise": lambda client, _, **o: summarise("hi", model="m", client=client, **o),
    "cascade": lambda client, _, **o: cascade(Person, "hi", models=["m"], client=client, **o),
    "embed": lambda client, _, **o: embed(["hi", "ho"], model="m", client=client, cache=False, **o),
    "Index.update": lambda client, path, **o: indexed(client, path / "new", lambda i: i.update(DOCUMENTS), **o),
    "Index.search": lambda client, path, **o: indexed(client, path, lambda i: i.search("lost?"), **o),
    "Index.answer": lambda client, path, **o: indexed(client, path, lambda i: i.answer("lost?", model="m"), **o),
    "Index.stream_answer": lambda client, path, **o: indexed(
        client, path, lambda i: list(i.stream_answer("lost?", model="m")), **o
    ),
    "bulk.run": lambda client, path, **o: run(list(requests_of(path)), path / "o.jsonl", client=client, **o),
}


async def all_of(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


async def embedded(client: AsyncOpenAI, **options: Any) -> object:
    async with Embedder(client, model="m", **options) as embedder:
        return await embedder.embed(["hi"])


async def answered(client: AsyncOpenAI, path: Path, **options: Any) -> object:
    async with AsyncIndex(path / "i.sqlite", model="m", client=client, **options) as index:
        return await index.answer("lost?", model="m")


async def cut_off(client: AsyncOpenAI, **options: Any) -> object:
    chat = await asyncio.to_thread(cut, AsyncChat, client, **options)
    return await chat.continue_()


async def resumed(client: AsyncOpenAI, *, is_streamed: bool = False, **options: Any) -> object:
    chat = await asyncio.to_thread(paused, AsyncChat, client, **options)
    return await (all_of(aiter(chat.stream_resume(True))) if is_streamed else chat.resume(True))


ASYNCHRONOUS: dict[str, Callable[..., Awaitable[object]]] = {
    "AsyncChat.send": lambda client, _, **o: AsyncChat(client=client, model="m", **o).send("hi"),
    "AsyncChat.parse": lambda client, _, **o: AsyncChat(client=client, model="m", **o).parse(Person, "hi"),
    "AsyncChat.continue_": lambda client, _, **o: cut_off(client, **o),
    "AsyncChat.resume": lambda client, _, **o: resumed(client, **o),
    "AsyncChat.stream_resume": lambda client, _, **o: resumed(client, is_streamed=True, **o),
    "AsyncChat.stream_parse": lambda client, _, **o: all_of(
        aiter(AsyncChat(client=client, model="m", **o).stream_parse(Person, "hi"))
    ),
    "Evaluation.arun": lambda client, _, **o: evaluated(client).arun(["m"], **o),
    "AsyncChat.stream": lambda client, _, **o: all_of(aiter(AsyncChat(client=client, model="m", **o).stream("hi"))),
    "aextract": lambda client, _, **o: aextract(Person, "hi", model="m", client=client, **o),
    "aextract_many": lambda client, _, **o: aextract_many(Person, "hi", model="m", client=client, **o),
    "aextract_each": lambda client, _, **o: all_of(aextract_each(Person, ["hi"], model="m", client=client, **o)),
    "astream_items": lambda client, _, **o: all_of(aiter(astream_items(Person, "hi", model="m", client=client, **o))),
    "asummarise": lambda client, _, **o: asummarise("hi", model="m", client=client, **o),
    "acascade": lambda client, _, **o: acascade(Person, "hi", models=["m"], client=client, **o),
    "aembed": lambda client, _, **o: aembed(["hi"], model="m", client=client, cache=False, **o),
    "Embedder": lambda client, _, **o: embedded(client, **o),
    "AsyncIndex.answer": answered,
    "bulk.arun": lambda client, path, **o: arun(list(requests_of(path)), path / "o.jsonl", client=client, **o),
}
EVERY = [*SYNCHRONOUS, *ASYNCHRONOUS]


class FailingEndpoint(ThinkingEndpoint):
    """Answers 503 to the first ``num_failures`` requests."""

    num_failures = 0

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        if self.num_failures and "tokenize" not in request.url.path and request.method == "POST":
            self.num_failures -= 1
            return httpx2.Response(503, json={"error": {"message": "later", "type": "t", "param": None, "code": None}})
        if request.url.path.endswith("/rerank"):
            self.requests.append(("/rerank", json.loads(request.content)))
            self.num_answers += 1
            scores = [{"index": n, "relevance_score": 0.5} for n in range(len(self.requests[-1][1]["documents"]))]
            usage = {"prompt_tokens": PROMPT_TOKENS, "total_tokens": PROMPT_TOKENS}
            return httpx2.Response(200, json={"model": "m", "results": scores, "usage": usage})
        return super().handle(request)

    @property
    def asked(self) -> list[str]:
        """The requests that cost something."""
        return [
            path for path, _ in self.requests if path in {"/chat/completions", "/responses", "/embeddings", "/rerank"}
        ]


@pytest.fixture
def server(endpoint: object) -> FailingEndpoint:
    """An endpoint that counts, and of which nothing is remembered yet."""
    return FailingEndpoint(rounds=1)


def call(server: FailingEndpoint, name: str, path: Path, **options: Any) -> object:
    (path / "new").mkdir(exist_ok=True)
    if "Index" in name:
        prepared(ThinkingEndpoint().client(), path)
    if name in SYNCHRONOUS:
        return SYNCHRONOUS[name](server.client(max_retries=0), path, **options)

    async def awaited() -> object:
        async with server.async_client(max_retries=0) as client:
            return await ASYNCHRONOUS[name](client, path, **options)

    return portal.call(awaited())


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("limits", [{"calls": 0}, {"tokens": 0}, {"usd": 0}])
def test_a_budget_of_nothing_sends_nothing(
    server: FailingEndpoint, name: str, limits: dict[str, int], tmp_path: Path
) -> None:
    """Whatever it limits, and whichever function is asked."""
    prices = PriceTable({"m": Price(prompt=1, completion=1)})
    with pytest.raises(BudgetExceededError):
        call(server, name, tmp_path, budget=Budget(**limits), prices=prices)
    assert server.asked == []


@pytest.mark.parametrize("name", EVERY)
def test_reports_and_budgets_count_what_the_endpoint_counted(
    server: FailingEndpoint, name: str, tmp_path: Path
) -> None:
    """Calls and tokens, to the last one."""
    report, budget, pace = Report(), Budget(), Pace(rpm=1000, tpm=1_000_000)
    call(server, name, tmp_path, report=report, budget=budget, pace=pace)
    counted, spent = report.statistics(), budget.statistics()
    generated = sum(path == "/chat/completions" for path in server.asked)
    tokens = PROMPT_TOKENS * server.num_answers + ANSWER_TOKENS * generated
    assert counted.num_calls == spent.num_calls == len(server.asked) == server.num_answers > 0
    assert counted.usage.total_tokens == spent.spent_tokens == tokens
    assert (spent.reserved_tokens, counted.num_unreported) == (0, 0)
    paced = pace.statistics()
    assert (paced.requests_last_minute, paced.tokens_last_minute) == (server.num_answers, tokens)
    assert paced.in_flight == 0


@pytest.mark.parametrize("name", EVERY)
def test_a_failure_that_passes_is_tried_again(server: FailingEndpoint, name: str, tmp_path: Path) -> None:
    """By the policy that was given, since the client here does not retry."""
    server.num_failures, report = 1, Report()
    call(server, name, tmp_path, retry=RetryPolicy(attempts=2, initial_s=1e-4, longest_s=1e-4), report=report)
    assert report.statistics().num_retries == 1


@pytest.mark.parametrize("name", EVERY)
def test_an_open_circuit_lets_nothing_through(server: FailingEndpoint, name: str, tmp_path: Path) -> None:
    """It is opened by one function and holds for the others."""
    breaker = CircuitBreaker(failures=1, rest_s=1000)
    server.num_failures = 1
    once = RetryPolicy(attempts=1)
    with pytest.raises(Exception, match="later"):
        call(server, "Chat.send", tmp_path, breaker=breaker, retry=once)
    if name.startswith("Evaluation"):
        # A case that fails is a case of the result.
        result: Any = call(server, name, tmp_path, breaker=breaker, retry=once)
        assert "CircuitOpenError" in result.runs[0].error
    else:
        with pytest.raises(CircuitOpenError):
            call(server, name, tmp_path, breaker=breaker, retry=once)
    assert server.asked == []


# What asks no model, or sends only through what is tested above.
SILENT = {
    *("load", "from_json", "model", "messages", "turns", "last_reply", "usage", "cost", "pending_calls", "undo", "pin"),
    *("remember", "fork", "to_markdown", "save", "to_json", "events", "as_tool", "count_tokens", "aclose", "close"),
    *("delete", "statistics", "num_characters", "prefixes", "embed_fitting", "answerer"),
}


def test_every_function_that_sends_is_in_the_tables() -> None:
    """Each public function that takes a client, and each method of what holds one; scores are asked by an evaluation."""
    tested = {name.split(" ")[0] for name in EVERY}
    functions = {name for name in antiphon._HOME if name[0].islower() and inspect.isfunction(getattr(antiphon, name))}
    sending = {name for name in functions if "client" in inspect.signature(getattr(antiphon, name)).parameters}
    assert sending - tested <= {"count_tokens", "acount_tokens", "judge", "cited", "faithful", "explain_client_retries"}
    for kind in (Chat, AsyncChat, Index, AsyncIndex, Evaluation):
        methods = {name for name in dir(kind) if not name.startswith("_")} - SILENT
        twin = kind.__name__.removeprefix("Async")
        assert {name for name in methods if not {f"{kind.__name__}.{name}", f"{twin}.{name}"} & tested} == set()


@pytest.mark.parametrize("name", ["embed", "Index.search", "bulk.run", "Chat.send"])
def test_an_option_that_there_is_not_is_refused(server: FailingEndpoint, name: str, tmp_path: Path) -> None:
    """Nothing that is misspelt is ignored."""
    with pytest.raises(TypeError, match="bugdet"):
        call(server, name, tmp_path, bugdet=Budget())
