"""OpenVINO GenAI's own pipeline (continuous batching, prefix cache) behind a thin HTTP front, for comparison.

``python -m benchmarks.openvino_front MODEL.gguf FOLDER PORT THREADS CELLS``: converts the model below FOLDER if it is not
there, then answers streamed chat completions of exactly ``max_tokens``. Nothing else of OpenAI's API is here.
"""

import json
import queue
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from antiphon.engine.model.openvino.library import genai
from antiphon.engine.model.quantise import quantise

_PAGE = 32
_BATCH = 256


def _converted(model: Path, folder: Path) -> Path:
    """Return the folder below ``folder`` with graph and tokeniser; the first call makes it, with the weights in f16."""
    status = model.stat()
    folder /= f"{model.stem}-{status.st_size}-{status.st_mtime_ns}"
    if not (folder / "openvino_model.xml").exists():
        folder.mkdir(parents=True, exist_ok=True)
        copy = folder / "model.gguf"
        quantise(model, copy, "f16")
        genai().LLMPipeline(str(copy), "CPU", enable_save_ov_model=True)
        copy.unlink()
    return folder


class _Pipeline:
    """The pipeline, stepped by one thread; each request reads its tokens from a queue."""

    def __init__(self, folder: Path, threads: int, cells: int) -> None:
        module = genai()
        scheduler = module.SchedulerConfig()
        scheduler.num_kv_blocks = cells // _PAGE
        scheduler.max_num_batched_tokens = _BATCH
        scheduler.enable_prefix_caching = True
        options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        self._pipeline: Any = module.ContinuousBatchingPipeline(folder, scheduler, "CPU", options)
        self.tokeniser: Any = self._pipeline.get_tokenizer()
        self._new: queue.SimpleQueue[tuple[Any, Any, queue.SimpleQueue[int | None]]] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def start(self, ids: Any, max_tokens: int) -> "queue.SimpleQueue[int | None]":
        """Begin a greedy answer; None follows its last token."""
        config = genai().GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = max_tokens, True, False
        tokens: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._new.put((ids, config, tokens))
        return tokens

    def _run(self) -> None:
        running: dict[int, tuple[Any, queue.SimpleQueue[int | None]]] = {}
        number = 0
        while True:
            while not running or not self._new.empty():
                ids, config, tokens = self._new.get()
                number += 1
                running[number] = self._pipeline.add_request(number, ids, config), tokens
            self._pipeline.step()
            for key, (handle, tokens) in list(running.items()):
                while handle.can_read():
                    for token in next(iter(handle.read().values())).generated_ids:
                        tokens.put(token)
                if handle.get_status() != genai().GenerationStatus.RUNNING:
                    tokens.put(None)
                    del running[key]


def _handler(pipeline: _Pipeline) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its base names it so
            del format, args

        def do_GET(self) -> None:
            """Say that the server is ready, and name its model."""
            self._answer(200 if self.path in {"/health", "/v1/models"} else 404, b'{"data":[{"id":"model"}]}')

        def do_POST(self) -> None:
            """Stream a chat completion."""
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if not self.path.endswith("/chat/completions") or not body.get("stream") or "response_format" in body:
                self._answer(400, b'{"error":{"message":"only streamed chat completions without a format"}}')
                return
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            prompt = pipeline.tokeniser.apply_chat_template(body["messages"], add_generation_prompt=True)
            ids = pipeline.tokeniser.encode(prompt, add_special_tokens=False).input_ids
            tokens, said, made = pipeline.start(ids, body["max_tokens"]), "", list[int]()
            while (token := tokens.get()) is not None:
                made.append(token)
                text = pipeline.tokeniser.decode(made)
                if text.startswith(said) and not text.endswith("\ufffd") and text != said:
                    self._event({"choices": [{"index": 0, "delta": {"content": text[len(said) :]}}]})
                    said = text
            usage = {"prompt_tokens": ids.shape[1], "completion_tokens": len(made)}
            self._event({"choices": [], "usage": usage})
            self._chunk(b"data: [DONE]\n\n")
            self.wfile.write(b"0\r\n\r\n")

        def _event(self, event: dict[str, Any]) -> None:
            self._chunk(f"data: {json.dumps(event)}\n\n".encode())

        def _chunk(self, data: bytes) -> None:
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()

        def _answer(self, status: int, data: bytes) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return Handler


def main(arguments: list[str]) -> None:
    """Serve until the process ends."""
    model, folder, port, threads, cells = arguments
    pipeline = _Pipeline(_converted(Path(model), Path(folder)), int(threads), int(cells))
    ThreadingHTTPServer(("127.0.0.1", int(port)), _handler(pipeline)).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
