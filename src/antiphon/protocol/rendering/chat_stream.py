"""A streamed answer: ``chat.completion.chunk`` frames.

Nearly every frame of a stream differs from the one before in a few characters of text alone. So what surrounds them is
encoded once, and a frame is put together from bytes.
"""

from typing import Any

from antiphon.protocol.chat import ChatRequest
from antiphon.protocol.events import (
    ChoiceFinished,
    Completed,
    Event,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from antiphon.protocol.rendering.chat_body import call_value, finish_reason
from antiphon.protocol.rendering.frames import DONE, SERVICE_TIER, encode, fingerprint, obfuscate
from antiphon.protocol.rendering.logprobs import token_values
from antiphon.protocol.rendering.usage import usage_value

_TEXT = b'{"content":'
_END = b'},"logprobs":null,"finish_reason":null}]'


class ChatStream:
    """Turns each event into the frames that say it, complete and ready to send."""

    def __init__(self, id: str, created: int, request: ChatRequest) -> None:  # noqa: A002 - the name on the wire
        self.id = id
        self._created = created
        self._request = request
        self._is_plain = not request.logprobs and not request.include_obfuscation
        self._close = (b',"usage":null' if request.include_usage else b"") + b"}\n\n"
        self._text_close = _END + self._close
        self._opened = [False] * request.n
        self._kinds: dict[tuple[int, int], str] = {}
        self._start(Started(request.model, 0))

    def _start(self, started: Started) -> None:
        head = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": started.model,
            "service_tier": SERVICE_TIER,
            **fingerprint(started),
        }
        self._head = b"data: " + encode(head)[:-1] + b',"choices":['
        self._openings = [self._head + b'{"index":%d,"delta":' % index for index in range(self._request.n)]
        self._text_openings = [opening + _TEXT for opening in self._openings]

    def feed(self, event: Event) -> list[bytes]:
        """Return the frames for one event; none for those that only count."""
        if type(event) is TextDelta and self._is_plain and self._opened[event.index]:
            return [self._text_openings[event.index] + encode(event.text) + self._text_close]
        match event:
            case Started():
                self._start(event)
                return []
            case Completed():
                return [self._usage(event.usage)] if self._request.include_usage else []
            case ToolCallStarted():
                return [self._call(event)]
            case _:
                frames = self._open(event)
                frames.append(self._continue(event))
                return frames

    def done(self) -> bytes:
        """Return the last frame."""
        return DONE

    def _open(self, event: TextDelta | ReasoningDelta | RefusalDelta | ToolCallDelta | ChoiceFinished) -> list[bytes]:
        if self._opened[event.index]:
            return []
        self._opened[event.index] = True
        if isinstance(event, RefusalDelta):
            return [self._chunk(event.index, {"role": "assistant", "content": None, "refusal": ""})]
        return [self._chunk(event.index, {"role": "assistant", "content": "", "refusal": None})]

    def _continue(self, event: TextDelta | ReasoningDelta | RefusalDelta | ToolCallDelta | ChoiceFinished) -> bytes:
        match event:
            case TextDelta():
                logprobs = {"content": token_values(event.logprobs), "refusal": None}
                return self._chunk(
                    event.index, {"content": event.text}, logprobs=logprobs if self._request.logprobs else None
                )
            case ReasoningDelta():
                return self._chunk(event.index, {"reasoning_content": event.text})
            case RefusalDelta():
                return self._chunk(event.index, {"refusal": event.text})
            case ToolCallDelta():
                return self._chunk(event.index, self._arguments(event))
            case ChoiceFinished():
                return self._chunk(
                    event.index, {}, reason=finish_reason(event.reason, legacy=self._request.legacy_functions)
                )

    def _call(self, event: ToolCallStarted) -> bytes:
        self._kinds[event.index, event.call] = event.kind
        value = call_value(event, "")
        delta: dict[str, Any] = {}
        if not self._opened[event.index]:
            self._opened[event.index] = True
            delta = {"role": "assistant", "content": None, "refusal": None}
        if self._request.legacy_functions:
            delta["function_call"] = value["function"]
        else:
            delta["tool_calls"] = [{"index": event.call, **value}]
        return self._chunk(event.index, delta)

    def _arguments(self, event: ToolCallDelta) -> dict[str, Any]:
        if self._request.legacy_functions:
            return {"function_call": {"arguments": event.arguments}}
        if self._kinds[event.index, event.call] == "custom":
            return {"tool_calls": [{"index": event.call, "custom": {"input": event.arguments}}]}
        return {"tool_calls": [{"index": event.call, "function": {"arguments": event.arguments}}]}

    def _chunk(
        self, index: int, delta: dict[str, Any], *, logprobs: dict[str, Any] | None = None, reason: str | None = None
    ) -> bytes:
        tail = encode({"logprobs": logprobs, "finish_reason": reason})
        return self._whole(self._openings[index] + encode(delta) + b"," + tail[1:] + b"]" + self._close)

    def _usage(self, usage: Usage) -> bytes:
        return self._whole(self._head + b'],"usage":' + encode(usage_value(usage)) + b"}\n\n")

    def _whole(self, chunk: bytes) -> bytes:
        return obfuscate(chunk) if self._request.include_obfuscation else chunk
