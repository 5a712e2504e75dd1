"""The step loop on a tiny fake model: whatever else runs, a text is what it would be alone and without a cache."""

import queue
import random
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.engine.plain_engine import (
    TEXT,
    Alternation,
    Answered,
    PlainContext,
    expected,
    expected_logprobs,
    vocabulary,
)

from antiphon.engine.ipc.messages import (
    Answer,
    Delta,
    Failed,
    Finished,
    Generate,
    Prefill,
    Prefilled,
    PrefillEnded,
    SamplingParams,
    Score,
    Scored,
)
from antiphon.engine.sampling.repetition import MIN_REPEATED
from antiphon.engine.sampling.speculation import NgramPool
from antiphon.engine.scheduling.batch_shapes import free, plain, tiled
from antiphon.engine.scheduling.block import BLOCK
from antiphon.engine.scheduling.scheduler import Scheduler
from antiphon.engine.statistics import MASK_BOUNDS_S, HistogramCollector
from antiphon.engine.steps.loop import CancelTask, Command, StepLoop
from antiphon.engine.steps.tasks import Generation, IdlePrefill, RequestKey, Scoring

VOCABULARY = vocabulary()
GREEDY = SamplingParams(temperature=0)


class _OverError(Exception):
    """Nothing more happens."""


class _Script(queue.SimpleQueue[Command]):
    """An inbox whose commands come one iteration of the loop after another; those of other threads come on top."""

    def __init__(self, history: Iterator[list[Command]]) -> None:
        self._history = history
        self._now: list[Command] | None = None
        self.late: list[Command] = []
        self.known: list[RequestKey] = []
        self.cancelled: set[RequestKey] = set()

    def put(self, item: Command, block: bool = True, timeout: float | None = None) -> None:
        self.late.append(item)

    def get(self, block: bool = True, timeout: float | None = None) -> Command:
        if self._now is None:
            self._now, self.late = [*self.late, *next(self._history, [])], []
            while block and not self._now:
                self._now = next(self._history, None)
                if self._now is None:
                    raise _OverError
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
SHAPES = {"plain": plain(64), "tiled": tiled(128, attention_weight=2.0), "free": free(64)}


class _World:
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
    ) -> None:
        self._random = random.Random(seed)
        self._trouble = trouble
        batch_size = 128 if shape == "tiled" else 64
        self.context = PlainContext(cells, batch_size, seed)
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
        context: Any = self.context
        self.loop = StepLoop(context, self.scheduler, self._emit, mask_s=HistogramCollector(MASK_BOUNDS_S))
        self.script = _Script(self._history())
        self.loop.inbox = self.script
        self.asked: dict[RequestKey, tuple[Generate | Score | Prefill, list[int], Any]] = {}
        self.answers: dict[RequestKey, list[Answer]] = {}

    def follow(self, *history: list[Command]) -> None:
        """Run what comes in each iteration of the loop, and check what was answered."""
        self.script = self.loop.inbox = _Script(iter(history))
        self.run()
        self.check()

    def run(self) -> None:
        with pytest.raises(_OverError):
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
        )

    def _prompt(self) -> list[int]:
        earlier = [
            (prompt, expected(r, prompt, 0, g and g.copy()))
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
                sums = [sum(expected_logprobs(prompt + more, len(prompt))) for more in extra]
                assert scored.logprobs == pytest.approx(sums)

    def _check_texts(
        self, request: Generate, prompt: list[int], grammar: Alternation | None, answers: list[Answer]
    ) -> None:
        started, *answers = answers
        assert isinstance(started, Prefilled)
        assert started.prompt_tokens == len(prompt)
        assert started.cached_tokens <= max(0, len(prompt) - 2)
        echoed = [token.logprob for token in started.prompt_logprobs]
        assert echoed == ([None, *map(pytest.approx, expected_logprobs(prompt, 1))] if request.echo_logprobs else [])
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
            wanted = expected(request, prompt, index, grammar and grammar.copy())
            wanted.tokens = wanted.tokens if request.logprobs is not None else []
            assert choice == wanted


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.integers(0, 2**32),
    st.sampled_from([336, 448, 2048]),
    st.sampled_from(["plain", "tiled", "free"]),
    st.booleans(),
    st.sampled_from([0, 0.1, 0.5]),
    st.sampled_from([2, 64]),
)
def test_a_text_is_what_it_would_be_alone(  # noqa: PLR0917 - drawn by hypothesis
    seed: int, cells: int, shape: str, ngram_pool: bool, trouble: float, prefill_chunk: int
) -> None:
    """Whatever arrives, is cancelled, is drafted and lacks cells: every text, count and log-probability is a plain engine's."""
    world = _World(
        seed,
        cells=cells,
        shape=shape,
        ngram_pool=ngram_pool,
        trouble=trouble,
        prefill_chunk=64 if shape == "tiled" else prefill_chunk,
    )
    world.run()
    world.check()
    assert world.scheduler.num_running == world.scheduler.num_waiting == 0


