"""What users write, with the types that they should see; read by type checkers, never run."""

from decimal import Decimal
from typing import Any, Literal, assert_type

from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

from antiphon import (
    AsyncChat,
    AsyncIndex,
    AsyncReplyStream,
    AsyncResultStream,
    Budget,
    CacheSize,
    CallEnded,
    CallRecord,
    Cascade,
    Case,
    Chat,
    ChatEvent,
    Chunking,
    CircuitBreaker,
    CitedAnswer,
    Document,
    EmbeddingCache,
    Embeddings,
    Evaluation,
    EvaluationResult,
    Extracted,
    Fallback,
    File,
    HistoryPolicy,
    Hit,
    Image,
    Index,
    ModelChoice,
    Pace,
    Price,
    PriceTable,
    Reply,
    ReplyStream,
    Report,
    RequestSent,
    ResponseCache,
    ResponseCacheStatistics,
    ResultStream,
    RetryPolicy,
    SchemaTool,
    Sound,
    Summary,
    TextDelta,
    TextTool,
    TokenCount,
    Tool,
    ToolCall,
    ToolLimits,
    UpdateReport,
    Usage,
    aembed,
    aextract,
    cascade,
    choose_model,
    cited,
    cost_of,
    count_tokens,
    embed,
    equals,
    extract,
    extract_each,
    extract_many,
    faithful,
    judge,
    recall_at,
    stream_items,
    summarise,
    tool,
)
from antiphon.toolkit.bulk import BulkReport, Request, read_results, run


class Person(BaseModel):
    name: str


@tool
def plain(city: str, days: int = 1) -> str:
    return city * days


@tool(name="other", timeout_s=3.0, needs_approval=True)
async def asynchronous(city: str) -> list[str]:
    return [city]


def approve(call: ToolCall) -> bool | str:
    return call.name == "plain" or "not that one"


def listen(event: ChatEvent) -> None:
    if isinstance(event, CallEnded):
        assert_type(event.record, CallRecord)
    elif isinstance(event, RequestSent):
        assert_type(event.attempt, int)


def synchronous() -> None:
    chat = Chat(
        "be brief",
        client=OpenAI(),
        model="gpt-4o",
        tools=[plain, asynchronous, len],
        temperature=0.5,
        max_completion_tokens=100,
        history=HistoryPolicy(keep=0.5, summarise=True),
        limits=ToolLimits(rounds=3),
        approve=approve,
        reinforce=True,
        budget=Budget(usd="0.5", parent=Budget(tokens=1000)),
        retry=RetryPolicy(attempts=3),
        breaker=CircuitBreaker(),
        fallbacks=["gpt-4o-mini", Fallback("local", AsyncOpenAI())],
        cache=ResponseCache("cache.sqlite"),
        report=Report(),
        prices=PriceTable({"m": Price(prompt=1, completion="2.5")}),
    )
    assert_type(chat.send("hi"), Reply[None])
    assert_type(chat.send([{"type": "text", "text": "hi"}], pin=True, top_p=0.5), Reply[None])
    assert_type(chat.send(["hi", Image("a.png", detail="low"), File(b"x", name="a.pdf"), Sound("a.wav")]), Reply[None])
    assert_type(chat.parse(Person, "who?"), Reply[Person])
    assert_type(chat.parse(Person, "who?").parsed, Person)
    assert_type(chat.parse(list[Person], "who?").parsed, list[Person])
    assert_type(chat.stream("hi"), ReplyStream[None])
    for piece in chat.stream("hi"):
        assert_type(piece, str)
    for event in chat.stream("hi").events():
        if isinstance(event, TextDelta):
            assert_type(event.text, str)
    assert_type(chat.stream_parse(Person, "who?"), ResultStream[Any, Person])
    assert_type(chat.send("hi").usage, Usage | None)
    assert_type(chat.send("hi").cost, Decimal | None)
    assert_type(chat.fork(), Chat)
    assert_type(Chat.load("chat.json"), Chat)
    assert_type(chat.count_tokens(), TokenCount)
    assert_type(extract(Person, "x").parsed, Person)
    assert_type(extract(Literal["a", "b"], "x").parsed, Literal["a", "b"])
    assert_type(extract(Person | None, "x").parsed, Person | None)
    assert_type(extract(tuple[int, str], "x").parsed, tuple[int, str])
    assert_type(chat.parse(int | str, "x").parsed, int | str)
    for item in extract_each(Person, ["x"], pace=Pace(rpm=1, tpm=2), concurrency=3):
        assert_type(item, Extracted[Person])
        assert_type(item.parsed, Person)
    assert_type(chat.send("hi").completion, ChatCompletion | None)
    assert_type(chat.send("hi").reasoning, str | None)
    Chat(on_event=listen, n=2, prompt_cache_key="k")
    assert_type(chat.stream_resume({"c1": True, "c2": "no"}), ReplyStream[None])
    Chat(api="responses", reasoning="low", prefer={"temperature": 0}, top_p=0.5, stop=["a"], service_tier="flex")
    assert_type(extract_many(Person, "x").parsed, list[Person])
    assert_type(stream_items(Person, "x"), ResultStream[Person, list[Person]])
    for person in stream_items(Person, "x"):
        assert_type(person, Person)
    assert_type(cascade(Person, "x", models=["a", "b"], accept=lambda person: person.name != ""), Cascade[Person])
    assert_type(plain("Oslo", days=2), str)
    assert_type(count_tokens([{"role": "user", "content": "hi"}], model="gpt-4o"), TokenCount)
    assert_type(cost_of(Usage(1, 2), "gpt-4o"), Decimal | None)


