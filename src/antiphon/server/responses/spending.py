"""What all generations of one response cost together, known at every moment: a client that leaves pays for what was done."""

import msgspec

from antiphon.protocol.events import Completed, Meter, Started, Usage


class Spending:
    """``meter`` is the sum: of the generations that are over, and of the one that runs, by its own meter.

    ``answer_tokens`` counts what was generated for the answer itself, and not for a summary before it.
    """

    def __init__(self) -> None:
        self.meter = Meter()
        self.answer_tokens = 0
        self.is_estimate = False
        self._over = Usage()
        self._over_s: float | None = None
        self._running = Meter()

    def begin(self, event: Started) -> None:
        """A generation has begun."""
        self._running = event.meter or Meter(Usage(event.prompt_tokens, 0, event.cached_tokens))
        self.refresh()

    def refresh(self) -> None:
        """Bring ``meter`` up to date."""
        self.meter.usage = added(self._over, self._running.usage)
        seconds = [part for part in (self._over_s, self._running.compute_s) if part is not None]
        self.meter.compute_s = sum(seconds) if seconds else None

    def end(self, event: Completed, *, is_answer: bool = True) -> None:
        """The generation that ran is over."""
        self._running.usage = event.usage
        self.refresh()
        self._over, self._over_s = self.meter.usage, self.meter.compute_s
        self._running = Meter()
        self.is_estimate = self.is_estimate or event.is_estimate
        if is_answer:
            self.answer_tokens += event.usage.completion_tokens


def added(first: Usage, second: Usage) -> Usage:
    """Return the sum of two usages."""
    return Usage(*(a + b for a, b in zip(msgspec.structs.astuple(first), msgspec.structs.astuple(second), strict=True)))
