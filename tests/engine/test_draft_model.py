"""A draft model in the engine's process, in both runtimes: the same answers in fewer steps, and refusals by name."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.engine.first_writes import give_back, num_faults
from tests.engine.runtimes import RUNTIMES
from tests.engine.test_memory_kinds import ask, leave_after, request_of
from tests.engine.tiny_models import hybrid, plain_attention
from tests.installed import HAS_LLAMA, HAS_OPENVINO, NO_LLAMA, NO_OPENVINO, needs_llama
from tests.waiting import until

from antiphon.engine import Engine, EngineSettings, EngineStartFailed
from antiphon.engine.ipc.messages import SamplingParams
from antiphon.engine.model.llama import Model
from antiphon.engine.model.openvino.pages import PAGE
from antiphon.engine.startup import Way
from antiphon.engine.worker.draft import LoadedDraft
from antiphon.engine.worker.native_start import NativeStart
from antiphon.engine.worker.opening import open_core
from antiphon.errors import ConfigError

pytestmark = [pytest.mark.anyio]

PROMPTS = ("once upon a time", "the other day in the " * 5, "a b c", "and then, " * 20)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A large model, a small one that says the same, one of another family that never does, and one of another kind."""
    folder = tmp_path_factory.mktemp("draft")
    plain_attention(folder / "large.gguf", num_idle_layers=24)
    plain_attention(folder / "small.gguf")
    plain_attention(folder / "other.gguf", "qwen3")
    plain_attention(folder / "foreign.gguf", first_token="<|foreign|>")
    hybrid(folder / "hybrid.gguf")
    return folder


@pytest.fixture(params=RUNTIMES)
def serving(request: pytest.FixtureRequest, files: Path) -> Callable[[str | None], Any]:
    """Starts an engine on the large model, with the draft model of this name."""
    if request.param == "llama" and not HAS_LLAMA:
        pytest.skip(NO_LLAMA)
    if request.param == "openvino" and not HAS_OPENVINO:
        pytest.skip(NO_OPENVINO)

    @asynccontextmanager
    async def start(draft: str | None) -> AsyncGenerator[Engine]:
        engine = Engine(settings(files, draft, runtime=request.param))
        await engine.start()
        try:
            yield engine
        finally:
            await engine.aclose()

    return start


def settings(files: Path, draft: str | None, **given: Any) -> EngineSettings:
    return EngineSettings(
        model_path=files / given.pop("model", "large.gguf"),
        draft_model=None if draft is None else files / draft,
        cache_directory=files / "copies",
        context_size=512,
        num_sequences=8,
        threads=1,
        batch_threads=1,
        kv_type_k="f32",
        kv_type_v="f32",
        weight_format="f16" if given.get("runtime") == "openvino" else "as-is",
        **given,
    )


def have_ended(engine: Engine, num_requests: int) -> bool:
    """Whether the last heartbeat came after the end of so many requests."""
    said = engine.statistics()
    return said.requests == num_requests and not said.running


