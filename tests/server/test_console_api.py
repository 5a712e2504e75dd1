"""The console's endpoints over HTTP: who may call them, and what they say."""

import contextlib
import json
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
from tests.serving import Running, running
from tests.waiting import wait_until

from antiphon.accounts import AccountSettings, ModelPrice
from antiphon.backends.routing import Router
from antiphon.backends.routing.settings import RouteSettings, TargetSettings
from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Reply, Script, ScriptedError
from antiphon.server.console.settings import ConsoleSettings

SCRIPT = Script(models=("gpt-4o-mini",), replies=(Reply(text="No key here: sk-antip-abcdefghijklmnop, and more."),))
MESSAGES = [{"role": "user", "content": "a secret question"}]
PRICES = AccountSettings(prices={"gpt-4o-mini": ModelPrice(input=1.0, output=2.0)})


@contextlib.contextmanager
def server(home: Path, **options: Any) -> Generator[Running]:
    with running(ScriptedBackend(SCRIPT), home, accounts=PRICES, **options) as up:
        yield up


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Running]:
    with server(tmp_path_factory.mktemp("open"), console=ConsoleSettings(capture=True)) as up:
        yield up


@pytest.fixture
def http(open_server: Running) -> Generator[httpx.Client]:
    with httpx.Client(base_url=open_server.root) as made:
        yield made


@pytest.fixture
def closed(tmp_path: Path) -> Generator[tuple[httpx.Client, str]]:
    """A server with an admin's key, which is given too; no request carries it by itself."""
    with server(tmp_path) as up, httpx.Client(base_url=up.root) as made:
        made.get("/console/api/session")
        key = made.post("/console/api/keys", json={"name": "first"}).json()["key"]
        made.cookies.clear()
        yield made, key


def ask(client: httpx.Client, key: str = "any", **body: Any) -> httpx.Response:
    return client.post(
        "/v1/chat/completions",
        headers={"authorization": f"Bearer {key}"},
        json={"model": "gpt-4o-mini", "messages": MESSAGES, **body},
    )


READS = ["/console/api/requests", "/console/api/usage", "/console/api/keys", "/console/api/models", "/console/api/feed"]


@pytest.mark.parametrize("path", READS)
def test_a_server_with_keys_shows_nothing_without_a_session(closed: tuple[httpx.Client, str], path: str) -> None:
    """Without a session, with a wrong cookie or with a key that is not an admin's, every endpoint refuses."""
    client, key = closed
    admin = {"authorization": f"Bearer {key}"}
    other = client.post("/console/api/keys", json={"name": f"app{path}"}, headers=admin).json()["key"]
    assert client.get(path).status_code == 401
    assert client.get(path, headers={"cookie": "antiphon_console=key_1.99999999999.00"}).status_code == 401
    assert client.get(path, headers={"authorization": f"Bearer {other}"}).status_code == 403
    with client.stream("GET", path, headers=admin) as answer:
        assert answer.status_code == 200


def test_a_session_is_a_strict_cookie_and_ends_with_its_key(closed: tuple[httpx.Client, str]) -> None:
    """Signing in sets an HttpOnly, SameSite=Strict cookie for the console alone; a rotated key ends it."""
    client, key = closed
    assert client.get("/console/api/session").json()["signed_in"] is False
    assert client.post("/console/api/session", json={"key": "sk-antip-wrong"}).status_code == 401
    signed_in = client.post("/console/api/session", json={"key": key})
    cookie = signed_in.headers["set-cookie"]
    assert all(part in cookie for part in ("HttpOnly", "SameSite=Strict", "Path=/console"))
    assert key not in cookie
    assert client.get("/console/api/requests").status_code == 200
    key_id = signed_in.json()["key_id"]
    rotated = client.post(f"/console/api/keys/{key_id}/rotate", headers={"authorization": f"Bearer {key}"})
    assert rotated.status_code == 403, "a cookie without Origin shows no page of ours"
    origin = {"origin": str(client.base_url).rstrip("/")}
    old = client.headers.get("cookie") or cookie.split(";")[0]
    assert client.post(f"/console/api/keys/{key_id}/rotate", headers=origin).status_code == 200
    assert client.get("/console/api/requests").status_code == 200, "who rotates the key of the session stays signed in"
    client.cookies.clear()
    assert client.get("/console/api/requests", headers={"cookie": old}).status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"origin": "http://localhost:3000"}, 403),
        ({"origin": "https://example.com"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "rebound.example"}, 403),
    ],
)
def test_only_own_pages_may_call(http: httpx.Client, headers: dict[str, str], status: int) -> None:
    """A page of another site, also of another port of this machine, reads nothing."""
    assert http.get("/console/api/requests", headers=headers).status_code == status


