"""Webhooks: OpenAI's form and signature, to listed addresses alone, sent until they arrive."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp import web
from openai.types.webhooks import ResponseCompletedWebhookEvent
from tests.backends.recording_api import RecordingApi, recording_api
from tests.serving import running
from tests.waiting import PATIENCE_S, until

from antiphon.accounts import Accounts, AccountSettings
from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Reply, Script
from antiphon.errors import ConfigError
from antiphon.webhooks import Deliveries, WebhookEndpoint, WebhookSender, WebhookSettings
from antiphon.webhooks.deliveries import Delivery, now_ms
from antiphon.webhooks.signature import signing_key

pytestmark = pytest.mark.anyio

SECRET = "whsec_c2VjcmV0IGJ5dGVz"
ENVIRON = {"HOOK": SECRET}
Answer = Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]


async def accepts(_: web.Request, __: bytes) -> web.StreamResponse:
    return web.Response()


def fails_first(times: int, response: Callable[[], web.StreamResponse]) -> Answer:
    left = iter(range(times))

    async def answer(_: web.Request, __: bytes) -> web.StreamResponse:
        return response() if next(left, None) is not None else web.Response(status=204)

    return answer


def settings(api: RecordingApi, **more: Any) -> WebhookSettings:
    fast = {"backoff_s": 0.01, "max_backoff_s": 0.02}
    endpoint = WebhookEndpoint(url=f"{api.url}/hook", secret_env="HOOK")
    return WebhookSettings(**{"endpoints": (endpoint,), **fast, **more})


@pytest.fixture
async def accounts(tmp_path: Path) -> Any:
    """A database of its own."""
    opened = await Accounts.open(AccountSettings(), tmp_path)
    yield opened
    await opened.aclose()


@pytest.mark.parametrize("secret", [SECRET, "a plain secret"])
async def test_the_official_client_unwraps_the_event_of_a_background_response(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    """Its type, its id and the response's id; a changed body is refused by the signature."""
    monkeypatch.setenv("HOOK", secret)
    backend = ScriptedBackend(Script(models=("m",), replies=(Reply(text="Hello."),)))
    async with recording_api(accepts) as api:
        with running(backend, tmp_path, webhooks=settings(api)) as server:
            async with openai.AsyncOpenAI(
                base_url=server.url, api_key="none", webhook_secret=secret, timeout=PATIENCE_S
            ) as client:
                response = await client.responses.create(model="m", input="hi", background=True)
                await until(lambda: len(api.requests) == 1)
                received = api.requests[0]
                event = client.webhooks.unwrap(received.body, received.headers)
                assert isinstance(event, ResponseCompletedWebhookEvent)
                assert event.data.id == response.id
                assert event.id == received.headers["webhook-id"]
                with pytest.raises(openai.InvalidWebhookSignatureError):
                    client.webhooks.unwrap(received.body + b" ", received.headers)


@pytest.mark.parametrize(
    ("reply", "event"),
    [
        (Reply(text="x", fault="cut", after=0), "response.failed"),
        (Reply(text="a b c d e f", finish_reason="length"), "response.incomplete"),
    ],
)
async def test_every_end_is_reported_and_foreground_responses_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reply: Reply, event: str
) -> None:
    """A client that waits for the answer has it already."""
    monkeypatch.setenv("HOOK", SECRET)
    backend = ScriptedBackend(Script(models=("m",), replies=(reply,)))
    async with recording_api(accepts) as api:
        with running(backend, tmp_path, webhooks=settings(api)) as server:
            async with openai.AsyncOpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
                if event == "response.incomplete":
                    await client.responses.create(model="m", input="hi")
                await client.responses.create(model="m", input="hi", background=True)
                await until(lambda: len(api.requests) > 0)
        assert [json.loads(each.body)["type"] for each in api.requests] == [event]


@pytest.mark.parametrize(
    ("line", "event"),
    [
        ({"model": "m", "messages": [{"role": "user", "content": "hi"}]}, "batch.completed"),
        ({"model": "nobody", "messages": []}, "batch.failed"),
    ],
)
async def test_the_end_of_a_batch_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: dict[str, Any], event: str
) -> None:
    """Also where its check fails."""
    monkeypatch.setenv("HOOK", SECRET)
    content = json.dumps({"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": line}).encode()
    async with recording_api(accepts) as api:
        with running(ScriptedBackend(Script(models=("m",))), tmp_path, webhooks=settings(api)) as server:
            async with openai.AsyncOpenAI(base_url=server.url, api_key="none", timeout=PATIENCE_S) as client:
                file = await client.files.create(file=("b.jsonl", content), purpose="batch")
                batch = await client.batches.create(
                    input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
                )
                await until(lambda: len(api.requests) > 0)
                received = json.loads(api.requests[0].body)
                assert (received["type"], received["data"]) == (event, {"id": batch.id})
                assert (await client.batches.retrieve(batch.id)).status == event.partition(".")[2]


