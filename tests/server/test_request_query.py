"""What a request carries besides its body."""

from pathlib import Path
from typing import Any, cast

import httpx2
import openai
from tests.serving import running

from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Script
from antiphon.server.app import ROUTES
from antiphon.server.request.call import Call
from antiphon.server.request.query import note_client_id

MODEL = "gpt-4o-mini"


def test_the_clients_own_request_id_is_noted_for_the_log() -> None:
    """The log line of a request has the id that its client gave it."""
    call = Call(
        cast("Any", None), {"headers": [(b"x-client-request-id", b"mine-1")]}, cast("Any", None), cast("Any", None)
    )
    note_client_id(call)
    assert call.note == {"client_request_id": "mine-1"}


def test_a_parameter_in_the_query_is_refused_wherever_something_would_change(tmp_path: Path) -> None:
    """It would have meant something to whoever wrote it. Nothing is changed, and ``include`` may be where OpenAI has it."""
    backend = ScriptedBackend(Script(models=(MODEL,), embedding_models=("vectors",)))
    with (
        running(backend, tmp_path) as up,
        httpx2.Client(base_url=up.root) as http,
        openai.OpenAI(base_url=up.url, api_key="any", max_retries=0) as client,
    ):
        ids = objects(client)
        changes = [
            (method, path.replace(":path", "").replace("/batches/{batch_id}", "/batches/{lines}").format(**ids))
            for path, methods in ROUTES.items()
            for method in methods.keys() - {"GET"}
            if path.startswith(("/v1/", "/tokenize", "/console/"))
        ]
        answers = {
            change: http.request(*change, params={"color": "red"}, json={}).json().get("error", {})
            for change in changes
        }
        assert {change: error.get("param") for change, error in answers.items()} == dict.fromkeys(changes, "color")
        assert {error["code"] for error in answers.values()} == {"unknown_parameter"}
        more: Any = [{"role": "user", "content": "x"}]
        whole: Any = ["message.output_text.logprobs"]
        client.conversations.items.create(ids["conversation_id"], items=more, include=whole)
        client.conversations.items.retrieve(ids["item_id"], conversation_id=ids["conversation_id"], include=whole)


def objects(client: openai.OpenAI) -> dict[str, str]:
    """Make one object of each kind; return their ids by the names that paths have for them."""
    messages: Any = [{"role": "user", "content": "x"}]
    conversation = client.conversations.create(items=messages).id
    file = client.files.create(file=("a.txt", b"word"), purpose="user_data").id
    store = client.vector_stores.create().id
    lines = client.files.create(file=("lines.jsonl", b"{}"), purpose="batch").id
    return {
        "completion_id": client.chat.completions.create(model=MODEL, messages=messages, store=True).id,
        "response_id": client.responses.create(model=MODEL, input="x", background=True).id,
        "conversation_id": conversation,
        "item_id": client.conversations.items.list(conversation).data[0].id,
        "file_id": file,
        "upload_id": client.uploads.create(filename="a", purpose="user_data", bytes=1, mime_type="text/plain").id,
        "vector_store_id": store,
        "batch_id": client.vector_stores.file_batches.create(store, file_ids=[file]).id,
        "lines": client.batches.create(
            input_file_id=lines, endpoint="/v1/chat/completions", completion_window="24h"
        ).id,
        "model": MODEL,
        "key_id": "key_none",
    }