def test_continuations_with_a_common_beginning_are_scored_whole() -> None:
    """Continuations with a common beginning each count the tokens of it, and so do prompts that are echoed together."""
    world = _World()
    score = world.ask((0, 0), Score(0, TEXT, ()), [7] * 20, [[5] * 30 + end for end in ([6] * 90, [7], [8])])
    echo = Generate(id=0, prompt=TEXT, max_tokens=1, sampling=GREEDY, echo_logprobs=True)
    echoes = [
        world.ask((0, number), msgspec.structs.replace(echo, id=number), [6] * 40 + [number]) for number in (2, 3)
    ]
    world.follow([score, *echoes])


@pytest.mark.parametrize("scores", [True, False])
def test_a_preempted_prompt_is_not_counted_twice(scores: bool) -> None:
    """A prompt that gives up its cells half-way and is computed again has each log-probability once."""
    world = _World(cells=600, prefill_chunk=2)
    endless = Generate(id=0, prompt=TEXT, max_tokens=150, sampling=SamplingParams(logit_bias={0: -100}, seed=1))
    texts = [world.ask((0, number), msgspec.structs.replace(endless, id=number), [2, number]) for number in (2, 3, 4)]
    if scores:
        late = world.ask((0, 9), Score(9, TEXT, ()), [9] * 5, [[8, 7, 6, 5, 4] * 60])
    else:
        late = world.ask(
            (0, 9), Generate(id=9, prompt=TEXT, max_tokens=1, sampling=GREEDY, echo_logprobs=True), [9, 8, 7, 6, 5] * 61
        )
    world.follow(list(texts), [], [], [late])
    assert world.scheduler.num_preempted


@pytest.mark.parametrize("size", range(1, 8))
def test_a_grammar_that_is_complete_ends_a_text_as_a_stop_does(size: int) -> None:
    """This holds for the last token that max_tokens allows; a text cut short ends with length, even if the rest was forced."""
    world = _World()
    sampling = SamplingParams(temperature=0, logit_bias={0: -100, 2: 20})
    tasks = [
        world.ask(
            (0, most), Generate(id=most, prompt=TEXT, max_tokens=most, sampling=sampling), [9, 8], Alternation(size)
        )
        for most in range(1, 12)
    ]
    world.follow(list(tasks))


@pytest.mark.parametrize("leaving", [[2, 3], [3, 2], [2]])
def test_a_step_is_aborted_once_all_of_its_requests_are_cancelled(leaving: list[int]) -> None:
    """This holds if they leave one after the other too; while one request stays, the step continues."""
    world = _World()
    request = Generate(id=0, prompt=TEXT, max_tokens=30, sampling=SamplingParams(logit_bias={0: -100}, seed=1))
    tasks = [world.ask((0, number), msgspec.structs.replace(request, id=number), [9, 8]) for number in (2, 3)]

    def leave() -> None:
        if world.loop.statistics.steps == 3:
            for number in leaving:
                world.loop.cancel(CancelTask(0, number))

    world.context.during = leave
    world.follow(list(tasks))
    assert world.context.num_aborted == (len(leaving) == 2)


@pytest.mark.parametrize("drafts", [False, True])
@pytest.mark.parametrize("ends_repetition", [False, True])
def test_a_loop_ends_as_if_it_were_too_long(ends_repetition: bool, drafts: bool) -> None:
    """A text that repeats itself ends early with reason length, if the request says so, and is otherwise the same."""
    world = _World(cells=2048, ngram_pool=drafts)
    sampling = SamplingParams(temperature=0, logit_bias={0: -100})
    request = Generate(id=0, prompt=TEXT, max_tokens=300, sampling=sampling, ends_repetition=ends_repetition)
    world.script = world.loop.inbox = _Script(iter([[world.ask((0, 0), request, [9, 8])]]))
    world.run()
    finished = world.answers[0, 0][-1]
    assert isinstance(finished, Finished)
    assert finished.reason == "length"
    text = "".join(answer.text for answer in world.answers[0, 0] if isinstance(answer, Delta))
    whole = expected(request, [9, 8], 0, None).text
    assert whole.startswith(text)
    assert (finished.num_tokens < 120) is ends_repetition
    assert (text == whole) is not ends_repetition
    assert finished.num_tokens >= MIN_REPEATED


