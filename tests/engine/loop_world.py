"""A step loop, what is asked of it, and what it answers: compared with an engine without any cleverness.

The model is the tiny one of ``plain_engine``, or a real one behind a context of a runtime.
"""

import queue
import random
from collections.abc import Iterator
from typing import Any

import pytest
from tests.engine.plain_engine import (
    DATA,
    TEXT,
    Alternation,
    Answered,
    LogitsAfter,
    PlainContext,
    expected,
    expected_logprobs,
    logits_after,
    vocabulary,
)

from antiphon.engine.ipc.messages import (
    Answer,
    Delta,
    Finished,
    Generate,
    Prefill,
    Prefilled,
    PrefillEnded,
    SamplingParams,
    Score,
    Scored,
)
from antiphon.engine.sampling.speculation import NgramPool
from antiphon.engine.scheduling.batch_shapes import BatchShapes, free, paged, plain, tiled
from antiphon.engine.scheduling.block import BLOCK
from antiphon.engine.scheduling.scheduler import Scheduler
from antiphon.engine.statistics import MASK_BOUNDS_S, HistogramCollector
from antiphon.engine.steps.batch_loop import CancelTask
from antiphon.engine.steps.drafting import DraftModel
from antiphon.engine.steps.loop import Command, StepLoop
from antiphon.engine.steps.tasks import Generation, IdlePrefill, RequestKey, Scoring

VOCABULARY = vocabulary()
GREEDY = SamplingParams(temperature=0)


class OverError(Exception):
    """Nothing more happens."""


class Script(queue.SimpleQueue[Command]):
    """An inbox whose commands come one iteration of the loop after another; those of other threads come on top."""

    def __init__(self, history: Iterator[list[Command]]) -> None:
        self._history = history
        self._now: list[Command] | None = None
        self.late: list[Command] = []
        self.known: list[RequestKey] = []
        self.cancelled: set[RequestKey] = set()

    def put(self, item: Command, block: bool = True, timeout: float | None = None) -> None:
        self.late.append(item)

    def empty(self) -> bool:
        return not self._now and not self.late

    def get(self, block: bool = True, timeout: float | None = None) -> Command:
        if self._now is None:
            self._now, self.late = [*self.late, *next(self._history, [])], []
            while block and not self._now:
                self._now = next(self._history, None)
                if self._now is None:
                    raise OverError
        if not self._now:
            self._now = None
            raise queue.Empty
        command = self._now.pop(0)
        if isinstance(command, CancelTask):
            self.cancelled |= {
                key for key in self.known if key[0] == command.connection and command.request in {None, key[1]}
            }
        else:
            self.known.append(command.key)
        return command


CONTEXT = 320
STOPS = ("ab", "a b", "日", "\n\nc", "b!", "c")
BASES = [[random.Random(base).randrange(2, 10) for _ in range(CONTEXT)] for base in range(2)]
SHAPES = {"plain": plain(64), "tiled": tiled(128, attention_weight=2.0), "free": free(64), "paged": paged(64)}


def drafted(small: Any, shapes: BatchShapes) -> DraftModel:
    """Return a draft model over the context of a small one: with fewer slots than texts run at once."""
    return DraftModel(
        small,
        num_slots=3,
        num_tokens=len(DATA),
        limit=CONTEXT - 20,
        max_draft=5,
        relative_size=0.05,
        shapes=shapes,
        drafts_siblings=True,
    )


