"""Removes what nobody keeps: files and uploads past their time, and blobs that no row names.

Any number of processes may sweep the same database and storage: the one that removes a row removes what belongs to it.
"""

import asyncio
from collections.abc import Sequence

import msgspec
import structlog
from sqlalchemy import select

from antiphon.accounts.schema import blobs, upload_parts
from antiphon.files.files import FileStore, now_ms
from antiphon.files.uploads import UploadStore
from antiphon.protocol.errors import ApiError

SWEEP_EVERY_S = 60.0
ORPHAN_AGE_S = 3600.0
"""A blob without a row may be one that is just arriving; after an hour without a change it is not."""
_LOOK_FOR_ORPHANS_EVERY = 60
_MOST = 500
_BATCH = 500
_FORGET_UPLOADS_AFTER_MS = 30 * 86_400_000

_log = structlog.get_logger("antiphon.files")


class SweepStatistics(msgspec.Struct, frozen=True):
    """What this process has removed since it started."""

    files_total: int
    uploads_total: int
    orphans_total: int


class FileSweeper:
    """Belongs to one event loop. ``start`` begins a task that ``aclose`` ends."""

    def __init__(self, files: FileStore, uploads: UploadStore) -> None:
        self._files = files
        self._uploads = uploads
        self._task: asyncio.Task[None] | None = None
        self._num_files = self._num_uploads = self._num_orphans = 0

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="antiphon-files")

    async def sweep(self) -> None:
        """Remove what is past its time."""
        while expired := await self._files.expired(_MOST):
            for file in expired:
                self._num_files += await self._files.delete(file)
        while ended := await self._uploads.expired(_MOST):
            for upload in ended:
                try:
                    await self._uploads.end(upload, "expired")
                    self._num_uploads += 1
                except ApiError:
                    continue  # another process ended it
        await self._uploads.forget(now_ms() - _FORGET_UPLOADS_AFTER_MS)

    async def sweep_orphans(self, min_age_s: float = ORPHAN_AGE_S) -> None:
        """Remove blobs that no row names and that did not change for ``min_age_s``."""
        batch: list[str] = []
        async for found in self._files.blobs.listing():
            if found.age_s >= min_age_s:
                batch.append(found.location)
            if len(batch) == _BATCH:
                await self._remove_orphans(batch)
                batch = []
        await self._remove_orphans(batch)

    async def _remove_orphans(self, locations: Sequence[str]) -> None:
        named: set[str] = set()
        async with self._files.engine.connect() as connection:
            for column in (blobs.c.location, upload_parts.c.location):
                named |= set((await connection.execute(select(column).where(column.in_(locations)))).scalars())
        for location in locations:
            if location not in named:
                await self._files.blobs.remove(location)
                self._num_orphans += 1

    async def _run(self) -> None:
        num_sweeps = 0
        while True:
            try:
                if num_sweeps % _LOOK_FOR_ORPHANS_EVERY == 0:
                    await self.sweep_orphans()
                await self.sweep()
            except Exception:  # noqa: BLE001 - whatever failed is tried again with the next sweep
                _log.exception("files_not_swept")
            num_sweeps += 1
            await asyncio.sleep(SWEEP_EVERY_S)

    def statistics(self) -> SweepStatistics:
        """Return counts without waiting."""
        return SweepStatistics(self._num_files, self._num_uploads, self._num_orphans)

    async def aclose(self) -> None:
        """End the task."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