async def test_answers_are_the_same_in_fewer_steps(serving: Callable[[str | None], Any]) -> None:
    """Greedy and drawn answers, alone and together, with requests that leave: bit-equal with and without a draft model."""
    drawn = SamplingParams(temperature=0.8, seed=5)
    answers: list[list[Any]] = []
    counts: list[tuple[int, int]] = []
    for draft in (None, "small.gguf", "other.gguf"):
        async with serving(draft) as engine:
            alone = [await ask(engine, request_of(prompt)) for prompt in PROMPTS]
            random = [await ask(engine, request_of(prompt, sampling=drawn)) for prompt in PROMPTS]
            await until(partial(have_ended, engine, 2 * len(PROMPTS)))
            said = engine.statistics()  # before requests that leave, whose steps depend on when they do
            counts.append((said.steps, said.model_accepted_tokens))
            leaving = [leave_after(engine, request_of(prompt, max_tokens=200), 3) for prompt in PROMPTS]
            together, _ = await asyncio.gather(
                asyncio.gather(*(ask(engine, request_of(prompt)) for prompt in PROMPTS)), asyncio.gather(*leaving)
            )
            answers.append([answer.choices for answer in (*alone, *random)])
            assert [answer.choices for answer in together] == [answer.choices for answer in alone] or (
                engine.info.settings["runtime"] == "llama"
            )
            assert (engine.info.settings["draft_model"] != "") == (draft is not None)
            assert engine.statistics().restarts == 0
    assert answers[0] == answers[1] == answers[2]
    (steps, none), (fewer, many), _ = counts
    assert none == 0 < many
    assert fewer < steps


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"draft": "foreign.gguf"}, "its token 0 is b'<|foreign|>', not b'<|end|>'"),
        ({"draft": "missing.gguf"}, "there is no file"),
        pytest.param({"draft": "hybrid.gguf"}, "its memory cannot drop the tokens", marks=needs_llama),
        pytest.param({"draft": "small.gguf", "model": "hybrid.gguf"}, "cannot drop tokens", marks=needs_llama),
    ],
)
async def test_a_model_that_cannot_draft_is_refused_by_name(given: dict[str, str], words: str, files: Path) -> None:
    """Another vocabulary, no file, a memory without a way back: the start fails and says which file and why."""
    engine = Engine(settings(files, runtime="llama" if HAS_LLAMA else "openvino", **given))
    with pytest.raises(EngineStartFailed, match="draft_model") as refused:
        await engine.start()
    assert words in refused.value.message
    assert refused.value.hint


async def test_a_draft_model_is_looked_for_before_the_model_is_prepared(files: Path) -> None:
    """Measuring takes a minute; a wrong path is said at once."""
    (files / "unread.gguf").write_bytes(b"no model")
    engine = Engine(settings(files, "missing.gguf", model="unread.gguf"))
    with pytest.raises(EngineStartFailed, match=r"draft_model: there is no file .*missing\.gguf"):
        await engine.start()


def test_a_draft_model_without_drafts_is_a_contradiction(files: Path) -> None:
    """``draft_tokens`` = 0 with a draft model is refused where the settings are read."""
    with pytest.raises(ConfigError, match="contradict"):
        settings(files, "small.gguf", draft_tokens=0)


@needs_llama
async def test_its_memory_is_counted(files: Path) -> None:
    """Keys and values of both models are counted when sizes are chosen, and reported."""
    reported: list[int] = []
    for draft in (None, "small.gguf"):
        engine = Engine(settings(files, draft, runtime="llama"))
        await engine.start()
        try:
            await until(lambda: bool(engine.statistics().kv_bytes))  # noqa: B023 - called before the loop goes on
            reported.append(engine.statistics().kv_bytes or 0)
            assert engine.info.settings["kv_bytes"] == str(reported[-1])
        finally:
            await engine.aclose()
    assert reported[1] / reported[0] == pytest.approx(28 / 26, rel=0.02)  # layers
    large, small = Model(files / "large.gguf"), Model(files / "small.gguf")
    both = LoadedDraft(small, small.vocabulary.size).added_to(large.facts)
    assert both.kv_values_k / large.facts.kv_values_k == both.kv_values_v / large.facts.kv_values_v == 28 / 26


def test_a_draft_model_waits_for_no_memory_either(files: Path) -> None:
    """What is made ready while there are no requests is made ready for both models."""
    pytest.importorskip("openvino_genai", reason=NO_OPENVINO)
    given = settings(files, "small.gguf", runtime="openvino", cache_size=20_000)
    core = open_core(given, NativeStart(given, Way(), lambda _: None), lambda _: None)
    draft: Any = core._loaded.draft_context
    give_back(draft.caches)
    num_faults(draft.caches, slice(0, 0))
    assert num_faults(draft.caches, slice(-32, None))
    list(core.loop._idle_work)
    assert num_faults(draft.caches, slice(0, 16_384 // PAGE)) == 0
