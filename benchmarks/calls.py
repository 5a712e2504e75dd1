"""``python -m benchmarks.calls CASES``: are the default model's tool calls valid, wanted, and the same when streamed?

CASES come from the Berkeley Function-Calling Leaderboard, one JSON object per line: ``id``, ``question``, ``function`` and, where a
call is wanted, ``ground_truth``. Each question that wants a call is asked with ``tool_choice`` required and with the right
function named, streamed and not; every question is asked with ``auto``. Requests are sent one after the other, at
temperature 0: floating-point results may depend on what else is in the batch. Exits with 1 if a call is not
valid or streaming changes it.
"""

import argparse
import asyncio
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
from openai import AsyncOpenAI, BadRequestError
from openai.types.chat import ChatCompletion

from benchmarks import machine
from benchmarks.arguments import at_least_one
from benchmarks.serving import asking_defaults
from benchmarks.structure import problem_of

_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": None}
_MODEL = "gpt-4o-mini"
_ENOUGH_TO_DECIDE = 64
"""Tokens after which it is clear whether an answer is a call."""


class Case(msgspec.Struct, frozen=True):
    """A question with the tools that may be called; ``wanted`` are the right names, empty if no call is wanted."""

    id: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    wanted: frozenset[str]


Answer = tuple[list[tuple[str, str]], str]
"""The calls, each a name and its arguments, and why the answer ended."""


def main() -> int:
    """Ask everything and print the figures."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    cases = [read_case(json.loads(line)) for line in options.cases.read_bytes().splitlines()]
    counts = asyncio.run(_ask_all(cases[:: options.every], options))
    print(report(counts))
    return 1 if counts["invalid"] or counts["streamed otherwise"] else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calls", description=__doc__)
    parser.add_argument("cases", type=Path, help="a file of cases, one JSON object a line")
    parser.add_argument("--every", type=at_least_one, default=1, help="ask only every n-th case [default: 1]")
    parser.add_argument("--max-tokens", type=at_least_one, default=512, help="where an answer is cut [default: 512]")
    parser.add_argument(
        "--threads", type=at_least_one, default=machine.describe()["cores"], help="[default: the cores]"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/calls"), help="folder for the server")
    return parser.parse_args()


def read_case(row: dict[str, Any]) -> Case:
    """Return a row of the leaderboard in OpenAI's terms: it names types differently and has dots in function names."""
    tools: list[dict[str, Any]] = []
    for function in row["function"]:
        known = {**function, "name": _name(function["name"]), "parameters": _schema(function["parameters"])}
        tools.append({"type": "function", "function": known})
    wanted = frozenset(_name(name) for truth in row.get("ground_truth") or () for name in truth)
    return Case(row["id"], row["question"][0], tools, wanted)


def _name(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_-]", "_", name)


def _schema(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_schema(item) for item in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    made = {key: _schema(value) for key, value in cast("dict[str, Any]", schema).items()}
    kind = made.get("type")
    if isinstance(kind, str) and kind in _TYPES:
        made["type"] = _TYPES[kind]
    return {key: value for key, value in made.items() if not (key == "type" and value is None)}


async def _ask_all(cases: Sequence[Case], options: argparse.Namespace) -> Counter[str]:
    counts: Counter[str] = Counter()
    async with asking_defaults(options.threads, options.out) as (client, _):
        for case in cases:
            counts["calls wanted" if case.wanted else "no call wanted"] += 1
            for choice in _forced_choices(case):
                counts.update(await _compare(client, case, choice, options.max_tokens))
            decided, _ = await _whole(client, _request(case, "auto", _ENOUGH_TO_DECIDE))
            counts["called where wanted"] += bool(case.wanted and decided)
            counts["right function where wanted"] += bool(decided and decided[0][0] in case.wanted)
            counts["no call where none wanted"] += not case.wanted and not decided
    return counts


def _forced_choices(case: Case) -> Iterator[Any]:
    if case.wanted:
        yield "required"
        yield {"type": "function", "function": {"name": min(case.wanted)}}


async def _compare(client: AsyncOpenAI, case: Case, choice: Any, max_tokens: int) -> list[str]:
    """Return the categories in which a question counts, asked streamed and not."""
    request = _request(case, choice, max_tokens)
    try:
        whole = await _whole(client, request)
    except BadRequestError as error:
        print(f"{case.id} is refused: {error.message}", file=sys.stderr)
        return ["refused"]
    calls, reason = whole
    found = ["asked", *(["cut"] if reason == "length" else [])]
    problem = None if reason == "length" else problem_of_calls(case, calls)
    if problem:
        print(f"{case.id} is not valid: {problem}", file=sys.stderr)
        found.append("invalid")
    if await _streamed(client, request) != whole:
        print(f"{case.id} is another when streamed", file=sys.stderr)
        found.append("streamed otherwise")
    return found


def problem_of_calls(case: Case, calls: Sequence[tuple[str, str]]) -> str | None:
    """Return what is wrong with calls, None if each parses, names one of the tools and follows its schema."""
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in case.tools}
    if not calls:
        return "no call"
    for name, arguments in calls:
        if name not in schemas:
            return f"there is no function {name!r}"
        problem = problem_of(schemas[name], arguments)
        if problem:
            return problem
    return None


def _request(case: Case, choice: Any, max_tokens: int) -> dict[str, Any]:
    return {
        "model": _MODEL,
        "messages": case.messages,
        "tools": case.tools,
        "tool_choice": choice,
        "temperature": 0,
        "seed": 1,
        "max_tokens": max_tokens,
    }


async def _whole(client: AsyncOpenAI, request: dict[str, Any]) -> Answer:
    answer = cast("ChatCompletion", await client.chat.completions.create(**request))
    choice = answer.choices[0]
    calls = [call for call in choice.message.tool_calls or () if call.type == "function"]
    return [(call.function.name, call.function.arguments) for call in calls], choice.finish_reason


async def _streamed(client: AsyncOpenAI, request: dict[str, Any]) -> Answer:
    """Return the same from a stream's deltas."""
    calls: list[tuple[str, str]] = []
    reason = ""
    async for chunk in await client.chat.completions.create(**request, stream=True):
        choice = chunk.choices[0]
        reason = choice.finish_reason or reason
        for delta in choice.delta.tool_calls or ():
            assert delta.function is not None
            if delta.index == len(calls):
                calls.append((delta.function.name or "", ""))
            name, arguments = calls[delta.index]
            calls[delta.index] = (name, arguments + (delta.function.arguments or ""))
    return calls, reason


def report(counts: Counter[str]) -> str:
    """Return the figures as text."""
    valid = counts["asked"] - counts["cut"] - counts["invalid"]
    return (
        f"required or named: {counts['asked']} asked, {counts['refused']} refused, {counts['cut']} cut by length, "
        f"{valid} valid, {counts['streamed otherwise']} another when streamed\n"
        f"auto: called in {counts['called where wanted']} of {counts['calls wanted']} where a call is wanted, "
        f"the right function in {counts['right function where wanted']}; "
        f"not called in {counts['no call where none wanted']} of {counts['no call wanted']} where none is"
    )


if __name__ == "__main__":
    sys.exit(main())
