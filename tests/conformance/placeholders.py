"""A proxy that gives the official client's tests the objects which they only name.

The tests retrieve, change and delete responses, completions, conversations, files, uploads, batches and vector stores under
made-up ids. For each request whose path has such an id, an object is made first, and its own id takes the place of the
made-up one; so it is with the files that a request about vector stores names. Everything else passes unchanged.
"""

import contextlib
import json
import re
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2 as httpx
from tests.waiting import wait_until

MODEL = "gpt-4o-mini"
_HOP = {"connection", "transfer-encoding", "content-length", "content-encoding", "host", "keep-alive"}
_FROM_SCRATCH = re.compile(
    r"/(resp_677efb5139a88190b512bc3fef8e535d|response_id|completion_id|conv_123|file_id|upload_abc123|batch_id)(?=[/?]|$)"
)
_STORE = re.compile(r"^/vector_stores/(?:vs_abc123|vector_store_id)(?=[/?]|$)")
_STORE_PARTS = re.compile(r"/(?:(file-abc123|file_id)|(vsfb_abc123|batch_id))(?=[/?]|$)")
_STORE_FILES = re.compile(rb'(?<="file_id":)\s*"file_id"|(?<="file_ids":)\s*\["string"\]')


@contextmanager
def with_objects(url: str, key: str) -> Generator[str]:
    """Yield the base URL of the proxy before the API at ``url``."""
    with httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=60) as client:
        handler = type("Handler", (_Handler,), {"client": client})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    client: httpx.Client

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # a client of the suite left
            super().handle()

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        path = self.path.removeprefix("/v1")
        if path.startswith("/vector_stores"):
            path, body = _with_store(self.client, path), _with_files(self.client, body)
        else:
            path = _with_ids(self.client, path)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        answer = self.client.request(self.command, path, content=body, headers=headers)
        self.send_response(answer.status_code)
        for name, value in answer.headers.items():
            if name.lower() not in _HOP:
                self.send_header(name, value)
        self.send_header("content-length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    do_GET = do_POST = do_DELETE = _pass_on  # noqa: N815 - the names that http.server calls

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Say nothing."""


def _with_ids(client: httpx.Client, path: str) -> str:
    found = _FROM_SCRATCH.search(path)
    if found is None:
        return path
    made = _MAKERS[found[1].split("_")[0]](client)
    path = path.replace(found[1], made["id"])
    return path.replace("msg_abc", made.get("item_id", "msg_abc"))


def _with_store(client: httpx.Client, path: str) -> str:
    """Put a store with a file in a batch into the place of the store, the file and the batch that a path names."""
    if _STORE.search(path) is None:
        return path
    file = _file(client, purpose="assistants")["id"]
    store = client.post("/vector_stores", json={}).json()["id"]
    batch = client.post(f"/vector_stores/{store}/file_batches", json={"file_ids": [file]}).json()["id"]
    if path.endswith("/content"):
        wait_until(lambda: client.get(f"/vector_stores/{store}/files/{file}").json()["status"] == "completed")
    path = _STORE.sub(f"/vector_stores/{store}", path)
    return _STORE_PARTS.sub(lambda found: f"/{file if found[1] else batch}", path)


def _with_files(client: httpx.Client, body: bytes) -> bytes:
    """Put a file into the place of one that a body names."""

    def made(found: re.Match[bytes]) -> bytes:
        name = json.dumps(_file(client, purpose="assistants")["id"]).encode()
        return b"[" + name + b"]" if found[0].lstrip().startswith(b"[") else name

    return _STORE_FILES.sub(made, body)


def _response(client: httpx.Client) -> dict[str, str]:
    body = {"model": MODEL, "input": "hi", "background": True, "stream": False}
    made = client.post("/responses", json=body).json()
    wait_until(lambda: client.get(f"/responses/{made['id']}").json()["status"] == "completed")
    return {"id": made["id"]}


def _completion(client: httpx.Client) -> dict[str, str]:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "store": True}
    return {"id": client.post("/chat/completions", json=body).json()["id"]}


def _conversation(client: httpx.Client) -> dict[str, str]:
    made = client.post("/conversations", json={"items": [{"role": "user", "content": "hi"}]}).json()
    listed = client.get(f"/conversations/{made['id']}/items").json()["data"]
    return {"id": made["id"], "item_id": listed[0]["id"]}


def _file(client: httpx.Client, content: bytes = b"text", purpose: str = "batch") -> dict[str, str]:
    form = {"file": ("lines.jsonl", content)}
    return {"id": client.post("/files", data={"purpose": purpose}, files=form).json()["id"]}


def _upload(client: httpx.Client) -> dict[str, str]:
    wanted = {"filename": "a.txt", "purpose": "assistants", "bytes": 4, "mime_type": "text/plain"}
    return {"id": client.post("/uploads", json=wanted).json()["id"]}


def _batch(client: httpx.Client) -> dict[str, str]:
    """Make one that is not over when it is to be cancelled."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
    lines = [{"custom_id": str(n), "method": "POST", "url": "/v1/chat/completions", "body": body} for n in range(500)]
    file = _file(client, "\n".join(map(json.dumps, lines)).encode())
    wanted = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    return {"id": client.post("/batches", json=wanted).json()["id"]}


_MAKERS: dict[str, Callable[[httpx.Client], dict[str, str]]] = {
    "resp": _response, "response": _response, "completion": _completion, "conv": _conversation,
    "file": _file, "upload": _upload, "batch": _batch,
}  # fmt: skip
