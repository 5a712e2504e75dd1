"""What the routes of vector stores and of their files share."""

from collections.abc import Sequence
from typing import Any

from antiphon.protocol import problems
from antiphon.protocol.vector_stores import check_chunking
from antiphon.vector_stores import NewStoreFile, VectorStores

Json = dict[str, Any]


async def new_files(
    stores: VectorStores, account: str, given: Sequence[Json], tokens: int, overlap: int
) -> list[NewStoreFile]:
    """Return the files that a checked request names, with ``tokens`` and ``overlap`` where it does not say how to cut one.

    ``ApiError`` 400 for a file that ``account`` does not have.
    """
    made: list[NewStoreFile] = []
    found = await stores.files.find_all((one["file_id"] for one in given), account)
    for one in given:
        file = found.get(one["file_id"])
        if file is None:
            raise problems.bad_request(f"No such File object: {one['file_id']}", "file_id", "file_not_found")
        strategy = one.get("chunking_strategy")
        size = (tokens, overlap) if strategy is None else check_chunking(strategy, "chunking_strategy")
        made.append(
            NewStoreFile(
                file_id=file.id,
                filename=file.filename,
                attributes=one.get("attributes") or {},
                chunk_tokens=size[0],
                chunk_overlap=size[1],
            )
        )
    return made
