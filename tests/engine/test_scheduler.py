"""The scheduler and the prefix cache, against a naive model of the KV cache."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.naive_cache import Runner

from antiphon.engine.scheduling.batch_shapes import tiled
from antiphon.engine.scheduling.prefix_cache import PrefixCache
from antiphon.engine.scheduling.scheduler import Scheduler
from antiphon.engine.scheduling.sequence import Copy, Sequence, Step

prompts = st.builds(
    lambda shared, own, tail: [7] * shared + [own] * tail,
    st.integers(0, 8).map(lambda parts: parts * 20),
    st.integers(0, 3),
    st.integers(1, 90),
)
requests = st.tuples(
    prompts, st.integers(0, 40), st.sampled_from([None, None, None, 0, 3]), st.integers(1, 3), st.booleans()
)
actions = st.lists(
    st.one_of(
        requests.map(lambda request: ("add", request)),
        st.integers(0, 20).map(lambda steps: ("step", steps)),
        st.integers(0, 10).map(lambda index: ("cancel", index)),
    ),
    max_size=30,
)


@settings(max_examples=150, deadline=None)
@given(actions, st.integers(0, 1), st.booleans(), st.sampled_from([0.0, 0.6, 1.0]))
def test_any_history_keeps_every_invariant(
    history: list[tuple[str, object]], small: int, in_tiles: bool, acceptance: float
) -> None:
    """Whatever arrives, runs, is drafted and is cancelled: cells suffice, tokens are in place, and everything ends."""
    runner = Runner(
        cells=352 if small else 2048,
        slots=10 if small else 32,
        batch_size=128 if in_tiles else 64,
        prefill_chunk_size=64 if in_tiles else 48,
        shapes=tiled(128, attention_weight=2.0) if in_tiles else None,
        acceptance=acceptance,
    )
    for kind, argument in history:
        match kind, argument:
            case "add", (prompt, num_new, outputs_from, n, is_batch):
                n = n if outputs_from is None else 1
                runner.add(prompt, num_new, outputs_from=outputs_from, n=n, is_batch=is_batch)
            case "step", int(steps):
                for _ in range(steps if runner.alive else 0):
                    if runner.alive:
                        runner.step()
            case "cancel", int(index) if index < len(runner.alive):
                runner.cancel(runner.alive[index])
            case _:
                pass
    runner.run()
    runner.add([6, 6, 6], 1)  # alone, it shares nothing with retained sequences
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


def test_a_batch_runs_while_nothing_interactive_can() -> None:
    """Not a token of it is computed from the arrival of an interactive request to that one's end; then it goes on."""
    runner = Runner(cells=4096, slots=64, num_sequences=16, batch_size=512)
    batch = [runner.add([own] * 100, 30, is_batch=True)[0] for own in range(8)]
    for _ in range(10):
        runner.step()
    before = sum(runner.num_computed[sequence] for sequence in batch)
    runner.add([99] * 50, 20)
    (last,) = runner.add([98] * 50, 20)
    while last in runner.alive:
        runner.step()
    assert before == sum(runner.num_computed[sequence] for sequence in batch)
    assert before
    runner.run()


def test_an_interactive_request_takes_the_place_of_a_batch() -> None:
    """Where a batch has every slot, or the cells, its latest sequence gives them up and is computed again later."""
    for cells, num_sequences in ((4096, 4), (700, 16)):
        runner = Runner(cells=cells, slots=64, num_sequences=num_sequences, batch_size=512)
        batch = [runner.add([own] * 150, 30, is_batch=True)[0] for own in range(4)]
        for _ in range(6):
            runner.step()
        (first,) = runner.add([99] * 200, 5)
        runner.step()
        assert runner.num_computed[first]
        assert runner.scheduler.num_preempted >= 1
        runner.run()
        assert not set(batch) & set(runner.alive)


def test_an_interactive_request_does_not_wait_for_a_prefix_of_a_batch() -> None:
    """A batch that has begun to compute a common prefix is not waited for while others run."""
    runner = Runner(cells=8192, slots=64, num_sequences=16, batch_size=512)
    runner.add([7] * 3000, 5, is_batch=True)
    runner.step()
    (long,) = runner.add([1] * 10, 200)
    (alike,) = runner.add([7] * 2900, 5)
    while alike in runner.alive:
        runner.step()
    assert long in runner.alive
    runner.run()


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


def test_blocks_that_were_given_up_again_are_not_reported_as_shared() -> None:
    """A sequence that loses its cells before it ran reports only what it takes when it does run."""
    cache = PrefixCache(4)
    first, second = Sequence([5] * 70, 71), Sequence([5] * 70, 71)
    for sequence in (first, second):
        cache.grant(sequence)
        assert cache.advance(sequence)
        if sequence is first:
            sequence.num_computed = 70
            cache.computed(sequence)
    assert second.num_shared == 64
    cache.release(second)
    cache.release(first)
    cache.evict(64)
    cache.grant(second)
    assert cache.advance(second)
    assert second.num_shared == 0


def test_steps_of_one_token() -> None:
    """With room for a single row every prompt and text is computed all the same."""
    runner = Runner(batch_size=1, prefill_chunk_size=1)
    runner.add([5] * 70, 5)
    runner.add([6] * 3, 5)
    runner.run()


def test_first_come_first_served_among_equals() -> None:
    """Prompts of the same length start in the order of their arrival."""
    runner = Runner(num_sequences=2)
    added = [runner.add([own] * 50, 4)[0] for own in range(6)]
    runner.run()
    assert runner.started == added


