"""What the parsers refuse, the server refuses: over HTTP, seen through the official client."""

import json
from collections.abc import Generator

import httpx2 as httpx
import openai
import pytest
from tests.protocol.malformed import ALL, Malformed
from tests.serving import Running, running

from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Script
from antiphon.server.app import ROUTES


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Running]:
    with running(ScriptedBackend(Script(models=("m",))), tmp_path_factory.mktemp("home")) as up:
        yield up


@pytest.fixture(scope="module")
def client(server: Running) -> Generator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url, api_key="any", max_retries=0) as made:
        yield made


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_the_official_client_raises(client: openai.OpenAI, case: Malformed) -> None:
    """``BadRequestError`` with type, parameter, code and message, and a request id to ask about."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.post(f"/{case.operation}", body=case.body, cast_to=object)
    error = caught.value
    assert (error.status_code, error.type) == (400, "invalid_request_error")
    assert (error.param, error.code) == (case.param, case.code)
    assert (error.request_id or "").startswith("req_")
    if case.message is not None:
        assert json.loads(error.response.text)["error"]["message"] == case.message


def test_other_content_types_are_refused(server: Running) -> None:
    """415 in the envelope; such a request needs no preflight, so any web page could send it."""
    response = httpx.post(f"{server.url}/chat/completions", content="{}", headers={"content-type": "text/plain"})
    assert response.status_code == 415
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_every_route_is_in_the_document(server: Running) -> None:
    """``/openapi.json`` names each path and method that the server answers, and no others."""
    document = httpx.get(f"{server.root}/openapi.json").json()
    served = {(path.replace(":path", ""), method.lower()) for path, methods in ROUTES.items() for method in methods}
    described = {
        (path, method) for path, item in document["paths"].items() for method in item if method != "parameters"
    }
    assert described == served
