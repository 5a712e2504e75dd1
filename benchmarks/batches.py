"""What a batch costs others, and what it reaches alone: ``python -m benchmarks.batches``.

One run on one server with the default model. First, the time to the first token of interactive requests, by turns on an idle
server and next to a running batch. Then the same chats by 32 clients and as a batch, by turns. Ratios are of medians.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import openai
from openai.types import Batch
from openai.types.chat import ChatCompletion
from tests.processes import home_with_models, serving

MODEL = "gpt-4o-mini"
NUM_CLIENTS = 32
ROUNDS = 3
PER_ROUND = 6
NUM_CHATS = 96


def body(text: str, max_tokens: int) -> dict[str, Any]:
    return {"model": MODEL, "max_tokens": max_tokens, "messages": [{"role": "user", "content": text}]}


def begin(client: openai.OpenAI, bodies: list[dict[str, Any]]) -> Batch:
    lines = [
        {"custom_id": str(n), "method": "POST", "url": "/v1/chat/completions", "body": each}
        for n, each in enumerate(bodies)
    ]
    file = client.files.create(file=("in.jsonl", "\n".join(map(json.dumps, lines)).encode()), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")


def until(client: openai.OpenAI, batch: Batch, condition: Callable[[Batch], bool]) -> None:
    while not condition(client.batches.retrieve(batch.id)):
        time.sleep(0.02)


def is_over(batch: Batch) -> bool:
    return batch.status in {"completed", "failed", "cancelled", "expired"}


def first_token_s(client: openai.OpenAI, name: str) -> float:
    """Ask for a text about 150 tokens long that no cache has, and return the seconds to its first piece."""
    started = time.perf_counter()
    text = f"{name}. " + " ".join(f"Fact {n} of {name} is {n * 7}." for n in range(12)) + " What is fact 3?"
    with client.chat.completions.create(**body(text, 8), stream=True) as chunks:
        for chunk in chunks:
            if chunk.choices and chunk.choices[0].delta.content:
                return time.perf_counter() - started
    raise AssertionError


def latency(client: openai.OpenAI) -> None:
    idle: list[float] = []
    beside: list[float] = []
    for number in range(ROUNDS):
        idle += [first_token_s(client, f"idle {number} {n}") for n in range(PER_ROUND)]
        batch = begin(client, [body(f"Tell story {number} of {n}.", 200) for n in range(400)])
        until(client, batch, lambda found: found.request_counts is not None and found.request_counts.completed > 0)
        beside += [first_token_s(client, f"beside {number} {n}") for n in range(PER_ROUND)]
        client.batches.cancel(batch.id)
        until(client, batch, is_over)
    medians = statistics.median(idle), statistics.median(beside)
    print(f"time to first token: idle {medians[0]:.3f} s, next to a batch {medians[1]:.3f} s")
    print(f"ratio {medians[1] / medians[0]:.2f} (each of {len(idle)} requests)")


def throughput(client: openai.OpenAI) -> None:
    def answer_tokens(request: dict[str, Any]) -> int:
        answer = cast("ChatCompletion", client.chat.completions.create(**request))
        return answer.usage.completion_tokens if answer.usage else 0

    by_clients: list[float] = []
    as_batch: list[float] = []
    for number in range(ROUNDS):
        chats = [body(f"Write a line about number {n} in round {number} {{way}}.", 32) for n in range(NUM_CHATS)]

        def told(way: str, chats: list[dict[str, Any]] = chats) -> list[dict[str, Any]]:
            return [json.loads(json.dumps(each).replace("{way}", way)) for each in chats]

        started = time.perf_counter()
        with ThreadPoolExecutor(NUM_CLIENTS) as pool:
            counts = list(pool.map(answer_tokens, told("one")))
        seconds = time.perf_counter() - started
        by_clients.append(sum(counts) / seconds)
        started = time.perf_counter()
        batch = begin(client, told("two"))
        until(client, batch, is_over)
        seconds = time.perf_counter() - started
        usage = client.batches.retrieve(batch.id).usage
        as_batch.append((usage.output_tokens if usage else 0) / seconds)
    medians = statistics.median(by_clients), statistics.median(as_batch)
    print(f"tokens/s: {NUM_CLIENTS} clients {medians[0]:.1f}, batch {medians[1]:.1f}")
    print(f"ratio {medians[1] / medians[0]:.2f} (each of {ROUNDS} runs of {NUM_CHATS} chats)")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = home_with_models(Path(folder))
        with (
            serving(home) as server,
            openai.OpenAI(base_url=server.url, api_key="k", timeout=600, max_retries=0) as client,
        ):
            first_token_s(client, "warm up")
            latency(client)
            throughput(client)


if __name__ == "__main__":
    sys.exit(main())
