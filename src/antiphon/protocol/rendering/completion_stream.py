"""A streamed answer in the older form: ``text_completion`` frames."""

from typing import Any

from antiphon.protocol.completions import CompletionRequest
from antiphon.protocol.events import ChoiceFinished, Completed, Event, Started, TextDelta, Usage
from antiphon.protocol.rendering.completion_body import text_offset
from antiphon.protocol.rendering.frames import DONE, encode, fingerprint, obfuscate
from antiphon.protocol.rendering.logprobs import LegacyLogprobs
from antiphon.protocol.rendering.usage import usage_value


class CompletionStream:
    """Turns each event into the frames that say it, complete and ready to send."""

    def __init__(self, id: str, created: int, request: CompletionRequest) -> None:  # noqa: A002 - the name on the wire
        self.id = id
        self._created = created
        self._request = request
        self._close = (b',"usage":null' if request.include_usage else b"") + b"}\n\n"
        choices = range(len(request.prompts) * request.n)
        self._logprobs = [LegacyLogprobs(text_offset(request, index)) for index in choices]
        self._start(Started(request.model, 0))

    def _start(self, started: Started) -> None:
        head = {
            "id": self.id,
            "object": "text_completion",
            "created": self._created,
            "model": started.model,
            **fingerprint(started),
        }
        self._head = b"data: " + encode(head)[:-1] + b',"choices":['

    def feed(self, event: Event) -> list[bytes]:
        """Return the frames for one event; those of chat alone do not occur here."""
        match event:
            case Started():
                self._start(event)
                return []
            case TextDelta():
                return [self._text(event)]
            case ChoiceFinished():
                return [
                    self._chunk({"text": "", "index": event.index, "logprobs": None, "finish_reason": event.reason})
                ]
            case Completed():
                return [self._usage(event.usage)] if self._request.include_usage else []
            case _:
                raise TypeError(f"{type(event).__name__} has no place in a text completion")

    def done(self) -> bytes:
        """Return the last frame."""
        return DONE

    def _text(self, event: TextDelta) -> bytes:
        logprobs = None
        if self._request.logprobs is not None:
            logprobs = self._logprobs[event.index].value(event.logprobs)
        return self._chunk({"text": event.text, "index": event.index, "logprobs": logprobs, "finish_reason": None})

    def _chunk(self, choice: dict[str, Any]) -> bytes:
        return self._whole(self._head + encode(choice) + b"]" + self._close)

    def _usage(self, usage: Usage) -> bytes:
        return self._whole(self._head + b'],"usage":' + encode(usage_value(usage)) + b"}\n\n")

    def _whole(self, chunk: bytes) -> bytes:
        return obfuscate(chunk) if self._request.include_obfuscation else chunk
