"""The workloads: the same requests and the same number of output tokens for every server."""

import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from benchmarks.client import ChatResult, Client
from benchmarks.contenders import Task
from benchmarks.texts import PERSON, sentences, words

_OUT = 64
_SCHEMA_OUT = 96
"""Fewer tokens than any JSON under the schema has, so that no answer ends early, with a schema or without."""
_SOAK_PARALLEL = 8


class Measure(msgspec.Struct, frozen=True):
    """A number that a workload yields. ``must`` and ``aim``: how many times better than llama-server Antiphon must be, and aims to be."""

    name: str
    unit: str
    higher_is_better: bool = True
    must: float | None = None
    aim: float | None = None


class Run(msgspec.Struct, frozen=True):
    """The parameters of a run. The ``nonce`` makes prompts that no cache holds, the same for all servers."""

    client: Client
    nonce: str
    end_tokens: list[int]


Values = dict[str, float]


class Workload(msgspec.Struct, frozen=True):
    """``run`` returns one value per measure."""

    name: str
    title: str
    measures: tuple[Measure, ...]
    run: Callable[[Run], Awaitable[Values]]
    task: Task = "chat"


async def _together(
    run: Run, conversations: list[list[dict[str, str]]], out: int = _OUT, **extra: Any
) -> tuple[float, list[ChatResult]]:
    began = time.perf_counter()
    asked = (run.client.chat(c, max_tokens=out, end_tokens=run.end_tokens, **extra) for c in conversations)
    results = await asyncio.gather(*asked)
    wall = time.perf_counter() - began
    short = [r.completion_tokens for r in results if r.completion_tokens != out]
    if short:
        raise RuntimeError(f"asked for {out} tokens each, got {short}: is an end token missing in --end-tokens?")
    return wall, results


def _prompts(run: Run, count: int, shared: int, own: int) -> list[list[dict[str, str]]]:
    system = {"role": "system", "content": f"{run.nonce} {words(shared, f'shared-{run.nonce}')}"}
    users = [words(own, f"own-{run.nonce}-{number}") for number in range(count)]
    return [[system, {"role": "user", "content": user}] for user in users]


async def _shared(run: Run) -> Values:
    prompts = _prompts(run, 16, shared=565, own=25)
    cold, _ = await _together(run, prompts)
    warm, _ = await _together(run, prompts)
    return {"cold": 16 * _OUT / cold, "warm": 16 * _OUT / warm}


async def _short(run: Run) -> Values:
    wall, results = await _together(run, _prompts(run, 16, shared=8, own=20))
    gaps = sorted(gap for result in results for gap in result.gaps)
    return {"throughput": 16 * _OUT / wall, "p95_gap": gaps[int(len(gaps) * 0.95)] * 1000}


async def _single(run: Run) -> Values:
    wall, (result,) = await _together(run, _prompts(run, 1, shared=565, own=25))
    return {"throughput": _OUT / wall, "ttft": result.ttft_s, "decode": (_OUT - 1) / (result.total_s - result.ttft_s)}


async def _turns(run: Run) -> Values:
    conversations = _prompts(run, 8, shared=100, own=25)
    out = 48

    async def converse(number: int) -> None:
        conversation = conversations[number]
        for turn in range(6):
            result = await run.client.chat(conversation, max_tokens=out, end_tokens=run.end_tokens)
            conversation.append({"role": "assistant", "content": result.text})
            conversation.append({"role": "user", "content": words(25, f"turn-{run.nonce}-{number}-{turn}")})

    began = time.perf_counter()
    await asyncio.gather(*map(converse, range(8)))
    return {"throughput": 8 * 6 * out / (time.perf_counter() - began)}


async def _behind_a_long_prompt(run: Run) -> Values:
    long = [{"role": "user", "content": f"{run.nonce} {words(3900, f'long-{run.nonce}')}"}]
    short = [{"role": "user", "content": f"{run.nonce} {words(15, f'short-{run.nonce}')}"}]
    slow = asyncio.create_task(run.client.chat(long, max_tokens=8, end_tokens=run.end_tokens))
    await asyncio.sleep(0.5)  # the long prompt's prefill is under way
    quick = await run.client.chat(short, max_tokens=16, end_tokens=run.end_tokens)
    long_result = await slow
    return {"ttft": quick.ttft_s, "long_ttft": long_result.ttft_s}


async def _under_a_schema(run: Run) -> Values:
    free = msgspec.structs.replace(run, nonce=f"{run.nonce}-free")
    values: Values = {}
    for name in ("cold", "warm"):
        free_s, _ = await _together(free, _prompts(free, 16, shared=8, own=20), _SCHEMA_OUT)
        held_s, _ = await _together(run, _prompts(run, 16, shared=8, own=20), _SCHEMA_OUT, response_format=PERSON)
        values |= {name: 16 * _SCHEMA_OUT / held_s, f"{name}_of_free": free_s / held_s}
    return values


async def _embed(run: Run) -> Values:
    texts = sentences(1000, run.nonce)
    began = time.perf_counter()
    for start in range(0, len(texts), 64):
        batch = texts[start : start + 64]
        if await run.client.embed(batch) != len(batch):
            raise RuntimeError("fewer vectors than texts came back")
    return {"throughput": len(texts) / (time.perf_counter() - began)}


