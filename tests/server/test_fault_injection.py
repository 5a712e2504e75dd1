"""Fault injection: what the settings or a header ask for happens, and nothing else."""

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.processes import serving
from tests.serving import Running, running

from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Script
from antiphon.protocol.errors import ApiError
from antiphon.server.request.faults import HEADER, Fault, Faults, FaultSettings

MODEL = "gpt-4o-mini"
MESSAGES: list[Any] = [{"role": "user", "content": "one two three four"}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Running]:
    """A server on which requests may ask for faults."""
    backend = ScriptedBackend(Script(models=(MODEL,)))
    with running(backend, tmp_path_factory.mktemp("faults"), faults=FaultSettings(allow_header=True, seed=7)) as up:
        yield up


@pytest.fixture
def client(server: Running) -> Generator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url, api_key="any", max_retries=0) as made:
        yield made


def ask(client: openai.OpenAI, fault: str) -> openai.types.chat.ChatCompletion:
    return client.chat.completions.create(model=MODEL, messages=MESSAGES, extra_headers={HEADER: fault})


@pytest.mark.parametrize(
    ("status", "exception"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
def test_a_status(client: openai.OpenAI, status: int, exception: type[openai.APIStatusError]) -> None:
    """The client raises what it raises for the real thing, and the answer says that it was injected."""
    with pytest.raises(exception, match="injected on purpose") as caught:
        ask(client, f"status={status}; retry_after_s=1.5")
    headers = caught.value.response.headers
    assert (headers[HEADER], headers["retry-after-ms"]) == ("injected", "1500")


def test_the_client_gets_through_a_share_of_errors(server: Running) -> None:
    """With a retry or two the official client gets through a server that fails half of the time."""
    with openai.OpenAI(base_url=server.url, api_key="any", max_retries=10) as client:
        for _ in range(5):
            assert ask(client, "status=503; share=0.5; retry_after_s=0.001").choices[0].message.content


def test_a_stream_cut_off(client: openai.OpenAI) -> None:
    """After two chunks the connection ends in the middle of the stream, and the client notices."""
    stream = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, stream=True, extra_headers={HEADER: "cut_after=2"}
    )
    assert next(stream)
    assert next(stream)
    with pytest.raises(openai.APIConnectionError):
        next(stream)


def test_a_malformed_chunk(client: openai.OpenAI) -> None:
    """The third chunk is not JSON."""
    stream = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, stream=True, extra_headers={HEADER: "malformed_at=3"}
    )
    assert next(stream)
    assert next(stream)
    with pytest.raises(json.JSONDecodeError):
        next(stream)


def test_latency(client: openai.OpenAI) -> None:
    """A slow answer runs into the client's timeout."""
    with pytest.raises(openai.APITimeoutError):
        ask(client.with_options(timeout=0.05), "latency_s=5")


@pytest.mark.parametrize(
    "header", ["status=200", "status", "colour=red", "share=2", "status=a", "", "allow_header=true", "retry_after_s=1"]
)
def test_a_header_that_cannot_be_met(client: openai.OpenAI, header: str) -> None:
    """A fault that cannot be read is an error, never ignored."""
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, header)
    assert (caught.value.code, caught.value.param) == ("invalid_fault", HEADER)


def test_the_header_is_refused_where_it_is_not_allowed(tmp_path: Path) -> None:
    """By default no request can ask for a fault."""
    with (
        running(ScriptedBackend(Script(models=(MODEL,))), tmp_path) as up,
        openai.OpenAI(base_url=up.url, api_key="any", max_retries=0) as client,
    ):
        assert client.chat.completions.create(model=MODEL, messages=MESSAGES).choices
        with pytest.raises(openai.BadRequestError, match="not allowed by this server"):
            ask(client, "status=503")


def test_faults_of_the_settings(tmp_path: Path) -> None:
    """Configured faults hit requests without the header, and the ledger records them."""
    with (
        running(ScriptedBackend(Script(models=(MODEL,))), tmp_path, faults=FaultSettings(status=500)) as up,
        openai.OpenAI(base_url=up.url, api_key="any", max_retries=2) as client,
    ):
        with pytest.raises(openai.InternalServerError):
            client.with_options(max_retries=0).chat.completions.create(model=MODEL, messages=MESSAGES)
        assert up.service.accounts.statistics().limiter.in_flight == 0
        assert up.service.accounts.statistics().limiter.admitted_total == 1


def drawn(faults: Faults, header: str | None, n: int) -> list[bool]:
    return [isinstance(faults.draw(header), Fault) for _ in range(n)]


def test_the_same_seed_gives_the_same_faults() -> None:
    """Which requests get the fault depends only on the seed, the plan and the order."""
    settings = FaultSettings(status=500, share=0.3, seed=1, allow_header=True)
    first = drawn(Faults(settings), None, 200)
    assert first == drawn(Faults(settings), None, 200)
    assert 30 < sum(first) < 90
    mixed = Faults(settings)
    struck: list[bool] = []
    for _ in range(200):
        struck += drawn(mixed, None, 1)
        mixed.draw("status=503; share=0.5")
    assert struck == first


def test_no_faults_without_settings() -> None:
    """Without settings there are no faults, and none with a share of zero."""
    assert not FaultSettings().is_on
    assert not FaultSettings(status=500, share=0).is_on
    assert FaultSettings(cut_after=0).is_on
    assert drawn(Faults(), None, 10) == [False] * 10
    with pytest.raises(ApiError):
        Faults().draw("status=500")


@pytest.mark.parametrize(
    "wrong",
    [{"status": 200}, {"share": 1.5}, {"latency_s": -1}, {"malformed_at": 0}, {"cut_after": -1}, {"retry_after_s": 1}],
)
def test_settings_that_cannot_be_meant(wrong: dict[str, Any]) -> None:
    """A wrong setting is refused at the start."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FaultSettings(**wrong)


@pytest.mark.slow
def test_the_banner_says_that_faults_are_on(tmp_path: Path) -> None:
    """A server that fails on purpose says so when it starts."""
    script = tmp_path / "script.toml"
    script.write_text('models = ["scripted"]\n')
    settings = {
        "ANTIPHON_MODELS_CHAT": "none",
        "ANTIPHON_MODELS_EMBEDDING": "none",
        "ANTIPHON_GATEWAY_SCRIPT": str(script),
        "ANTIPHON_FAULTS_STATUS": "503",
    }
    with serving(tmp_path, **settings) as process:
        assert "[faults] is set: requests fail on purpose." in process.log.read_text()
        with pytest.raises(openai.InternalServerError):
            openai.OpenAI(base_url=process.url, api_key="any", max_retries=0).completions.create(
                model="scripted", prompt="x"
            )


def test_at_most_a_thousand_random_sequences_are_kept() -> None:
    """Requests can send any number of plans; the oldest are forgotten and start again."""
    faults = Faults(FaultSettings(allow_header=True))
    for number in range(3000):
        assert faults.draw(f"latency_s=0.{number}") is not None
    assert len(faults._chances) <= 1000
