"""The doctor before broken and sound settings; the server is the real one."""

from __future__ import annotations

import socket
from collections.abc import Generator
from pathlib import Path

import openai
import pytest
from tests.serving import Running, running

from antiphon.accounts import AccountSettings
from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Script
from antiphon.toolkit.clients import Connection, Endpoint
from antiphon.toolkit.doctor import Diagnosis, Finding, examine, explain_answer
from antiphon.toolkit.doctor.key import check_key
from antiphon.toolkit.doctor.network import check_proxy, check_url
from antiphon.toolkit.doctor.server import explain
from antiphon.toolkit.doctor.tiers import tier_of
from antiphon.toolkit.pacing.rate_limits import RateLimit, RateLimits

OPENAI = Endpoint("https://api.openai.com/v1")
LOCAL = Endpoint("http://127.0.0.1:8787/v1")
GOOD_KEY = "sk-proj-" + "a1B2" * 12


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Running]:
    backend = ScriptedBackend(Script(models=("gpt-4o-mini",), embedding_models=("text-embedding-3-small",)))
    accounts = AccountSettings(rpm=500, tpm=200_000)
    with running(backend, tmp_path_factory.mktemp("home"), accounts=accounts) as up:
        yield up


def found(diagnosis: Diagnosis, check: str) -> Finding:
    return next(finding for finding in diagnosis.findings if finding.check == check)


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (None, "is not set"),
        ("  ", "is empty"),
        (GOOD_KEY + "\n", "white space around"),
        (f'"{GOOD_KEY}"', "quotes around"),
        (GOOD_KEY[:20] + " " + GOOD_KEY[20:], "white space inside"),
        ("Bearer" + GOOD_KEY, "Bearer"),
        (GOOD_KEY + "é", "no header can carry"),
        ("sk-ant-" + "x" * 60, "Anthropic"),
        ("sess-" + "x" * 60, "session token"),
        ("sk-your-api-key", "looks like an example"),
    ],
)
def test_a_broken_key_is_explained(key: str | None, says: str) -> None:
    """Each way to break a key has its own words and a fix, and the key itself is not shown."""
    finding = check_key(key, OPENAI)
    assert finding.status == "problem"
    assert says in finding.message
    assert finding.fix
    assert key is None or len(key) < 20 or key.strip('"\n ') not in finding.message


def test_a_sound_key_is_masked() -> None:
    """A whole key of the right kind is fine; only its ends are shown."""
    finding = check_key(GOOD_KEY, OPENAI)
    assert finding.status == "ok"
    assert GOOD_KEY not in finding.message


def test_any_key_does_for_a_local_server() -> None:
    """Elsewhere the kind of the key is the server's business; a missing one still stops the client."""
    assert check_key("local", LOCAL).status == "ok"
    assert check_key(None, LOCAL).fix == "export OPENAI_API_KEY=local"


@pytest.mark.parametrize(
    ("url", "fix"),
    [
        ("http://127.0.0.1:8787/v1 ", "export OPENAI_BASE_URL=http://127.0.0.1:8787/v1"),
        ("127.0.0.1:8787/v1", "export OPENAI_BASE_URL=http://127.0.0.1:8787/v1"),
        ("http://127.0.0.1:8787/v1/chat/completions", "export OPENAI_BASE_URL=http://127.0.0.1:8787/v1"),
        ("http://0.0.0.0:8787/v1", "export OPENAI_BASE_URL=http://127.0.0.1:8787/v1"),
        ("http://127.0.0.1:8787", "export OPENAI_BASE_URL=http://127.0.0.1:8787/v1"),
    ],
)
def test_a_broken_url_comes_with_the_right_one(url: str, fix: str) -> None:
    """The fix is a command to paste."""
    finding = check_url(url, {})
    assert finding.status != "ok"
    assert finding.fix == fix


