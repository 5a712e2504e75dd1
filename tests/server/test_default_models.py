"""The server as users start it, on the default models: what a guide to the API teaches, and what may go wrong."""

import asyncio
import os
import signal
from collections.abc import Generator
from pathlib import Path

import httpx2 as httpx
import numpy as np
import openai
import pytest
from tests.processes import ServerProcess, children, is_alive, serving
from tests.waiting import PATIENCE_S, wait_until

pytestmark = [pytest.mark.model, pytest.mark.slow]


@pytest.fixture
def client(local_server: str) -> Generator[openai.OpenAI]:
    with openai.OpenAI(base_url=local_server, api_key="any", max_retries=0) as made:
        yield made


def engine_pids(server: ServerProcess) -> list[int]:
    return children(server, b"antiphon.engine")


def metric(server: ServerProcess, name: str) -> float:
    text = httpx.get(server.url.removesuffix("/v1") + "/metrics").text
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))


def endless_story(
    client: openai.OpenAI, max_tokens: int = 2000
) -> "openai.Stream[openai.types.chat.ChatCompletionChunk]":
    """A stream that ends only with its last token; the tokens that end an answer are ruled out."""
    return client.chat.completions.create(
        model="smollm2-135m-instruct",  # under its own name a bias is on its own ids
        messages=[{"role": "user", "content": "Count upwards from one, without end."}],
        max_tokens=max_tokens,
        logit_bias={"0": -100, "2": -100, "4": -100},  # every token that ends a text of this model
        stream=True,
    )


def test_a_first_request_as_the_guide_has_it(client: openai.OpenAI) -> None:
    """System and user message, a limit and a temperature; content and usage come back."""
    answer = client.chat.completions.create(
        model="gpt-4o-mini",
        messages=[
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "What is the capital of France?"},
        ],
        max_tokens=256,
        temperature=0.7,
    )
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in {"stop", "length"}
    assert answer.usage is not None
    assert answer.usage.total_tokens > 20
    assert answer.model == "smollm2-135m-instruct"


def test_a_conversation_of_several_turns(client: openai.OpenAI) -> None:
    """A list of messages that grows; each turn's prompt is longer than the last."""
    messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "system", "content": "Be brief."}]
    lengths: list[int] = []
    for text in ("My name is Ada.", "What is my name?"):
        messages.append({"role": "user", "content": text})
        answer = client.chat.completions.create(model="gpt-4o", messages=messages, max_tokens=20)
        messages.append({"role": "assistant", "content": answer.choices[0].message.content})
        assert answer.usage is not None
        lengths.append(answer.usage.prompt_tokens)
    assert lengths[1] > lengths[0]


def test_embeddings_put_near_what_means_the_same(client: openai.OpenAI) -> None:
    """The order of similarities is right, and an alias has the dimensions that stored vectors expect."""
    texts = ["machine learning", "deep learning", "cooking recipes"]
    data = client.embeddings.create(model="text-embedding-3-small", input=texts).data
    query, near, far = (np.array(item.embedding) for item in data)
    assert query @ near > query @ far + 0.2
    assert len(query) == 1536
    large = client.embeddings.create(model="text-embedding-3-large", input="x", encoding_format="float").data[0]
    assert len(large.embedding) == 3072
    assert np.linalg.norm(query) == pytest.approx(1, abs=1e-5)
    short = client.embeddings.create(model="text-embedding-3-small", input=texts[0], dimensions=64).data[0].embedding
    assert np.linalg.norm(short) == pytest.approx(1, abs=1e-5)
    assert len(short) == 64


@pytest.mark.parametrize(
    "text",
    [
        "Repeat exactly: 🎉🚀👩‍👩‍👧‍👦🇯🇵 hooray",
        "Repeat exactly: 你好，世界。今天天气很好。",  # noqa: RUF001 - Chinese commas
        "Translate to Japanese: good morning. Answer: おはようございます",
        "Write the emoji for: rocket, heart, sun, moon, cat, dog.",
    ],
)
def test_a_stream_is_the_same_text_as_a_whole_answer(client: openai.OpenAI, text: str) -> None:
    """At temperature 0 the deltas joined equal the unstreamed text, and no character is broken."""
    messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": text}]
    options = {"model": "gpt-4o-mini", "messages": messages, "temperature": 0, "max_tokens": 60}
    whole = client.chat.completions.create(**options).choices[0].message.content  # type: ignore[call-overload]
    deltas = [c.choices[0].delta.content for c in client.chat.completions.create(**options, stream=True)]  # type: ignore[call-overload]
    assert "".join(delta or "" for delta in deltas) == whole
    assert "�" not in whole


@pytest.mark.anyio
async def test_fifty_requests_at_once_are_all_answered(local_server: str) -> None:
    """More requests than the engine runs at once: the others wait, none is lost."""
    async with openai.AsyncOpenAI(base_url=local_server, api_key="any", max_retries=0) as client:

        async def ask(number: int) -> str | None:
            answer = await client.chat.completions.create(
                model="gpt-4o-mini", messages=[{"role": "user", "content": f"Say {number}."}], max_tokens=8
            )
            return answer.choices[0].message.content

        answers = await asyncio.gather(*(ask(number) for number in range(50)))
    assert len(answers) == 50
    assert all(answers)


