"""The log line of a request: enough for a person to act on, and no prompt or key."""

import json
from collections.abc import Generator
from typing import Any

import httpx2 as httpx
import pytest
from structlog.testing import CapturingLogger
from tests.serving import Running, running
from tests.waiting import wait_until

from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Pattern, Reply, Script, ScriptedError

REPLIES = (
    Reply(match=Pattern(last_message="cut"), text="one two three", fault="cut", after=2),
    Reply(match=Pattern(last_message="break"), text="one two three", error=ScriptedError(message="it broke"), after=2),
)
HI = [{"role": "user", "content": "my secret"}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Running]:
    backend = ScriptedBackend(Script(models=("m",), replies=REPLIES))
    with running(backend, tmp_path_factory.mktemp("home")) as up:
        yield up


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> CapturingLogger:
    logger = CapturingLogger()
    monkeypatch.setattr("antiphon.server.service.log", logger)
    return logger


def line_of(logged: CapturingLogger) -> dict[str, Any]:
    """Wait for the one line of a request, which is written when its answer has been sent."""
    wait_until(lambda: bool(logged.calls))
    (call,) = logged.calls
    assert call.args == ("request",)
    return call.kwargs


def post(server: Running, body: dict[str, Any], path: str = "/v1/chat/completions") -> None:
    httpx.post(f"{server.root}{path}", json=body)


@pytest.mark.parametrize(
    ("path", "body", "noted"),
    [
        (
            "/v1/chat/completions",
            {"model": "m", "messages": HI, "temperature": 3},
            {"status": 400, "model": "m", "param": "temperature", "error": "decimal_above_max_value"},
        ),
        ("/v1/chat/completions", {"model": "none", "messages": HI}, {"status": 404, "model": "none"}),
        ("/v1/chat/completions", {"messages": HI}, {"status": 400}),
        ("/v1/embeddings", {"model": "m", "input": "x"}, {"model": "m"}),
        ("/tokenize", {"model": "none", "prompt": "x"}, {"status": 404, "model": "none", "error": "model_not_found"}),
        ("/chat/completions", {}, {"status": 404, "error": "unknown_url"}),
    ],
)
def test_a_refusal_says_what_was_wrong(
    server: Running, logged: CapturingLogger, path: str, body: dict[str, Any], noted: dict[str, Any]
) -> None:
    """One line has the model, the parameter, the code and the message, and not the conversation."""
    post(server, body, path)
    line = line_of(logged)
    assert noted.items() <= line.items()
    assert line["message"]
    assert "secret" not in json.dumps(line, default=str)


def test_a_response_records_hints_as_a_chat_completion_does(server: Running, logged: CapturingLogger) -> None:
    """A model may not follow them, so the line keeps what was asked for."""
    body = {"model": "m", "input": "hi", "text": {"verbosity": "low"}, "reasoning": {"effort": "high"}, "user": "u"}
    post(server, body, "/v1/responses")
    assert line_of(logged)["recorded"] == {"user": "u", "reasoning_effort": "high", "verbosity": "low"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_scripted_cut_is_one_line(
    server: Running, logged: CapturingLogger, caplog: pytest.LogCaptureFixture, *, stream: bool
) -> None:
    """A connection that a script cuts is logged as such, and nothing complains about an answer without its end."""
    body = {"model": "m", "messages": [{"role": "user", "content": "cut"}], "stream": stream}
    if stream:
        with pytest.raises(httpx.RemoteProtocolError):
            post(server, body)
    else:
        post(server, body)
    assert "cut by the script" in line_of(logged)["message"]
    assert not caplog.records


def test_a_stream_that_breaks_says_why(server: Running, logged: CapturingLogger) -> None:
    """The status was sent before; the line still has the error."""
    post(server, {"model": "m", "messages": [{"role": "user", "content": "break"}], "stream": True})
    line = line_of(logged)
    assert (line["status"], line["message"]) == (200, "it broke")


def test_an_ignored_query_is_named(server: Running, logged: CapturingLogger) -> None:
    """Parameters of a GET request that nothing reads are recorded."""
    httpx.get(f"{server.root}/v1/models", params={"limit": 1})
    assert line_of(logged)["ignored_query"] == ["limit"]
