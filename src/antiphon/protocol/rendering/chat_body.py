"""A whole answer: the ``chat.completion`` object."""

from typing import Any

from antiphon.protocol.chat import ChatRequest
from antiphon.protocol.events import (
    ChoiceFinished,
    Completed,
    Event,
    FinishReason,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from antiphon.protocol.rendering.frames import SERVICE_TIER, encode, fingerprint
from antiphon.protocol.rendering.logprobs import token_values
from antiphon.protocol.rendering.usage import usage_value


class _Choice:
    """What one choice has said so far."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.reasoning: list[str] = []
        self.refusal: list[str] = []
        self.calls: dict[int, ToolCallStarted] = {}
        self.arguments: dict[int, list[str]] = {}
        self.logprobs: list[TokenLogprob] = []
        self.reason: FinishReason = "stop"


class ChatBody:
    """Collects a request's events; ``value`` or ``encoded`` is the answer once ``Completed`` was fed."""

    def __init__(self, id: str, created: int, request: ChatRequest) -> None:  # noqa: A002 - the name on the wire
        self.id = id
        self._created = created
        self._request = request
        self._started = Started(request.model, 0)
        self._choices = [_Choice() for _ in range(request.n)]
        self._usage = Usage()

    def feed(self, event: Event) -> None:
        match event:
            case Started():
                self._started = event
            case TextDelta():
                choice = self._choices[event.index]
                choice.text.append(event.text)
                choice.logprobs.extend(event.logprobs)
            case ReasoningDelta():
                self._choices[event.index].reasoning.append(event.text)
            case RefusalDelta():
                self._choices[event.index].refusal.append(event.text)
            case ToolCallStarted():
                self._choices[event.index].calls[event.call] = event
                self._choices[event.index].arguments[event.call] = []
            case ToolCallDelta():
                self._choices[event.index].arguments[event.call].append(event.arguments)
            case ChoiceFinished():
                self._choices[event.index].reason = event.reason
            case Completed():
                self._usage = event.usage

    def value(self) -> dict[str, Any]:
        """Return the answer as a JSON value."""
        return {
            "id": self.id,
            "object": "chat.completion",
            "created": self._created,
            "model": self._started.model,
            "choices": [self._choice(index, choice) for index, choice in enumerate(self._choices)],
            "usage": usage_value(self._usage),
            "service_tier": SERVICE_TIER,
            **fingerprint(self._started),
        }

    def encoded(self) -> bytes:
        """Return the answer as JSON."""
        return encode(self.value())

    def _choice(self, index: int, choice: _Choice) -> dict[str, Any]:
        return {
            "index": index,
            "message": self._message(choice),
            "logprobs": {"content": token_values(choice.logprobs), "refusal": None} if self._request.logprobs else None,
            "finish_reason": finish_reason(choice.reason, legacy=self._request.legacy_functions),
        }

    def _message(self, choice: _Choice) -> dict[str, Any]:
        is_silent = not choice.text and bool(choice.calls or choice.refusal)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if is_silent else "".join(choice.text),
            "refusal": "".join(choice.refusal) if choice.refusal else None,
        }
        if choice.reasoning:
            message["reasoning_content"] = "".join(choice.reasoning)
        calls = [call_value(call, "".join(choice.arguments[number])) for number, call in choice.calls.items()]
        if calls and self._request.legacy_functions:
            message["function_call"] = calls[0]["function"]
        elif calls:
            message["tool_calls"] = calls
        message["annotations"] = []
        return message


def finish_reason(reason: FinishReason, *, legacy: bool) -> FinishReason:
    """Return the reason in the words of the request: older requests know functions, not tools."""
    return "function_call" if legacy and reason == "tool_calls" else reason


def call_value(call: ToolCallStarted, arguments: str) -> dict[str, Any]:
    """Return a call as messages and first deltas show it."""
    if call.kind == "custom":
        return {"id": call.id, "type": "custom", "custom": {"name": call.name, "input": arguments}}
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}
