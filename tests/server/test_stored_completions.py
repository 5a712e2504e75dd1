"""Stored chat completions with the official client."""

from collections.abc import Generator
from typing import Any

import openai
import pytest
from tests.serving import Running, running

from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Script

MODEL = "gpt-4o-mini"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Running]:
    with running(ScriptedBackend(Script(models=(MODEL, "other"))), tmp_path_factory.mktemp("home")) as up:
        yield up


@pytest.fixture(scope="module")
def client(server: Running) -> Generator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url, api_key="any", max_retries=0) as made:
        yield made


def store(client: openai.OpenAI, text: str, model: str = MODEL, **options: Any) -> Any:
    messages: Any = [{"role": "user", "content": [{"type": "text", "text": text}]}]
    return client.chat.completions.create(model=model, messages=messages, store=True, **options)


def test_a_completion_is_kept_as_it_was_answered(client: openai.OpenAI) -> None:
    """Whole or streamed; its messages are those of the request."""
    whole = store(client, "hello")
    assert client.chat.completions.retrieve(whole.id).choices == whole.choices
    (message,) = client.chat.completions.messages.list(whole.id).data
    assert (message.role, message.content, message.id) == ("user", "hello", f"{whole.id}-0")
    chunks = list(store(client, "streamed", stream=True))
    kept = client.chat.completions.retrieve(chunks[0].id)
    assert kept.choices[0].message.content == "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def test_only_what_was_asked_for_is_kept(client: openai.OpenAI) -> None:
    """Without store there is nothing to retrieve."""
    answer = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x"}])
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.retrieve(answer.id)


def test_lists_are_narrowed_paged_and_changed(client: openai.OpenAI) -> None:
    """By model and metadata, in pages that join without gap; an update replaces the metadata; a delete removes."""
    ids = [store(client, f"n{n}", "other", metadata={"run": "a"}).id for n in range(5)]
    store(client, "b", "other", metadata={"run": "b"})
    listed = client.chat.completions.list(model="other", metadata={"run": "a"}, limit=2)
    assert sorted(item.id for item in listed) == sorted(ids)
    changed = client.chat.completions.update(ids[0], metadata={"run": "c"})
    assert changed.to_dict()["metadata"] == {"run": "c"}
    assert client.chat.completions.delete(ids[1]).deleted
    left = {item.id for item in client.chat.completions.list(model="other", metadata={"run": "a"})}
    assert left == set(ids[2:])
