"""What happens to a request when something breaks: its model, its client, the server itself."""

import asyncio
from collections.abc import Generator
from pathlib import Path

import httpx2 as httpx
import openai
import pytest
from tests.serving import Running, running
from tests.waiting import until, wait_until

from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Pattern, Reply, Script, ScriptedError

LIMITED = ScriptedError(status=429, message="slow down", type="requests", code="rate_limit_exceeded")


def reply(word: str, **how: object) -> Reply:
    return Reply(match=Pattern(last_message=word), **how)  # type: ignore[arg-type]


SCRIPT = Script(
    models=("m",),
    replies=(
        reply("refuse", error=LIMITED),
        reply("break", text="one two three four", error=ScriptedError(), after=2),
        reply("cut", text="one two three four", fault="cut", after=2),
        reply("hang", text="one two three four", fault="hang", after=2),
        reply("silent", text="one", fault="hang"),
    ),
)


@pytest.fixture
def backend() -> ScriptedBackend:
    return ScriptedBackend(SCRIPT)


@pytest.fixture
def server(backend: ScriptedBackend, tmp_path: Path) -> Generator[Running]:
    with running(backend, tmp_path, max_requests=2, shutdown_grace_s=0.1) as up:
        yield up


@pytest.fixture
def client(server: Running) -> Generator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url, api_key="any", max_retries=0) as made:
        yield made


def stream(client: openai.OpenAI, word: str) -> "openai.Stream[openai.types.chat.ChatCompletionChunk]":
    return client.chat.completions.create(model="m", messages=[{"role": "user", "content": word}], stream=True)


def test_a_failure_before_the_first_token_is_an_ordinary_answer(client: openai.OpenAI) -> None:
    """A stream that cannot begin is answered with the error's own status too."""
    with pytest.raises(openai.RateLimitError) as caught:
        stream(client, "refuse")
    assert caught.value.code == "rate_limit_exceeded"


def test_a_failure_in_the_middle_raises_at_the_client(client: openai.OpenAI) -> None:
    """What was sent arrives; then the client raises instead of taking the text for complete."""
    chunks = iter(stream(client, "break"))
    assert [next(chunks).choices[0].delta.content for _ in range(3)] == ["", "one", " two"]
    with pytest.raises(openai.APIError, match="had an error"):
        next(chunks)


def test_a_cut_stream_breaks_the_connection(server: Running) -> None:
    """A scripted fault closes the connection without an answer, as a crashed machine would."""
    body = {"model": "m", "messages": [{"role": "user", "content": "cut"}], "stream": True}
    with (
        pytest.raises(httpx.RemoteProtocolError),
        httpx.stream("POST", f"{server.url}/chat/completions", json=body) as response,
    ):
        response.read()


def test_a_client_that_leaves_its_stream_ends_the_work(client: openai.OpenAI, backend: ScriptedBackend) -> None:
    """Closing the connection closes the backend's generator."""
    hanging = stream(client, "hang")
    assert next(iter(hanging)).choices
    wait_until(lambda: backend.counts.running == 1)
    hanging.close()
    wait_until(lambda: backend.counts.abandoned == 1)
    assert backend.counts.running == 0


@pytest.mark.anyio
async def test_a_client_that_gives_up_waiting_ends_the_work(server: Running, backend: ScriptedBackend) -> None:
    """The same for a whole answer that never comes."""
    async with openai.AsyncOpenAI(base_url=server.url, api_key="any", max_retries=0) as client:
        waiting = asyncio.ensure_future(
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "silent"}])
        )
        await until(lambda: backend.counts.running == 1)
        waiting.cancel()
        await until(lambda: backend.counts.abandoned == 1)


def test_past_the_most_requests_the_next_is_refused_at_once(
    client: openai.OpenAI, backend: ScriptedBackend, server: Running
) -> None:
    """503 with Retry-After, while the others go on; there is room again when they end."""
    first, second = stream(client, "hang"), stream(client, "hang")
    wait_until(lambda: backend.counts.running == 2)
    with pytest.raises(openai.InternalServerError) as caught:
        stream(client, "hello")
    assert caught.value.response.headers["retry-after"] == "1"
    first.close()
    second.close()
    wait_until(lambda: server.service.in_flight.count == 0)
    assert list(stream(client, "hello"))


def test_running_streams_get_an_error_when_the_server_ends(backend: ScriptedBackend, tmp_path: Path) -> None:
    """After the grace time a stream gets an error chunk; it is not left hanging, and not taken for complete."""
    with running(backend, tmp_path, shutdown_grace_s=0.1) as up, openai.OpenAI(base_url=up.url, api_key="x") as client:
        chunks = iter(stream(client, "hang"))
        next(chunks)
        wait_until(lambda: backend.counts.running == 1)
        up.loop.call_soon_threadsafe(up.stop.set)
        with pytest.raises(openai.APIError, match="overloaded"):
            list(chunks)


def test_a_fault_of_ours_is_a_500_without_details(tmp_path: Path) -> None:
    """An unexpected exception shows the request id and nothing else."""

    class Broken(ScriptedBackend):
        async def count_tokens(self, request: object) -> int:
            raise NotImplementedError

        def chat(self, request: object) -> "object":  # type: ignore[override]
            raise ZeroDivisionError("secret detail")

    with running(Broken(SCRIPT), tmp_path) as up:
        body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
        response = httpx.post(f"{up.url}/chat/completions", json=body)
    assert response.status_code == 500
    assert response.headers["x-request-id"] in response.json()["error"]["message"]
    assert "secret" not in response.text
