"""``python -m benchmarks.guide``: do the API guide's two examples work with the default model, whatever the seed?

The examples are a question about the weather with one function to call, whose result is fed back and answered; and a
product review parsed into a pydantic model. The official client sends both to a server started here, at the default
temperature, once for each seed; calls and reviews may have as many tokens as they need. Exits with 1 if a question leads to no call with a city, or more than one review in twenty does not parse.
"""

import argparse
import asyncio
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from openai import AsyncOpenAI, ContentFilterFinishReasonError, LengthFinishReasonError
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolUnionParam
from pydantic import BaseModel, ValidationError

from benchmarks import machine
from benchmarks.arguments import at_least_one
from benchmarks.serving import asking_defaults

_MODEL = "gpt-4o-mini"
_PARALLEL = 4
_REVIEWS_MAY_FAIL = 0.05
_LONGEST_ANSWER = 200
"""Tokens of the plain-text answer, which is not judged: a small model may ramble to the end of its context."""

_WEATHER: ChatCompletionToolUnionParam = {
    "type": "function",
    "function": {
        "name": "get_current_weather",
        "description": "Get the current weather in a given location",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "The city, e.g. San Francisco"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city"],
        },
    },
}
_REVIEW = (
    "I've had this laptop for a month. The screen is superb and the battery lasts all day, but the keyboard "
    "feels cheap and the fans get loud. For the price I would still buy it again."
)


class ProductReview(BaseModel):
    """The fields that are extracted from a review."""

    sentiment: Literal["positive", "neutral", "negative"]
    score: int
    key_points: list[str]
    summary: str


def main() -> int:
    """Ask both questions with every seed and print the figures."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    counts = asyncio.run(_ask_all(options))
    print(report(counts))
    failed = counts["reviews"] - counts["reviews parsed"]
    is_ok = counts["calls with a city"] == counts["questions"] and failed <= _REVIEWS_MAY_FAIL * counts["reviews"]
    return 0 if is_ok else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guide", description=__doc__)
    parser.add_argument(
        "--seeds", type=at_least_one, default=20, help="ask with the seeds from 1 to this [default: 20]"
    )
    parser.add_argument(
        "--threads", type=at_least_one, default=machine.describe()["cores"], help="[default: the cores]"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/guide"), help="folder for the server")
    return parser.parse_args()


async def _ask_all(options: argparse.Namespace) -> Counter[str]:
    counts: Counter[str] = Counter()
    waiting = [(ask, seed) for ask in (_ask_for_weather, _ask_for_review) for seed in range(options.seeds, 0, -1)]
    async with asking_defaults(options.threads, options.out) as (client, _):

        async def ask_on() -> None:
            while waiting:
                ask, seed = waiting.pop()
                counts.update(await ask(client, seed))

        async with asyncio.TaskGroup() as group:
            for _ in range(_PARALLEL):
                group.create_task(ask_on())
    return counts


async def _ask_for_weather(client: AsyncOpenAI, seed: int) -> list[str]:
    """Return the categories in which the question counts; print the call and the answer."""
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What's the weather like in Tokyo?"}]
    first = await client.chat.completions.create(model=_MODEL, messages=messages, tools=[_WEATHER], seed=seed)
    found = ["questions"]
    calls = [call for call in first.choices[0].message.tool_calls or () if call.type == "function"]
    if not calls:
        print(f"weather, seed {seed}: no call, but {first.choices[0].message.content!r}", file=sys.stderr)
        return found
    found += heads_of_call(calls[0].function.name, calls[0].function.arguments)
    result = {"city": "Tokyo", "temperature": 18, "unit": "celsius", "description": "light rain"}
    asked: Any = first.choices[0].message.model_dump(exclude_none=True)
    results: list[Any] = [{"role": "tool", "tool_call_id": call.id, "content": json.dumps(result)} for call in calls]
    second = await client.chat.completions.create(
        model=_MODEL, messages=[*messages, asked, *results], tools=[_WEATHER], seed=seed, max_tokens=_LONGEST_ANSWER
    )
    answer = second.choices[0].message.content
    print(f"weather, seed {seed}: {calls[0].function.arguments} -> {answer!r}", file=sys.stderr)
    return [*found, "questions answered"] if answer and not second.choices[0].message.tool_calls else found


def heads_of_call(name: str, arguments: str) -> list[str]:
    """Return the categories in which a call counts; a call that was cut off and does not parse counts in none."""
    try:
        given: Any = json.loads(arguments)
    except json.JSONDecodeError:
        return []
    if name != "get_current_weather" or not given.get("city"):
        return []
    return ["calls with a city", *(["calls with Tokyo"] if "tokyo" in given["city"].lower() else [])]


async def _ask_for_review(client: AsyncOpenAI, seed: int) -> list[str]:
    """Return the categories in which the review counts; print it."""
    try:
        parsed = await client.chat.completions.parse(
            model=_MODEL,
            messages=[
                {"role": "system", "content": "Analyze the product review."},
                {"role": "user", "content": _REVIEW},
            ],
            response_format=ProductReview,
            seed=seed,
        )
    except (LengthFinishReasonError, ContentFilterFinishReasonError, ValidationError) as error:
        print(f"review, seed {seed}: {error}", file=sys.stderr)
        return ["reviews"]
    print(f"review, seed {seed}: {parsed.choices[0].message.parsed!r}", file=sys.stderr)
    return ["reviews", *(["reviews parsed"] if parsed.choices[0].message.parsed else [])]


def report(counts: Counter[str]) -> str:
    """Return the figures as text."""
    return (
        f"weather: {counts['questions']} questions, {counts['calls with a city']} calls with a city, "
        f"{counts['calls with Tokyo']} of them with Tokyo, {counts['questions answered']} answered from the result\n"
        f"review: {counts['reviews parsed']} of {counts['reviews']} parsed"
    )


if __name__ == "__main__":
    sys.exit(main())
