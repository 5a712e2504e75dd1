"""Framing: a little-endian uint32 length, then that many bytes of msgpack.

Clients send one request a frame; the engine answers with a list of messages a frame, so that all answers of
one step travel together.
"""

import asyncio
import struct
from typing import Any

import msgspec

from antiphon.engine.ipc.messages import Answer, Ready, Request

_LENGTH = struct.Struct("<I")
MAX_FRAME_BYTES = 256 * 1024 * 1024
"""Far above any real message; a longer frame means that the peer uses another protocol."""

encode = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(Request).decode
decode_answers = msgspec.msgpack.Decoder(list[Answer | Ready]).decode


class FrameError(Exception):
    """The peer sent something that is not a frame of this protocol."""


def frame(message: Any) -> bytes:
    """Return ``message`` encoded, with its length before it."""
    body = encode(message)
    return _LENGTH.pack(len(body)) + body


async def read_frame(reader: asyncio.StreamReader) -> bytes | None:
    """Return the next body, or None at the end of the stream.

    Raises:
        FrameError: the stream ended within a frame, or the length is absurd.
    """
    try:
        head = await reader.readexactly(_LENGTH.size)
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise FrameError("the stream ended within a frame's length") from error
        return None
    (length,) = _LENGTH.unpack(head)
    if length > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {length} bytes; at most {MAX_FRAME_BYTES} are accepted")
    try:
        return await reader.readexactly(length)
    except asyncio.IncompleteReadError as error:
        raise FrameError(f"the stream ended {length - len(error.partial)} bytes before the end of a frame") from error