def test_a_page_behind_another_name_may_call(tmp_path: Path) -> None:
    """The console works at a name of the operator's own: its origin is then neither loopback nor configured."""
    with server(tmp_path, allowed_hosts=("models.example",)) as up:
        own = {"host": "models.example", "origin": "https://models.example"}
        assert httpx.get(f"{up.root}/console/api/session", headers=own).status_code == 200
        assert httpx.get(f"{up.root}/v1/models", headers=own).status_code == 403


def test_a_request_is_listed_with_its_cost_and_its_page(http: httpx.Client) -> None:
    """The list has the newest request first; its page has the same row, and errors are rows too."""
    answered = ask(http)
    refused = ask(http, temperature=9)
    rows = http.get("/console/api/requests", params={"limit": 2}).json()
    assert rows["has_more"] in {True, False}
    failed, done = rows["data"]
    assert (failed["status"], failed["error"]) == (400, "decimal_above_max_value")
    assert failed["request_id"] == refused.headers["x-request-id"]
    assert done["request_id"] == answered.headers["x-request-id"]
    assert done["path"] == "/v1/chat/completions"
    assert done["usd"] == pytest.approx((done["prompt_tokens"] + 2 * done["completion_tokens"]) / 1e6)
    page = http.get(f"/console/api/requests/{done['request_id']}").json()
    assert page["request"] == {**done, "attempts": []}
    assert page["live"] is None
    only = http.get("/console/api/requests", params={"status": "error", "limit": 1}).json()["data"]
    assert only == [failed]
    before = http.get("/console/api/requests", params={"before": failed["id"], "limit": 1}).json()["data"]
    assert before == [done]


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "before=zz", "status=maybe", "colour=red", "limit=1&limit=2"])
def test_a_bad_query_is_refused(http: httpx.Client, query: str) -> None:
    """Nothing in a query is ignored."""
    assert http.get(f"/console/api/requests?{query}").status_code == 400


def test_contents_are_captured_without_keys(http: httpx.Client) -> None:
    """With capture on, a request's page has the body and the answer; keys in them are replaced."""
    answered = ask(
        http, key="sk-antip-0123456789abcdefghij", metadata={"api_key": "hunter2"}, user="sk-antip-0123456789abcdefghij"
    )
    contents = http.get(f"/console/api/requests/{answered.headers['x-request-id']}").json()["contents"]
    assert "a secret question" in contents["request"]
    assert "hunter2" not in json.dumps(contents)
    assert "sk-antip" not in json.dumps(contents)
    assert contents["answer"].startswith("{")
    assert contents["is_cut"] is False


def test_capture_is_off_by_default(tmp_path: Path) -> None:
    """A server that was not asked to keep contents keeps none."""
    with server(tmp_path) as up, httpx.Client(base_url=up.root) as client:
        answered = ask(client)
        page = client.get(f"/console/api/requests/{answered.headers['x-request-id']}").json()
        assert page["contents"] is None
        assert page["request"]["status"] == 200


def test_the_first_key_is_an_admin_and_signs_its_browser_in(tmp_path: Path) -> None:
    """From the first key on the server asks for keys; who made it in a browser goes on without signing in."""
    with server(tmp_path) as up, httpx.Client(base_url=up.root) as client:
        made = client.post("/console/api/keys", json={"name": "me"}).json()
        assert made["is_admin"] is True
        assert client.get("/console/api/requests").status_code == 200
        assert ask(client, key="any").status_code == 401
        assert ask(client, key=made["key"]).status_code == 200
        assert made["key"] not in client.get("/console/api/keys").text


