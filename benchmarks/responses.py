"""``python -m benchmarks.responses``: what a response costs next to a chat completion, on one server in one run.

``overhead``: the server's processor time per request with a scripted model, whole and streamed, stored and not. The kinds
alternate within a round; ratios are medians over the rounds. ``turns``: the time to the first token of a conversation's
second turn on the default model, and how many of its prompt's tokens were cached.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from openai import AsyncOpenAI

from benchmarks.arguments import at_least_one
from benchmarks.contenders import Launch
from benchmarks.gateway_load import Connection, median
from benchmarks.serving import asking_defaults, running_launch

_WORDS = 64
_OK = 200
_CHAT, _RESPONSES = "/v1/chat/completions", "/v1/responses"
_QUESTION = "Tell me a long story about a river, with many details, and about all who live on its banks. " * 3
_FOLLOWING = "And then?"


class Kind(msgspec.Struct, frozen=True):
    """A kind of request, and the one that it is compared with."""

    name: str
    path: str
    body: Mapping[str, Any]
    compared_with: str = ""


def _kinds() -> list[Kind]:
    kinds: list[Kind] = []
    for stream in (False, True):
        how = "stream" if stream else "whole"
        for store in (False, True):
            kept = "stored" if store else "not stored"
            both = {"model": "mock", "store": store, "stream": stream}
            message = {"role": "user", "content": "Say hello to the mock upstream."}
            chat = f"chat, {how}, {kept}"
            kinds.append(Kind(chat, _CHAT, {**both, "messages": [message]}))
            response = {**both, "input": message["content"]}
            kinds.append(Kind(f"response, {how}, {kept}", _RESPONSES, response, chat))
    return kinds


def main() -> None:
    """Measure what is named and print tables."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="antiphon-bench-") as folder:
        if options.only != "turns":
            asyncio.run(_overhead(options, Path(folder)))
        if options.only != "overhead":
            asyncio.run(_turns(options, Path(folder)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.responses", description=__doc__)
    parser.add_argument("--only", choices=("overhead", "turns"), help="measure one of the two [default: both]")
    parser.add_argument("--rounds", type=at_least_one, default=7, help="through all kinds in turn [default: 7]")
    parser.add_argument("--requests", type=at_least_one, default=300, help="of a kind in a round [default: 300]")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between two turns [default: 0.5]")
    return parser.parse_args()


async def _overhead(options: argparse.Namespace, folder: Path) -> None:
    kinds = _kinds()
    spent: dict[str, list[float]] = {kind.name: [] for kind in kinds}
    async with running_launch("antiphon", lambda port: _scripted(folder, port), folder / "scripted.log") as server:
        for number in range(options.rounds + 1):
            for kind in kinds:
                cpu_s = await _cpu_s_of(server.pid, server.client.port, kind, options.requests)
                if number:  # the first round warms up
                    spent[kind.name].append(cpu_s / options.requests)
    print("| request | CPU ms | times the chat completion |\n|---|---|---|")
    for kind in kinds:
        values, others = spent[kind.name], spent.get(kind.compared_with, [])
        ratio = median([a / b for a, b in zip(values, others, strict=True)]) if others else None
        print(f"| {kind.name} | {1000 * median(values):.2f} | {'' if ratio is None else f'{ratio:.2f}'} |")


def _scripted(folder: Path, port: int) -> Launch:
    script, config = folder / "script.toml", folder / "antiphon.toml"
    script.write_text(f'models = ["mock"]\n[[replies]]\ntext = "{" word" * _WORDS}"\n')
    config.write_text(f'[server]\nlog_level = "warning"\n[gateway]\nscript = "{script}"\n')
    options = ["--port", str(port), "--model", "none", "--embedding-model", "none", "--config", str(config)]
    return Launch([sys.executable, "-m", "antiphon", "serve", *options], {"ANTIPHON_HOME": str(folder / "home")})


async def _cpu_s_of(pid: int, port: int, kind: Kind, num_requests: int) -> float:
    """Return the server's processor seconds for requests one after another."""
    body = msgspec.json.encode(kind.body)
    head = (
        f"POST {kind.path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer sk-bench\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
    before = _cpu_s(pid)
    for _ in range(num_requests):
        reply = await connection.ask(head.encode() + body)
        if reply.status != _OK:
            raise RuntimeError(f"{kind.name}: status {reply.status}")
    spent = _cpu_s(pid) - before
    connection.close()
    return spent


def _cpu_s(pid: int) -> float:
    """Return the processor time of a process's threads, to the nanosecond."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


class Turn(msgspec.Struct, frozen=True):
    """The second turn of a conversation."""

    first_token_s: float
    num_tokens: int
    num_cached: int


async def _turns(options: argparse.Namespace, folder: Path) -> None:
    async with asking_defaults(os.cpu_count() or 1, folder) as (client, _):
        kinds = {"chat": _by_chat, "previous_response_id": _by_response}
        turns: dict[str, list[Turn]] = {name: [] for name in kinds}
        for number in range(options.rounds):
            for name in sorted(kinds, reverse=bool(number % 2)):
                turns[name].append(await kinds[name](client, f"Story {number} {name[:4]}. {_QUESTION}", options.pause))
    print("| second turn by | prompt tokens | cached | first token, ms |\n|---|---|---|---|")
    for name, measured in turns.items():
        print(f"| {name} | {' | '.join(_medians(measured))} |")


def _medians(turns: Sequence[Turn]) -> list[str]:
    tokens, cached = median([turn.num_tokens for turn in turns]), median([turn.num_cached for turn in turns])
    return [f"{tokens:g}", f"{cached:g}", f"{1000 * median([turn.first_token_s for turn in turns]):.0f}"]


async def _by_chat(client: AsyncOpenAI, question: str, pause_s: float) -> Turn:
    messages: list[Any] = [{"role": "user", "content": question}]
    first = await client.chat.completions.create(model="gpt-4o-mini", messages=messages, max_tokens=150, temperature=0)
    messages += [{"role": "assistant", "content": first.choices[0].message.content}]
    messages += [{"role": "user", "content": _FOLLOWING}]
    await asyncio.sleep(pause_s)
    began, first_s, usage = time.perf_counter(), 0.0, None
    chunks = await client.chat.completions.create(
        model="gpt-4o-mini", messages=messages, max_tokens=16, stream=True, stream_options={"include_usage": True}
    )
    async for chunk in chunks:
        if not first_s and chunk.choices and chunk.choices[0].delta.content:
            first_s = time.perf_counter() - began
        usage = chunk.usage or usage
    if usage is None or usage.prompt_tokens_details is None:
        raise RuntimeError("the stream had no usage")
    return Turn(first_s, usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens or 0)


async def _by_response(client: AsyncOpenAI, question: str, pause_s: float) -> Turn:
    first = await client.responses.create(model="gpt-4o-mini", input=question, max_output_tokens=150, temperature=0)
    await asyncio.sleep(pause_s)
    began, first_s, usage = time.perf_counter(), 0.0, None
    events = await client.responses.create(
        model="gpt-4o-mini", previous_response_id=first.id, input=_FOLLOWING, max_output_tokens=16, stream=True
    )
    async for event in events:
        if not first_s and event.type == "response.output_text.delta":
            first_s = time.perf_counter() - began
        if event.type == "response.completed" or event.type == "response.incomplete":  # noqa: PLR1714 - narrows the type
            usage = event.response.usage
    if usage is None:
        raise RuntimeError("the stream had no usage")
    return Turn(first_s, usage.input_tokens, usage.input_tokens_details.cached_tokens)


if __name__ == "__main__":
    main()