async def from_a_loop() -> None:
    async with AsyncChat("be brief", client=AsyncOpenAI(), tools=[asynchronous]) as chat:
        assert_type(await chat.send("hi"), Reply[None])
        assert_type(await chat.parse(Person, "who?"), Reply[Person])
        assert_type(chat.stream("hi"), AsyncReplyStream[None])
        async with chat.stream("hi") as stream:
            async for piece in stream:
                assert_type(piece, str)
        assert_type(chat.stream_parse(Person, "x"), AsyncResultStream[Any, Person])
    assert_type((await aextract(Person, "x")).parsed, Person)
    assert_type(await asynchronous("Oslo"), list[str])


def documents() -> None:
    assert_type(embed(["a"], model="m", dimensions=8, client=OpenAI(), cache=False, budget=Budget()), Embeddings)
    with Index("i.sqlite", client=OpenAI(), chunking=Chunking(tokens=100, overlap=10), report=Report()) as index:
        assert_type(index.update([Document("id", "text", metadata={"year": 2026})]), UpdateReport)
        assert_type(index.search("question", limit=3, where={"year": {"$gte": 2020}}, mode="hybrid"), list[Hit])
        assert_type(index.answer("question", num_sources=2, temperature=0, model="m"), CitedAnswer)
    requests = [Request.chat("a", "hi", model="m", max_tokens=5), Request.parse("b", Person, "who?", model="m")]
    assert_type(run(requests, "out.jsonl", client=OpenAI(), rpm=1, tpm=1, concurrency=1), BulkReport)
    for result in read_results("out.jsonl"):
        assert_type(result.parsed(Person), Person)


async def documents_from_a_loop() -> None:
    assert_type(await aembed(["a"], client=AsyncOpenAI()), Embeddings)
    async with AsyncIndex("i.sqlite", client=AsyncOpenAI()) as index:
        assert_type(await index.search("question"), list[Hit])


def made(given: Tool) -> str:
    schema = Tool.of_schema("weather", "Weather", {"type": "object"}, call=plain, strict=True, timeout_s=1.0)
    assert_type(schema, SchemaTool)
    assert_type(Tool.of_text("sql", "Query", call=len, regex=".*", needs_approval=True), TextTool)
    Chat(tools=[schema, given, plain, len])
    return given.name


def measured(index: Index) -> None:
    def ask(case: Case, **options: Any) -> CitedAnswer:
        return index.answer(str(case.input), **options)

    scores = [recall_at(3), cited(model=None), faithful(model="m", client=OpenAI()), judge("good?"), equals("a")]
    result = Evaluation("cases.jsonl", task=ask, scores=scores).run(["m"], repeat=2, budget=Budget(usd=1))
    assert_type(result, EvaluationResult)
    assert_type(choose_model(result, at_least=0.9), ModelChoice)
    assert_type(summarise("text", words=10, model="m"), Summary)


def kept() -> None:
    with ResponseCache("answers.sqlite", max_bytes=10_000_000, max_age_s=3600) as answers:
        assert_type(answers.statistics(), ResponseCacheStatistics)
        assert_type(answers.clear(older_than_s=60), int)
    assert_type(EmbeddingCache(max_age_s=3600).statistics(), CacheSize)
    requests = [Request.chat("a", "hi", model="m")]
    assert_type(run(requests, "out.jsonl", via="flex", rest="now", pace=Pace(rpm=1)).is_pending, bool)
