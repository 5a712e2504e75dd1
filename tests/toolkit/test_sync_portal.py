"""The synchronous face."""

import asyncio
import contextvars
import os
import threading
from collections.abc import AsyncIterator

import pytest
from tests.waiting import PATIENCE_S

from antiphon.toolkit._sync import Portal, portal
from antiphon.toolkit.errors import ToolkitError


async def give(value: int) -> int:
    return value


def test_a_call_returns_what_the_coroutine_returns_and_raises_what_it_raises() -> None:
    """Both ends of a coroutine come through."""

    async def fail() -> None:
        raise LookupError("gone")

    assert portal.call(give(3)) == 3
    with pytest.raises(LookupError, match="gone"):
        portal.call(fail())


@pytest.mark.anyio
async def test_a_call_works_inside_a_running_loop() -> None:
    """A notebook runs a loop already, and a synchronous call still returns."""
    assert portal.call(give(4)) == 4


def test_a_call_from_the_portals_own_thread_is_refused() -> None:
    """Waiting there would never end, so it says what to do instead."""

    async def nested() -> int:
        return portal.call(give(1))

    with pytest.raises(ToolkitError, match="own event loop") as caught:
        portal.call(nested())
    assert "AsyncChat" in caught.value.hint


def test_context_variables_reach_the_coroutine() -> None:
    """What the caller's context holds holds in the portal too."""
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name")
    name.set("tester")

    async def read() -> str:
        return name.get()

    assert portal.call(read()) == "tester"


def test_an_interrupted_call_cancels_the_coroutine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while waiting ends what is under way before it goes on."""
    started, cancelled = threading.Event(), threading.Event()

    async def endless() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    def interrupted(self: object, timeout: float | None = None) -> None:
        started.wait()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("concurrent.futures.Future.result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            portal.call(endless())
    assert cancelled.is_set()


def test_iteration_gives_every_item_and_the_error_at_its_place() -> None:
    """Items come in order, and what the source raises follows them."""

    async def items() -> AsyncIterator[int]:
        yield 1
        yield 2
        raise LookupError("third")

    iteration = portal.iterate(items())
    assert [next(iteration), next(iteration)] == [1, 2]
    with pytest.raises(LookupError, match="third"):
        next(iteration)
    assert list(portal.iterate(_count(3))) == [0, 1, 2]


def test_leaving_an_iteration_early_closes_its_source() -> None:
    """A break cancels the source, which may close what it holds."""
    closed = threading.Event()

    async def endless() -> AsyncIterator[int]:
        try:
            yield 0
            await asyncio.Event().wait()
        finally:
            closed.set()

    iteration = portal.iterate(endless())
    assert next(iteration) == 0
    iteration.close()
    assert closed.wait(PATIENCE_S)


def test_a_closed_portal_starts_again() -> None:
    """Closing stops the thread; the next call gets a new one."""
    own = Portal()
    assert own.call(give(1)) == 1
    own.close()
    assert own.call(give(2)) == 2
    own.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_gets_a_portal_of_its_own() -> None:
    """The parent's thread does not exist in the child, which must not wait for it."""
    portal.call(give(0))
    child = os.fork()
    if child == 0:
        os._exit(portal.call(give(7)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


async def _count(stop: int) -> AsyncIterator[int]:
    for number in range(stop):
        yield number


def test_a_task_that_ends_the_program_ends_its_own_caller_alone() -> None:
    """Also from a task below the call; calls of other threads go on."""
    own, begun, go_on = Portal(), threading.Event(), asyncio.Event()
    others: list[int] = []

    async def wait() -> int:
        begun.set()
        await go_on.wait()
        return 5

    async def leave() -> None:
        raise SystemExit(3)

    async def with_task() -> None:
        try:
            await asyncio.create_task(leave())
        finally:
            go_on.set()

    other = threading.Thread(target=lambda: others.append(own.call(wait())))
    other.start()
    assert begun.wait(PATIENCE_S)
    with pytest.raises(SystemExit):
        own.call(with_task())
    other.join(PATIENCE_S)
    assert others == [5]
    own.close()
