"""Server-sent events as an OpenAI-compatible API sends them: bytes in any pieces, whole frames out.

Follows the "event stream interpretation" of the HTML standard as far as the API uses it: comments, ``data`` lines, and
frames ended by an empty line; line ends are LF or CRLF.
"""

from collections.abc import Iterator

DONE = b"[DONE]"
_MAX_FRAME_BYTES = 8 * 1024 * 1024
_FIELDS = (b"event:", b"id:", b"retry:")


class MalformedStream(Exception):  # noqa: N818 - what the bytes are
    """The bytes are no event stream; the text says what was found."""


class FrameSplitter:
    """Collects bytes and gives out those of whole frames."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """Return all whole frames so far, each ended by an empty line; may be empty."""
        if self._rest:
            data = self._rest + data
        if b"\r" in data:
            # A CR at the very end may be half of a line end: it waits for the rest.
            kept = b"\r" if data.endswith(b"\r") else b""
            data = data.removesuffix(b"\r").replace(b"\r\n", b"\n") + kept
        end = data.rfind(b"\n\n") + 2
        if end == 1:
            end = 0
        self._rest = data[end:]
        if len(self._rest) > _MAX_FRAME_BYTES:
            raise MalformedStream(f"an event of more than {_MAX_FRAME_BYTES} bytes")
        return data[:end]

    @property
    def rest(self) -> bytes:
        """What came after the last whole frame."""
        return self._rest


def payloads(frames: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield each frame with its data; the data of a frame without any (a comment) is empty."""
    for frame in frames.split(b"\n\n"):
        if frame.startswith(b"data: ") and b"\n" not in frame:
            yield frame, frame[6:]
        elif frame.strip():
            yield frame, b"\n".join(_data_lines(frame))


def _data_lines(frame: bytes) -> Iterator[bytes]:
    for line in frame.strip(b"\n").split(b"\n"):
        if line.startswith(b"data:"):
            yield line[5:].removeprefix(b" ")
        elif not line.startswith(b":") and not line.startswith(_FIELDS):
            raise MalformedStream(f"the line {line[:80]!r} in an event stream")
