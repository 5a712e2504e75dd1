"""Server-sent events from an upstream: bytes in any pieces, whole frames out.

Follows the "event stream interpretation" of the HTML standard (WHATWG, 9.2.6): lines end in LF, CR or CRLF, a byte order
mark at the start is skipped, comments and unknown fields are ignored, several ``data`` lines are joined, an empty line ends
a frame, and what follows the last empty line is discarded.
"""

from collections.abc import Iterator

DONE = b"[DONE]"
MAX_FRAME_BYTES = 8 * 1024 * 1024
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_RELAYED_FIELDS = frozenset({b"", b"event", b"data"})
_ANSWER_EVENTS = frozenset({b"", b"message", b"error"})
_EMPTY_EVENTS = frozenset({b"", b"null"})


class MalformedStream(Exception):  # noqa: N818 - what the bytes are
    """The bytes are not an answer of the API; the text says what was found."""


class FrameSplitter:
    """Collects bytes and returns those of whole frames."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._start: bytes | None = b""
        self._skips_lf = False

    def feed(self, data: bytes) -> bytes:
        """Return all whole frames so far, with LF as line ends, each ended by an empty line; may be empty.

        Raises ``MalformedStream`` for a frame of more than ``MAX_FRAME_BYTES``.
        """
        if self._start is not None:
            data = self._without_mark(self._start + data)
        if self._skips_lf and data:
            # The CR before it has ended the line already.
            self._skips_lf = False
            data = data.removeprefix(b"\n")
        if b"\r" in data:
            self._skips_lf = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if not self._rest and data.endswith(b"\n\n"):
            return data
        searched = max(0, len(self._rest) - 1)
        self._rest += data
        end = self._rest.rfind(b"\n\n", searched) + 2
        frames = b""
        if end >= 2:  # noqa: PLR2004 - the empty line that was found
            frames = bytes(self._rest[:end])
            del self._rest[:end]
        if len(self._rest) > MAX_FRAME_BYTES:
            raise MalformedStream(f"an event of more than {MAX_FRAME_BYTES} bytes")
        return frames

    def _without_mark(self, data: bytes) -> bytes:
        if len(data) < len(_BYTE_ORDER_MARK) and _BYTE_ORDER_MARK.startswith(data):
            self._start = data
            return b""
        self._start = None
        return data.removeprefix(_BYTE_ORDER_MARK)


def check_text(text: bytes) -> None:
    """Raise ``MalformedStream`` for what is not UTF-8: JSON is decoded only in part here, and clients would fail on the rest."""
    if text.isascii():
        return
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise MalformedStream(f"text that is not UTF-8 ({error.reason})") from None


def payloads(frames: bytes) -> Iterator[tuple[bytes, bytes | None]]:
    """Yield each frame with its data; the data of a frame that has none (a comment, an id) is None."""
    for frame in frames.split(b"\n\n"):
        if frame.startswith(b"data: ") and b"\n" not in frame:
            yield frame, frame[6:]
        elif frame.strip(b"\n"):
            lines = [value for name, value in _fields(frame) if name == b"data"]
            yield frame, b"\n".join(lines) if lines else None


def is_empty_event(payload: bytes) -> bool:
    """Whether an event says nothing: no text, or ``null``, which llama-server sends while it reads several prompts."""
    return payload.strip() in _EMPTY_EVENTS


def relayed_frame(frame: bytes, *, has_data: bool = True) -> bytes | None:
    """Return a frame with its comments, its event and its data alone, the same object if nothing else is in it.

    ``id`` and ``retry`` are for a client that connects again, which no answer here can be continued for; the official
    client takes a comment after an ``id``, and a frame without data, for an event with empty data. None for nothing.
    """
    if frame.startswith(b"data: ") and b"\n" not in frame:
        return frame
    lines = frame.split(b"\n")
    relayed = _RELAYED_FIELDS if has_data else {b""}
    kept = [line for line in lines if line.partition(b":")[0] in relayed]
    if len(kept) == len(lines):
        return frame
    return b"\n".join(kept) if any(kept) else None


def is_other_event(frame: bytes, payload: bytes) -> bool:
    """Whether the frame's ``event`` field gives it another purpose than to carry the answer, such as ``ping``."""
    if b"event" not in frame or b"\n" not in frame or b'"choices"' in payload or payload.lstrip().startswith(DONE):
        return False
    return next((value for name, value in _fields(frame) if name == b"event"), b"") not in _ANSWER_EVENTS


def is_error_event(frame: bytes) -> bool:
    """Whether the frame's ``event`` field says that its data is an error."""
    return b"event" in frame and b"\n" in frame and (b"event", b"error") in _fields(frame)


def _fields(frame: bytes) -> Iterator[tuple[bytes, bytes]]:
    for line in frame.split(b"\n"):
        name, _, value = line.partition(b":")
        yield name, value.removeprefix(b" ")
