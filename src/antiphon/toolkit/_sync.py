"""Run asynchronous code from synchronous code, so that everything is written once.

One daemon thread per process runs an event loop, the portal. A synchronous call passes its coroutine to the portal and
waits. This also works where a loop is already running (a notebook), and ``Ctrl-C`` cancels the call: the connection
closes and the server stops generating.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import queue
import threading
from collections.abc import AsyncIterator, Coroutine, Generator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from antiphon.toolkit.errors import ToolkitError

T = TypeVar("T")

# How long an interrupted call may take to close its connection before the interrupt is raised.
CLOSE_TIMEOUT_S = 2.0


class Portal:
    """An event loop on a daemon thread, started by the first call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run ``coroutine`` to its end and return what it returns, or raise what it raises.

        Raises ToolkitError when called from the portal's own thread, where waiting would never end.
        """
        running = self._start(coroutine)
        try:
            return running.future.result()
        finally:
            running.cancel()

    def iterate(self, items: AsyncIterator[T]) -> Generator[T]:
        """Iterate ``items`` from synchronous code; leaving the loop early cancels the source.

        The source goes on only while its next item is waited for, and the whole of it runs in one task (a time limit
        inside it cannot span tasks).
        """
        ready: queue.SimpleQueue[_Item[T] | None] = queue.SimpleQueue()
        wanted = asyncio.Semaphore(0)
        running = self._start(_pump(items, ready, wanted))
        try:
            while True:
                self._running_loop().call_soon_threadsafe(wanted.release)
                if (item := ready.get()) is None:
                    break
                yield item.value
            running.future.result()
        finally:
            running.cancel()

    def close(self) -> None:
        """Cancel what still runs and stop the thread. A later call starts a new one."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(CLOSE_TIMEOUT_S)

    def forget(self) -> None:
        """Drop the loop without stopping it: after a fork its thread exists in the parent alone."""
        self._lock = threading.Lock()
        self._loop = self._thread = None

    def _start(self, coroutine: Coroutine[Any, Any, T]) -> _Running[T]:
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise ToolkitError(
                "A synchronous call was made from inside the toolkit's own event loop, where it could never end",
                hint="use the asynchronous twin there (AsyncChat, aextract, ...)",
            )
        finished = threading.Event()
        future = asyncio.run_coroutine_threadsafe(_run_and_signal(coroutine, finished), self._running_loop())
        return _Running(future, finished)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_serve, args=(self._loop,), name="antiphon", daemon=True)
                self._thread.start()
            return self._loop


@dataclass(frozen=True, slots=True)
class _Item(Generic[T]):
    value: T


@dataclass(frozen=True, slots=True)
class _Running(Generic[T]):
    future: Future[T]
    finished: threading.Event

    def cancel(self) -> None:
        """End it if it still runs, and give it a moment to close what it holds."""
        if self.future.cancel():
            self.finished.wait(CLOSE_TIMEOUT_S)


async def _run_and_signal(coroutine: Coroutine[Any, Any, T], finished: threading.Event) -> T:
    try:
        return await coroutine
    finally:
        finished.set()


async def _pump(items: AsyncIterator[T], ready: queue.SimpleQueue[_Item[T] | None], wanted: asyncio.Semaphore) -> None:
    try:
        await wanted.acquire()
        async for item in items:
            ready.put(_Item(item))
            await wanted.acquire()
    finally:
        aclose = getattr(items, "aclose", None)
        if aclose is not None:
            await aclose()
        ready.put(None)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        while not _run_until_stopped(loop):
            pass
    finally:
        leftover = asyncio.all_tasks(loop)
        for task in leftover:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*leftover, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _run_until_stopped(loop: asyncio.AbstractEventLoop) -> bool:
    """Run the loop; returns False if a task's SystemExit or KeyboardInterrupt broke it off.

    asyncio lets these two through, and the task has them as its result as well. They are for the thread that called, so
    the loop goes on for all others.
    """
    try:
        loop.run_forever()
    except (SystemExit, KeyboardInterrupt):
        return False
    return True


portal = Portal()
atexit.register(portal.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=portal.forget)