async def _next_to_a_busy_process(run: Run) -> Values:
    beside = msgspec.structs.replace(run, nonce=f"{run.nonce}-busy")
    idle, _ = await _together(run, _prompts(run, 16, shared=8, own=20))
    neighbour = await asyncio.create_subprocess_exec(sys.executable, "-c", "while True: pass")
    try:
        busy, _ = await _together(beside, _prompts(beside, 16, shared=8, own=20))
    finally:
        neighbour.kill()
        await neighbour.wait()
    return {"slowdown": busy / idle}


async def warm_up(run: Run, task: Task) -> None:
    """Let the server load its weights once; this is not measured."""
    if task == "embedding":
        await run.client.embed(sentences(8, "warm-up"))
    else:
        await _together(run, _prompts(run, 2, shared=8, own=8), out=8)


async def fill_cache(run: Run) -> None:
    """Send more prompt tokens than a server's cache holds: what it plans to keep is memory in use before any is compared."""
    for number in range(3):
        filling = msgspec.structs.replace(run, nonce=f"{run.nonce}-{number}")
        await _together(filling, _prompts(filling, 16, shared=0, own=500), out=1)


async def arrivals(run: Run, *, seconds: float, count: int | None = None, rate_per_s: float = 4.0) -> int:
    """Send up to ``count`` short chats at random, at most 8 at once, and cancel every third midway.

    After ``seconds``, running requests are cancelled. Return how many were answered; a failed request's error is raised.
    """
    chooser = random.Random(run.nonce)
    running: set[asyncio.Task[ChatResult]] = set()
    finished: set[asyncio.Task[ChatResult]] = set()
    until = time.monotonic() + seconds
    while time.monotonic() < until and (count is None or len(running) + len(finished) < count):
        number = len(running) + len(finished) + 1
        prompt = [{"role": "user", "content": words(chooser.randint(5, 300), f"{run.nonce}-{number}")}]
        tokens = chooser.randint(4, 64)
        task = asyncio.create_task(run.client.chat(prompt, max_tokens=tokens, end_tokens=run.end_tokens))
        running.add(task)
        if number % 3 == 0:
            asyncio.get_running_loop().call_later(chooser.random(), task.cancel)
        await asyncio.sleep(chooser.expovariate(rate_per_s))
        while len(running) >= _SOAK_PARALLEL and time.monotonic() < until:
            done, running = await asyncio.wait(running, timeout=1, return_when=asyncio.FIRST_COMPLETED)
            finished |= done
    if running:
        await asyncio.wait(running, timeout=max(0.0, until - time.monotonic()))
    cut_off = {task for task in running if not task.done() and task.cancel()}
    await asyncio.gather(*cut_off, return_exceptions=True)
    # A request that failed for another reason than being left raises here.
    answers = [task.result() for task in (finished | running) - cut_off if not task.cancelled()]
    return len(answers)


_TOKENS = "tokens/s"

WORKLOADS = (
    Workload(
        "shared-prefix",
        "16 at once, ~600 shared + ~30 own prompt tokens, 64 out",
        (Measure("cold", _TOKENS, must=6, aim=12), Measure("warm", _TOKENS, must=1.2, aim=2)),
        _shared,
    ),
    Workload(
        "short",
        "16 at once, ~50 prompt tokens, 64 out",
        (Measure("throughput", _TOKENS, must=1.2, aim=2), Measure("p95_gap", "ms", higher_is_better=False)),
        _short,
    ),
    Workload(
        "single",
        "1 request, ~600 prompt tokens, 64 out",
        (
            Measure("throughput", _TOKENS, must=1.0, aim=1.5),
            Measure("ttft", "s", higher_is_better=False),
            Measure("decode", _TOKENS),
        ),
        _single,
    ),
    Workload(
        "multi-turn",
        "8 conversations of 6 turns side by side, 48 out",
        (Measure("throughput", _TOKENS, must=2, aim=4),),
        _turns,
    ),
    Workload(
        "long-prompt",
        "a short request while ~4,000 tokens are prefilled",
        (
            Measure("ttft", "s", higher_is_better=False, must=4, aim=20),
            Measure("long_ttft", "s", higher_is_better=False),
        ),
        _behind_a_long_prompt,
    ),
    Workload(
        "schema",
        "16 at once under a schema of 10 fields, 96 out",
        (
            Measure("cold", _TOKENS, must=2, aim=3),
            Measure("warm", _TOKENS, must=2, aim=3),
            Measure("cold_of_free", "times the speed without a schema"),
            Measure("warm_of_free", "times the speed without a schema"),
        ),
        _under_a_schema,
    ),
    Workload(
        "embeddings",
        "1,000 sentences in batches of 64",
        (Measure("throughput", "texts/s", must=1.5, aim=2),),
        _embed,
        "embedding",
    ),
    Workload(
        "busy",
        "16 streams while another process keeps a core busy: slowdown",
        (Measure("slowdown", "times", higher_is_better=False),),
        _next_to_a_busy_process,
    ),
)
