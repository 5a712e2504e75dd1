"""The record of a run that may be killed at any point: one row per finished request, appended and synced to disk.

A row counts once its newline is on disk; a torn last row is cut off when the journal is opened again. The output
file is made from the journal, in the order of the requests, and put in place by one rename: so it never holds a
request twice, nor half of one. The journal stays next to it and makes the same command, given again, a resumption.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from filelock import FileLock, Timeout

from antiphon.toolkit.bulk.batchfile import Request, Result
from antiphon.toolkit.errors import JournalError

_Row = tuple[Request, Result]


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """The journal's record of a request: whether it succeeded, the fingerprint of its content, and the offset of its row."""

    is_ok: bool
    fingerprint: str
    offset: int


class Journal:
    """The journal of the output file ``out``; at most one process has it open.

    Raises JournalError when another process has, when the journal cannot be read, and when ``out`` exists without
    one (it would be overwritten).
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.path = out.with_name(out.name + ".journal")
        self.entries: dict[str, JournalEntry] = {}
        self._lock = FileLock(out.with_name(out.name + ".lock"))
        self._waiting: list[_Row] = []
        self._writing = asyncio.Lock()
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        self._refuse_special_file()
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise JournalError(
                f"Another run is writing {str(self.out)!r}", hint="wait for it, or name another file"
            ) from error
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            self._refuse_foreign_output()
            self._file = self.path.open("a+b")
            self._load(self._file)
        except OSError as error:
            self.__exit__(None, None, None)
            raise self._unwritable(error) from error
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            with suppress(OSError):
                # What a full disk did not take was reported when it was written.
                self._file.close()
            self._file = None
        self._lock.release()

    def is_done(self, request: Request, *, retry_failed: bool) -> bool:
        """Return whether a request needs no call. Raises JournalError when it is not the one that was recorded."""
        entry = self.entries.get(request.custom_id)
        if entry is None:
            return False
        if entry.fingerprint != request.fingerprint:
            raise JournalError(
                f"The request {request.custom_id!r} is not the one that {str(self.path)!r} holds an answer to",
                hint="give the changed request a new custom_id, or name another output file",
            )
        return entry.is_ok or not retry_failed

    async def append(self, *results: tuple[Request, Result]) -> None:
        """Record results; on return they are on disk. Rows that wait at the same time share one sync."""
        self._waiting.extend(results)
        async with self._writing:
            batch, self._waiting = self._waiting, []
            if batch:
                # A cancelled run still records what it has begun to write.
                try:
                    await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, self._write, batch))
                except OSError as error:
                    raise self._unwritable(error) from error

    def write_out(self, custom_ids: Iterable[str]) -> None:
        """Make the output file: one line for each id that has a row, in this order; replaced in one step."""
        try:
            self._replace_output(custom_ids)
        except OSError as error:
            raise self._unwritable(error) from error

    def _replace_output(self, custom_ids: Iterable[str]) -> None:
        partial = self.out.with_name(self.out.name + ".part")
        file = self._opened()
        with partial.open("wb") as out:
            for custom_id in custom_ids:
                if (entry := self.entries.get(custom_id)) is not None:
                    file.seek(entry.offset)
                    result = json.loads(file.readline())["result"]
                    out.write((json.dumps(result, ensure_ascii=False) + "\n").encode())
            out.flush()
            os.fsync(out.fileno())
        partial.replace(self.out)

    def _refuse_special_file(self) -> None:
        # A device or a pipe has no folder for a journal, and the finished output would take its place.
        if self.out.exists() and not self.out.is_file():
            raise JournalError(f"{str(self.out)!r} is not a regular file", hint="name a file, then copy it there")

    def _unwritable(self, error: OSError) -> JournalError:
        is_full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        step = "free some space on its disk" if is_full else "check that its folder is there and can be written"
        return JournalError(
            f"{str(self.path)!r} cannot be written: {error.strerror or error}",
            hint=f"{step}, then give the same command again: it goes on where it stopped",
        )

    def _refuse_foreign_output(self) -> None:
        if self.out.exists() and not self.path.exists():
            raise JournalError(
                f"{str(self.out)!r} exists, and no journal says which run it is from",
                hint=f"move it away, or name another output file: mv {self.out} {self.out}.old",
            )

    def _write(self, batch: list[_Row]) -> None:
        file = self._opened()
        offset = file.seek(0, os.SEEK_END)
        written: dict[str, JournalEntry] = {}
        for request, result in batch:
            entry = JournalEntry(result.is_ok, request.fingerprint, offset)
            record = {"ok": entry.is_ok, "request": entry.fingerprint, "result": result.record()}
            offset += file.write((json.dumps(record, ensure_ascii=False) + "\n").encode())
            written[request.custom_id] = entry
        file.flush()
        os.fsync(file.fileno())
        self.entries |= written

    def _load(self, file: BinaryIO) -> None:
        file.seek(0)
        offset = 0
        for number, row in enumerate(file, 1):
            if not row.endswith(b"\n"):
                file.truncate(offset)
                break
            self._read_row(row, offset, number)
            offset += len(row)

    def _read_row(self, row: bytes, offset: int, number: int) -> None:
        try:
            record: dict[str, Any] = json.loads(row)
            custom_id = record["result"]["custom_id"]
            self.entries[custom_id] = JournalEntry(record["ok"], record["request"], offset)
        except (ValueError, KeyError, TypeError) as error:
            raise JournalError(
                f"Row {number} of {str(self.path)!r} cannot be read: {row[:60]!r}",
                hint="remove the row; its request is then made again",
            ) from error

    def _opened(self) -> BinaryIO:
        if self._file is None:
            raise JournalError(
                "The journal is not open", hint="use it as a context manager: with Journal(out) as journal"
            )
        return self._file
