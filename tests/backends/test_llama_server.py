"""llama.cpp's own server as an upstream keeps the contract; needs its program, named by ``LLAMA_SERVER`` or on the path."""

import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import AsyncGenerator, Generator

import pytest
from tests.backends.conformance import BackendConformance

from antiphon.backends.base import Backend
from antiphon.backends.upstream import UpstreamBackend, UpstreamSettings
from antiphon.models import Catalogue, ModelStore

PROGRAM = os.environ.get("LLAMA_SERVER") or shutil.which("llama-server")

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.model,
    pytest.mark.skipif(PROGRAM is None, reason="llama-server is not installed (or named by LLAMA_SERVER)"),
]


@pytest.fixture(scope="module")
def url() -> Generator[str]:
    entry = next(entry for entry in Catalogue.default().entries if entry.kind == "chat")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    # One thread: more of them spin at barriers, and make no progress on a busy machine.
    options = ["--alias", "small", "--port", str(port), "-c", "8192", "-np", "4", "-t", "1"]
    options += ["-m", str(ModelStore().ensure(entry))]
    process = subprocess.Popen([PROGRAM or "", *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        root = f"http://127.0.0.1:{port}"
        for _ in range(300):
            assert process.poll() is None, "llama-server ended before it was ready"
            try:
                with urllib.request.urlopen(root + "/health", timeout=1):
                    break
            except OSError:
                time.sleep(0.2)
        yield root + "/v1"
    finally:
        process.terminate()
        process.wait()


class TestConformance(BackendConformance):
    chat_model = "small"
    embedding_model = None
    reranker = None
    counts_tokens = False

    @pytest.fixture
    async def backend(self, url: str) -> AsyncGenerator[UpstreamBackend]:
        backend = UpstreamBackend(UpstreamSettings(name="llama-server", base_url=url))
        await backend.probe()
        yield backend
        await backend.aclose()

    def running(self, backend: Backend) -> int:
        assert isinstance(backend, UpstreamBackend)
        return backend.statistics()[0].values.running  # type: ignore[attr-defined]

    async def test_an_unknown_model_is_refused(self, backend: Backend) -> None:
        """It answers to any name; that a name is listed is for the router to see to."""
        assert not backend.serves("no-such-model")
