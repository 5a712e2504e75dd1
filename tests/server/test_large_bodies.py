"""Large bodies: counts are refused first, and the work on them is not the event loop's."""

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any, cast

import httpx2 as httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.load.large_bodies import SHAPES
from tests.serving import Running, running
from tests.waiting import wait_until

from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Script
from antiphon.server.request import json_values
from antiphon.server.request.body import LARGE_BYTES, RequestBodies
from antiphon.server.request.json_values import MAX_VALUES, has_more_values

SIZE = 4_000_000
JSON_HEADERS = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Running]:
    script = Script(models=("m",), embedding_models=("e",), context_length=1000)
    with running(ScriptedBackend(script), tmp_path_factory.mktemp("home"), max_body_bytes=2 * SIZE) as up:
        yield up


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_answered_in_the_envelope(server: Running, shape: str) -> None:
    """Whatever is large in it, the body ends as one of OpenAI's errors (or is counted), and its memory is given back."""
    path, body, statuses = SHAPES[shape]("e" if "embed" in shape else "m", SIZE)
    response = httpx.post(f"{server.root}{path}", content=body, headers=JSON_HEADERS, timeout=120)
    assert response.status_code in statuses, response.text[:500]
    wait_until(lambda: server.service.bodies.num_bytes_held == 0)
    assert len(response.content) < 10_000


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"messages": [{"role": "user", "content": "a"}] * 2049}, "messages", "array_above_max_length"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias", "object_above_max_properties"),
        ({"metadata": {str(i): "v" for i in range(17)}}, "metadata", "object_above_max_properties"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "array_above_max_length"),
        (
            {"tools": [{"type": "function", "function": {"name": f"f{i}"}} for i in range(129)]},
            "tools",
            "array_above_max_length",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 2049}]},
            "messages[0].content",
            "array_above_max_length",
        ),
    ],
)
def test_counts_have_limits(server: Running, body: dict[str, Any], param: str, code: str) -> None:
    """One more than the limit is refused by its own name, as OpenAI does."""
    hi = {"model": "m", "messages": [{"role": "user", "content": "a"}]}
    error = httpx.post(f"{server.url}/chat/completions", json=hi | body).json()["error"]
    assert (error["param"], error["code"]) == (param, code)


@pytest.mark.anyio
async def test_only_large_bodies_leave_the_event_loop() -> None:
    """Work on a small body is done at once; on large ones in one thread, one after another."""
    bodies = RequestBodies(10 * LARGE_BYTES)
    here = threading.current_thread().name
    assert await bodies.work(b"x" * LARGE_BYTES, lambda: threading.current_thread().name) == here
    running_now: list[str] = []
    most = 0

    def note() -> str:
        nonlocal most
        running_now.append(threading.current_thread().name)
        most = max(most, len(running_now))
        return running_now.pop()

    names = await asyncio.gather(*(bodies.work(b"x" * (LARGE_BYTES + 1), note) for _ in range(20)))
    assert set(names) != {here}
    assert len(set(names)) == most == 1


@pytest.mark.anyio
@pytest.mark.parametrize("is_announced", [True, False])
async def test_a_client_that_is_still_sending_sees_that_its_body_is_too_large(
    server: Running, is_announced: bool
) -> None:
    """The rest of the body is read and dropped: a connection that closes on it would be reset, and the answer lost."""
    body = b" " * (8 * SIZE)

    async def pieces() -> AsyncGenerator[bytes]:
        for at in range(0, len(body), SIZE):
            yield body[at : at + SIZE]

    async with httpx.AsyncClient(timeout=120) as client:
        content = body if is_announced else pieces()
        response = await client.post(f"{server.url}/chat/completions", content=content, headers=JSON_HEADERS)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")


def test_bodies_in_memory_have_a_limit_together(tmp_path: Path) -> None:
    """While others hold the memory, the next large body gets a 503 to retry, and small ones as well; then there is room."""
    with running(ScriptedBackend(Script(models=("m",))), tmp_path, max_body_bytes=1000) as up:
        up.service.bodies.num_bytes_held = 8 * 1000 - 10
        request = {"model": "m", "messages": [{"role": "user", "content": "a"}]}
        response = httpx.post(f"{up.url}/chat/completions", json=request)
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        up.service.bodies.num_bytes_held = 0
        assert httpx.post(f"{up.url}/chat/completions", json=request).status_code == 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('ab"\\,[{:\n\u00e9'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text('ab"\\,[{:'), inner),
)


def marks(value: Any) -> int:
    """Count the commas, colons and opening brackets that a value is written with."""
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        return 1 + len(members) + max(0, len(members) - 1) + sum(map(marks, members.values()))
    if isinstance(value, list):
        items = cast("list[Any]", value)
        return 1 + max(0, len(items) - 1) + sum(map(marks, items))
    return 0


@given(JSON, st.integers(1, 9))
def test_marks_in_strings_do_not_count(value: Any, piece: int) -> None:
    """Counting in pieces, of any length, agrees with counting the decoded value."""
    body = json.dumps(value).encode()
    number = marks(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_values, "_PIECE_BYTES", piece)
        assert not has_more_values(body, number)
        assert number == 0 or has_more_values(body, number - 1)


def test_prose_is_not_taken_for_values() -> None:
    """A long text with many commas is one value."""
    body = json.dumps({"text": "one, two: [three] {four}, " * MAX_VALUES}).encode()
    assert not has_more_values(body, MAX_VALUES)
