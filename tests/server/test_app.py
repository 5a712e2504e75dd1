"""The server over a scripted backend, asked by the official client and by raw HTTP."""

import json
from collections.abc import Generator
from pathlib import Path

import httpx2 as httpx
import openai
import pytest
from tests.serving import Running, running

from antiphon.backends.caching import HEADER, CacheSettings, CachingBackend, make_store
from antiphon.backends.routing import Router
from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Script
from antiphon.errors import AntiphonError
from antiphon.server.process.http_server import bind
from antiphon.server.settings import ServerSettings


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Running]:
    script = Script(models=("gpt-4o-mini",), embedding_models=("text-embedding-3-small",))
    with running(ScriptedBackend(script), tmp_path_factory.mktemp("home"), max_body_bytes=10_000) as up:
        yield up


@pytest.fixture(scope="module")
def client(server: Running) -> Generator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url, api_key="any", max_retries=0) as made:
        yield made


@pytest.fixture
def http(server: Running) -> Generator[httpx.Client]:
    with httpx.Client(base_url=server.root) as made:
        yield made


def ask(client: openai.OpenAI, text: str = "hello there", **options: object) -> openai.types.chat.ChatCompletion:
    return client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": text}], **options)  # type: ignore[call-overload,no-any-return]


def test_a_chat_is_answered(client: openai.OpenAI) -> None:
    """The official client gets a completion with content, reason and usage."""
    answer = ask(client)
    assert answer.choices[0].message.content == "hello there"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.id.startswith("chatcmpl-")


def test_a_stream_is_the_same_text(client: openai.OpenAI) -> None:
    """Deltas joined are what the whole answer would be, and usage comes last when asked for."""
    stream = client.chat.completions.create(
        model="gpt-4o-mini",
        messages=[{"role": "user", "content": "one two three"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "one two three"
    assert chunks[-1].usage is not None
    assert chunks[-1].choices == []


def test_embeddings_are_vectors(client: openai.OpenAI) -> None:
    """One unit vector for each input, in order."""
    answer = client.embeddings.create(model="text-embedding-3-small", input=["a b", "c"])
    assert [d.index for d in answer.data] == [0, 1]
    assert sum(x * x for x in answer.data[0].embedding) == pytest.approx(1, abs=1e-3)


def test_completions_continue_a_text(client: openai.OpenAI) -> None:
    """The legacy endpoint answers on the same events."""
    answer = client.completions.create(model="gpt-4o-mini", prompt="say this")
    assert answer.choices[0].text == "say this"


def test_models_are_listed_and_described(client: openai.OpenAI) -> None:
    """Every name that can be asked for is there; an unknown one is a 404."""
    assert {m.id for m in client.models.list()} == {"gpt-4o-mini", "text-embedding-3-small"}
    assert client.models.retrieve("gpt-4o-mini").object == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("org/none")


def test_every_answer_has_the_standard_headers(http: httpx.Client) -> None:
    """Success or failure, the headers that clients read are there."""
    for response in (http.get("/v1/models"), http.get("/v1/nothing"), http.post("/v1/embeddings", json={})):
        assert response.headers["x-request-id"].startswith("req_")
        assert response.headers["openai-version"] == "2020-10-01"
        assert response.headers["openai-organization"] == "org-test"
        assert int(response.headers["openai-processing-ms"]) >= 0


def test_request_ids_differ(http: httpx.Client) -> None:
    """Each answer has its own id."""
    assert http.get("/health").headers["x-request-id"] != http.get("/health").headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/", "{}", 405),
        ("GET", "/v1/nothing", None, 404),
        ("POST", "/nothing", "{}", 404),
        ("GET", "/v1/completions", None, 405),
        ("DELETE", "/v1/embeddings", None, 405),
        ("PUT", "/v1/models", "{}", 405),
        ("POST", "/v1/chat/completions", "{", 400),
        ("POST", "/v1/chat/completions", b"\xff\xfe", 400),
        ("POST", "/v1/chat/completions", "[" * 5_000, 400),
        ("POST", "/v1/completions", '{"model": "m", "x": %s}' % ("[" * 4_000 + "]" * 4_000), 400),
        ("POST", "/v1/chat/completions", " " * 10_001, 413),
        ("POST", "/v1/chat/completions", "{}", 400),
        ("POST", "/v1/chat/completions", '{"model": "none", "messages": [{"role": "user", "content": "x"}]}', 404),
        ("DELETE", "/v1/models/gpt-4o-mini", None, 403),
        ("DELETE", "/v1/models/none", None, 404),
        ("GET", "/v1/models/", None, 404),
        ("POST", "/v1/chat/completions", b"\xef\xbb\xbf{}", 400),
    ],
)
def test_every_error_is_in_the_envelope(
    http: httpx.Client, method: str, path: str, body: str | bytes | None, status: int
) -> None:
    """Whatever is wrong, the four keys are there and nothing else."""
    headers = {"content-type": "application/json"} if body is not None else {}
    response = http.request(method, path, content=body, headers=headers)
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_a_wrong_method_says_which_are_right(http: httpx.Client) -> None:
    """405 comes with Allow and OpenAI's hint."""
    response = http.get("/v1/completions")
    assert response.headers["allow"] == "POST"
    assert "HINT" in response.json()["error"]["message"]


def test_an_address_without_a_model_is_no_model(http: httpx.Client) -> None:
    """An extra slash is reported as a wrong URL, not as a model without a name."""
    assert http.get("/v1/models/").json()["error"]["message"].startswith("Invalid URL (GET /v1/models/).")


def test_a_body_without_an_announced_length_is_limited_too(http: httpx.Client) -> None:
    """Chunked bodies are counted as they come."""
    response = http.post("/v1/chat/completions", content=(b" " * 1_000 for _ in range(20)))
    assert response.status_code == 413


def test_a_compressed_body_is_refused(http: httpx.Client) -> None:
    """A body that is compressed, or that only claims to be, is refused rather than read wrongly."""
    for encoding in ("gzip", "br", "deflate, gzip"):
        headers = {"content-encoding": encoding, "content-type": "application/json"}
        response = http.post("/v1/chat/completions", content=b"{}", headers=headers)
        assert response.status_code == 415
        assert response.json()["error"]["code"] == "unsupported_content_encoding"
    assert http.post("/v1/embeddings", json={}, headers={"content-encoding": "identity"}).status_code == 400


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/embeddings"),
        ("POST", "/tokenize"),
        ("DELETE", "/v1/models/gpt-4o-mini"),
    ],
)
def test_a_query_that_nothing_reads_is_refused(http: httpx.Client, method: str, path: str) -> None:
    """A parameter in the URL would be ignored, so it is named as unknown."""
    response = http.request(method, path, params={"limit": 1})
    assert response.status_code == 400
    assert (response.json()["error"]["param"], response.json()["error"]["code"]) == ("limit", "unknown_parameter")


