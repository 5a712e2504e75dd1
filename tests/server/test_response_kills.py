"""A server that is killed in the middle of responses loses none that was complete, and leaves none in progress.

``ANTIPHON_KILLS`` sets how often it is killed (default 3).
"""

import contextlib
import os
import signal
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.processes import ServerProcess, serving
from tests.waiting import wait_until

KILLS = int(os.environ.get("ANTIPHON_KILLS", "3"))
MODEL = "gpt-4o-mini"
SETTINGS = """
[models]
chat = "none"
embedding = "none"
[gateway]
script = "{home}/script.toml"
"""
SCRIPT = f"""
models = ["{MODEL}"]
[[replies]]
match = {{ last_message = "slow" }}
text = "one two three four five six seven eight nine ten"
token_s = 0.2
"""


def ask(client: openai.OpenAI, text: str, **options: Any) -> Any:
    return client.responses.create(model=MODEL, input=text, **options)


def follow(client: openai.OpenAI) -> None:
    with contextlib.suppress(openai.OpenAIError), ask(client, "slow", stream=True) as stream:
        for _ in stream:
            pass


@contextlib.contextmanager
def asking(home: Path) -> Generator[tuple[ServerProcess, openai.OpenAI]]:
    """A server over the script, and a client of it."""
    options = ("--config", str(home / "antiphon.toml"))
    with serving(home, *options) as server, openai.OpenAI(base_url=server.url, api_key="k", max_retries=0) as client:
        yield server, client


@pytest.mark.slow
def test_kills_in_the_middle_of_responses(tmp_path: Path) -> None:
    """Background responses and streams, kill -9, again and again: in the end each is complete, or failed and says so."""
    settings = tmp_path / "antiphon.toml"
    settings.write_text(SETTINGS.format(home=tmp_path))
    (tmp_path / "script.toml").write_text(SCRIPT)
    complete: list[str] = []
    running: list[str] = []
    for _ in range(KILLS):
        with asking(tmp_path) as (server, client):
            complete += [ask(client, f"hello {n}").id for n in range(3)]
            running += [ask(client, "slow", background=True).id for _ in range(3)]
            streams = [threading.Thread(target=follow, args=(client,)) for _ in range(2)]
            for stream in streams:
                stream.start()
            os.kill(server.pid, signal.SIGKILL)
            server.process.wait()
            for stream in streams:
                stream.join()
    with asking(tmp_path) as (_, client):
        assert all(client.responses.retrieve(one).status == "completed" for one in complete)
        ended = {"completed", "failed"}
        wait_until(lambda: all(client.responses.retrieve(one).status in ended for one in running))
        lost = [client.responses.retrieve(one) for one in running]
        assert all(one.error is not None for one in lost if one.status == "failed")
        assert any(one.status == "failed" for one in lost)
