"""Batches for a model of another API, which here is a second server of ours, or one that has no batches."""

import asyncio
import json
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp import web
from tests.backends.recording_api import recording_api
from tests.server.test_batches import CHAT, PRICES, SCRIPT, begin, ended, lines, request, rows
from tests.serving import Running, running
from tests.waiting import wait_until

from antiphon.accounts import AccountSettings
from antiphon.backends.routing import Router, RouteSettings, TargetSettings
from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.upstream import UpstreamBackend, UpstreamModel, UpstreamSettings
from antiphon.batches import BatchDetail, BatchSettings, StoredBatch
from antiphon.batches.store import UpstreamBatch
from antiphon.server.batches.upstream_batches import UpstreamBatches


def router(url: str) -> Router:
    """A route whose model has another name at the upstream."""
    settings = UpstreamSettings(name="api", base_url=url, models=(UpstreamModel(id=CHAT),))
    routes = (RouteSettings(model="night", targets=(TargetSettings(backend="api", model=CHAT),)),)
    return Router({"api": UpstreamBackend(settings)}, routes)


@contextmanager
def pair(home: Path) -> Generator[tuple[openai.OpenAI, openai.OpenAI]]:
    """Clients of a server, and of the upstream behind it."""
    quick = BatchSettings(lease_s=0.2)
    prices = AccountSettings(prices=PRICES)
    with ExitStack() as stack:
        back: Running = stack.enter_context(running(ScriptedBackend(SCRIPT), home / "back", batches=quick))
        front = stack.enter_context(running(router(back.url), home / "front", accounts=prices, batches=quick))
        yield (
            stack.enter_context(openai.OpenAI(base_url=front.url, api_key="k", max_retries=0)),
            stack.enter_context(openai.OpenAI(base_url=back.url, api_key="k", max_retries=0)),
        )


def at_night(name: str, text: str = "hello there", **more: Any) -> dict[str, Any]:
    body = {"model": "night", "messages": [{"role": "user", "content": text}], **more}
    return request(name) | {"body": body}


def test_a_batch_is_given_to_the_upstreams_own(tmp_path: Path) -> None:
    """One batch there, under its name of the model; here the client's ids, counts, errors, and half the price."""
    with pair(tmp_path) as (front, back):
        done = ended(front, begin(front, [at_night(str(n)) for n in range(20)] + [at_night("bad", temperature=9)]))
        assert (done.status, done.model) == ("completed", "night")
        assert done.request_counts is not None
        assert (done.request_counts.completed, done.request_counts.failed) == (20, 1)
        assert set(lines(front, done.output_file_id)) == {str(n) for n in range(20)}
        (bad,) = lines(front, done.error_file_id).values()
        assert bad["response"]["body"]["error"]["param"] == "temperature"
        (there,) = back.batches.list()
        assert (there.model, there.metadata) == (CHAT, {"antiphon_batch_id": done.id})
    assert len(rows(tmp_path / "back")) == 21
    charged = [row for row in rows(tmp_path / "front") if row[1] == 200]
    assert {row[0] for row in charged} == {1}
    assert [row[4] for row in charged] == [(row[2] * 2.0 + row[3] * 4.0) / 2_000_000 for row in charged]
    assert len(charged) == 20


def test_a_cancelled_batch_is_cancelled_there(tmp_path: Path) -> None:
    """What was finished there is kept."""
    with pair(tmp_path) as (front, back):
        requests = [at_night(str(n), "slow" if n >= 5 else "hello") for n in range(40)]
        batch = begin(front, requests)
        wait_until(lambda: [getattr(b.request_counts, "completed", 0) for b in back.batches.list()] == [5])
        front.batches.cancel(batch.id)
        done = ended(front, batch)
        assert (done.status, set(lines(front, done.output_file_id))) == ("cancelled", set("01234"))
        assert [each.status for each in back.batches.list()] == ["cancelled"]


def test_a_batch_that_was_begun_is_found_again(tmp_path: Path) -> None:
    """A server that was killed before it could note the upstream's batch makes no second one, and uploads nothing."""
    with pair(tmp_path) as (front, back):
        done = ended(front, begin(front, [at_night("a")]))
        (there,) = back.batches.list()
        num_files = len(list(back.files.list()))
        again = StoredBatch(
            id=done.id,
            account="open",
            created_at_ms=1,
            expires_at_ms=1,
            status="in_progress",
            detail=BatchDetail(endpoint=done.endpoint, input_file_id=done.input_file_id),
        )
        found = asyncio.run(begin_again(again, str(back.base_url).rstrip("/")))
        assert (found.batch_id, found.file_id) == (there.id, there.input_file_id)
        assert len(list(back.files.list())) == num_files


async def begin_again(batch: StoredBatch, url: str) -> UpstreamBatch:
    async def content() -> AsyncGenerator[bytes]:
        yield b"{}"

    backend = router(url)
    try:
        return await UpstreamBatches(backend).begin(batch, "api", content(), 2)
    finally:
        await backend.aclose()


@pytest.mark.anyio
async def test_an_upstream_without_batches_gets_requests_one_by_one(tmp_path: Path) -> None:
    """A server that answers 404 for files and batches still answers chats."""

    async def answer(call: web.Request, body: bytes) -> web.StreamResponse:
        if not call.path.endswith("/chat/completions"):
            return web.json_response({"error": {"message": "no such path"}}, status=404)
        message = {"role": "assistant", "content": json.loads(body)["messages"][0]["content"]}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        return web.json_response(
            {"id": "c", "object": "chat.completion", "created": 1, "model": CHAT, "choices": choices, "usage": usage}
        )

    def ask(url: str) -> None:
        with (
            running(router(url), tmp_path, accounts=AccountSettings(prices=PRICES)) as up,
            openai.OpenAI(base_url=up.url, api_key="k", max_retries=0) as client,
        ):
            done = ended(client, begin(client, [at_night(str(n), f"text {n}") for n in range(9)]))
            assert done.status == "completed"
            answers = lines(client, done.output_file_id)
            said = [each["response"]["body"]["choices"][0]["message"]["content"] for each in answers.values()]
            assert said == [f"text {n}" for n in range(9)]

    async with recording_api(answer) as api:
        await asyncio.to_thread(ask, api.url)
    assert [row[:2] for row in rows(tmp_path)] == [(1, 200)] * 9
