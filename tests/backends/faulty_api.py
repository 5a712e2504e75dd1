"""An API that misbehaves at the level of bytes, which no well-kept HTTP server can be made to do."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Writer = asyncio.StreamWriter
Script = Callable[["FaultyApi", Writer], Awaitable[None]]

ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
    "field_of_tomorrow": {"a": [1.50, None]},
}


def chunk(content: str | None, finish: str | None = None, **more: object) -> bytes:
    delta = {} if content is None else {"content": content}
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return b"data: " + json.dumps({"model": "m", "choices": choices, **more}).encode() + b"\n\n"


def head(status: str = "200 OK", content_type: str = "text/event-stream", *more: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-type: {content_type}", "connection: close", *more]
    return "\r\n".join([*lines, "", ""]).encode()


@dataclass
class FaultyApi:
    """Plays its scripts, one per request and the last one again and again. ``requests`` are the bodies that came."""

    scripts: list[Script]
    url: str = ""
    requests: list[dict[str, object]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        try:
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:] if line)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            self.headers.append(headers)
            self.requests.append(json.loads(body or b"{}"))
            script = self.scripts[min(len(self.requests), len(self.scripts)) - 1]
            watcher = asyncio.ensure_future(self._watch(reader))
            try:
                await script(self, writer)
            finally:
                watcher.cancel()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _watch(self, reader: asyncio.StreamReader) -> None:
        while await reader.read(1024):
            pass
        self.left.set()


async def silence(api: FaultyApi, writer: Writer) -> None:
    """Send nothing until the client leaves."""
    await api.left.wait()


def sends(*pieces: bytes) -> Script:
    async def script(api: FaultyApi, writer: Writer) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    return script


def sends_then_is_silent(*pieces: bytes) -> Script:
    async def script(api: FaultyApi, writer: Writer) -> None:
        await sends(*pieces)(api, writer)
        await api.left.wait()

    return script


def sends_then_resets(*pieces: bytes) -> Script:
    """Send and then reset the connection, so that the client sees an error instead of an end."""

    async def script(api: FaultyApi, writer: Writer) -> None:
        await sends(*pieces)(api, writer)
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    return script


def fails(status: str, body: bytes, *headers: str) -> Script:
    return sends(head(status, "application/json", f"content-length: {len(body)}", *headers), body)


def answers(value: object = ANSWER) -> Script:
    body = json.dumps(value).encode()
    return sends(head("200 OK", "application/json", f"content-length: {len(body)}"), body)


def streams(*contents: str) -> Script:
    usage = {"prompt_tokens": 3, "completion_tokens": len(contents), "total_tokens": 3 + len(contents)}
    last = b"data: " + json.dumps({"model": "m", "choices": [], "usage": usage}).encode() + b"\n\n"
    return sends(head(), *(chunk(text) for text in contents), chunk(None, "stop"), last, b"data: [DONE]\n\n")


@asynccontextmanager
async def faulty_api(*scripts: Script) -> AsyncGenerator[FaultyApi]:
    api = FaultyApi(list(scripts))
    server = await asyncio.start_server(api.serve, "127.0.0.1", 0)
    api.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with server:
        yield api
