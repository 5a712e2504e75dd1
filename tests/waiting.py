"""Waiting for what another task, thread or process brings about, however slow the machine is."""

import asyncio
import threading
import time
from collections.abc import Callable

PATIENCE_S = 120.0
"""Only a test that fails waits this long; one that passes waits for an event or a condition, never for a time."""

_LOOK_EVERY_S = 0.005


def wait_until(condition: Callable[[], bool], what: str = "it did not happen") -> None:
    """Look at ``condition`` until it holds."""
    deadline = time.monotonic() + PATIENCE_S
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, what
        pause.wait(_LOOK_EVERY_S)


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks run until ``condition`` holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event that a test could see
            await asyncio.sleep(_LOOK_EVERY_S)
