"""The scheduler and the prefix cache, against a naive model of the KV cache."""

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from antiphon.engine.scheduler import Scheduler
from antiphon.engine.sequence import Copy, Sequence, Step

NO_TOKEN = -1


class NaiveCache:
    """Cells as llama.cpp keeps them: for each slot, which cell holds which position; and the token in each cell."""

    def __init__(self, cells: int) -> None:
        self.cells = cells
        self.slots: dict[int, dict[int, int]] = {}
        self.tokens: dict[int, int] = {}
        self.ids = itertools.count()

    @property
    def used(self) -> int:
        return len({cell for positions in self.slots.values() for cell in positions.values()})

    def apply(self, step: Step) -> None:
        for change in step.changes:
            if isinstance(change, Copy):
                source = self.slots[change.source]
                target = self.slots.setdefault(change.target, {})
                for position in range(change.start, change.end):
                    assert position not in target
                    target[position] = source[position]
            else:
                positions = self.slots.get(change.slot, {})
                self.slots[change.slot] = {p: cell for p, cell in positions.items() if p < change.start}
        for piece in step.slices:
            positions = self.slots.setdefault(piece.sequence.slot, {})
            assert sorted(positions) == list(range(piece.start)), "a slice starts where the slot's cells end"
            for position in range(piece.start, piece.start + piece.count):
                positions[position] = next(self.ids)
                self.tokens[positions[position]] = piece.sequence.tokens[position]
            held = [self.tokens[positions[position]] for position in range(piece.start + piece.count)]
            assert held == piece.sequence.tokens[: piece.start + piece.count], "cells hold the sequence's own tokens"
        assert self.used <= self.cells


class Runner:
    """A scheduler driven as the step loop drives it, with every invariant checked at every step."""

    def __init__(self, *, cells: int = 512, slots: int = 16, num_sequences: int = 6, batch_size: int = 64) -> None:
        self.scheduler = Scheduler(
            cells=cells, slots=slots, num_sequences=num_sequences, batch_size=batch_size, interleaved_size=48
        )
        self.batch_size = batch_size
        self.cache = NaiveCache(cells)
        self.alive: list[Sequence] = []
        self.started: list[Sequence] = []
        self.num_computed: Counter[Sequence] = Counter()

    def add(self, prompt: list[int], num_new: int, *, outputs_from: int | None = None, n: int = 1) -> list[Sequence]:
        first = Sequence(list(prompt), len(prompt) + num_new, outputs_from)
        choices = [first, *(Sequence(list(prompt), first.max_length, leader=first) for _ in range(n - 1))]
        for sequence in choices:
            self.scheduler.add(sequence)
            self.alive.append(sequence)
        return choices

    def cancel(self, sequence: Sequence) -> None:
        self.alive.remove(sequence)
        self.scheduler.remove(sequence)

    def step(self) -> Step:
        step = self.scheduler.plan()
        assert step.num_tokens <= self.batch_size
        assert bool(step.slices) == bool(self.alive), "there is always something to compute"
        self.cache.apply(step)
        self.scheduler.computed(step)
        assert self.cache.used <= self.scheduler.cells_used
        for piece in step.slices:
            self.num_computed[piece.sequence] += piece.count
            if piece.sequence not in self.started:
                self.started.append(piece.sequence)
            self._extend(piece.sequence)
        return step

    def _extend(self, sequence: Sequence) -> None:
        if sequence.num_left:
            return
        if len(sequence.tokens) == sequence.max_length:
            self.cancel(sequence)
        else:
            sequence.tokens.append(1000 + len(sequence.tokens))

    def run(self) -> int:
        for count in itertools.count():
            if not self.alive:
                return count
            assert count < 5000, "it never ends"
            self.step()
        raise AssertionError


prompts = st.builds(
    lambda shared, own, tail: [7] * shared + [own] * tail,
    st.integers(0, 8).map(lambda parts: parts * 20),
    st.integers(0, 3),
    st.integers(1, 90),
)
requests = st.tuples(prompts, st.integers(0, 40), st.sampled_from([None, None, None, 0, 3]), st.integers(1, 3))
actions = st.lists(
    st.one_of(
        requests.map(lambda request: ("add", request)),
        st.integers(0, 20).map(lambda steps: ("step", steps)),
        st.integers(0, 10).map(lambda index: ("cancel", index)),
    ),
    max_size=30,
)


@settings(max_examples=150, deadline=None)
@given(actions, st.integers(0, 1))
def test_any_history_keeps_every_invariant(history: list[tuple[str, object]], small: int) -> None:
    """Whatever arrives, runs and is cancelled, cells suffice, tokens are in place, and everything comes to its end."""
    runner = Runner(cells=352 if small else 2048, slots=10 if small else 32)
    for kind, argument in history:
        match kind, argument:
            case "add", (prompt, num_new, outputs_from, n):
                runner.add(prompt, num_new, outputs_from=outputs_from, n=n if outputs_from is None else 1)
            case "step", int(steps):
                for _ in range(steps if runner.alive else 0):
                    if runner.alive:
                        runner.step()
            case "cancel", int(index) if index < len(runner.alive):
                runner.cancel(runner.alive[index])
            case _:
                pass
    runner.run()
    assert runner.scheduler.num_running == runner.scheduler.num_waiting == 0
    if runner.scheduler.cache.changes:
        runner.cache.apply(runner.scheduler.plan())
    assert runner.cache.used == runner.scheduler.cache.num_tokens == runner.scheduler.cells_used
    assert runner.scheduler.cache.num_evictable == runner.scheduler.cache.num_tokens, "nothing is pinned for ever"


