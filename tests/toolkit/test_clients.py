"""Which client a call goes through."""

import pytest
from openai import AsyncOpenAI, OpenAI
from tests.toolkit.scripted_endpoint import Endpoint, answer, error, json_route

from antiphon.toolkit.clients import Connection, connect, portal_client
from antiphon.toolkit.clients import Endpoint as Address
from antiphon.toolkit.errors import ClientError

pytestmark = pytest.mark.anyio
REQUEST = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://LOCALHOST:8000/v1/", "http://localhost:8000/v1"),
        ("https://api.openai.com:443/v1", "https://api.openai.com/v1"),
        ("https://user:secret@host.test/v1?key=1", "https://host.test/v1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
    ],
)
def test_an_endpoint_is_its_address_without_what_varies(url: str, expected: str) -> None:
    """Case, default ports, closing slashes, credentials and queries make no other endpoint."""
    assert Address.of(OpenAI(api_key="k", base_url=url)).base_url == expected


def test_only_openais_own_hosts_are_openai() -> None:
    """A look-alike host is not taken for OpenAI's."""
    assert Address("https://api.openai.com/v1").is_openai
    assert Address("https://eu.api.openai.com/v1").is_openai
    assert not Address("https://api.openai.com.evil.test/v1").is_openai


def test_a_missing_key_says_what_to_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key there is no client, and the hint names the variable."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ClientError, match="No OpenAI client") as caught:
        connect()
    assert "OPENAI_API_KEY" in caught.value.hint


def test_a_synchronous_face_refuses_an_async_client() -> None:
    """Its connections belong to another loop."""
    with pytest.raises(ClientError, match="not AsyncOpenAI"):
        portal_client(AsyncOpenAI(api_key="k"))


def test_synchronous_calls_share_one_client_per_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same environment gives the same client, another one another."""
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://one.test/v1")
    first = portal_client(None)
    assert portal_client(None) is first
    monkeypatch.setenv("OPENAI_BASE_URL", "http://two.test/v1")
    assert portal_client(None) is not first


@pytest.mark.parametrize("kind", ["client", "async_client"])
async def test_both_kinds_of_client_answer_alike(endpoint: Endpoint, kind: str) -> None:
    """A plain OpenAI is called in a thread; the caller sees no difference."""
    connection = Connection(getattr(endpoint, kind)())
    endpoint.replies = [error(500), answer("hello")]
    answered = await connection.chat(REQUEST)
    assert answered.value.choices[0].message.content == "hello"
    assert (answered.request_id, answered.num_retries) == ("req_1", 1)
    async with connection.chat_stream(REQUEST) as stream:
        pieces = [chunk.choices[0].delta.content async for chunk in stream.events if chunk.choices]
    assert "".join(piece or "" for piece in pieces) == "hello"
    assert stream.headers["x-request-id"] == "req_1"


@pytest.mark.parametrize("kind", ["client", "async_client"])
async def test_a_servers_own_routes_are_reached_below_and_beside_the_base_url(endpoint: Endpoint, kind: str) -> None:
    """Relative paths go below /v1, absolute addresses where they say."""
    connection = Connection(getattr(endpoint, kind)())
    endpoint.routes = {"/v1/models": json_route({"data": []}), "/props": json_route({"n": 1})}
    assert await connection.get_json("/models") == {"data": []}
    assert await connection.post_json(f"{connection.endpoint.root}/props", {}) == {"n": 1}


async def test_only_a_client_made_here_is_closed(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that was passed in stays open for its owner."""
    given = endpoint.async_client()
    async with connect(given):
        pass
    assert not given.is_closed()
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    async with connect() as made:
        pass
    assert made.client.is_closed()