def test_a_key_is_created_changed_and_revoked(http: httpx.Client, tmp_path: Path) -> None:
    """Limits can be given and replaced, a name in use is refused, a revoked key is refused at once."""
    with server(tmp_path) as up, httpx.Client(base_url=up.root, headers={"origin": up.root}) as client:
        client.post("/console/api/keys", json={"name": "me"})
        form = {"name": "app", "rpm": 5, "budget_usd": 1.5, "budget_period": "day", "models": ["gpt-4o*"]}
        app = client.post("/console/api/keys", json=form).json()
        assert (app["limits"]["rpm"], app["budget_usd"], app["models"]) == (5, 1.5, ["gpt-4o*"])
        assert client.post("/console/api/keys", json=form).status_code == 400
        assert ask(client, key=app["key"]).status_code == 200
        listed = {key["name"]: key for key in client.get("/console/api/keys").json()["data"]}
        assert listed["app"]["spent_usd"] > 0
        changed = client.post(f"/console/api/keys/{app['id']}", json={"tpm": 100_000}).json()
        assert (changed["limits"]["rpm"], changed["limits"]["tpm"], changed["budget_usd"]) == (None, 100_000, None)
        assert client.delete(f"/console/api/keys/{app['id']}").json()["state"] == "revoked"
        assert ask(client, key=app["key"]).status_code == 401
        for wrong in ({"name": ""}, {"name": "x", "rpm": 0}, {"name": "x", "budget_usd": -1}, {"name": "a\nb"}, {}):
            assert client.post("/console/api/keys", json=wrong).status_code == 400


def events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def test_the_feed_reports_requests_and_costs_nothing_without_listeners(open_server: Running) -> None:
    """A listener hears of a finished request; when the last one leaves, nothing listens to the ledger."""
    feed = open_server.service.console.feed
    wait_until(lambda: feed.num_listeners == 0)
    assert open_server.service.accounts.listeners == []
    with httpx.Client(base_url=open_server.root) as client, client.stream("GET", "/console/api/feed") as stream:
        heard = events(stream.iter_lines())
        assert next(heard)["finished"] == []
        asked = ask(client)
        finished = next(event for event in heard if event["finished"])["finished"]
        assert finished[-1]["request_id"] == asked.headers["x-request-id"]
    wait_until(lambda: feed.num_listeners == 0)
    assert open_server.service.accounts.listeners == []


def test_a_server_with_an_open_page_ends_at_once(tmp_path: Path) -> None:
    """Shutting down ends the feed: an open page does not use up the grace time."""
    with contextlib.ExitStack() as stack:
        up = stack.enter_context(server(tmp_path, shutdown_grace_s=600.0))
        client = stack.enter_context(httpx.Client(base_url=up.root, timeout=None))
        stream = stack.enter_context(client.stream("GET", "/console/api/feed"))
        heard = events(stream.iter_lines())
        next(heard)
        up.loop.call_soon_threadsafe(up.stop.set)
        assert list(heard) is not None


def test_usage_comes_by_day_key_and_model(http: httpx.Client) -> None:
    """Every bucket of the period is named, and a request is in the last one."""
    ask(http)
    report = http.get("/console/api/usage", params={"days": 7}).json()
    assert len(report["buckets"]) == 7
    assert any(each["start"] == report["buckets"][-1] and each["num_requests"] for each in report["data"])
    assert len(http.get("/console/api/usage?days=1").json()["buckets"]) == 24
    assert http.get("/console/api/usage?days=0").status_code == 400


def test_the_playground_answers_as_the_api_does(http: httpx.Client) -> None:
    """A chat of the playground takes the API's own path and is a row in the ledger like any other."""
    body = {"model": "gpt-4o-mini", "messages": MESSAGES}
    answered = http.post("/console/api/chat/completions", json=body)
    assert answered.json()["choices"][0]["message"]["content"].startswith("No key here")
    row = http.get("/console/api/requests", params={"limit": 1}).json()["data"][0]
    assert (row["path"], row["request_id"]) == ("/console/api/chat/completions", answered.headers["x-request-id"])
    response = http.post("/console/api/responses", json={"model": "gpt-4o-mini", "input": "hi", "store": False})
    assert response.json()["status"] == "completed"