def _idle_prefill(world: _World, prompt: list[int]) -> Generation | Scoring | IdlePrefill:
    return world.ask((1, 0), Prefill(0, TEXT), prompt)


def test_a_prefill_fills_the_cache_while_nothing_runs() -> None:
    """A prompt that was computed in advance is cached in whole blocks; it counts as no request."""
    world = _World()
    prompt = [3, 4] * 100
    request = Generate(id=1, prompt=TEXT, max_tokens=5, sampling=GREEDY)
    world.follow([_idle_prefill(world, prompt)], [], [], [], [], [], [world.ask((0, 1), request, [*prompt, 5, 6])])
    assert world.answers[1, 0] == [PrefillEnded(0, 192)]
    started = world.answers[0, 1][0]
    assert isinstance(started, Prefilled)
    assert started.cached_tokens == 192
    assert world.loop.statistics.requests == 1


def test_a_prefill_makes_way_for_a_request() -> None:
    """A request that arrives during the step of a prefill aborts it, and uses the blocks that are complete."""
    world = _World(shape="tiled")
    prompt = [3, 4] * 100
    request = world.ask((0, 1), Generate(id=1, prompt=TEXT, max_tokens=5, sampling=GREEDY), [*prompt, 5, 6])

    def arrive() -> None:
        if world.loop.statistics.steps == 1 and (0, 1) not in world.script.known and not world.script.late:
            world.loop.submit(request)

    world.context.during = arrive
    idle: list[list[Command]] = [[] for _ in range(9)]
    world.follow([_idle_prefill(world, prompt)], *idle)
    assert world.context.num_aborted == 1
    assert world.answers[1, 0] == [PrefillEnded(0, 128)]
    started = world.answers[0, 1][0]
    assert isinstance(started, Prefilled)
    assert started.cached_tokens == 128


def test_a_prefill_is_refused_while_a_request_runs() -> None:
    """It is answered at once, and nothing is computed for it."""
    world = _World()
    request = world.ask((0, 1), Generate(id=1, prompt=TEXT, max_tokens=5, sampling=GREEDY), [9, 8])
    world.follow([request, _idle_prefill(world, [3, 4] * 100)])
    assert world.answers[1, 0] == [PrefillEnded(0, 0)]
    assert world.loop.statistics.prefill_tokens == 2


def test_logits_that_are_not_numbers_fail_every_kind_of_request() -> None:
    """Texts, scores and echoed prompts fail with an internal error; requests after them are answered."""
    world = _World()
    row = world.context.logits

    def broken() -> Any:
        rows = row()
        rows[:, 3] = np.nan
        return rows

    request = Generate(id=0, prompt=TEXT, max_tokens=9, sampling=GREEDY)
    asked = [
        msgspec.structs.replace(request, id=1),
        msgspec.structs.replace(request, id=2, sampling=SamplingParams(seed=1)),
        msgspec.structs.replace(request, id=3, n=2, logprobs=1),
        msgspec.structs.replace(request, id=4, max_tokens=1, echo_logprobs=True),
    ]
    tasks: list[Command] = [world.ask((0, job.id), job, [9, 8, 7]) for job in asked]
    tasks.append(world.ask((0, 5), Score(5, TEXT, ()), [9, 8, 7], [[3, 4], [5]]))
    world.context.logits = broken
    world.script = world.loop.inbox = _Script(iter([tasks]))
    world.run()
    for number in range(1, 6):
        last = world.answers[0, number][-1]
        assert isinstance(last, Failed)
        assert last.kind == "internal"
        del world.asked[0, number]
    assert world.scheduler.num_running == world.scheduler.num_waiting == 0
    world.context.logits = row
    world.follow([world.ask((0, 6), msgspec.structs.replace(request, id=6), [9, 8, 7])])
