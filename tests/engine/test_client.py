"""What a client sends over an engine's socket, and how it reconnects; the test answers at the socket."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from tests.waiting import until

from antiphon.engine import Engine, EngineFault, EngineOverloaded, EngineSettings, EngineStopped, InvalidPrompt
from antiphon.engine.errors import error_of
from antiphon.engine.host.attached import EngineStatus, write_status
from antiphon.engine.host.client import EngineClient
from antiphon.engine.ipc.messages import (
    Cancel,
    Failed,
    Finished,
    Generate,
    ModelInfo,
    Ready,
    Request,
    Text,
    Tokenize,
    Tokenized,
)
from antiphon.engine.ipc.wire import decode_request, frame, read_frame
from antiphon.engine.statistics import EngineStatistics

pytestmark = pytest.mark.anyio


INFO = ModelInfo(
    architecture="none",
    description="",
    context_length=8,
    training_context=8,
    vocabulary_size=1,
    embedding_size=1,
    size_bytes=0,
    num_parameters=0,
    chat_template=None,
    templates={},
    bos_token="",
    eos_token="",
    adds_bos=False,
    control_tokens=(),
    end_tokens=(),
    fim_tokens={},
    metadata={},
    kind="chat",
    settings={},
)


class _Stub:
    """Answers token ids at once; a text is finished, refused or left waiting by its number of tokens: 1, 2, 3."""

    def __init__(self) -> None:
        self.heard: list[Request] = []

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frame([Ready(INFO)]))
        with contextlib.suppress(ConnectionError):
            while (body := await read_frame(reader)) is not None:
                request = decode_request(body)
                self.heard.append(request)
                match request:
                    case Tokenize():
                        writer.write(frame([Tokenized(request.id, ())]))
                    case Generate(max_tokens=1):
                        writer.write(frame([Finished(request.id, 0, "stop", 1)]))
                    case Generate(max_tokens=2):
                        writer.write(frame([Failed(request.id, "overloaded", "full")]))
                    case _:
                        pass
        writer.close()


@pytest.fixture
async def stub(tmp_path: Path) -> AsyncGenerator[_Stub]:
    stub = _Stub()
    async with await asyncio.start_unix_server(stub.answer, tmp_path / "engine.sock"):
        yield stub


async def test_only_unfinished_requests_are_cancelled(stub: _Stub, tmp_path: Path) -> None:
    """After its last answer or a refusal, a request is not cancelled; one that the caller leaves is."""
    client = await EngineClient.connect(tmp_path / "engine.sock")
    await client.tokenize(())
    assert [answer async for answer in client.generate(Generate(id=0, prompt=(), max_tokens=1))]
    with pytest.raises(EngineOverloaded):
        await anext(client.generate(Generate(id=0, prompt=(), max_tokens=2)))
    waiting = asyncio.create_task(anext(client.generate(Generate(id=0, prompt=(), max_tokens=3))))
    await until(lambda: len(stub.heard) == 4)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    await client.tokenize(())
    left = stub.heard[3]
    assert [request for request in stub.heard if isinstance(request, Cancel)] == [Cancel(left.id)]
    await client.aclose()


async def test_closing_an_engine_ends_the_wait_for_it(tmp_path: Path) -> None:
    """Closing an engine ends the wait for its next process at once."""
    stub, path = _Stub(), tmp_path / "engine.sock"
    write_status(tmp_path / "status", EngineStatus("ready", str(path), EngineStatistics()))
    engine = Engine(EngineSettings(model_path=tmp_path / "none.gguf"), status_file=tmp_path / "status")
    async with await asyncio.start_unix_server(stub.answer, path):
        await engine.start()
    waiting = asyncio.create_task(engine.tokenize(()))
    await until(engine._connecting.locked)
    await engine.aclose()
    with pytest.raises(EngineStopped, match="stopped"):
        await asyncio.wait_for(waiting, 20)


async def test_a_client_reconnects_to_a_healthy_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that breaks, and a socket that refuses once, do not shut out an engine whose process is well."""
    stub, path = _Stub(), tmp_path / "engine.sock"
    write_status(tmp_path / "status", EngineStatus("ready", str(path), EngineStatistics()))
    engine = Engine(EngineSettings(model_path=tmp_path / "none.gguf"), status_file=tmp_path / "status")
    server = await asyncio.start_unix_server(stub.answer, path)
    await engine.start()
    await engine.tokenize(())
    server.close()
    client = engine._client
    assert client is not None
    await client.aclose()
    path.unlink(missing_ok=True)
    failures: list[EngineStopped] = []
    connect = EngineClient.connect

    async def watched(path: Path) -> EngineClient:
        try:
            return await connect(path)
        except EngineStopped as error:
            failures.append(error)
            raise

    monkeypatch.setattr(EngineClient, "connect", watched)
    again = asyncio.create_task(engine.tokenize(()))
    await until(lambda: bool(failures))
    async with await asyncio.start_unix_server(stub.answer, path):
        await asyncio.wait_for(again, 20)
        await engine.aclose()


async def test_a_request_that_is_too_large_fails_alone(
    stub: _Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request above the limit of a frame is refused before it is sent; the others on the connection go on."""
    monkeypatch.setattr("antiphon.engine.host.client.MAX_FRAME_BYTES", 1000)
    client = await EngineClient.connect(tmp_path / "engine.sock")
    waiting = asyncio.create_task(anext(client.generate(Generate(id=0, prompt=(), max_tokens=3))))
    await until(lambda: len(stub.heard) == 1)
    with pytest.raises(InvalidPrompt, match="more than the 1000"):
        await client.tokenize(((Text("x" * 1000),),))
    await client.tokenize(())
    assert not waiting.done()
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    await client.aclose()


def test_a_request_that_fails_in_a_healthy_engine_is_not_a_crash() -> None:
    """The error of one request does not announce a restart."""
    assert type(error_of(Failed(1, "internal", "the model's output is not a number"))) is EngineFault