@pytest.mark.parametrize("source", ["/etc/passwd", "model.gguf", "no-such-model", "hf:"])
def test_a_model_that_cannot_be_fetched_is_refused(http: httpx.Client, source: str) -> None:
    """Files of the machine and unknown names are refused before anything is fetched."""
    assert http.post("/console/api/models", json={"source": source}).status_code == 400


def test_pages_come_with_a_strict_policy(http: httpx.Client) -> None:
    """The page allows no inline code and nothing from elsewhere, and comes as 304 the second time."""
    page = http.get("/console")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert http.get("/console", headers={"if-none-match": page.headers["etag"]}).status_code == 304
    assert http.get("/console/../settings.py").status_code == 404
    assert http.get("/console/nothing.js").status_code == 404


def test_the_console_can_be_turned_off(tmp_path: Path) -> None:
    """With ``enabled = false`` the paths do not exist."""
    with server(tmp_path, console=ConsoleSettings(enabled=False)) as up:
        assert httpx.get(f"{up.root}/console").status_code == 404
        assert httpx.get(f"{up.root}/console/api/requests").status_code == 404


def test_limits_say_what_they_have_left(tmp_path: Path) -> None:
    """After a request of a key with a limit, the key's page knows what is left of it."""
    with server(tmp_path) as up, httpx.Client(base_url=up.root, headers={"origin": up.root}) as client:
        client.post("/console/api/keys", json={"name": "me"})
        app = client.post("/console/api/keys", json={"name": "app", "rpd": 10}).json()
        assert app["left"] == []
        ask(client, key=app["key"])
        keys = {key["name"]: key for key in client.get("/console/api/keys").json()["data"]}
        assert keys["app"]["left"] == [{"model": "gpt-4o-mini", "scope": "rpd", "limit": 10, "left": 9}]


def test_attempts_at_backends_are_in_the_row_and_on_the_page(tmp_path: Path) -> None:
    """A request that a first backend refused and a second one answered shows both tries, with their times."""
    broken = ScriptedBackend(Script(models=("shared",), replies=(Reply(error=ScriptedError(status=503)),)))
    working = ScriptedBackend(Script(models=("shared",), replies=(Reply(text="here"),)))
    route = RouteSettings(
        model="shared", targets=(TargetSettings(backend="broken", weight=1000.0), TargetSettings(backend="working"))
    )
    router = Router({"broken": broken, "working": working}, (route,))
    with running(router, tmp_path) as up, httpx.Client(base_url=up.root) as client:
        found: list[Any] = []
        while len(found) < 2:
            answered = client.post("/v1/chat/completions", json={"model": "shared", "messages": MESSAGES})
            assert answered.status_code == 200
            page = client.get(f"/console/api/requests/{answered.headers['x-request-id']}").json()
            found = page["request"]["attempts"]
        assert [(each["backend"], each["status"]) for each in found] == [("broken", 503), ("working", 200)]
        assert 0 <= found[0]["start_s"] <= found[1]["start_s"] <= page["request"]["duration_s"]


def test_a_response_over_a_websocket_is_captured(open_server: Running) -> None:
    """What is sent and answered over a WebSocket is on the page of its request as over HTTP."""
    with openai.OpenAI(base_url=open_server.url, api_key="any") as client, client.responses.connect() as socket:
        socket.response.create(model="gpt-4o-mini", input="over a socket")
        for event in socket:
            if event.type == "response.completed":
                break
    with httpx.Client(base_url=open_server.root) as http:
        row = http.get("/console/api/requests", params={"limit": 1}).json()["data"][0]
        contents = http.get(f"/console/api/requests/{row['request_id']}").json()["contents"]
    assert json.loads(contents["request"])["input"] == "over a socket"
    assert "No key here" in contents["answer"]
