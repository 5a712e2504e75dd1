"""The scripted backend: its script, its limits, its faults."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import pytest
from tests.backends.conformance import BackendConformance, collect, text_of
from tests.waiting import until

from antiphon.backends.base import Backend, StreamCut
from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Pattern, Reply, Script, ScriptedCall, ScriptedError, read_script, tokens
from antiphon.errors import ConfigError
from antiphon.protocol.chat import ChatRequest, Message
from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import (
    ChoiceFinished,
    Completed,
    Event,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
)

pytestmark = pytest.mark.anyio


class TestConformance(BackendConformance):
    @pytest.fixture
    async def backend(self) -> AsyncGenerator[ScriptedBackend]:
        backend = ScriptedBackend(
            Script(
                rerankers=("scripted-reranker",), replies=(Reply(text="One, two, three, four, five.", token_s=0.001),)
            )
        )
        yield backend
        await backend.aclose()

    def running(self, backend: Backend) -> int:
        assert isinstance(backend, ScriptedBackend)
        return backend.counts.running


def ask(text: str = "Hello there!", **changes: object) -> ChatRequest:
    return ChatRequest(**{"model": "scripted", "messages": (Message("user", text),), **changes})  # type: ignore[arg-type]


def play(*replies: Reply) -> ScriptedBackend:
    return ScriptedBackend(Script(replies=replies))


async def test_a_request_without_a_reply_is_echoed() -> None:
    """The empty script repeats the last message, token by token."""
    events = await collect(ScriptedBackend().chat(ask("Hello there, grüß dich 123!")))
    assert text_of(events) == "Hello there, grüß dich 123!"
    assert sum(isinstance(event, TextDelta) for event in events) > 4


async def test_the_first_reply_that_matches_is_given() -> None:
    """Model, last message and the number of the call choose the reply."""
    backend = play(
        Reply(match=Pattern(model="other-*"), text="wrong"),
        Reply(match=Pattern(last_message="(?i)weather", calls=(1, 3)), text="rain"),
        Reply(match=Pattern(last_message="(?i)weather"), text="sun"),
    )
    answers = [text_of(await collect(backend.chat(ask("The weather?")))) for _ in range(4)]
    assert answers == ["rain", "sun", "rain", "sun"]


async def test_a_failure_then_success() -> None:
    """A scripted error carries its status and headers; the next call is answered."""
    full = ScriptedError(status=429, message="slow down", type="requests", headers={"Retry-After": "2"})
    backend = play(Reply(match=Pattern(calls=(1,)), error=full), Reply(text="fine"))
    with pytest.raises(ApiError) as raised:
        await collect(backend.chat(ask()))
    assert (raised.value.status, raised.value.headers) == (429, {"Retry-After": "2"})
    assert text_of(await collect(backend.chat(ask()))) == "fine"


async def test_tool_calls_and_reasoning() -> None:
    """Reasoning comes first, then the calls with their arguments in pieces."""
    call = ScriptedCall("get_weather", {"city": "Oslo", "days": 3})
    events = await collect(play(Reply(reasoning="Let me look.", tool_calls=(call,))).chat(ask()))
    assert "".join(event.text for event in events if isinstance(event, ReasoningDelta)) == "Let me look."
    started = next(event for event in events if isinstance(event, ToolCallStarted))
    assert started.name == "get_weather"
    assert started.id.startswith("call_")
    arguments = "".join(event.arguments for event in events if isinstance(event, ToolCallDelta))
    assert msgspec.json.decode(arguments) == {"city": "Oslo", "days": 3}
    assert ChoiceFinished(0, "tool_calls") in events
    completed = events[-1]
    assert isinstance(completed, Completed)
    assert completed.usage.reasoning_tokens == len(tokens("Let me look."))


async def test_stop_strings_hold() -> None:
    """Text from the stop string on is not sent."""
    events = await collect(play(Reply(text="one two STOP three")).chat(ask(stop=("STOP", "three"))))
    assert text_of(events) == "one two "
    assert ChoiceFinished(0, "stop") in events


async def test_scripted_tokens_are_certain() -> None:
    """Log-probabilities are there when asked for, and are 0 for a text that leaves nothing to chance."""
    events = await collect(play(Reply(text="yes")).chat(ask(logprobs=True, top_logprobs=2)))
    (delta,) = [event for event in events if isinstance(event, TextDelta)]
    assert delta.logprobs[0].logprob == 0.0
    assert delta.logprobs[0].top_logprobs[0].token == "yes"


@pytest.mark.parametrize("after", [1, 3, 100])
async def test_a_cut_comes_after_the_tokens_it_names(after: int) -> None:
    """The connection is cut after so many tokens, or at the end of a shorter reply."""
    seen: list[Event] = []

    async def read() -> None:
        async for event in play(Reply(text="a b c d e", fault="cut", after=after)).chat(ask()):
            seen.append(event)  # noqa: PERF401 - a comprehension would lose what came before the cut

    with pytest.raises(StreamCut):
        await read()
    assert sum(isinstance(event, TextDelta) for event in seen) == min(after, 5)
    assert not any(isinstance(event, Completed) for event in seen)


async def test_a_hang_lasts_until_the_client_leaves() -> None:
    """A reply that hangs sends nothing; closing its stream ends it."""
    backend = play(Reply(text="never", fault="hang"))
    reader = asyncio.ensure_future(collect(backend.chat(ask())))
    await until(lambda: backend.counts.running == 1)
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    assert backend.counts.abandoned == 1


async def test_closing_the_backend_fails_running_requests() -> None:
    """A request that hangs when the backend closes gets a 503."""
    backend = play(Reply(text="never", fault="hang"))
    reader = asyncio.ensure_future(collect(backend.chat(ask())))
    await until(lambda: backend.counts.running == 1)
    await backend.aclose()
    with pytest.raises(ApiError) as raised:
        await reader
    assert raised.value.status == 503


async def test_pauses_run_on_the_clock_that_is_given() -> None:
    """The first token waits first_token_s, each later one token_s."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    script = Script(replies=(Reply(text="a b c", first_token_s=2.0, token_s=0.5),))
    await collect(ScriptedBackend(script, sleep=sleep).chat(ask()))
    assert waits == [2.0, 0.5, 0.5]


