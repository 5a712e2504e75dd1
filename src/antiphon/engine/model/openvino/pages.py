"""Which pages of the KV cache hold which tokens of which slot. Pure: a page is a number.

Slots that begin alike name the same pages. A page is written by one slot only: before a slot writes to a page that others
name too, it gets a copy.
"""

from typing import Final

from antiphon.engine.model.base import NoCells

PAGE: Final = 32
"""Tokens of a page: what OpenVINO's kernels for processors support."""
PageCopy = tuple[int, int]
"""A page, and the page that is to become equal to it."""


class PageTables:
    """The pages of each slot, how many slots name each page, and the pages that are free."""

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self._tables: dict[int, list[int]] = {}
        self._num_holders: list[int] = []
        self._free: list[int] = []
        self.clear()

    @property
    def num_used(self) -> int:
        """Pages that some slot names."""
        return self.num_pages - len(self._free)

    def of(self, slot: int) -> list[int]:
        """Return the pages of a slot, in the order of its tokens; not to be changed."""
        return self._tables.get(slot, [])

    def extend(self, slot: int, start: int, end: int) -> list[PageCopy]:
        """Give ``slot`` room for positions ``start <= p < end`` of its own. Return the copies that this needs.

        Raises:
            NoCells: there are not enough free pages; nothing that is held has changed.
        """
        pages = self._tables.setdefault(slot, [])
        assert start <= len(pages) * PAGE, f"slot {slot} has a gap before position {start}"
        copies: list[PageCopy] = []
        for at in range(start // PAGE, -(-end // PAGE)):
            if at == len(pages):
                pages.append(self._take())
            elif self._num_holders[pages[at]] > 1:
                copies.append(self._replace(pages, at))
        return copies

    def share(self, source: int, target: int, start: int, end: int) -> list[PageCopy]:
        """Let ``target``, which ends at ``start``, hold the tokens of ``source`` up to ``end``. Return the copies to make.

        Whole pages are shared. The last one is copied if it is not full, since ``target`` will write to it.

        Raises:
            NoCells: there is no free page for the copy.
        """
        pages, given = self._tables.setdefault(target, []), self._tables.get(source, [])
        assert start % PAGE == 0, f"position {start} is within a page"
        assert len(pages) == start // PAGE, f"slot {target} does not end at position {start}"
        assert end <= len(given) * PAGE, f"slot {source} ends before position {end}"
        for page in given[start // PAGE : end // PAGE]:
            self._num_holders[page] += 1
            pages.append(page)
        if end % PAGE == 0:
            return []
        pages.append(self._take())
        return [(given[end // PAGE], pages[-1])]

    def truncate(self, slot: int, start: int) -> None:
        """Drop the pages behind position ``start``."""
        pages = self._tables.get(slot, [])
        kept = -(-start // PAGE)
        for page in reversed(pages[kept:]):
            self._release(page)
        del pages[kept:]
        if not pages:
            self._tables.pop(slot, None)

    def clear(self) -> None:
        """Empty every slot."""
        self._tables.clear()
        self._num_holders = [0] * self.num_pages
        self._free = list(range(self.num_pages - 1, -1, -1))

    def _take(self) -> int:
        if not self._free:
            raise NoCells(f"all {self.num_pages} pages of the KV cache are in use")
        page = self._free.pop()
        self._num_holders[page] = 1
        return page

    def _replace(self, pages: list[int], at: int) -> PageCopy:
        shared, pages[at] = pages[at], self._take()
        self._release(shared)
        return shared, pages[at]

    def _release(self, page: int) -> None:
        self._num_holders[page] -= 1
        if not self._num_holders[page]:
            self._free.append(page)