def test_a_proxy_before_this_machine_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that swallows loopback calls is a common trap."""
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert check_proxy(LOCAL.base_url).status == "problem"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert check_proxy(LOCAL.base_url).status == "ok"


def test_a_sound_setting_is_healthy(server: Running) -> None:
    """All checks pass, models and limits are told, the tier is named."""
    diagnosis = examine(base_url=server.url, api_key="any", model="gpt-4o-mini", environ={})
    assert diagnosis.is_healthy, diagnosis
    assert "gpt-4o-mini" in found(diagnosis, "models").message
    assert "500 requests a minute" in found(diagnosis, "limits").message
    assert "usage tier 1" in found(diagnosis, "limits").message
    assert found(diagnosis, "clock").status == "ok"


def test_a_model_that_is_not_served_is_named(server: Running) -> None:
    """The list of what there is comes with it."""
    diagnosis = examine(base_url=server.url, api_key="any", model="gpt-9", environ={})
    assert found(diagnosis, "model").fix == "use one of: gpt-4o-mini"
    assert not diagnosis.is_healthy


def test_a_wrong_path_is_noticed(server: Running) -> None:
    """A server that answers 404 below the URL is there, but elsewhere."""
    diagnosis = examine(base_url=f"{server.root}/api", api_key="any", environ={})
    assert found(diagnosis, "server").status == "problem"


def test_an_unknown_model_is_told_from_a_wrong_path(server: Running) -> None:
    """Both are 404, and so may be a model of another kind; only a wrong path is mended by another URL."""
    with openai.OpenAI(base_url=server.url, api_key="any") as client:
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve("gpt-9")
        finding = explain(caught.value, Connection(client))
        with pytest.raises(openai.APIStatusError) as embeds:
            client.chat.completions.create(model="text-embedding-3-small", messages=[{"role": "user", "content": "hi"}])
        of_another_kind = explain(embeds.value, Connection(client))
    for told in (finding, of_another_kind):
        assert "model cannot be asked" in told.message
        assert told.fix.startswith(f"antiphon doctor --base-url {server.url}")


def test_where_nothing_listens(tmp_path: Path) -> None:
    """The later checks are skipped, not failed, and the fix starts a server at that port."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        # Bound and not listening: refused, and nobody else gets the port meanwhile.
        port = taken.getsockname()[1]
        diagnosis = examine(base_url=f"http://127.0.0.1:{port}/v1", api_key="any", environ={})
    assert found(diagnosis, "connection").message == f"Nothing listens at 127.0.0.1:{port}: Connection refused"
    assert found(diagnosis, "connection").fix == f"antiphon serve --port {port}"
    assert found(diagnosis, "server").status == "skipped"
    assert not diagnosis.is_healthy


def test_tls_against_a_plain_server(server: Running) -> None:
    """https to a server that speaks http is told apart from a bad certificate."""
    diagnosis = examine(base_url=server.url.replace("http:", "https:"), api_key="any", environ={})
    finding = found(diagnosis, "tls")
    assert finding.status == "problem"
    assert "http://127.0.0.1" in finding.fix


def test_tiers_are_known_by_their_limits() -> None:
    """The model decides which table applies; limits of no tier give none."""
    told = RateLimits(RateLimit(500, 500), RateLimit(30_000, 1))
    assert tier_of(told, "gpt-4o-2024-08-06") == 1
    assert tier_of(told, "gpt-4o-mini") is None
    assert tier_of(RateLimits(RateLimit(500, 1), None), "gpt-4o") is None


@pytest.mark.parametrize(
    ("reason", "known", "says"),
    [
        ("length", {"max_tokens": 20}, "max_completion_tokens=20"),
        ("length", {"context": 120}, "fill the context of 120"),
        ("length", {}, "or at the model's context length"),
        ("content_filter", {}, "content filter"),
        (None, {}, "the stream ended early"),
    ],
)
def test_a_cut_answer_is_explained(reason: str | None, known: dict[str, int], says: str) -> None:
    """The finish reason and the numbers tell which bound was met."""
    answer = {"choices": [{"finish_reason": reason}], "usage": {"prompt_tokens": 100, "completion_tokens": 20}}
    finding = explain_answer(answer, **known)
    assert finding.status == "problem"
    assert says in finding.message


def test_a_whole_answer_is_fine() -> None:
    """Nothing to explain."""
    assert explain_answer({"choices": [{"finish_reason": "stop"}], "usage": {}}).status == "ok"
