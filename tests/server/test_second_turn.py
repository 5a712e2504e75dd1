"""The second turn of a conversation on the default model finds the first in the prefix cache, the answer included."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from tests.engine.conftest import stored
from tests.installed import engine_settings
from tests.serving import running
from tests.waiting import wait_until

from antiphon.backends.local.backend import LocalBackend
from antiphon.backends.local.chat import LocalChat
from antiphon.engine import Engine

pytestmark = [pytest.mark.model, pytest.mark.slow]

MODEL = "smollm2-135m-instruct"
QUESTION = "Explain in detail how rivers form and why they meander. " * 5
FOLLOWING = "And deltas?"
Counts = tuple[int, int, int]
"""Tokens of the first turn, prompt and answer together; of the second turn's prompt; of the latter, from the cache."""


def by_chat(client: openai.OpenAI, engine: Engine) -> Counts:
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": QUESTION}]
    first = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=100, temperature=0)
    assert first.usage is not None
    await_prefill(engine, first.usage.total_tokens)
    messages.append({"role": "assistant", "content": first.choices[0].message.content})
    messages.append({"role": "user", "content": FOLLOWING})
    second = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=1).usage
    assert second is not None
    assert second.prompt_tokens_details is not None
    return first.usage.total_tokens, second.prompt_tokens, second.prompt_tokens_details.cached_tokens or 0


def by_response(client: openai.OpenAI, engine: Engine) -> Counts:
    first = client.responses.create(model=MODEL, input=QUESTION, max_output_tokens=100, temperature=0)
    assert first.usage is not None
    await_prefill(engine, first.usage.total_tokens)
    second = client.responses.create(
        model=MODEL, previous_response_id=first.id, input=FOLLOWING, max_output_tokens=16
    ).usage
    assert second is not None
    return first.usage.total_tokens, second.input_tokens, second.input_tokens_details.cached_tokens


def await_prefill(engine: Engine, num_tokens: int) -> None:
    wait_until(lambda: engine.statistics().cached_tokens >= (num_tokens - 2) // 64 * 64)


@pytest.mark.parametrize("ask", [by_chat, by_response])
def test_the_second_turn_computes_what_is_new(tmp_path: Path, ask: Callable[[openai.OpenAI, Engine], Counts]) -> None:
    """Once the engine has had time, only the last block of the first turn is computed again, and what was said since."""
    engine = Engine(engine_settings(stored(MODEL), context_size=2048))
    backend = LocalBackend({MODEL: LocalChat(MODEL, engine)})
    with running(backend, tmp_path) as up, openai.OpenAI(base_url=up.url, api_key="k", max_retries=0) as client:
        asyncio.run_coroutine_threadsafe(backend.start(), up.loop).result()
        first, second, cached = ask(client, engine)
    assert first > 150, "the answer has more than a block"
    assert cached >= (first - 2) // 64 * 64
    assert second - cached < 64 + 30
