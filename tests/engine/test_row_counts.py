"""Steps have one of a few numbers of rows, since the library keeps kernels for each."""

from hypothesis import given
from hypothesis import strategies as st

from antiphon.engine.model.openvino.batch import PagedBatch
from antiphon.engine.model.openvino.pages import PAGE, PageTables
from antiphon.engine.model.openvino.row_counts import filled_up


def test_few_numbers_of_rows_are_used() -> None:
    """Eight between each power of two and the next; at most an eighth of the rows, and less than a page, is added."""
    for num_rows in range(1, 5000):
        filled = filled_up(num_rows)
        assert 0 <= filled - num_rows < min(PAGE, max(1, num_rows / 8))
        assert filled_up(filled) == filled
    assert [filled_up(n) for n in (1, 7, 16, 17, 33, 129, 257, 1025)] == [1, 7, 16, 18, 36, 144, 288, 1056]
    assert len({filled_up(n) for n in range(1, 257)}) == 48


@given(
    st.lists(
        st.tuples(st.integers(0, 100), st.integers(1, 200), st.floats(0, 1), st.booleans()), min_size=1, max_size=9
    )
)
def test_a_batch_is_filled_up_on_a_page_that_no_slot_has(pieces: list[tuple[int, int, float, bool]]) -> None:
    """Behind all rows of the batch, which stay as they are. A row is never alone."""
    batch, tables = PagedBatch(capacity=2000), PageTables(100)
    for slot, (start, count, share, is_prompt) in enumerate(pieces):
        tables.extend(slot, 0, start + count)
        batch.add(slot, start, [7] * count, round(count * share), is_prompt=is_prompt)
    inputs = batch.inputs(tables).by_name
    rows, begins = inputs["input_ids"].size, inputs["subsequence_begins"]
    assert rows == max(2, filled_up(batch.size)) == begins[-1] == inputs["position_ids"].size
    assert inputs["sampled"].size == filled_up(max(1, batch.num_outputs))
    assert (inputs["input_ids"][: batch.size] == 7).all()
    assert not inputs["input_ids"][batch.size :].any()
    num_more = rows - batch.size
    num_pages = len(inputs["block_indices"]) - num_more
    assert (inputs["block_indices"][:num_pages] < tables.num_pages).all()
    assert (inputs["block_indices"][num_pages:] == tables.num_pages).all()
    assert list(begins[len(begins) - num_more - 1 :]) == list(range(batch.size, rows + 1))
