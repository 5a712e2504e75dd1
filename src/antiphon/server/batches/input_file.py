"""Reads the input file of a batch line by line; the work on its bytes is a thread's."""

import asyncio
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from typing import Protocol

from antiphon.batches import BatchLine, InputCheck, LineSplitter
from antiphon.batches.input_lines import parse_line


class InputFile(Protocol):
    """Gives the bytes of a file, in pieces."""

    def pieces(self) -> AsyncGenerator[bytes]: ...


async def check_input(file: InputFile, check: InputCheck, max_line_bytes: int) -> None:
    """Give every line to ``check``. Raises ``ApiError`` if the file cannot be read."""
    splitter = LineSplitter(max_line_bytes)

    def take(piece: bytes) -> None:
        for number, line in splitter.feed(piece):
            check.take(number, line)

    async with aclosing(file.pieces()) as pieces:
        async for piece in pieces:
            await asyncio.to_thread(take, piece)
            if check.is_over:
                return
    for number, line in splitter.end():
        check.take(number, line)
    check.end()


async def lines_of(
    file: InputFile, endpoint: str, but: Collection[int], max_line_bytes: int
) -> AsyncGenerator[BatchLine]:
    """Yield the lines of a file that was checked, apart from the numbers in ``but``."""
    splitter = LineSplitter(max_line_bytes)

    def parse(piece: bytes) -> list[BatchLine]:
        return [
            parse_line(number, line, endpoint)
            for number, line in splitter.feed(piece)
            if line and line.strip() and number not in but
        ]

    async with aclosing(file.pieces()) as pieces:
        async for piece in pieces:
            for line in await asyncio.to_thread(parse, piece):
                yield line
    for number, line in splitter.end():
        if line and line.strip() and number not in but:
            yield parse_line(number, line, endpoint)
