"""A whole answer in the older form: the ``text_completion`` object."""

from typing import Any

from antiphon.protocol.completions import CompletionRequest
from antiphon.protocol.events import (
    ChoiceFinished,
    Completed,
    Event,
    FinishReason,
    Started,
    TextDelta,
    TokenLogprob,
    Usage,
)
from antiphon.protocol.rendering.frames import encode, fingerprint
from antiphon.protocol.rendering.logprobs import LegacyLogprobs
from antiphon.protocol.rendering.usage import usage_value


def text_offset(request: CompletionRequest, index: int) -> int:
    """Return where a choice's own text begins: after its prompt, unless that is echoed or was given as token ids."""
    prompt = request.prompts[index // request.n]
    return len(prompt) if isinstance(prompt, str) and not request.echo else 0


class _Choice:
    def __init__(self) -> None:
        self.text: list[str] = []
        self.logprobs: list[TokenLogprob] = []
        self.reason: FinishReason = "stop"


class CompletionBody:
    """Collects a request's events; ``value`` or ``encoded`` is the answer once ``Completed`` was fed."""

    def __init__(self, id: str, created: int, request: CompletionRequest) -> None:  # noqa: A002 - the name on the wire
        self.id = id
        self._created = created
        self._request = request
        self._started = Started(request.model, 0)
        self._choices = [_Choice() for _ in range(len(request.prompts) * request.n)]
        self._usage = Usage()

    def feed(self, event: Event) -> None:
        """Take one event; those of chat alone (reasoning, refusals, calls) do not occur here."""
        match event:
            case Started():
                self._started = event
            case TextDelta():
                self._choices[event.index].text.append(event.text)
                self._choices[event.index].logprobs.extend(event.logprobs)
            case ChoiceFinished():
                self._choices[event.index].reason = event.reason
            case Completed():
                self._usage = event.usage
            case _:
                raise TypeError(f"{type(event).__name__} has no place in a text completion")

    def value(self) -> dict[str, Any]:
        """Return the answer as a JSON value."""
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self._created,
            "model": self._started.model,
            "choices": [self._choice(index, choice) for index, choice in enumerate(self._choices)],
            "usage": usage_value(self._usage),
            **fingerprint(self._started),
        }

    def encoded(self) -> bytes:
        """Return the answer as JSON."""
        return encode(self.value())

    def _choice(self, index: int, choice: _Choice) -> dict[str, Any]:
        logprobs = None
        if self._request.logprobs is not None:
            logprobs = LegacyLogprobs(text_offset(self._request, index)).value(choice.logprobs)
        return {"text": "".join(choice.text), "index": index, "logprobs": logprobs, "finish_reason": choice.reason}