@pytest.mark.parametrize(
    "response",
    [
        lambda: web.Response(status=500),
        lambda: web.Response(status=410),
        lambda: web.Response(status=302, headers={"location": "http://127.0.0.1:1/elsewhere"}),
    ],
)
async def test_an_event_is_sent_until_it_arrives(
    accounts: Accounts, response: Callable[[], web.StreamResponse]
) -> None:
    """Under one id, with a fresh signature; a redirect is not followed, because its target is not listed."""
    async with recording_api(fails_first(3, response)) as api:
        sender = WebhookSender(settings(api), Deliveries(accounts.engine), ENVIRON)
        sender.start()
        await sender.announce("batch.completed", "batch_1", "alice")
        await until(lambda: sender.statistics().delivered_total == 1)
        await sender.aclose()
        assert sender.statistics().failures_total == 3
        assert len({each.headers["webhook-id"] for each in api.requests}) == 1
        assert {each.path for each in api.requests} == {"/v1/hook"}
        assert await Deliveries(accounts.engine).next_at_ms() is None


async def test_what_was_not_sent_is_sent_after_a_restart(accounts: Accounts) -> None:
    """The first server stops before the address answers; the next one over the same database goes on."""
    async with recording_api(accepts) as api:
        first = WebhookSender(settings(api), Deliveries(accounts.engine), ENVIRON)
        await first.announce("batch.completed", "batch_1", "alice")
        await first.aclose()
        second = WebhookSender(settings(api), Deliveries(accounts.engine), ENVIRON)
        second.start()
        await until(lambda: second.statistics().delivered_total == 1)
        await second.aclose()
        assert json.loads(api.requests[0].body)["data"] == {"id": "batch_1"}


async def test_an_event_is_given_up_and_never_sent_to_an_address_that_was_removed(accounts: Accounts) -> None:
    """After ``give_up_s``; and a change of the settings ends what is waiting."""
    deliveries = Deliveries(accounts.engine)
    async with recording_api(fails_first(1000, lambda: web.Response(status=500))) as api:
        sender = WebhookSender(settings(api, give_up_s=0.001), deliveries, ENVIRON)
        await deliveries.add([Delivery("evt_1", "http://127.0.0.1:1/old", b"{}", now_ms(), now_ms())])
        sender.start()
        await sender.announce("batch.failed", "batch_1", "alice")
        await until(lambda: sender.statistics().given_up_total == 1)
        await sender.aclose()
        assert len(api.requests) == 1
        assert await deliveries.next_at_ms() is None


async def test_two_servers_send_each_event_once(accounts: Accounts) -> None:
    """Each delivery is claimed in the database."""
    async with recording_api(accepts) as api:
        senders = [WebhookSender(settings(api), Deliveries(accounts.engine), ENVIRON) for _ in range(2)]
        for number in range(20):
            await senders[0].announce("batch.completed", f"batch_{number}", "alice")
        for sender in senders:
            sender.start()
        await until(lambda: sum(sender.statistics().delivered_total for sender in senders) == 20)
        for sender in senders:
            await sender.aclose()
        ids = [json.loads(each.body)["data"]["id"] for each in api.requests]
        assert sorted(ids) == sorted(f"batch_{number}" for number in range(20))


async def test_an_endpoint_gets_its_events_of_its_keys(accounts: Accounts) -> None:
    """By the event's type and the key's name."""
    async with recording_api(accepts) as api:
        endpoint = WebhookEndpoint(
            url=f"{api.url}/hook", secret_env="HOOK", events=("batch.failed",), keys=("nightly-*",)
        )
        deliveries = Deliveries(accounts.engine)
        sender = WebhookSender(settings(api, endpoints=(endpoint,)), deliveries, ENVIRON)
        await sender.announce("batch.completed", "batch_1", "nightly-1")
        await sender.announce("batch.failed", "batch_2", "alice")
        assert await deliveries.next_at_ms() is None
        await sender.announce("batch.failed", "batch_3", "nightly-1")
        assert await deliveries.next_at_ms() is not None


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"url": "ftp://x/y", "secret_env": "HOOK"}, "http"),
        ({"url": "http://user:pw@x/y", "secret_env": "HOOK"}, "credentials"),
        ({"url": "http://x/y"}, "secret_env or secret_file"),
        ({"url": "http://x/y", "secret_env": "HOOK", "secret_file": "f"}, "secret_env or secret_file"),
    ],
)
def test_wrong_settings_are_refused(given: dict[str, Any], named: str) -> None:
    """With a message that names what to write."""
    with pytest.raises(ConfigError, match=named):
        WebhookEndpoint(**given)


def test_a_secret_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """Not set, empty, not there, not Base64."""
    empty = tmp_path / "empty"
    empty.write_text("\n")
    for endpoint, environ in (
        (WebhookEndpoint(url="http://x/y", secret_env="HOOK"), {}),
        (WebhookEndpoint(url="http://x/y", secret_file=str(empty)), {}),
        (WebhookEndpoint(url="http://x/y", secret_file=str(tmp_path / "missing")), {}),
    ):
        with pytest.raises(ConfigError):
            endpoint.secret(environ)
    with pytest.raises(ConfigError, match="Base64"):
        signing_key("whsec_***")