def test_a_query_on_a_list_is_ignored_and_logged(http: httpx.Client) -> None:
    """Clients add parameters of their own to GET requests; OpenAI ignores them, and here the log names them."""
    for path in ("/v1/models", "/v1/models/gpt-4o-mini"):
        assert http.get(path, params={"limit": 1, "after": "x"}).status_code == 200


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/chat/completions", "Did you mean /v1/chat/completions? The base URL of this API ends in /v1."),
        ("/models", "Did you mean /v1/models? The base URL of this API ends in /v1."),
        ("/models/gpt-4o-mini", "The base URL of this API ends in /v1."),
        ("/v1/tokenize", "Did you mean /tokenize?"),
        ("/v1/v1/models", "Did you mean /v1/models?"),
        ("/v1/chat/completion", "Did you mean /v1/chat/completions?"),
        ("/v1/audio/speech", "It is not served here; [gateway] default_upstream names another API"),
        ("/api/chat", "(GET /api/chat). GET / lists the paths of this server."),
    ],
)
def test_an_unknown_path_says_what_was_probably_meant(http: httpx.Client, path: str, hint: str) -> None:
    """The 404 has another code than that of an unknown model; it is short, and says where every path is listed."""
    response = http.get(path)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (404, "unknown_url")
    assert hint in error["message"]
    assert error["message"].endswith(" GET / lists the paths of this server.")
    assert len(error["message"]) < 200


def test_the_root_says_what_this_is(http: httpx.Client) -> None:
    """A person or program that opens the address finds the base URL and the paths."""
    said = http.get("/").json()
    assert said["name"] == "Antiphon"
    assert said["base_url"] == f"{http.base_url}/v1".replace("//v1", "/v1")
    assert "/v1/chat/completions" in said["paths"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [], "temperature": 7}),
        ("/v1/chat/completions", {"colour": "red"}),
        ("/v1/chat/completions", {"messages": "x", "n": 0}),
        ("/v1/completions", {"prompt": 3}),
        ("/v1/completions", {"prompt": "x", "max_tokens": -1}),
        ("/v1/embeddings", {}),
        ("/v1/embeddings", {"input": []}),
        ("/tokenize", {"prompt": 3}),
        ("/tokenize", {"messages": []}),
    ],
)
def test_an_unknown_model_is_reported_before_a_wrong_parameter(
    http: httpx.Client, path: str, body: dict[str, object]
) -> None:
    """404 first, as OpenAI; the message lists what is served."""
    response = http.post(path, json={"model": "none", **body})
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (404, "model_not_found")
    assert "gpt-4o-mini" in error["message"]


