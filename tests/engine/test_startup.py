"""What is tried after an engine process died before its model was ready, and what the user reads."""

import os
import signal
from pathlib import Path

import pytest
from tests.installed import needs_llama
from tests.waiting import until

from antiphon.engine import Engine, EngineSettings
from antiphon.engine.errors import EngineStartFailed
from antiphon.engine.exit_status import describe
from antiphon.engine.ipc.messages import Phase
from antiphon.engine.startup import LOADING_LIBRARY, Death, Way, failure, next_way

LOADING = Phase("loading the model", "xllamacpp 1", ("AVX2", "FMA"))


def ways(code: int, phase: Phase, libraries: list[str]) -> list[Way]:
    """Every way until nothing is left, where each library of the machine dies in ``phase``."""
    tried = [Way()]
    while True:
        left = [name for name in libraries if name not in tried[-1].without]
        if not left:
            return tried
        phase = Phase(phase.name, left[0] if phase.library else "", phase.instruction_sets)
        way = next_way(Death(tried[-1], phase, code))
        if way is None:
            return tried
        tried.append(way)


def short(way: Way) -> tuple[bool, bool, int]:
    return way.extra_buffers, way.as_is, len(way.without)


@pytest.mark.parametrize("code", [-signal.SIGILL, -signal.SIGSEGV, -signal.SIGABRT, 3])
def test_each_library_is_tried_in_three_ways(code: int) -> None:
    """As chosen, without extra buffer types, with the weights as they are; then the same with the next library."""
    three = [(True, False), (False, False), (False, True)]
    expected = [(*way, 0) for way in three] + [(*way, 1) for way in three] + [(True, False, 2)]
    assert [short(way) for way in ways(code, LOADING, ["a", "b"])] == expected


def test_a_library_that_cannot_be_loaded_is_left_at_once() -> None:
    """What it would compute does not matter then."""
    phase = Phase(LOADING_LIBRARY, "a")
    assert [short(way) for way in ways(-signal.SIGILL, phase, ["a", "b"])] == [(True, False, n) for n in range(3)]


def test_out_of_memory_is_met_by_needing_less_and_not_by_another_library() -> None:
    """Repacked and converted weights are copies; without both there is nothing left to save."""
    assert [short(way) for way in ways(-signal.SIGKILL, LOADING, ["a", "b"])] == [(True, False, 0), (False, True, 0)]


def test_a_process_that_died_before_any_library_is_not_started_again() -> None:
    """Another library would not help."""
    assert len(ways(1, Phase("starting"), ["a", "b"])) == 1


def test_the_error_names_signal_library_phase_instruction_sets_and_every_way() -> None:
    """And what to do; the next process learns why it was started differently."""
    first = Death(Way(), LOADING, -signal.SIGILL)
    way = next_way(first)
    assert way is not None
    assert way.because == (
        "with xllamacpp 1 (AVX2, FMA), the engine's process was killed by SIGILL (an instruction that this processor does "
        "not have, or that was used wrongly) while loading the model"
    )
    error = failure([first, Death(way, LOADING, 7, "assertion failed")])
    assert "without extra buffer types, the engine's process exited with status 7" in error.message
    assert "assertion failed" in error.message
    assert "antiphon engine" in error.hint
    last = failure([first], EngineStartFailed("there is no other library", hint=""))
    assert last.message.endswith("there is no other library")
    assert "memory" in failure([Death(way, LOADING, -signal.SIGKILL)]).hint


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "exited with status 0"),
        (-11, "killed by SIGSEGV"),
        (-9, "memory ran out"),
        (-63, "signal 63"),
        (-15, "by SIGTERM"),
    ],
)
def test_an_exit_status_in_words(code: int, words: str) -> None:
    """Signals by name, with what they mean."""
    assert words in describe(code)


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        (Phase("loading the model", "a", (), True, "bf16"), [(True, False, 0), (False, False, 0), (False, True, 0)]),
        (Phase("loading the model", "a", (), True, "as-is"), [(True, False, 0), (False, False, 0)]),
        (Phase("loading the model", "a", (), False, "bf16"), [(True, False, 0), (False, True, 0)]),
        (Phase("loading the model", "a", (), False, "as-is"), [(True, False, 0)]),
    ],
)
def test_what_was_not_used_is_not_given_up(phase: Phase, expected: list[tuple[bool, bool, int]]) -> None:
    """A start that would be the same again is not made."""
    way: Way | None = Way()
    tried: list[tuple[bool, bool, int]] = []
    while way is not None and not way.without:
        tried.append(short(way))
        way = next_way(Death(way, phase, -signal.SIGSEGV))
    assert tried == expected


@needs_llama
@pytest.mark.model
@pytest.mark.anyio
async def test_an_engine_that_meets_an_illegal_instruction_while_it_serves_restarts_in_the_next_way(
    chat_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its restart does without what may have died; log and information name the signal, the library and the phase."""
    engine = Engine(EngineSettings(model_path=chat_model, context_size=512))
    await engine.start()
    try:
        library, pid = engine.info.settings["library"], engine.pid
        assert pid is not None
        os.kill(pid, signal.SIGILL)
        await until(lambda: engine.info.settings["extra_buffers"] == "False")
        after = engine.info.settings["started_after"]
        assert library in after
        assert "killed by SIGILL" in after
        assert after.endswith("while serving")
        assert "killed by SIGILL" in caplog.text
    finally:
        await engine.aclose()


@pytest.mark.parametrize("code", [-signal.SIGSEGV, -signal.SIGKILL, 1])
def test_after_a_death_with_openvino_llama_is_tried(code: int) -> None:
    """The next start leaves OpenVINO out and gives up nothing else, and its deaths are handled as without OpenVINO."""
    phase = Phase("computing the first batch", "xllamacpp 1", weight_format="f16", runtime="openvino")
    way = next_way(Death(Way(), phase, code))
    assert way is not None
    assert (way.openvino, way.extra_buffers, way.as_is, way.without) == (False, True, False, ())
    assert "with OpenVINO" in way.because
    after = next_way(Death(way, LOADING, code))
    assert after is not None
    assert not after.openvino
    assert not after.extra_buffers
