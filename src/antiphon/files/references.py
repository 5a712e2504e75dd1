"""Which blob holds which content, and how many refer to it.

Files with the same content share one blob. A transaction counts references up and down; the blob itself is removed after
the transaction that took the last one. A process that is killed in between leaves a blob that no row names, which the
sweeper finds.
"""

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from antiphon.accounts.schema import blobs
from antiphon.files.blobs import WrittenBlob


async def refer(connection: AsyncConnection, written: WrittenBlob) -> str:
    """Count one more reference to the content of ``written``; return the location that holds it from now on.

    It differs from ``written.location`` where the content was there already. ``IntegrityError`` if another transaction adds
    the same content at this moment: then begin again.
    """
    if await _count(connection, written.digest, 1):
        row = await connection.execute(select(blobs.c.location).where(blobs.c.digest == written.digest))
        return row.scalar_one()
    await connection.execute(
        insert(blobs).values(
            digest=written.digest, location=written.location, num_bytes=written.num_bytes, num_references=1
        )
    )
    return written.location


async def refer_again(connection: AsyncConnection, digest: str) -> bool:
    """Count one more reference to content that is kept; False if it is gone."""
    return await _count(connection, digest, 1)


async def release(connection: AsyncConnection, digest: str) -> str | None:
    """Count one reference less; return the location of a blob that nobody refers to any more."""
    await _count(connection, digest, -1)
    unused = (blobs.c.digest == digest) & (blobs.c.num_references <= 0)
    location: str | None = (await connection.execute(select(blobs.c.location).where(unused))).scalar()
    if location is not None:
        await connection.execute(delete(blobs).where(unused))
    return location


async def location_of(connection: AsyncConnection, digest: str) -> str | None:
    """Return where the content is; None if it is not kept."""
    return (await connection.execute(select(blobs.c.location).where(blobs.c.digest == digest))).scalar()


async def _count(connection: AsyncConnection, digest: str, change: int) -> bool:
    # The update locks the row until the transaction's end, in every database.
    counted = update(blobs).where(blobs.c.digest == digest)
    return (await connection.execute(counted.values(num_references=blobs.c.num_references + change))).rowcount > 0
