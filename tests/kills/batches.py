"""Batches on a server that is killed again and again, and what must be true of them afterwards."""

import json
import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
from openai.types import Batch
from tests.processes import ServerProcess, children, serving
from tests.waiting import wait_until

PRICE = {"input": 2.0, "output": 4.0}
"""Dollars for a million tokens, of every model."""
OVER = {"completed", "failed", "expired", "cancelled"}


def begin(client: openai.OpenAI, url: Any, bodies: list[dict[str, Any]]) -> Batch:
    """Upload requests and begin a batch of them; the n-th is called ``n``."""
    lines = [
        {"custom_id": str(number), "method": "POST", "url": url, "body": body} for number, body in enumerate(bodies)
    ]
    file = client.files.create(file=("in.jsonl", "\n".join(map(json.dumps, lines)).encode()), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=url, completion_window="24h")


def num_finished(client: openai.OpenAI, batches: list[Batch]) -> int:
    counts = [client.batches.retrieve(batch.id).request_counts for batch in batches]
    return sum(count.completed + count.failed for count in counts if count is not None)


def run_with_kills(
    home: Path, config: Path, kills: int, begin_all: Callable[[openai.OpenAI], list[Batch]], seed: int
) -> list[Batch]:
    """Begin batches; kill the server, or an engine of it, ``kills`` times while they run; return them when they are over."""
    chance = random.Random(seed)
    batches: list[Batch] = []
    left = kills
    while left:
        with (
            serving(home, "--config", str(config)) as server,
            openai.OpenAI(base_url=server.url, api_key="k", max_retries=3) as client,
        ):
            batches = batches or begin_all(client)
            is_up = True
            while left and is_up:
                make_progress(client, batches, chance.randrange(1, 60))
                assert not is_over(client, batches), f"the batches were over {left} kills too early"
                is_up = not kill_one(server, chance)
                left -= 1
    with (
        serving(home, "--config", str(config)) as server,
        openai.OpenAI(base_url=server.url, api_key="k", max_retries=3) as client,
    ):
        while not is_over(client, batches):
            make_progress(client, batches, 1)
        return [client.batches.retrieve(batch.id) for batch in batches]


def make_progress(client: openai.OpenAI, batches: list[Batch], num_lines: int) -> None:
    """Wait until ``num_lines`` more are finished, or all are."""
    wanted = num_finished(client, batches) + num_lines
    wait_until(lambda: num_finished(client, batches) >= wanted or is_over(client, batches))


def kill_one(server: ServerProcess, chance: random.Random) -> bool:
    """Kill an engine or the server; True if it was the server."""
    engines = children(server, b"antiphon.engine")
    time.sleep(chance.random() * 0.2)
    if engines and chance.random() < 0.5:
        os.kill(chance.choice(engines), signal.SIGKILL)
        return False
    os.kill(server.pid, signal.SIGKILL)
    server.process.wait()
    return True


def is_over(client: openai.OpenAI, batches: list[Batch]) -> bool:
    return all(client.batches.retrieve(batch.id).status in OVER for batch in batches)


def check_answers(home: Path, config: Path, batches: list[Batch], sizes: list[int]) -> None:
    """Every line is answered once, with success, and its usage is that of the ledger."""
    with (
        serving(home, "--config", str(config)) as server,
        openai.OpenAI(base_url=server.url, api_key="k") as client,
    ):
        num_tokens = 0
        for batch, size in zip(batches, sizes, strict=True):
            assert (batch.status, batch.error_file_id) == ("completed", None)
            answers = [json.loads(line) for line in client.files.content(batch.output_file_id or "").text.splitlines()]
            assert [answer["custom_id"] for answer in answers] == [str(number) for number in range(size)]
            assert {answer["response"]["status_code"] for answer in answers} == {200}
            num_tokens += sum(answer["response"]["body"]["usage"]["total_tokens"] for answer in answers)
            assert batch.usage is not None
        assert num_tokens == sum(batch.usage.total_tokens for batch in batches if batch.usage)
    with sqlite3.connect(home / "antiphon.db") as database:
        query = "SELECT prompt_tokens, completion_tokens, usd, status, is_batch FROM usage WHERE kind != 'file'"
        rows = database.execute(query).fetchall()
    assert len(rows) == sum(sizes), "one usage row for each line"
    assert {row[3:] for row in rows} == {(200, 1)}
    assert sum(row[0] + row[1] for row in rows) == num_tokens
    for prompt, completion, usd, *_ in rows:
        assert abs(usd - (prompt * PRICE["input"] + completion * PRICE["output"]) / 2_000_000) < 1e-12
