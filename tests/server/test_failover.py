"""Two engines behind one front, and one of them killed under load."""

import asyncio
import os
import signal
from pathlib import Path
from typing import NamedTuple

import httpx2 as httpx
import msgspec
import pytest
from tests.processes import ServerProcess, home_with_models, serving
from tests.serving import running
from tests.waiting import until

from antiphon.backends.routing import Router
from antiphon.backends.upstream import UpstreamBackend, UpstreamModel, UpstreamSettings

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

SCRIPT = """
models = ["m"]
embedding_models = []
[[replies]]
text = "one two three four five six seven eight nine ten"
first_token_s = 0.05
token_s = 0.02
"""
TEXT = "one two three four five six seven eight nine ten"


class Seen(NamedTuple):
    """What a client saw of one stream."""

    status: int
    text: str
    is_whole: bool
    had_error: bool


SMALL = "smollm2-135m-instruct"
REAL = """
[models]
embedding = "none"
[engine]
context_size = 1024
threads = 1
batch_threads = 1
weight_format = "as-is"
"""


def real_engine(home: Path, name: str) -> tuple[Path, tuple[str, ...]]:
    folder = home_with_models(home / name)
    (folder / "antiphon.toml").write_text(REAL)
    return folder, ("--config", str(folder / "antiphon.toml"))


def engine(home: Path, name: str) -> tuple[Path, tuple[str, ...]]:
    folder = home / name
    folder.mkdir()
    (folder / "script.toml").write_text(SCRIPT)
    (folder / "antiphon.toml").write_text(f'[gateway]\nscript = "{folder / "script.toml"}"\n')
    config = str(folder / "antiphon.toml")
    return folder, ("--model", "none", "--embedding-model", "none", "--config", config)


async def ask(client: httpx.AsyncClient, model: str = "m", text: str = "count", **more: object) -> Seen:
    body = {"model": model, "messages": [{"role": "user", "content": text}], "stream": True, **more}
    async with client.stream("POST", "/chat/completions", json=body) as response:
        lines = [line async for line in response.aiter_lines()]
    payloads = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    chunks = [msgspec.json.decode(payload) for payload in payloads if payload != "[DONE]"]
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", []))
    return Seen(response.status_code, text, "[DONE]" in payloads, any("error" in chunk for chunk in chunks))


def before(engines: list[ServerProcess], model: str = "m") -> Router:
    upstreams = {
        f"engine-{number}": UpstreamBackend(
            UpstreamSettings(name=f"engine-{number}", base_url=each.url, models=(UpstreamModel(id=model),))
        )
        for number, each in enumerate(engines)
    }
    return Router(upstreams)


async def test_no_request_is_lost_that_had_not_begun_to_stream(tmp_path: Path) -> None:
    """With 300 streams at 30 a time, killing one of two engines breaks only streams that had begun, and says so to them."""
    first, second = (engine(tmp_path, name) for name in ("a", "b"))
    with serving(first[0], *first[1]) as one, serving(second[0], *second[1]) as two:
        with running(before([one, two]), tmp_path) as front:
            limits = httpx.Limits(max_connections=30)
            async with httpx.AsyncClient(base_url=front.url, timeout=None, limits=limits) as client:
                tasks = [asyncio.ensure_future(ask(client)) for _ in range(300)]
                await until(lambda: sum(task.done() for task in tasks) >= 60)
                os.kill(two.pid, signal.SIGKILL)
                seen = await asyncio.gather(*tasks)
        two.process.wait()
    whole = [each for each in seen if each.is_whole]
    broken = [each for each in seen if not each.is_whole]
    assert {each.status for each in seen} == {200}
    assert {each.text for each in whole} == {TEXT}
    assert len(broken) <= 30
    for each in broken:
        assert each.had_error
        assert TEXT.startswith(each.text)


@pytest.mark.model
async def test_the_same_with_real_engines(tmp_path: Path) -> None:
    """Of two servers with a model each, one is killed in the middle of its work: only the streams that it had begun break."""
    num_asked, num_at_once = 24, 8
    first, second = (real_engine(tmp_path, name) for name in ("a", "b"))
    with serving(first[0], *first[1]) as one, serving(second[0], *second[1]) as two:
        with running(before([one, two], SMALL), tmp_path) as front:
            limits = httpx.Limits(max_connections=num_at_once)
            async with httpx.AsyncClient(base_url=front.url, timeout=None, limits=limits) as client:
                texts = [f"Count upwards from {number}." for number in range(num_asked)]
                tasks = [asyncio.ensure_future(ask(client, SMALL, text, max_tokens=24)) for text in texts]
                await until(lambda: sum(task.done() for task in tasks) >= num_at_once)
                os.kill(two.pid, signal.SIGKILL)
                seen = await asyncio.gather(*tasks)
        two.process.wait()
    broken = [each for each in seen if not each.is_whole]
    assert {each.status for each in seen} == {200}
    assert all(each.text and not each.had_error for each in seen if each.is_whole)
    assert len(broken) <= num_at_once
    assert all(each.had_error for each in broken)