def test_the_engine_tells_its_times(local_process: ServerProcess) -> None:
    """Histograms of steps, first tokens and grammar masks grow with an answer that a schema holds."""
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": ["red", "green", "grey"]}}}
    histograms = [f"antiphon_engine_{name}_count" for name in ("step_s", "ttft_s", "mask_s")]
    before = [metric(local_process, name) for name in histograms]
    with openai.OpenAI(base_url=local_process.url, api_key="any") as client:
        client.chat.completions.create(
            model="gpt-4o-mini",
            messages=[{"role": "user", "content": "A colour?"}],
            response_format=form,  # pyright: ignore[reportArgumentType]
        )
    # Engines report several times a second.
    wait_until(lambda: all(metric(local_process, name) > n for name, n in zip(histograms, before, strict=True)))


def test_a_client_that_leaves_frees_the_engine(local_process: ServerProcess) -> None:
    """Closing a stream ends the work in its middle: the engine counts a cancelled request, and not all of its 2,000 tokens."""
    decoded, cancelled = (f"antiphon_engine_{name}{{" for name in ("decode_tokens", "cancelled"))
    wait_until(lambda: metric(local_process, "antiphon_engine_running{") == 0)
    before = metric(local_process, decoded), metric(local_process, cancelled)
    with openai.OpenAI(base_url=local_process.url, api_key="any") as client:
        stream = endless_story(client)
        for _, _chunk in zip(range(5), stream, strict=False):
            pass
        stream.close()
        wait_until(lambda: metric(local_process, cancelled) > before[1])
    wait_until(lambda: metric(local_process, "antiphon_engine_running{") == 0)
    assert metric(local_process, decoded) - before[0] < 2000


def test_a_killed_engine_is_replaced(model_home: Path, tmp_path: Path) -> None:
    """kill -9: the request in flight gets a clear error, the next one is answered by the same server."""
    with serving(model_home) as server, openai.OpenAI(base_url=server.url, api_key="any", max_retries=0) as client:
        stream = endless_story(client)
        next(iter(stream))
        victims = engine_pids(server)
        assert len(victims) == 2
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(openai.APIError, match="restarted"):
            list(stream)
        patient = client.with_options(max_retries=100)
        assert patient.chat.completions.create(
            model="gpt-4o-mini", messages=[{"role": "user", "content": "Hello"}], max_tokens=5
        ).choices
        assert patient.embeddings.create(model="text-embedding-3-small", input="x").data
        assert set(engine_pids(server)).isdisjoint(victims)


def test_no_engine_outlives_its_server(model_home: Path) -> None:
    """Also a server that is killed leaves no process behind."""
    with serving(model_home) as server:
        engines = engine_pids(server)
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not any(is_alive(pid) for pid in engines), "an engine is still there")


def test_sigterm_to_all_processes_lets_answers_end(model_home: Path) -> None:
    """As systemd sends it: the engines go on until the server has given its running requests their time."""
    with (
        serving(model_home, ANTIPHON_SERVER_SHUTDOWN_GRACE_S=str(PATIENCE_S)) as server,
        openai.OpenAI(base_url=server.url, api_key="any", max_retries=0) as client,
    ):
        stream = endless_story(client, max_tokens=100)
        next(iter(stream))
        for pid in [*engine_pids(server), server.pid]:
            os.kill(pid, signal.SIGTERM)
        assert list(stream)[-1].choices[0].finish_reason == "length"
        assert server.process.wait(PATIENCE_S) == 0


def test_ctrl_c_ends_cleanly(model_home: Path) -> None:
    """A running stream gets an error, the process ends with status 0, and its engines are gone."""
    with serving(model_home, ANTIPHON_SERVER_SHUTDOWN_GRACE_S="0.2") as server:
        engines = engine_pids(server)
        client = openai.OpenAI(base_url=server.url, api_key="any", max_retries=0)
        stream = endless_story(client)
        next(iter(stream))
        server.process.send_signal(signal.SIGINT)
        with pytest.raises(openai.APIError):
            list(stream)
        assert server.process.wait(PATIENCE_S) == 0
        assert not any(is_alive(pid) for pid in engines)
        client.close()


@pytest.mark.parametrize("name", ["gpt-5-mini", "gpt-3.5-turbo", "o3-mini"])
def test_default_names_of_clients_are_answered(client: openai.OpenAI, name: str) -> None:
    """OpenAI's chat names answer out of the box, and can be described."""
    answer = client.chat.completions.create(model=name, messages=[{"role": "user", "content": "Hi"}], max_tokens=3)
    assert answer.model == "smollm2-135m-instruct"
    described = client.models.retrieve(name)
    assert described.id == name
    assert described.model_dump()["context_length"] == 8192


def test_default_embedding_names_are_answered(client: openai.OpenAI) -> None:
    """The older embedding name has vectors of the length that stores expect."""
    answer = client.embeddings.create(model="text-embedding-ada-002", input="hello")
    assert len(answer.data[0].embedding) == 1536


def test_an_answer_without_a_limit_ends_as_too_long(client: openai.OpenAI) -> None:
    """The small default model would go on for long: without a limit in the request it stops after 512 tokens, by ``length``."""
    answer = client.chat.completions.create(
        model="smollm2-135m-instruct",
        messages=[{"role": "user", "content": "Count upwards from one, without end."}],
        logit_bias={"0": -100, "2": -100, "4": -100},  # every token that ends a text of this model
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 512
    assert answer.choices[0].finish_reason == "length"
