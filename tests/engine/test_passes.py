"""A step that would need much memory is computed in passes, and gives the same."""

from collections.abc import Callable
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.runtimes import load, sized
from tests.engine.tiny_models import plain_attention

from antiphon.engine.machine import resident_bytes
from antiphon.engine.model.base import Aborted
from antiphon.engine.model.openvino import context as paged
from antiphon.engine.model.openvino.batch import BatchInputs, PagedBatch, PassLimits
from antiphon.engine.model.openvino.context import PagedContext
from antiphon.engine.model.openvino.pages import PageTables

MIB = 1024 * 1024
_PIECES = st.lists(
    st.tuples(st.integers(0, 500), st.integers(1, 40), st.floats(0, 1), st.booleans()), min_size=1, max_size=20
)


def batch_of(pieces: list[tuple[int, int, float, bool]]) -> PagedBatch:
    """A batch with a slot for each piece: where it starts, its tokens, the share with outputs, whether it is a prompt."""
    batch = PagedBatch(capacity=20 * 40)
    for slot, (start, count, share, is_prompt) in enumerate(pieces):
        batch.add(slot, start, list(range(count)), round(count * share), is_prompt=is_prompt)
    return batch


@given(_PIECES, st.integers(4, 64), st.integers(1, 4000))
def test_passes_hold_the_tokens_of_the_batch_within_the_limits(
    pieces: list[tuple[int, int, float, bool]], num_outputs: int, num_attended: int
) -> None:
    """Each token is in one pass, in order, with its output; tokens of a prompt are never left alone."""
    batch = batch_of(pieces)
    passes = list(batch.passes(PassLimits(num_outputs, num_attended)))
    parts = [part for one in passes for part in one.pieces]
    for piece, (slot, group) in zip(batch.pieces, groupby(parts, key=lambda part: part.slot), strict=True):
        cut = list(group)
        assert slot == piece.slot
        assert [token for part in cut for token in part.tokens] == piece.tokens
        assert [part.start for part in cut] == [piece.start + part.tokens[0] for part in cut]
        outputs = [token for part in cut for token in part.tokens[len(part.tokens) - part.num_outputs :]]
        assert outputs == piece.tokens[len(piece.tokens) - piece.num_outputs :]
        assert all(part.is_sequence for part in cut) or not piece.is_sequence
    for one in passes:
        sequences = [part for part in one.pieces if part.is_sequence]
        assert one.size == sum(len(part.tokens) for part in one.pieces)
        assert one.num_outputs == sum(part.num_outputs for part in one.pieces) <= num_outputs
        assert len(sequences) <= 1 or len(sequences) * max(part.end for part in sequences) <= num_attended


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., PagedContext]:
    """Makes contexts of OpenVINO's over a tiny model."""
    path = tmp_path_factory.mktemp("passes") / "llama.gguf"
    plain_attention(path)
    model = load("openvino", path)

    def context(**sizes: int) -> PagedContext:
        made = model.context(sized(**sizes))
        assert isinstance(made, PagedContext)
        return made

    return context


def fill(context: PagedContext) -> None:
    """Put a step into the batch: prompts of several lengths behind a shared beginning, and single tokens."""
    context.batch.clear()
    context.batch.add(0, 0, [5, 9, 2, 7] * 32, 1)
    context.decode()
    for slot in range(1, 10):
        context.copy(0, slot, 0, 128)
    context.batch.clear()
    for slot in range(10):
        tokens = [3 + slot, 8, 4, 6] * (1 + slot)
        context.batch.add(slot, 128, tokens, len(tokens) - slot, is_prompt=slot % 3 > 0)


def test_several_passes_give_what_one_gives(make: Callable[..., PagedContext], monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit: prompts are cut, and rows are computed with others or alone."""
    whole = make()
    monkeypatch.setattr(paged, "_PASS_BYTES", 0)
    monkeypatch.setattr(paged, "_LEAST_OUTPUTS", 5)
    cut = make()
    for context in (whole, cut):
        fill(context)
        context.decode()
    assert len(list(cut.batch.passes(cut.limits))) > 20
    assert whole.logits().shape == (whole.batch.num_outputs, whole.logits().shape[1])
    assert np.array_equal(whole.logits(), cut.logits())


def test_a_step_of_several_passes_is_aborted_between_them(
    make: Callable[..., PagedContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An abort does not wait for the passes that have not begun, and the next step is computed as ever."""
    monkeypatch.setattr(paged, "_PASS_BYTES", 0)
    context = make()
    fill(context)
    inputs, num_begun = PagedBatch.inputs, 0

    def counted(batch: PagedBatch, tables: PageTables) -> BatchInputs:
        nonlocal num_begun
        num_begun += 1
        context.abort(num_begun == 2)
        return inputs(batch, tables)

    monkeypatch.setattr(PagedBatch, "inputs", counted)
    with pytest.raises(Aborted):
        context.decode()
    assert num_begun == 2
    context.decode()


@pytest.mark.skipif(not resident_bytes(), reason="needs /proc")
def test_many_prompts_behind_a_long_text_take_bounded_memory(make: Callable[..., PagedContext]) -> None:
    """128 prompts after 8,192 tokens would need 256 MiB in one pass, which the request then kept."""
    length, num_slots = 8192, 128
    context = make(cells=length + num_slots * 64, num_sequences=num_slots)
    for start in range(0, length, 256):
        context.batch.clear()
        context.batch.add(0, start, [5, 9, 2, 7] * 64, 1)
        context.decode()
    for slot in range(1, num_slots):
        context.copy(0, slot, 0, length)
    before = resident_bytes()
    context.batch.clear()
    for slot in range(num_slots):
        context.batch.add(slot, length, [slot, 8], 1)
    context.decode()
    assert resident_bytes() <= before + 112 * MIB
