"""A very fast mock of an OpenAI-compatible API, so that the gateway in front of it dominates the measurement.

    python benchmarks/mock_upstream.py PORT [--chunks 64] [--chunk-delay-ms 0]

It answers every POST with one fixed chat completion, or a fixed stream if the body asks for one, and any GET with a model list.
"""

import argparse
import asyncio
from typing import cast

import httptools
import uvloop

_ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"mock","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"Hello from the mock upstream.","refusal":null,"annotations":[]},"logprobs":null,'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":6,"total_tokens":15},'
    b'"service_tier":"default","system_fingerprint":"fp_mock"}'
)
_MODELS = b'{"object":"list","data":[{"id":"mock","object":"model","created":1700000000,"owned_by":"mock"}]}'
_CHUNK = (
    'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"mock",'
    '"choices":[{"index":0,"delta":%s,"logprobs":null,"finish_reason":%s}]}\n\n'
)
_USAGE = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"mock","choices":[],'
    b'"usage":{"prompt_tokens":9,"completion_tokens":64,"total_tokens":73}}\n\n'
)


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class Upstream(asyncio.Protocol):
    """One connection; its requests are answered one after another."""

    def __init__(self, num_chunks: int, delay_s: float) -> None:
        self._num_chunks = num_chunks
        self._delay_s = delay_s
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._body = b""

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self._parser.get_method() == b"GET":
            self._reply(_MODELS)
        elif b'"stream":true' in self._body or b'"stream": true' in self._body:
            self._task = asyncio.ensure_future(self._stream(b"include_usage" in self._body))
        else:
            self._reply(_ANSWER)

    def _reply(self, body: bytes) -> None:
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
        )

    async def _stream(self, with_usage: bool) -> None:
        write = self._transport.write
        write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        write(_framed((_CHUNK % ('{"role":"assistant","content":"","refusal":null}', "null")).encode()))
        for _ in range(self._num_chunks):
            await asyncio.sleep(self._delay_s)
            write(_framed((_CHUNK % ('{"content":" word"}', "null")).encode()))
        write(_framed((_CHUNK % ("{}", '"stop"')).encode()))
        if with_usage:
            write(_framed(_USAGE))
        write(_framed(b"data: [DONE]\n\n") + b"0\r\n\r\n")


async def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--chunks", type=int, default=64)
    parser.add_argument("--chunk-delay-ms", type=float, default=0)
    given = parser.parse_args()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Upstream(given.chunks, given.chunk_delay_ms / 1000), "127.0.0.1", given.port, backlog=4096
    )
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_main())
