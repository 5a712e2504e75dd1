"""Every example of the toolkit's pages at endpoints that refuse what current models refuse.

What the examples print depends on the model, so that is compared on the local model alone (``tests/docs``).
"""

import contextlib
import gc
import io
import threading
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.docs.test_examples import ROOT, examples
from tests.toolkit.model_endpoints import ModelEndpoint, ReasoningEndpoint, ThinkingEndpoint

PAGES = sorted((ROOT / "docs" / "toolkit").glob("*.md"))
ENDPOINTS = {"reasoning": ReasoningEndpoint, "thinking": ThinkingEndpoint}


@contextlib.contextmanager
def served(endpoint: ModelEndpoint) -> Iterator[str]:
    """Serve ``endpoint`` on a port of this machine, for clients that an example makes itself."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            request = httpx2.Request(self.command, f"http://localhost{self.path}", content=body)
            with lock:
                answer = endpoint.handle(request)
            self.send_response(answer.status_code)
            for name in ("content-type", "x-request-id"):
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            self.send_header("content-length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002 - the name of the base class

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("kind", ENDPOINTS)
@pytest.mark.parametrize("page", [p for p in PAGES if any(examples(p.read_text()))], ids=lambda p: p.stem)
def test_examples_run_on_models_that_refuse_what_current_models_refuse(
    page: Path, kind: str, endpoint: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unchanged: what a model does not take is left out, and tools go where the model takes them."""
    model = ENDPOINTS[kind]()
    with served(model) as url, warnings.catch_warnings():
        warnings.simplefilter("default")
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        monkeypatch.setenv("OPENAI_API_KEY", "k")
        monkeypatch.setenv("ANTIPHON_HOME", str(tmp_path / "home"))
        monkeypatch.chdir(tmp_path)
        session: dict[str, object] = {"__name__": "__main__"}
        for example in examples(page.read_text()):
            code = compile("\n" * (example.line - 1) + example.code, str(page), "exec")
            with contextlib.redirect_stdout(io.StringIO()):
                exec(code, session)
        # A page need not close what it opens; the collector takes it here, where its warnings belong.
        session.clear()
        gc.collect()
