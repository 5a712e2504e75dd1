"""How an engine's process is watched and brought back: whose silence counts, and what requests meet meanwhile."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import pytest
from tests.installed import engine_settings
from tests.waiting import until

from antiphon.engine import Engine, EngineCrashed, EngineSettings
from antiphon.engine.host.supervisor import within
from antiphon.engine.ipc.messages import Generate, Prompt, SamplingParams, Text

pytestmark = pytest.mark.anyio
HELLO: Prompt = (Text("Hello"),)


class _Clock:
    """The running event loop's clock, which a test moves on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._offset = 0.0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: time.monotonic() + self._offset)

    def move(self, seconds: float) -> None:
        """Let time pass as if something had blocked the loop."""
        self._offset += seconds


async def test_time_in_which_the_loop_did_not_run_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes in while the loop is blocked is read after it, however long that took."""
    clock = _Clock(monkeypatch)
    report: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def heard() -> str:
        return await report

    waiting = asyncio.create_task(within(1000, heard()))
    for _ in range(5):
        await asyncio.sleep(0)
    clock.move(5000)
    for _ in range(5):
        await asyncio.sleep(0)
    report.set_result("well")
    assert await waiting == "well"


async def test_silence_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing for as long as was allowed, while the loop runs, ends the wait and what was waited for."""
    clock = _Clock(monkeypatch)
    never: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def heard() -> str:
        return await never

    waiting = asyncio.create_task(within(1000, heard()))
    parts = 0
    while not waiting.done():
        parts += 1
        assert parts < 100
        clock.move(50)
        for _ in range(3):
            await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        await waiting
    assert parts >= 20
    await asyncio.sleep(0)
    assert never.cancelled()


@pytest.fixture
async def copied(chat_model: Path, tmp_path: Path) -> AsyncGenerator[Engine]:
    """An engine on a file that the test may remove."""
    path = tmp_path / "model.gguf"
    path.symlink_to(chat_model)
    engine = Engine(engine_settings(path, context_size=512))
    await engine.start()
    yield engine
    await engine.aclose()


@pytest.mark.model
async def test_a_blocked_server_does_not_kill_its_engine(copied: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine whose reports could not be read for minutes keeps its process."""
    pid = copied.pid
    _Clock(monkeypatch).move(600)
    before = copied.statistics()
    await until(lambda: copied.statistics() is not before)
    assert (copied.pid, copied.state) == (pid, "ready")


async def _generate(engine: Engine) -> None:
    request = Generate(id=0, prompt=HELLO, max_tokens=2, sampling=SamplingParams(temperature=0))
    async for _ in engine.generate(request):
        pass


REQUESTS: dict[str, Callable[[Engine], Awaitable[object]]] = {
    "generate": _generate,
    "embed": lambda engine: engine.embed((HELLO,)),
    "tokenize": lambda engine: engine.tokenize((HELLO,)),
    "score": lambda engine: engine.score(HELLO, (HELLO,)),
}


@pytest.mark.model
async def test_no_request_waits_for_an_engine_that_could_not_be_restarted(copied: Engine) -> None:
    """In a long pause between starts every kind of request fails at once, with the reason and the rest of the pause."""
    copied.settings.model_path.unlink()
    assert copied.pid is not None
    os.kill(copied.pid, signal.SIGKILL)
    await until(lambda: (copied.status().retry_after_s or 0) > 2.5)
    errors = await asyncio.gather(*(send(copied) for send in REQUESTS.values()), return_exceptions=True)
    for error in errors:
        assert isinstance(error, EngineCrashed)
        assert "there is no file" in str(error)
        assert 2 < error.retry_after_s <= 30


@pytest.mark.model
@pytest.mark.parametrize("kind", ["generate", "tokenize"])
async def test_a_request_waits_for_an_engine_that_is_being_restarted(copied: Engine, kind: str) -> None:
    """A request that comes after the process died is answered by the next one."""
    assert copied.pid is not None
    os.kill(copied.pid, signal.SIGKILL)
    await until(lambda: copied.state == "restarting")
    await REQUESTS[kind](copied)
    assert copied.state == "ready"


async def test_those_who_wait_together_give_up_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that one request waits for a restart is not added to the time of the next."""
    engine = Engine(EngineSettings(model_path=tmp_path / "none.gguf"), status_file=tmp_path / "status")
    clock = _Clock(monkeypatch)
    waiting = [asyncio.create_task(engine.tokenize((HELLO,))) for _ in range(5)]
    for _ in range(10):
        await asyncio.sleep(0)
    clock.move(31)
    errors = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 20)
    assert [type(error) for error in errors] == [EngineCrashed] * 5