async def test_a_long_prompt_is_refused_where_the_script_limits_the_context() -> None:
    """The context limit is the script's."""
    with pytest.raises(ApiError) as raised:
        await collect(ScriptedBackend(Script(context_length=5)).chat(ask("a b c d e f g")))
    assert raised.value.code == "context_length_exceeded"


def test_a_script_is_read_from_toml(tmp_path: Path) -> None:
    """Tables of a TOML file are the script's replies."""
    path = tmp_path / "script.toml"
    path.write_text(
        'models = ["gpt-4o"]\n[[replies]]\nmatch = {last_message = "^hi", calls = [1]}\nerror = {status = 503}\n'
        '[[replies]]\ntext = "Hello."\nusage = {prompt_tokens = 7, completion_tokens = 2}\n'
    )
    script = read_script(path)
    assert script.models == ("gpt-4o",)
    assert script.replies[0].error == ScriptedError(status=503)
    assert script.replies[1].usage is not None


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("replys = []", "replys"),
        ('[[replies]]\nmatch = {last_message = "("}', "regular expression"),
        ('[[replies]]\nfault = "cut"\nerror = {status = 500}', "not both"),
        ("[[replies]]\nafter = 3", "after"),
        ("[[replies]]\nerror = {status = 200}", "400 to 599"),
        ("models = ", "not valid"),
    ],
)
def test_a_wrong_script_is_refused_by_name(tmp_path: Path, text: str, names: str) -> None:
    """The error says what is wrong in a script, and in which file."""
    path = tmp_path / "script.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=names) as raised:
        read_script(path)
    assert "script.toml" in str(raised.value)
