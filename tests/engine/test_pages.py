"""Page tables against a naive model: a list of tokens for each slot."""

from hypothesis import given
from hypothesis import strategies as st

from antiphon.engine.model.base import NoCells
from antiphon.engine.model.openvino.pages import PAGE, PageTables

_SLOTS = 4


class _Memory:
    """Pages with the tokens that were written to them, and what each slot should hold."""

    def __init__(self, num_pages: int) -> None:
        self.tables = PageTables(num_pages)
        self.pages = [[-1] * PAGE for _ in range(num_pages)]
        self.texts: dict[int, list[int]] = {slot: [] for slot in range(_SLOTS)}
        self.clock = 0

    def copy_pages(self, copies: list[tuple[int, int]]) -> None:
        for source, target in copies:
            self.pages[target] = list(self.pages[source])

    def write(self, slot: int, count: int) -> None:
        text = self.texts[slot]
        start = len(text)
        self.copy_pages(self.tables.extend(slot, start, start + count))
        for position in range(start, start + count):
            self.clock += 1
            text.append(self.clock)
            self.pages[self.tables.of(slot)[position // PAGE]][position % PAGE] = self.clock

    def share(self, source: int, target: int, share: float) -> None:
        start = len(self.texts[target]) // 64 * 64
        self.truncate(target, start)
        end = start + int(share * (len(self.texts[source]) - start))
        if source == target or end <= start or self.texts[source][:start] != self.texts[target]:
            return
        self.copy_pages(self.tables.share(source, target, start, end))
        self.texts[target] += self.texts[source][start:end]

    def truncate(self, slot: int, length: int) -> None:
        self.tables.truncate(slot, length)
        del self.texts[slot][length:]

    def check(self) -> None:
        named = set[int]()
        for slot, text in self.texts.items():
            pages = self.tables.of(slot)
            assert len(pages) == -(-len(text) // PAGE)
            assert [self.pages[pages[at // PAGE]][at % PAGE] for at in range(len(text))] == text
            named |= set(pages)
        assert self.tables.num_used == len(named)


_SLOT = st.integers(0, _SLOTS - 1)
_ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), _SLOT, st.integers(1, 150)),
        st.tuples(st.just("share"), _SLOT, _SLOT, st.floats(0, 1)),
        st.tuples(st.just("truncate"), _SLOT, st.floats(0, 1)),
    ),
    max_size=40,
)


@given(_ACTIONS, st.sampled_from([12, 200]))
def test_every_slot_holds_its_own_tokens(actions: list[tuple[str, int, int]], num_pages: int) -> None:
    """Whatever is written, shared and dropped, no slot changes another's tokens, and no page is lost."""
    memory = _Memory(num_pages)
    for name, slot, *values in actions:
        try:
            match name:
                case "write":
                    memory.write(slot, values[0])
                case "share":
                    memory.share(slot, *values)
                case _:
                    memory.truncate(slot, int(values[0] * len(memory.texts[slot])))
        except NoCells:  # what was taken before the last page is behind the slot's end
            for each, text in memory.texts.items():
                memory.tables.truncate(each, len(text))
        memory.check()
    memory.tables.clear()
    assert memory.tables.num_used == 0
