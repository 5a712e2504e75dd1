"""What every runtime does alike: the step loop over a real model gives what the model alone gives, whatever else runs."""

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.engine.first_writes import give_back, num_faults
from tests.engine.loop_world import World
from tests.engine.runtimes import RUNTIMES, ObservedContext, Reference, load, sized
from tests.engine.tiny_models import plain_attention

from antiphon.engine.model.base import Aborted, ModelContext, NoCells, TextModel
from antiphon.engine.model.openvino import context as paged
from antiphon.engine.model.openvino.context import PagedContext
from antiphon.engine.model.openvino.pages import PAGE
from antiphon.engine.model.sizing import ContextSettings

_ROUNDING = 2e-3
"""Of log-probabilities computed in single precision by different kernels."""
PROMPT = [5, 9, 2, 7, 3, 8, 4, 6] * 17
Rows = NDArray[np.float32]
AreSame = Callable[[Rows, Rows], bool]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Model files of random weights, by architecture."""
    folder = tmp_path_factory.mktemp("runtimes")

    def file(architecture: str) -> Path:
        path = folder / f"{architecture}.gguf"
        if not path.exists():
            plain_attention(path, architecture)
        return path

    return file


@pytest.fixture(scope="session", params=RUNTIMES)
def model(request: pytest.FixtureRequest, files: Callable[[str], Path]) -> TextModel:
    """A tiny Llama in each runtime."""
    return load(request.param, files("llama"))


@pytest.fixture
def context(model: TextModel) -> ModelContext:
    """A new context of it."""
    return model.context(sized())


@pytest.fixture(scope="session")
def pairs(model: TextModel) -> tuple[ModelContext, Reference]:
    """A context for the loop, and the same model without anything else."""
    return model.context(sized()), Reference(model.context(sized(num_sequences=1)))


@pytest.fixture(scope="session")
def small(model: TextModel, files: Callable[[str], Path]) -> dict[str, ModelContext]:
    """Contexts of draft models in the same runtime, with few cells: one says what the model says, one never does."""
    names = ("llama", "qwen3")
    return {name: load(model.runtime, files(name)).context(sized(cells=512, num_sequences=3)) for name in names}


@pytest.fixture
def are_same(model: TextModel) -> AreSame:
    """Whether rows are equal: bit by bit over pages, within rounding where the order of the cells of all slots matters."""
    tolerance = 0 if model.traits(sized()).kernels == "paged" else _ROUNDING
    return lambda ours, theirs: bool(np.abs(ours - theirs).max() <= tolerance)


def run(context: ModelContext, slot: int, start: int, tokens: list[int], *, is_prompt: bool = True) -> Rows:
    """Compute tokens of one slot; return a row for each."""
    context.batch.clear()
    context.batch.add(slot, start, tokens, len(tokens), is_prompt=is_prompt)
    context.decode()
    return context.logits().copy()


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.integers(0, 2**32),
    st.sampled_from([448, 2048]),
    st.booleans(),
    st.sampled_from([0, 0.1, 0.5]),
    st.sampled_from([None, "llama", "qwen3"]),
)
def test_a_text_is_what_the_model_alone_gives(  # noqa: PLR0917 - drawn by hypothesis
    pairs: tuple[ModelContext, Reference],
    small: dict[str, ModelContext],
    model: TextModel,
    seed: int,
    cells: int,
    ngram_pool: bool,
    trouble: float,
    draft_model: str | None,
) -> None:
    """Whatever arrives, is cancelled, is drafted, is scored, follows a grammar and lacks cells: every text and log-probability."""
    context, reference = pairs
    context.clear()
    if draft_model is not None:
        small[draft_model].clear()
    world = World(
        seed,
        cells=cells,
        shape=model.traits(sized()).kernels,
        ngram_pool=ngram_pool,
        trouble=trouble,
        context=ObservedContext(context),
        model=reference,
        tolerance=_ROUNDING,
        small=None if draft_model is None else small[draft_model],
    )
    world.run()
    world.check()
    assert world.scheduler.num_running == world.scheduler.num_waiting == 0


def test_a_repeated_step_is_bit_equal(context: ModelContext) -> None:
    """The same tokens after an empty cache give the same bits."""
    first = run(context, 0, 0, PROMPT)
    context.clear()
    assert np.array_equal(first, run(context, 0, 0, PROMPT))


def test_a_shared_prefix_is_as_if_computed(context: ModelContext, are_same: AreSame) -> None:
    """A slot that shares 64 tokens of another continues as that one did, and neither changes the other."""
    whole = run(context, 0, 0, PROMPT)
    context.copy(0, 1, 0, 64)
    assert are_same(run(context, 1, 64, PROMPT[64:]), whole[64:])
    changed = run(context, 2, 0, PROMPT[:64] + [9] * 72)
    context.copy(0, 3, 0, 64)
    assert are_same(run(context, 3, 64, [9] * 72), changed[64:])
    last = run(context, 0, len(PROMPT), [5], is_prompt=False)
    context.remove(1)
    context.remove(3)
    context.remove(0, len(PROMPT))
    assert are_same(run(context, 0, len(PROMPT), [5], is_prompt=False), last)


@pytest.mark.parametrize("end", [65, 100, 128, 135])
def test_sharing_within_a_page_copies_it(context: ModelContext, end: int) -> None:
    """Two slots that share up to any position write their own tokens behind it."""
    rows = run(context, 0, 0, PROMPT)
    context.copy(0, 1, 0, end)
    run(context, 1, end, [9, 9, 9])
    context.remove(0, end)
    ours = run(context, 0, end, PROMPT[end:], is_prompt=len(PROMPT) - end > 1)
    assert np.abs(ours - rows[end:]).max() < _ROUNDING


def test_a_rejected_draft_leaves_no_trace(context: ModelContext, are_same: AreSame) -> None:
    """Tokens that are dropped again and computed otherwise give what they would have given at first."""
    run(context, 0, 0, PROMPT)
    right = run(context, 0, len(PROMPT), [5, 6, 7], is_prompt=False)
    context.remove(0, len(PROMPT))
    run(context, 0, len(PROMPT), [5, 9, 9, 9, 9], is_prompt=False)
    context.remove(0, len(PROMPT) + 1)
    again = run(context, 0, len(PROMPT) + 1, [6, 7], is_prompt=False)
    assert are_same(again, right[1:])


def test_an_aborted_decode_can_be_repeated(context: ModelContext) -> None:
    """After an abort nothing is computed until it is taken back; then the same step gives the same."""
    wanted = run(context, 0, 0, PROMPT)
    context.clear()
    context.abort(True)
    with pytest.raises(Aborted):
        run(context, 0, 0, PROMPT)
    context.abort(False)
    context.remove(0, 0)
    assert np.array_equal(run(context, 0, 0, PROMPT), wanted)


def test_a_decode_that_is_aborted_on_its_way_harms_no_later_one(context: ModelContext) -> None:
    """Whether it is stopped in the middle or goes on to its end, steps of other sizes give what they gave before."""
    wanted = run(context, 0, 0, PROMPT[:2])
    for pause_s in (number * 20e-6 for number in range(60)):
        context.clear()
        aborting = threading.Timer(pause_s, context.abort, [True])
        aborting.start()
        with contextlib.suppress(Aborted):
            run(context, 0, 0, PROMPT)
        aborting.join()
        context.abort(False)
        context.clear()
        assert np.array_equal(run(context, 0, 0, PROMPT[:2]), wanted)


def test_more_than_the_cache_holds_is_refused(model: TextModel, are_same: AreSame) -> None:
    """A batch without room raises NoCells, and what was there can still be continued."""
    context = model.context(sized(cells=512, num_sequences=2))
    wanted = run(context, 0, 0, PROMPT)
    with pytest.raises(NoCells):
        _fill(context)
    context.remove(1)
    context.remove(0, 64)
    assert are_same(run(context, 0, 64, PROMPT[64:]), wanted[64:])


def _fill(context: ModelContext) -> None:
    for start in range(0, 2048, 128):
        run(context, 1, start, [7] * 128)


def test_a_row_does_not_depend_on_what_is_computed_with_it(files: Callable[[str], Path]) -> None:
    """OpenVINO's rule: bit by bit the same however a prompt is cut into pieces of two or more, and beside whatever others."""
    model = load("openvino", files("llama"))
    for chosen in (sized(num_sequences=64), sized(num_sequences=64, kv_type_k="f16", kv_type_v="f16", threads=2)):
        context = model.context(chosen)
        prompt = run(context, 0, 0, PROMPT)
        text = run(context, 0, len(PROMPT), [5, 6, 7, 8], is_prompt=False)
        for number, sizes in enumerate(([2] * 68, [134, 2], [64, 72], [100, 3, 33])):
            slot, start, rows = number + 1, 0, list[Rows]()
            for size in sizes:
                context.batch.clear()
                for other in range(number):  # of other prompts and texts
                    context.batch.add(40 + other, 0, [7, other + 2, 3][: 1 + other], 0)
                context.batch.add(slot, start, PROMPT[start : start + size], size)
                context.decode()
                rows.append(context.logits().copy())
                start += size
            assert np.array_equal(np.concatenate(rows), prompt)
            beside = 1 + 7 * number
            for at, token in enumerate([5, 6, 7, 8]):
                context.batch.clear()
                for other in range(beside):
                    context.batch.add(20 + other % 8, other // 8, [other + 2], 1, is_prompt=False)
                context.batch.add(slot, len(PROMPT) + at, [token], 1, is_prompt=False)
                context.decode()
                assert np.array_equal(context.logits()[-1], text[at])


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_both_runtimes_compute_the_same_model(architecture: str, files: Callable[[str], Path]) -> None:
    """Log-probabilities over a prompt, and a greedy text after it, are the same within rounding."""
    contexts = [load(runtime, files(architecture)).context(sized()) for runtime in RUNTIMES]
    rows = [run(context, 0, 0, PROMPT) for context in contexts]
    spread = float(np.abs(rows[0] - rows[0].mean(axis=1, keepdims=True)).max())
    assert np.abs(rows[0] - rows[1]).max() < 0.02 * spread
    texts = [_greedy(context, row[-1]) for context, row in zip(contexts, rows, strict=True)]
    assert texts[0] == texts[1]


def _greedy(context: ModelContext, row: Rows) -> list[int]:
    tokens: list[int] = []
    for _ in range(40):
        tokens.append(int(row.argmax()))
        row = run(context, 0, len(PROMPT) + len(tokens) - 1, tokens[-1:], is_prompt=False)[0]
    return tokens


def test_warming_up_touches_no_slot(files: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that only make kernels ready leave what slots hold, and end where pages are lacking."""
    model = load("openvino", files("llama"))
    monkeypatch.setattr("antiphon.engine.model.openvino.context._LONG_STEP_S", 60)
    for cells in (320, 2048):
        context = model.context(sized(cells=cells, num_sequences=2))
        assert isinstance(context, PagedContext)
        run(context, 0, 0, PROMPT)
        wanted = run(context, 0, len(PROMPT), [5, 6], is_prompt=False)
        context.remove(0, len(PROMPT))
        num_parts = len(list(context.warm_up(5)))
        num_steps = num_parts - len(context.caches)
        assert num_steps == (47 if cells == 2048 else 45)
        assert np.array_equal(run(context, 0, len(PROMPT), [5, 6], is_prompt=False), wanted)


def test_a_late_abort_ends_no_warming_up(files: Callable[[str], Path]) -> None:
    """A cancellation that came after its step is forgotten: all other parts are done, and the next step is computed."""
    context = load("openvino", files("llama")).context(sized())
    assert isinstance(context, PagedContext)
    num_parts = len(list(context.warm_up(5)))
    parts = context.warm_up(5)
    context.abort(True)
    assert len(list(parts)) == num_parts
    run(context, 0, 0, PROMPT)


def test_kernels_of_long_steps_are_not_made_in_advance(
    files: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large model would compute for minutes, and a request would wait for a whole step."""
    monkeypatch.setattr("antiphon.engine.model.openvino.context._LONG_STEP_S", 0)
    context = load("openvino", files("llama")).context(sized())
    assert isinstance(context, PagedContext)
    assert len(list(context.warm_up(5))) - len(context.caches) == 4 + 1


def test_a_warm_cache_waits_for_no_memory(files: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The system has provided what the first 16,384 tokens need, a little at once, so that no request waits until it does."""
    monkeypatch.setattr(paged, "_PROVIDED_BYTES", 96 * 1024)
    context = load("openvino", files("llama")).context(sized(cells=20_000))
    assert isinstance(context, PagedContext)
    first = slice(0, 16_384 // PAGE)
    give_back(context.caches)
    num_faults(context.caches, slice(0, 0))
    assert num_faults(context.caches, slice(-32, None))
    num_parts = len(list(context.warm_up(5)))
    assert num_faults(context.caches, first) == 0
    assert num_parts > sum(cache[first].nbytes for cache in context.caches) / paged._PROVIDED_BYTES


def test_the_settings_of_a_context_are_kept(model: TextModel) -> None:
    """A context has the cells that were asked for, reports its memory, and the traits fit the model."""
    chosen: ContextSettings = sized(cells=1024)
    context = model.context(chosen)
    assert context.cells >= 1024
    assert context.memory_bytes
    assert model.traits(chosen).may_drop_tokens
    assert model.traits(chosen).may_undo_steps
