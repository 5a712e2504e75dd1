"""The step loop on a tiny fake model: whatever else runs, a text is what it would be alone and without a cache."""

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.engine.loop_world import GREEDY, Script, World
from tests.engine.plain_engine import TEXT, Alternation, SmallContext, expected

from antiphon.engine.ipc.messages import (
    Delta,
    Failed,
    Finished,
    Generate,
    Prefill,
    Prefilled,
    PrefillEnded,
    SamplingParams,
    Score,
)
from antiphon.engine.sampling.repetition import MIN_REPEATED
from antiphon.engine.steps.batch_loop import CancelTask
from antiphon.engine.steps.loop import Command
from antiphon.engine.steps.tasks import Generation, IdlePrefill, Scoring


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.integers(0, 2**32),
    st.sampled_from([336, 448, 2048]),
    st.sampled_from(["plain", "tiled", "free", "paged"]),
    st.booleans(),
    st.sampled_from([0, 0.1, 0.5]),
    st.sampled_from([2, 64]),
    st.sampled_from([0, 200, 2048]),
)
def test_a_text_is_what_it_would_be_alone(  # noqa: PLR0917 - drawn by hypothesis
    seed: int, cells: int, shape: str, ngram_pool: bool, trouble: float, prefill_chunk: int, small_cells: int
) -> None:
    """Whatever arrives, is cancelled, is drafted and lacks cells: every text, count and log-probability is a plain engine's."""
    world = World(
        seed,
        cells=cells,
        shape=shape,
        ngram_pool=ngram_pool,
        trouble=trouble,
        prefill_chunk=64 if shape == "tiled" else prefill_chunk,
        small=SmallContext(small_cells, 64, seed) if small_cells and shape != "free" else None,
    )
    world.run()
    world.check()
    assert world.scheduler.num_running == world.scheduler.num_waiting == 0


def test_continuations_with_a_common_beginning_are_scored_whole() -> None:
    """Continuations with a common beginning each count the tokens of it, and so do prompts that are echoed together."""
    world = World()
    score = world.ask((0, 0), Score(0, TEXT, ()), [7] * 20, [[5] * 30 + end for end in ([6] * 90, [7], [8])])
    echo = Generate(id=0, prompt=TEXT, max_tokens=1, sampling=GREEDY, echo_logprobs=True)
    echoes = [
        world.ask((0, number), msgspec.structs.replace(echo, id=number), [6] * 40 + [number]) for number in (2, 3)
    ]
    world.follow([score, *echoes])


@pytest.mark.parametrize("scores", [True, False])
def test_a_preempted_prompt_is_not_counted_twice(scores: bool) -> None:
    """A prompt that gives up its cells half-way and is computed again has each log-probability once."""
    world = World(cells=600, prefill_chunk=2)
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
    world = World()
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
    world = World()
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
    world = World(cells=2048, ngram_pool=drafts)
    sampling = SamplingParams(temperature=0, logit_bias={0: -100})
    request = Generate(id=0, prompt=TEXT, max_tokens=300, sampling=sampling, ends_repetition=ends_repetition)
    world.script = world.loop.inbox = Script(iter([[world.ask((0, 0), request, [9, 8])]]))
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


def _idle_prefill(world: World, prompt: list[int]) -> Generation | Scoring | IdlePrefill:
    return world.ask((1, 0), Prefill(0, TEXT), prompt)


def test_a_prefill_fills_the_cache_while_nothing_runs() -> None:
    """A prompt that was computed in advance is cached in whole blocks; it counts as no request."""
    world = World()
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
    world = World(shape="tiled")
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


def test_a_step_of_a_batch_makes_way_for_an_interactive_request() -> None:
    """A request that arrives during the step aborts it, and is answered first; another batch does not abort it."""
    for priority, num_aborted in (("interactive", 1), ("batch", 0)):
        world = World(shape="tiled")
        batch = world.ask(
            (1, 0), Generate(id=0, prompt=TEXT, max_tokens=9, sampling=GREEDY, priority="batch"), [3, 4] * 100
        )
        other = Generate(id=1, prompt=TEXT, max_tokens=5, sampling=GREEDY, priority=priority)  # type: ignore[arg-type]
        request = world.ask((0, 1), other, [5, 6])
        arrivals = [request]

        def arrive(world: World = world, arrivals: list[Any] = arrivals) -> None:
            if world.loop.statistics.steps == 1 and arrivals:
                world.loop.submit(arrivals.pop())

        world.context.during = arrive
        idle: list[list[Command]] = [[] for _ in range(40)]
        world.follow([batch], *idle)
        assert world.context.num_aborted == num_aborted
        assert list(world.answers) == [(0, 1), (1, 0)]


def test_what_can_wait_is_done_while_there_are_no_requests() -> None:
    """A request that arrives during a piece of idle work is answered before the next piece."""
    seen: list[int] = []

    def work() -> Iterator[None]:
        seen.append(len(world.answers))
        request = Generate(id=0, prompt=TEXT, max_tokens=3, sampling=GREEDY)
        world.script.put(world.ask((0, 0), request, [5] * 9))
        yield
        seen.append(len(world.answers))
        yield
        seen.append(len(world.answers))

    world = World(idle_work=work())
    world.follow([])
    assert seen == [0, 1, 1]
    assert isinstance(world.answers[0, 0][-1], Finished)


def test_a_prefill_is_refused_while_a_request_runs() -> None:
    """It is answered at once, and nothing is computed for it."""
    world = World()
    request = world.ask((0, 1), Generate(id=1, prompt=TEXT, max_tokens=5, sampling=GREEDY), [9, 8])
    world.follow([request, _idle_prefill(world, [3, 4] * 100)])
    assert world.answers[1, 0] == [PrefillEnded(0, 0)]
    assert world.loop.statistics.prefill_tokens == 2


def test_logits_that_are_not_numbers_fail_every_kind_of_request() -> None:
    """Texts, scores and echoed prompts fail with an internal error; requests after them are answered."""
    world = World()
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
    world.script = world.loop.inbox = Script(iter([tasks]))
    world.run()
    for number in range(1, 6):
        last = world.answers[0, number][-1]
        assert isinstance(last, Failed)
        assert last.kind == "internal"
        del world.asked[0, number]
    assert world.scheduler.num_running == world.scheduler.num_waiting == 0
    world.context.logits = row
    world.follow([world.ask((0, 6), msgspec.structs.replace(request, id=6), [9, 8, 7])])
