"""Ends a batch: its output and error files, its last status and its journal's end, in one transaction.

A process that is killed before that leaves contents that no row names, and the next owner writes them again.
"""

import time
from contextlib import suppress

import msgspec
from sqlalchemy.exc import IntegrityError

from antiphon.batches import BatchStore, StoredBatch
from antiphon.files import FileStore, NewFile, StoredFile, WrittenBlob
from antiphon.files.files import insert_file, made_file


class OutputFiles:
    """Writes the files of batches; ``store`` has the journal, ``files`` takes the files."""

    def __init__(self, store: BatchStore, files: FileStore) -> None:
        self._store = store
        self._files = files

    async def end(self, batch: StoredBatch) -> StoredBatch:
        """Return the batch as it is from now on. ``ApiError`` 507 on a full disk, and 503; ``LeaseLost``."""
        written = {is_error: await self._write(batch, is_error=is_error) for is_error in (False, True)}
        made = {is_error: made_file(self._new(batch, is_error), blob) for is_error, blob in written.items() if blob}
        times = batch.detail.times | {f"{batch.detail.ends_as}": int(time.time())}
        done = msgspec.structs.replace(
            batch,
            status=batch.detail.ends_as,
            detail=msgspec.structs.replace(
                batch.detail, output_file_id=_id(made.get(False)), error_file_id=_id(made.get(True)), times=times
            ),
        )
        # If this is cancelled or the connection lost, the commit may have worked; the sweeper removes what no row names.
        for location in await self._commit(done, made, written):
            await self._files.blobs.remove(location)
        return done

    async def fail(self, batch: StoredBatch) -> None:
        """End a batch that did not begin."""
        async with self._store.database.writing() as connection:
            unused = await self._store.end(connection, batch)
        if unused is not None:
            await self._files.blobs.remove(unused)

    async def _write(self, batch: StoredBatch, *, is_error: bool) -> WrittenBlob | None:
        if not (batch.num_failed if is_error else batch.num_completed):
            return None
        async with self._files.blobs.writer() as writer:
            async for line in self._store.results(batch.id, is_error=is_error):
                await writer.write(line)
            return await writer.commit()

    def _new(self, batch: StoredBatch, is_error: bool) -> NewFile:
        return NewFile(
            account=batch.account,
            filename=f"{batch.id}_{'error' if is_error else 'output'}.jsonl",
            purpose="batch_output",
            expires_after_s=batch.detail.output_expires_after_s,
        )

    async def _commit(
        self, done: StoredBatch, made: dict[bool, StoredFile], written: dict[bool, WrittenBlob | None]
    ) -> list[str]:
        """Write everything, or nothing; return the locations that nothing refers to."""
        while True:
            # An integrity error: the same content came in another request at the same moment.
            with self._store.database.errors(), suppress(IntegrityError):
                async with self._store.database.engine.begin() as connection:
                    ended = await self._store.end(connection, done)
                    unused = [] if ended is None else [ended]
                    for is_error, file in made.items():
                        blob = written[is_error]
                        assert blob is not None
                        if await insert_file(connection, file, blob, None) != blob.location:
                            unused.append(blob.location)
                return unused


def _id(file: StoredFile | None) -> str | None:
    return None if file is None else file.id
