"""Counts what the step loop does, for ``EngineStatistics``."""

import time

from antiphon.engine.ipc.messages import Answer, Delta, Prefilled
from antiphon.engine.scheduling.scheduler import Scheduler
from antiphon.engine.scheduling.sequence import Step
from antiphon.engine.statistics import (
    STEP_BOUNDS_S,
    TOKEN_BOUNDS_S,
    TTFT_BOUNDS_S,
    EngineStatistics,
    HistogramCollector,
    RateCollector,
)


class StepMeter:
    """Belongs to the step loop's thread; others read ``snapshot``. Constraints observe ``mask_s`` themselves."""

    def __init__(self, scheduler: Scheduler, cells: int, mask_s: HistogramCollector) -> None:
        self.num_requests = 0
        self.num_cancelled = 0
        self._scheduler = scheduler
        self._cells = cells
        self._prompt_tokens = 0
        self._shared_tokens = 0
        self._prefill_tokens = 0
        self._decode_tokens = 0
        self._drafted_tokens = 0
        self._accepted_tokens = 0
        self._model_drafted_tokens = 0
        self._model_accepted_tokens = 0
        self._num_steps = 0
        self._prefill_rate = RateCollector()
        self._decode_rate = RateCollector()
        self._step_s = HistogramCollector(STEP_BOUNDS_S)
        self._ttft_s = HistogramCollector(TTFT_BOUNDS_S)
        self._inter_token_s = HistogramCollector(TOKEN_BOUNDS_S)
        self._mask_s = mask_s
        self._last_token: dict[tuple[int, int, int], float] = {}

    def step(self, step: Step, seconds: float, num_accepted: int) -> None:
        """Count a decode of ``seconds`` in which ``num_accepted`` draft tokens were accepted."""
        num_decoded = sum(piece.count for piece in step.slices if piece.start >= piece.sequence.num_prompt)
        num_drafted = sum(len(piece.draft) for piece in step.slices)
        num_prefilled = sum(piece.count for piece in step.slices) - num_decoded
        self._num_steps += 1
        self._step_s.observe(seconds)
        self._prefill_tokens += num_prefilled
        self._decode_tokens += num_decoded + num_accepted
        self._drafted_tokens += num_drafted
        self._accepted_tokens += num_accepted
        # A step that does both is one matrix product, so its time is divided by tokens.
        share = (num_decoded + num_drafted) / (num_decoded + num_drafted + num_prefilled)
        self._prefill_rate.observe(num_prefilled, seconds * (1 - share))
        self._decode_rate.observe(num_decoded + num_accepted, seconds * share)

    def drafted_by_model(self, num_drafted: int, num_accepted: int) -> None:
        """Count a draft of the draft model; ``step`` counts it too."""
        self._model_drafted_tokens += num_drafted
        self._model_accepted_tokens += num_accepted

    def answer(self, connection: int, answer: Answer, arrived: float) -> None:
        """Count an answer: shared tokens, the time to the first token, the time between tokens."""
        if isinstance(answer, Prefilled):
            self._prompt_tokens += answer.prompt_tokens
            self._shared_tokens += answer.cached_tokens
        elif isinstance(answer, Delta):
            key = (connection, answer.id, answer.index)
            now = time.monotonic()
            before = self._last_token.get(key)
            if before is None:
                self._ttft_s.observe(now - arrived)
            else:
                self._inter_token_s.observe(now - before)
            self._last_token[key] = now

    def ended(self, connection: int, request: int) -> None:
        """Forget a request."""
        for key in [key for key in self._last_token if key[:2] == (connection, request)]:
            del self._last_token[key]

    def snapshot(self) -> EngineStatistics:
        """Return the current counts."""
        scheduler = self._scheduler
        return EngineStatistics(
            running=scheduler.num_running,
            waiting=scheduler.num_waiting,
            cells_used=scheduler.cells_used,
            cells_total=self._cells,
            cached_tokens=scheduler.cache.num_evictable,
            prompt_tokens=self._prompt_tokens,
            prompt_tokens_shared=self._shared_tokens,
            prefill_tokens=self._prefill_tokens,
            decode_tokens=self._decode_tokens,
            drafted_tokens=self._drafted_tokens,
            accepted_tokens=self._accepted_tokens,
            model_drafted_tokens=self._model_drafted_tokens,
            model_accepted_tokens=self._model_accepted_tokens,
            prefill_tokens_per_s=self._prefill_rate.snapshot(),
            decode_tokens_per_s=self._decode_rate.snapshot(),
            requests=self.num_requests,
            cancelled=self.num_cancelled,
            preempted=scheduler.num_preempted,
            steps=self._num_steps,
            step_s=self._step_s.snapshot(),
            ttft_s=self._ttft_s.snapshot(),
            inter_token_s=self._inter_token_s.snapshot(),
            mask_s=self._mask_s.snapshot(),
        )