def test_a_shared_prefix_is_computed_once() -> None:
    """Sixteen requests that arrive together compute their common tokens once."""
    runner = Runner(cells=4096, slots=64, num_sequences=16, batch_size=512)
    for own in range(16):
        runner.add([7] * 600 + [own] * 30, 8)
    runner.run()
    assert sum(runner.num_computed.values()) == 600 + 16 * (30 + 8)


def test_choices_fork_after_their_prompt() -> None:
    """With n choices the prompt is computed once, but for its last token."""
    runner = Runner(cells=4096, slots=64, num_sequences=16, batch_size=512)
    runner.add(list(range(100)), 10, n=4)
    runner.run()
    assert sum(runner.num_computed.values()) == 100 + 3 + 4 * 10


def test_a_repeated_prompt_is_cached_but_for_its_tail() -> None:
    """The second time, whole blocks come from the cache and at least two tokens are computed."""
    runner = Runner()
    for length, expected in ((200, 192), (194, 192), (193, 128), (192, 128)):
        runner.add([5] * length, 4)
        runner.run()
        (again,) = runner.add([5] * length, 4)
        runner.run()
        assert again.num_shared == expected


def test_prompts_with_logits_are_computed_whole() -> None:
    """A request that wants its prompt's log-probabilities takes nothing from the cache."""
    runner = Runner()
    runner.add(list(range(100)), 4)
    runner.run()
    (echo,) = runner.add(list(range(100)), 4, outputs_from=0)
    runner.run()
    assert echo.num_shared == 0
    assert runner.num_computed[echo] == 104


def test_first_come_first_served_among_equals() -> None:
    """Prompts of the same length start in the order of their arrival."""
    runner = Runner(num_sequences=2)
    added = [runner.add([own] * 50, 4)[0] for own in range(6)]
    runner.run()
    assert runner.started == added


def test_a_short_prompt_does_not_wait_for_a_long_one() -> None:
    """A short prompt that arrives during a long prefill is computed in the next step, and the long one goes on."""
    runner = Runner(cells=4096, batch_size=64)
    (long,) = runner.add(list(range(2000)), 4)
    runner.step()
    (short,) = runner.add([9] * 20, 4)
    step = runner.step()
    counts = {piece.sequence: piece.count for piece in step.slices}
    assert counts[short] == 20
    assert counts[long] == 44


def test_running_streams_are_in_every_step() -> None:
    """While a long prompt is computed, every step also decodes what runs."""
    runner = Runner(cells=4096, batch_size=64)
    (stream,) = runner.add([9] * 20, 500)
    runner.step()
    (long,) = runner.add(list(range(2000)), 4)
    while long.num_left > 1:
        counts = {piece.sequence: piece.count for piece in runner.step().slices}
        assert counts[stream] == 1
        assert counts[long] <= 48


def test_the_least_recently_used_prefix_goes_first() -> None:
    """When cells run out, what was used last stays."""
    runner = Runner(cells=190)
    shared = []
    for own in (1, 2, 1, 3, 1, 2):
        (sequence,) = runner.add([own] * 66, 2)
        runner.run()
        shared.append(sequence.num_shared)
    assert shared == [0, 0, 64, 0, 64, 0]


def test_the_latest_is_preempted_when_cells_run_out() -> None:
    """Texts that grow beyond the cells are all completed, the latest a little later."""
    runner = Runner(cells=288)
    added = [runner.add([own] * 40, 200)[0] for own in range(3)]
    runner.run()
    assert runner.scheduler.num_preempted
    assert all(len(sequence.tokens) == 240 for sequence in added)


@pytest.mark.parametrize("share", [True, False])
def test_nothing_is_shared_where_it_may_not_be(share: bool) -> None:
    """A cache that does not share computes every prompt whole."""
    scheduler = Scheduler(cells=512, slots=4, num_sequences=2, batch_size=64, interleaved_size=64, share=share)
    for _ in range(2):
        sequence = Sequence([5] * 70, 71)
        scheduler.add(sequence)
        while sequence.num_left:
            scheduler.computed(scheduler.plan())
        scheduler.remove(sequence)
    assert (sequence.num_shared == 64) is share


def test_choices_do_not_fork_where_nothing_may_be_shared() -> None:
    """Without sharing, as for a recurrent model, every choice computes its prompt and no cells are copied."""
    scheduler = Scheduler(cells=512, slots=4, num_sequences=4, batch_size=256, interleaved_size=64, share=False)
    first = Sequence([5] * 70, 71)
    second = Sequence([5] * 70, 71, leader=first)
    for sequence in (first, second):
        scheduler.add(sequence)
    while second.num_left:
        step = scheduler.plan()
        assert not any(isinstance(change, Copy) for change in step.changes)
        scheduler.computed(step)
