"""Writes usage rows behind the answers: collected in memory, committed in batches by one task.

**The bound**: a row is committed at most ``FLUSH_EVERY_S`` plus the time of one commit after ``append``, well under a
second. A killed process loses the rows that were appended within this bound, and leaves no row for requests that were
still in flight. A normal stop loses none. While the database does not answer, rows wait in memory and are tried again. A
row whose values the database refuses is logged in full and set aside, so that it does not hold up the others.
"""

import asyncio
import contextlib
from collections.abc import Sequence

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from antiphon.accounts.database import cause
from antiphon.accounts.errors import AccountError
from antiphon.accounts.usage import UsageRow
from antiphon.accounts.usage_table import is_refusal, write_rows

FLUSH_EVERY_S = 0.25
_BATCH = 2_000
_RETRY_AFTER_S = (0.25, 0.5, 1.0, 2.0)

_log = structlog.get_logger("antiphon.accounts")


class UnwrittenRowsError(AccountError):
    """The database cannot take usage rows at the moment; they wait in memory. ``__cause__`` is the database's error."""


class LedgerStatistics(msgspec.Struct, frozen=True):
    """``waiting``: rows in memory that are not committed yet. ``failures_in_a_row``: consecutive failed commits.

    ``refused_total``: rows that the database refused and that are in the log alone.
    """

    written_total: int
    waiting: int
    failures_in_a_row: int
    refused_total: int = 0


class Ledger:
    """The usage table's only writer in this process."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._waiting: list[UsageRow] = []
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self.writing = asyncio.Lock()
        """Held while a batch is committed; its holder finds each row either waiting or in the database."""
        self._num_written = 0
        self._num_failures = 0
        self._num_refused = 0
        self._task = asyncio.create_task(self._run(), name="antiphon-ledger")

    def append(self, row: UsageRow) -> None:
        """Take a row; returns at once."""
        self._waiting.append(row)
        self._wake.set()

    def waiting_usd(self, key_id: str, since_ms: int) -> float:
        """Sum the dollars of ``key_id`` that are not committed yet."""
        return sum(row.usd or 0.0 for row in self._waiting if row.key_id == key_id and row.at_ms >= since_ms)

    def statistics(self) -> LedgerStatistics:
        return LedgerStatistics(self._num_written, len(self._waiting), self._num_failures, self._num_refused)

    async def flush(self) -> None:
        """Commit every waiting row, apart from those that the database refuses.

        Raises ``UnwrittenRowsError`` when the database cannot take rows.
        """
        while self._waiting:
            async with self.writing:
                try:
                    await self._write(self._waiting[:_BATCH], is_retry=self._num_failures > 0)
                except Exception as error:
                    raise UnwrittenRowsError(
                        f"{len(self._waiting)} usage rows could not be written: {cause(error)}",
                        hint="Check the database that database_url names, and the space on its disk.",
                    ) from error
            self._num_failures = 0

    async def _write(self, rows: Sequence[UsageRow], *, is_retry: bool) -> None:
        """Commit the first waiting rows, ``rows``; find those that the database refuses by halving.

        A row is set aside only when it is refused alone and again: something else may have failed the first time.
        """
        try:
            await write_rows(self._engine, rows, is_retry=is_retry)
        except Exception as error:
            if not is_refusal(error):
                raise
            if len(rows) == 1 and is_retry:
                self._set_aside(rows[0], error)
                return
            middle = len(rows) // 2
            for half in filter(None, (rows[:middle], rows[middle:])):
                await self._write(half, is_retry=True)
            return
        del self._waiting[: len(rows)]
        self._num_written += len(rows)

    def _set_aside(self, row: UsageRow, error: Exception) -> None:
        del self._waiting[0]
        self._num_refused += 1
        _log.error("usage_row_refused", error=str(cause(error)), row=msgspec.structs.asdict(row))

    async def _run(self) -> None:
        while not self._closing.is_set():
            await self._wake.wait()
            self._wake.clear()
            await self._pause(FLUSH_EVERY_S)
            await self._try_flush()

    async def _try_flush(self) -> None:
        try:
            await self.flush()
        except UnwrittenRowsError as error:
            pause_s = _RETRY_AFTER_S[min(self._num_failures, len(_RETRY_AFTER_S) - 1)]
            self._num_failures += 1
            _log.warning("ledger_cannot_write", error=error.message, waiting=len(self._waiting), retry_in_s=pause_s)
            self._wake.set()
            await self._pause(pause_s)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)

    async def aclose(self) -> None:
        """Commit what waits and stop. Raises ``UnwrittenRowsError`` with the number of rows that could not be saved."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._wake.set()
        await self._task
        await self.flush()
