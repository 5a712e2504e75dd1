"""Antiphon on a Ray cluster of one node, with two engines; needs an interpreter with Ray: this one, or ``RAY_PYTHON``.

The cluster runs in other processes; this module only has the official client.
"""

import asyncio
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
from tests.processes import home_with_models

from antiphon.accounts import Principal
from antiphon.accounts.database import open_database
from antiphon.accounts.keys import KeyStore

PYTHON = os.environ.get("RAY_PYTHON") or (sys.executable if importlib.util.find_spec("ray") else None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.model,
    pytest.mark.skipif(PYTHON is None, reason="Ray is not installed (nor in an interpreter named by RAY_PYTHON)"),
]

ARGUMENTS = {
    "settings": {
        "server": {"log_level": "warning"},
        "models": {"embedding": "none"},
        "engine": {"context_size": 2048, "weight_format": "as-is"},
        "accounts": {"tier": "tier5"},
    },
    "engines": {"autoscaling_config": {"min_replicas": 2, "max_replicas": 2, "target_ongoing_requests": 16}},
}
NODE = Path(__file__).with_name("ray_node.py")
SOURCE = NODE.parents[2] / "src"
MODEL = "gpt-4o-mini"
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 8}},
            "required": ["city"],
        },
    },
}


async def new_key(home: Path) -> str:
    engine = await open_database(None, home)
    key, _ = await (await KeyStore.open(engine, None, home)).create(Principal(name="bob"))
    await engine.dispose()
    return key


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return home_with_models(tmp_path_factory.mktemp("ray"))


@pytest.fixture(scope="module")
def client(home: Path) -> Generator[openai.OpenAI]:
    key = asyncio.run(new_key(home))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    environment = {"ANTIPHON_HOME": str(home), "PYTHONPATH": str(SOURCE), "RAY_USAGE_STATS_ENABLED": "0"}
    # Ray's sockets are in this folder, and their paths have to be short.
    with tempfile.TemporaryDirectory(prefix="ray") as folder, (home / "ray.log").open("w") as log:
        order = {"num_cpus": 4, "folder": folder, "environment": environment, "arguments": ARGUMENTS}
        process = subprocess.Popen(
            [str(PYTHON), str(NODE), str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, **environment},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
            assert "ready\n" in process.stdout, (home / "ray.log").read_text()[-4000:]
            with openai.OpenAI(
                base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0, timeout=60
            ) as client:
                yield client
        finally:
            process.stdin.close()
            process.wait(60)
            process.stdout.close()


def replicas(home: Path) -> set[int]:
    """Return the processes of the engines' replicas of this cluster."""
    found: set[int] = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            is_replica = (folder / "cmdline").read_bytes().startswith(b"ray::ServeReplica:antiphon:Engines")
            if is_replica and str(home).encode() in (folder / "environ").read_bytes():
                found.add(int(folder.name))
        except OSError:
            continue
    return found


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def say(client: openai.OpenAI, text: str, max_tokens: int = 8) -> str:
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": text}], max_tokens=max_tokens, temperature=0
    )
    return answer.choices[0].message.content or ""


def test_chat_and_stream_say_the_same(client: openai.OpenAI) -> None:
    """A stream through two hops of Ray joins to the whole answer, and its usage comes last."""
    whole = say(client, "Count from one to ten.", 16)
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Count from one to ten."}],
            max_tokens=16,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert whole
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 16


def test_the_wire_is_the_same(client: openai.OpenAI) -> None:
    """Headers, models, tools and errors are those of any front; the request id is there once."""
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=[{"role": "user", "content": "hi"}], max_tokens=2
    )
    assert raw.headers["x-ratelimit-limit-requests"] == "30000"
    assert re.fullmatch(r"[^,]+", raw.headers["x-request-id"])
    assert raw.headers["openai-version"] == "2020-10-01"
    assert {"smollm2-135m-instruct", "gpt-4o"} <= {model.id for model in client.models.list()}
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Weather in Oslo?"}],
        tools=[TOOL],  # type: ignore[list-item]
        tool_choice="required",
        max_tokens=100,
    )
    (call,) = answer.choices[0].message.tool_calls or ()
    assert isinstance(json.loads(call.function.arguments)["city"], str)  # type: ignore[union-attr]
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.models.retrieve("nope")
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        say(client, "word " * 4000)
    with pytest.raises(openai.AuthenticationError):
        say(client.with_options(api_key="sk-wrong"), "hi")


def test_a_conversation_stays_where_its_prefix_is(client: openai.OpenAI) -> None:
    """Asked again, a conversation finds its prefix cached every time: it goes to the same replica."""
    messages = [{"role": "system", "content": "You are terse. " * 40}, {"role": "user", "content": "Name a colour."}]
    cached = []
    for _ in range(6):
        answer = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=1)  # type: ignore[arg-type]
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        cached.append(answer.usage.prompt_tokens_details.cached_tokens or 0)
    assert min(cached[1:]) > 100


def test_a_client_that_leaves_frees_the_engine(client: openai.OpenAI, home: Path) -> None:
    """Cancellation crosses both hops: after a dropped stream of 1,500 tokens the ledger has its row, short of its end."""
    prompt = "Write a very long story about a lighthouse keeper."
    with client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": prompt}], max_tokens=1500, stream=True
    ) as stream:
        for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                break

    async def left() -> list[int]:
        from sqlalchemy import text  # noqa: PLC0415

        engine = await open_database(None, home)
        async with engine.connect() as connection:
            rows = await connection.execute(text("SELECT completion_tokens FROM usage WHERE status = 499"))
            found = [row[0] for row in rows]
        await engine.dispose()
        return found

    until(lambda: bool(asyncio.run(left())))
    (tokens,) = asyncio.run(left())
    assert 0 < tokens < 1000


def test_a_killed_replica_is_replaced_and_no_request_is_lost(client: openai.OpenAI, home: Path) -> None:
    """Of two replicas under load one is killed: the official client sees every request answered, and Ray brings a second one back."""
    before = replicas(home)
    assert len(before) == 2
    killed = min(before)
    patient = client.with_options(max_retries=2)
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(say, patient, f"Count from {number}.", 24) for number in range(24)]
        until(lambda: sum(answer.done() for answer in answers) >= 4)
        os.kill(killed, signal.SIGKILL)
        assert all(answer.result() for answer in answers)
    until(lambda: len(replicas(home) - {killed}) == 2)
    assert say(client, "Say hello.")


def test_the_example_of_the_page_is_a_configuration(tmp_path: Path) -> None:
    """Ray Serve accepts the YAML of docs/scale-out.md, and the application what it is given there."""
    page = (NODE.parents[2] / "docs" / "scale-out.md").read_text()
    example = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    check = """
import sys, yaml
from ray.serve.schema import ServeDeploySchema
from antiphon.server.ray_serve import application
schema = ServeDeploySchema(**yaml.safe_load(sys.stdin.read()))
print(application(schema.applications[0].args), schema.applications[0].import_path)
"""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE), "ANTIPHON_HOME": str(tmp_path)}
    checked = subprocess.run(
        [str(PYTHON), "-c", check], input=example[0], capture_output=True, text=True, check=True, env=environment
    )
    assert len(example) == 1
    assert "antiphon.server.ray_serve:application" in checked.stdout