def test_a_request_id_of_the_client_has_a_form(http: httpx.Client) -> None:
    """``X-Client-Request-Id`` that OpenAI does not allow is a 400; another one changes nothing."""
    assert http.get("/v1/models", headers={"x-client-request-id": "mine-1"}).status_code == 200
    for wrong in (b"x" * 513, b"\xe9"):
        response = http.get("/v1/models", headers=[(b"x-client-request-id", wrong)])
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "X-Client-Request-Id"


def test_pages_of_other_sites_are_refused(http: httpx.Client) -> None:
    """A drive-by page and a rebound name get a 403 before anything is read."""
    assert http.get("/v1/models", headers={"origin": "https://evil.example"}).status_code == 403
    assert http.get("/v1/models", headers={"host": "evil.example"}).status_code == 403


def test_pages_of_this_machine_may_call(http: httpx.Client) -> None:
    """A page served from localhost gets the CORS headers, with a preflight before."""
    origin = {"origin": "http://localhost:3000"}
    assert http.get("/v1/models", headers=origin).headers["access-control-allow-origin"] == "http://localhost:3000"
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    preflight = http.options("/v1/chat/completions", headers=origin | asked)
    assert preflight.status_code == 204
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert preflight.headers["access-control-allow-headers"] == "authorization"


def test_health_and_metrics_need_no_key(http: httpx.Client) -> None:
    """Supervisors and scrapers get their answers."""
    assert http.get("/health").json()["status"] == "ready"
    text = http.get("/metrics").text
    assert "antiphon_requests_total" in text
    assert "antiphon_in_flight" in text


def test_a_stream_ends_with_done_and_no_event_names(http: httpx.Client) -> None:
    """The frames are what OpenAI's are."""
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "a b"}], "stream": True}
    text = http.post("/v1/chat/completions", json=body).text
    frames = text.strip().split("\n\n")
    assert frames[-1] == "data: [DONE]"
    assert all(frame.startswith("data: ") for frame in frames)
    first = json.loads(frames[0].removeprefix("data: "))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}


def test_a_prompt_is_counted(http: httpx.Client) -> None:
    """Texts and conversations have a length in tokens; the shape is vLLM's."""
    text = http.post("/tokenize", json={"model": "gpt-4o-mini", "prompt": "one two three"}).json()
    assert text == {"count": 3, "max_model_len": None}
    messages = [{"role": "user", "content": "one two three"}]
    assert http.post("/tokenize", json={"model": "gpt-4o-mini", "messages": messages}).json()["count"] > 3


def test_answers_are_kept_for_who_asks(tmp_path: Path) -> None:
    """With a cache the header says what became of a request: computed and kept, then given again, then computed anew."""
    script = Script(models=("m",), embedding_models=("e",))
    router = Router({"scripted": ScriptedBackend(script)})
    settings = CacheSettings(store="memory")
    store = make_store(settings, tmp_path)
    assert store is not None
    with running(CachingBackend(router, store), tmp_path, cache=settings) as up:
        chat = {"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": 0}
        statuses = [
            httpx.post(f"{up.url}/chat/completions", json=chat, headers=headers).headers.get(HEADER)
            for headers in ({}, {HEADER: "on"}, {HEADER: "on"}, {HEADER: "refresh"})
        ]
        stream = httpx.post(f"{up.url}/chat/completions", json=chat | {"stream": True}, headers={HEADER: "on"})
        vector = httpx.post(f"{up.url}/embeddings", json={"model": "e", "input": "x"}, headers={HEADER: "on"})
    assert statuses == [None, "miss", "hit", "miss"]
    assert stream.headers[HEADER] == "hit"
    assert stream.text.endswith("data: [DONE]\n\n")
    assert vector.headers[HEADER] == "miss"


def test_a_port_is_taken_at_once() -> None:
    """From the moment that a server has its port, long before it answers, a second one finds the port in use."""
    with bind(ServerSettings(port=0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(AntiphonError, match="Address already in use") as caught:
            bind(ServerSettings(port=port))
        assert "--port 0" in caught.value.hint
