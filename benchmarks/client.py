"""A bare HTTP client for measuring: asyncio streams, without a library that would take processor time itself."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from itertools import pairwise
from typing import Any

import msgspec

_LIMIT_BYTES = 1 << 26

_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class RequestFailed(Exception):  # noqa: N818 - the answer is the news
    """The answer's status was not 200."""


class ChatResult(msgspec.Struct, frozen=True):
    """One streamed chat answer. Times are seconds from sending; ``gaps`` are the times between chunks with text."""

    ttft_s: float
    total_s: float
    gaps: list[float]
    text: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None


class Client:
    """Talks to one server at ``http://127.0.0.1:port``."""

    def __init__(self, port: int, model: str) -> None:
        self.port = port
        self.model = model
        self._idle: list[_Connection] = []

    async def chat(
        self, messages: list[dict[str, str]], *, max_tokens: int, end_tokens: list[int], **extra: Any
    ) -> ChatResult:
        """Stream a greedy answer of exactly ``max_tokens``: the end tokens are forbidden. Raises ``RequestFailed``."""
        body = {
            "model": self.model,
            "messages": messages,
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "logit_bias": {str(token): -100 for token in end_tokens},
            **extra,
        }
        began = time.perf_counter()
        times: list[float] = []
        pieces: list[str] = []
        usage: dict[str, Any] = {}
        async with aclosing(self._events("/v1/chat/completions", body)) as events:
            async for event in events:
                usage = event.get("usage") or usage
                for choice in event.get("choices", ()):
                    if text := choice["delta"].get("content"):
                        pieces.append(text)
                        times.append(time.perf_counter() - began)
        total = time.perf_counter() - began
        details: dict[str, int] = usage.get("prompt_tokens_details") or {}
        return ChatResult(
            ttft_s=times[0] if times else total,
            total_s=total,
            gaps=[after - before for before, after in pairwise(times)],
            text="".join(pieces),
            prompt_tokens=usage.get("prompt_tokens", 0),
            completion_tokens=usage.get("completion_tokens", len(pieces)),
            cached_tokens=details.get("cached_tokens"),
        )

    async def embed(self, texts: list[str]) -> int:
        """Embed ``texts`` in one request, as the official client does (base64). Return the number of vectors."""
        body = {"model": self.model, "input": texts, "encoding_format": "base64"}
        answer = json.loads(await self._post("/v1/embeddings", body))
        return len(answer["data"])

    async def aclose(self) -> None:
        """Close the idle connections."""
        while self._idle:
            await _close(self._idle.pop()[1])

    async def get(self, path: str) -> tuple[int, bytes]:
        """Return status and body of a GET over a new connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=_LIMIT_BYTES)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\nconnection: close\r\n\r\n".encode())
            status, headers = await _head(reader)
            return status, b"".join([part async for part in _body(reader, headers)])
        finally:
            await _close(writer)

    async def _post(self, path: str, body: dict[str, Any]) -> bytes:
        async with aclosing(self._exchange(path, body)) as parts:
            return b"".join([part async for part in parts])

    async def _events(self, path: str, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        pending = b""
        async with aclosing(self._exchange(path, body)) as parts:
            async for part in parts:
                *lines, pending = (pending + part).split(b"\n")
                for line in lines:
                    payload = line.strip().removeprefix(b"data:").strip()
                    if line.startswith(b"data:") and payload != b"[DONE]":
                        event = json.loads(payload)
                        if "error" in event:
                            raise RequestFailed(str(event["error"]))
                        yield event

    async def _exchange(self, path: str, body: dict[str, Any]) -> AsyncGenerator[bytes]:
        payload = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\nauthorization: Bearer bench\r\n"
            f"content-type: application/json\r\ncontent-length: {len(payload)}\r\n\r\n"
        )
        connection, status, headers = await self._send(head.encode() + payload)
        complete = False
        try:
            if status != 200:
                text = b"".join([part async for part in _body(connection[0], headers)])
                raise RequestFailed(f"{path}: HTTP {status}: {text[:500].decode(errors='replace')}")
            async for part in _body(connection[0], headers):
                yield part
            complete = _can_be_kept(headers)
        finally:
            if complete:
                self._idle.append(connection)
            else:
                await _close(connection[1])

    async def _send(self, request: bytes) -> tuple[_Connection, int, dict[str, str]]:
        """Send over an idle connection, or over a new one if the server has closed it."""
        while self._idle:
            with suppress(OSError, asyncio.IncompleteReadError):
                return await _begun(self._idle.pop(), request)
        return await _begun(await asyncio.open_connection("127.0.0.1", self.port, limit=_LIMIT_BYTES), request)


async def _begun(connection: _Connection, request: bytes) -> tuple[_Connection, int, dict[str, str]]:
    reader, writer = connection
    try:
        writer.write(request)
        return connection, *await _head(reader)
    except BaseException:
        await _close(writer)
        raise


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


def _can_be_kept(headers: dict[str, str]) -> bool:
    return headers.get("connection") != "close" and ("transfer-encoding" in headers or "content-length" in headers)


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
    return int(lines[0].split(" ", 2)[1]), headers


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> AsyncGenerator[bytes]:
    if headers.get("transfer-encoding") == "chunked":
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            yield (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)  # no server here sends trailers
    elif "content-length" in headers:
        yield await reader.readexactly(int(headers["content-length"]))
    else:
        while part := await reader.read(1 << 16):
            yield part
