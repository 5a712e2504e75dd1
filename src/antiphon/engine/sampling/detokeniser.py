"""From the bytes of tokens to text that can be sent: whole characters, and no beginning of a stop string."""

import codecs


class Detokeniser:
    """The text of one growing sequence.

    ``push`` returns final text. It holds back the bytes of an incomplete UTF-8 character and the longest tail that some
    stop string begins with. Bytes that can never become a character are replaced by U+FFFD.
    Once a stop string has appeared, ``stopped`` names it and the text before it has been returned.
    """

    __slots__ = ("_decoder", "_held", "_stop", "stopped")

    def __init__(self, stop: tuple[str, ...] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stop = tuple(text for text in stop if text)
        self._held = ""
        self.stopped: str | None = None

    @property
    def is_holding(self) -> bool:
        """Whether text or bytes are held back."""
        return bool(self._held) or bool(self._decoder.getstate()[0])

    def push(self, data: bytes) -> str:
        """Take the bytes of the next token and return the text that has become final."""
        return self._release(self._decoder.decode(data))

    def finish(self) -> str:
        """Return what was held back, at the end of the sequence."""
        text = self._release(self._decoder.decode(b"", final=True))
        if self.stopped is None:
            text += self._held
            self._held = ""
        return text

    def _release(self, more: str) -> str:
        if self.stopped is not None:
            return ""
        if not self._stop:
            return more
        text = self._held + more
        found = [(at, -len(stop), stop) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            at, _, self.stopped = min(found)
            self._held = ""
            return text[:at]
        keep = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of ``text`` that ``stop`` begins with."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[len(text) - length :]):
            return length
    return 0
