"""Keeps the meter of one request current while its choices grow."""

import time
from collections.abc import Iterable

import msgspec

from antiphon.backends.local.fingerprint import fingerprint
from antiphon.backends.trace import TRACE
from antiphon.engine.ipc.messages import ModelInfo, Prefilled
from antiphon.protocol import events
from antiphon.protocol.events import Event, Meter, ReasoningDelta, Usage


class UsageMeter:
    """Counts what a request uses; a request with several prompts is started once for each."""

    def __init__(self, num_choices: int) -> None:
        self.meter = Meter()
        self._counted = [0] * num_choices
        self._began = time.perf_counter()

    def started(self, model: str, answer: Prefilled, info: ModelInfo) -> events.Started:
        """Note a prompt's tokens and return what begins the request; ``info`` is of the engine that runs it."""
        if (trace := TRACE.get()) is not None:
            trace.prefilled(answer.queue_s, answer.prefill_s)
        used = self.meter.usage
        self.meter.usage = msgspec.structs.replace(
            used,
            prompt_tokens=used.prompt_tokens + answer.prompt_tokens,
            cached_tokens=used.cached_tokens + answer.cached_tokens,
        )
        return events.Started(
            model,
            answer.prompt_tokens,
            answer.cached_tokens,
            meter=self.meter,
            system_fingerprint=fingerprint(model, info),
        )

    def count(self, index: int, num_tokens: int, produced: Iterable[Event]) -> None:
        """Note that choice ``index`` has ``num_tokens`` tokens now; the new ones produced ``events``, which may be reasoning."""
        new = num_tokens - self._counted[index]
        self._counted[index] = num_tokens
        used = self.meter.usage
        is_reasoning = any(isinstance(event, ReasoningDelta) for event in produced)
        self.meter.usage = Usage(
            used.prompt_tokens,
            used.completion_tokens + new,
            used.cached_tokens,
            used.reasoning_tokens + (new if is_reasoning else 0),
        )
        self.meter.compute_s = time.perf_counter() - self._began