def test_a_short_prompt_does_not_wait_for_a_long_one() -> None:
    """A short prompt that arrives during a long prefill is computed in the next step, along with a part of the long one."""
    runner = Runner(cells=4096, batch_size=64)
    (long,) = runner.add(list(range(2000)), 4)
    runner.step()
    (short,) = runner.add([9] * 20, 4)
    step = runner.step()
    counts = {piece.sequence: piece.count for piece in step.slices}
    assert counts[short] == 20
    assert counts[long] == 44


def test_running_streams_are_in_every_other_step() -> None:
    """While a long prompt is computed, its slices and the tokens of what runs take turns."""
    runner = Runner(cells=4096, batch_size=64)
    (stream,) = runner.add([9] * 20, 500)
    runner.step()
    (long,) = runner.add(list(range(2000)), 4)
    steps = [runner.step() for _ in range(20)]
    for one, other in itertools.pairwise(steps):
        assert {piece.sequence for piece in one.slices + other.slices} == {stream, long}
    assert all(step.num_tokens <= 48 for step in steps)


def test_accepted_drafts_save_steps() -> None:
    """A text whose drafts are accepted gains several tokens a step, and has the same tokens."""
    speculating, plainly = Runner(acceptance=1.0), Runner()
    (quick,), (slow,) = speculating.add([5] * 30, 60), plainly.add([5] * 30, 60)
    assert speculating.run() < plainly.run() / 3
    assert quick.tokens == slow.tokens
    assert speculating.num_accepted > 40


def test_a_text_alone_is_never_one_row() -> None:
    """Other kernels compute a single row than two, so a text alone always gets a draft token."""
    runner = Runner()
    runner.add([5] * 30, 20)
    runner.step()
    while runner.alive:
        assert runner.step().num_tokens == 2


def test_the_end_of_a_prompt_has_its_own_shape() -> None:
    """Cold or cached, the last tokens behind a block's border are computed in the same kind of step."""
    for length, kind in ((64 * 3 + 40, "prefill"), (64 * 3 + 5, "decode")):
        runner = Runner(cells=4096, batch_size=256, prefill_chunk_size=128, shapes=tiled(256, attention_weight=2.0))
        for _ in range(2):
            (sequence,) = runner.add([3] * length, 2)
            last = Step((), ())
            while sequence.num_computed < length:
                last = runner.step()
            assert ("prefill" if last.num_tokens >= 64 else "decode") == kind
            runner.run()


def test_under_load_a_conversation_continues_from_its_last_answer() -> None:
    """Under load the whole of a finished text is shared with the next turn; alone, only whole blocks of its prompt are."""
    for under_load, expected in ((True, 106), (False, 64)):
        runner = Runner(cells=4096, num_sequences=4)
        (turn,) = runner.add([5] * 100, 6)
        if under_load:
            runner.add([8] * 20, 400)
        while turn in runner.alive:
            runner.step()
        (following,) = runner.add([*turn.tokens[:106], *[4] * 30], 3)
        while following in runner.alive:
            runner.step()
        assert following.num_shared == expected


def test_a_cancelled_turn_keeps_the_text_before_it() -> None:
    """A next turn that is cancelled early leaves the longer text that it continued from in the cache."""
    runner = Runner(cells=4096, num_sequences=4)
    (turn,), _ = runner.add([5] * 100, 6), runner.add([8] * 20, 400)
    while turn in runner.alive:
        runner.step()
    (left,) = runner.add([*turn.tokens[:106], *[4] * 30], 3, outputs_from=20)
    while not left.num_computed:
        runner.step()
    runner.cancel(left)
    (again,) = runner.add([*turn.tokens[:106], *[4] * 30], 3)
    while again in runner.alive:
        runner.step()
    assert again.num_shared == 106


def test_retained_sequences_are_not_shared_with_a_request_alone() -> None:
    """When nothing runs any more, the next request shares no generated tokens of retained sequences."""
    runner = Runner(cells=4096)
    (turn,), _ = runner.add([5] * 100, 6), runner.add([8] * 20, 40)
    runner.run()
    assert runner.scheduler.cells_used > 64, "the text is retained"
    (following,) = runner.add([*turn.tokens[:106], *[4] * 30], 3)
    runner.run()
    assert following.num_shared == 64


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
def test_nothing_is_shared_where_sharing_is_off(share: bool) -> None:
    """A cache that does not share computes every prompt whole."""
    scheduler = Scheduler(cells=512, slots=4, num_sequences=2, batch_size=64, prefill_chunk_size=64, share=share)
    for _ in range(2):
        sequence = Sequence([5] * 70, 71)
        scheduler.add(sequence)
        while sequence.num_left:
            scheduler.computed(scheduler.plan())
        scheduler.remove(sequence)
    assert (sequence.num_shared == 64) is share


def test_choices_do_not_fork_where_nothing_may_be_shared() -> None:
    """Without sharing, as for a recurrent model, every choice computes its prompt and no cells are copied."""
    scheduler = Scheduler(cells=512, slots=4, num_sequences=4, batch_size=256, prefill_chunk_size=64, share=False)
    first = Sequence([5] * 70, 71)
    second = Sequence([5] * 70, 71, leader=first)
    for sequence in (first, second):
        scheduler.add(sequence)
    while second.num_left:
        step = scheduler.plan()
        assert not any(isinstance(change, Copy) for change in step.changes)
        scheduler.computed(step)