class World:
    """A loop, what was asked of it, and what it answered."""

    def __init__(
        self,
        seed: int = 0,
        *,
        cells: int = 512,
        shape: str = "plain",
        ngram_pool: bool = False,
        trouble: float = 0,
        prefill_chunk: int = 64,
        context: Any = None,
        model: LogitsAfter = logits_after,
        tolerance: float = 0,
        idle_work: Iterator[None] | None = None,
        small: Any = None,
    ) -> None:
        self._random = random.Random(seed)
        self._trouble = trouble
        batch_size = 128 if shape == "tiled" else 64
        self.context = PlainContext(cells, batch_size, seed) if context is None else context
        self._model = model
        self._tolerance = tolerance
        self.context.during = self._during
        self.scheduler = Scheduler(
            cells=cells,
            slots=4 if shape == "free" else 16,
            num_sequences=4,
            batch_size=batch_size,
            prefill_chunk_size=prefill_chunk,
            share=shape != "free",
            shapes=SHAPES[shape],
        )
        self._pool = NgramPool(5, capacity=200) if ngram_pool else None
        self.loop = StepLoop(
            self.context,
            self.scheduler,
            self._emit,
            mask_s=HistogramCollector(MASK_BOUNDS_S),
            draft_model=None if small is None else drafted(small, SHAPES[shape]),
            idle_work=idle_work,
        )
        self.script = Script(self._history())
        self.loop.inbox = self.script
        self.asked: dict[RequestKey, tuple[Generate | Score | Prefill, list[int], Any]] = {}
        self.answers: dict[RequestKey, list[Answer]] = {}

    def follow(self, *history: list[Command]) -> None:
        """Run what comes in each iteration of the loop, and check what was answered."""
        self.script = self.loop.inbox = Script(iter(history))
        self.run()
        self.check()

    def run(self) -> None:
        with pytest.raises(OverError):
            self.loop.run()

    def _history(self) -> Iterator[list[Command]]:
        for _ in range(self._random.randrange(30)):
            commands: list[Command] = [self._request() for _ in range(self._random.choice([0, 0, 1, 1, 3]))]
            if self.asked and self._random.random() < self._trouble:
                commands.append(self._cancel())
            yield commands
            for _ in range(self._random.choice([0, 0, 3, 30])):
                yield []

    def _request(self) -> Generation | Scoring | IdlePrefill:
        key = self._random.randrange(2), len(self.asked)
        prompt = self._prompt()
        if self.scheduler.cache.shares and len(prompt) > BLOCK + 1 and self._random.random() < 0.2:
            return self.ask(key, Prefill(key[1], TEXT), prompt)
        if self._random.random() < 0.15:
            continuations = [self._tokens(self._random.choice([1, 5, 70])) for _ in range(self._random.randint(1, 3))]
            return self.ask(key, Score(key[1], TEXT, ()), prompt, continuations)
        request = self._generate(key[1], CONTEXT - len(prompt))
        grammar = Alternation(self._random.choice([1, 6, 40])) if self._random.random() < 0.3 else None
        return self.ask(key, request, prompt, grammar)

    def ask(
        self, key: RequestKey, request: Generate | Score | Prefill, prompt: list[int], extra: Any = None
    ) -> Generation | Scoring | IdlePrefill:
        """Return the task of a request; ``extra`` is the grammar of a text, or the continuations to be scored."""
        self.asked[key] = request, prompt, extra
        if isinstance(request, Prefill):
            return IdlePrefill(key, list(prompt), 0.0)
        if isinstance(request, Score):
            return Scoring(key, request, list(prompt), [list(continuation) for continuation in extra], 0.0)
        assert request.max_tokens is not None
        return Generation(
            key,
            request,
            list(prompt),
            request.max_tokens,
            VOCABULARY,
            constraint=extra,
            ngram_pool=self._pool,
            arrived=0.0,
        )

    def _generate(self, number: int, room: int) -> Generate:
        pick = self._random.choice
        return Generate(
            id=number,
            prompt=TEXT,
            n=pick([1, 1, 2, 3]),
            max_tokens=pick([0, 1, 2, 9, room, room]),
            sampling=SamplingParams(
                temperature=pick([0, 0, 0.7, 1.5]),
                top_p=pick([1, 0.8]),
                presence_penalty=pick([0, 0, 0.5]),
                frequency_penalty=pick([0, 0, 0.2]),
                logit_bias=pick([{}, {}, {0: -100}, {2: 4.0, 5: -1}]),
                seed=self._random.randrange(3),
            ),
            stop=pick([(), (), STOPS[:2], STOPS[2:4], STOPS]),
            logprobs=pick([None, None, 0, 2]),
            special=pick([False, True]),
            echo_logprobs=pick([False, False, False, True]),
            priority=pick(["interactive", "interactive", "batch"]),
        )

    def _prompt(self) -> list[int]:
        earlier = [
            (prompt, expected(r, prompt, 0, g and g.copy(), self._model))
            for r, prompt, g in self.asked.values()
            if isinstance(r, Generate)
        ]
        if earlier and self._random.random() < 0.4:
            prompt, answered = self._random.choice(earlier)
            prompt = [*prompt, *(token for token, _ in answered.tokens)]
        else:
            prompt = self._random.choice(BASES)[: self._random.choice([1, 2, 3, 63, 64, 66, 100, 130, 200])]
        return [*prompt[:220], *self._tokens(self._random.choice([0, 1, 2, 20]))]

    def _tokens(self, number: int) -> list[int]:
        return [self._random.randrange(2, 10) for _ in range(number)]

    def _cancel(self) -> CancelTask:
        key = self._random.choice(list(self.asked))
        return CancelTask(key[0], None if self._random.random() < 0.1 else key[1])

    def _during(self) -> None:
        if self._random.random() < self._trouble / 2:
            self.loop.cancel(self._cancel())
        elif self._random.random() < self._trouble / 4:
            self.loop.submit(self._request())
        elif self._random.random() < self._trouble / 2:
            self.context.abort(True)  # a cancellation that came late

    def _emit(self, answers: list[tuple[int, Answer]]) -> None:
        for connection, answer in answers:
            key = connection, answer.id
            assert key not in self.script.cancelled, "a cancelled request gets no more answers"
            self.answers.setdefault(key, []).append(answer)

    def check(self) -> None:
        started = [answer for earlier in self.answers.values() for answer in earlier if isinstance(answer, Prefilled)]
        assert self.loop.statistics.prompt_tokens == sum(answer.prompt_tokens for answer in started)
        assert self.loop.statistics.prompt_tokens_shared == sum(answer.cached_tokens for answer in started)
        for key, (request, prompt, extra) in self.asked.items():
            if key in self.script.cancelled:
                continue
            answers = self.answers[key]
            if isinstance(request, Generate):
                self._check_texts(request, prompt, extra, answers)
            elif isinstance(request, Prefill):
                (ended,) = answers
                assert isinstance(ended, PrefillEnded)
                assert ended.num_tokens in range(0, len(prompt) - 1, BLOCK)
            else:
                (scored,) = answers
                assert isinstance(scored, Scored)
                sums = [sum(expected_logprobs(prompt + more, len(prompt), self._model)) for more in extra]
                assert scored.logprobs == pytest.approx(sums, abs=1e-6 + 100 * self._tolerance)

    def _check_texts(
        self, request: Generate, prompt: list[int], grammar: Alternation | None, answers: list[Answer]
    ) -> None:
        started, *answers = answers
        assert isinstance(started, Prefilled)
        assert started.prompt_tokens == len(prompt)
        assert started.cached_tokens <= max(0, len(prompt) - 2)
        echoed = [token.logprob for token in started.prompt_logprobs]
        assert echoed == (
            [None, *map(self._near, expected_logprobs(prompt, 1, self._model))] if request.echo_logprobs else []
        )
        choices = [Answered() for _ in range(request.n)]
        for answer in answers:
            assert isinstance(answer, Delta | Finished)
            choice = choices[answer.index]
            assert not choice.reason
            choice.num_tokens = answer.num_tokens
            if isinstance(answer, Delta):
                choice.text += answer.text
                choice.tokens += [(token.id, token.logprob or 0.0) for token in answer.tokens]
            else:
                choice.reason, choice.stop_string = answer.reason, answer.stop_string
        for index, choice in enumerate(choices):
            wanted = expected(request, prompt, index, grammar and grammar.copy(), self._model)
            wanted.tokens = wanted.tokens if request.logprobs is not None else []
            if self._tolerance:
                wanted.tokens = [(token, self._near(logprob)) for token, logprob in wanted.tokens]
            assert choice == wanted

    def _near(self, value: float) -> Any:
        return pytest.approx(value, abs=1e-9 + self._tolerance)
