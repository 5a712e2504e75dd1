"""Names in addition to those that backends list: aliases of the settings, and patterns that the local models answer last."""

import pytest

from antiphon.backends.routing import DefaultName, NameSettings, Router, RouteSettings, TargetSettings
from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Script
from antiphon.errors import ConfigError
from antiphon.protocol.chat import ChatRequest, Message
from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import Started

pytestmark = pytest.mark.anyio

DEFAULTS = (DefaultName("gpt-*", "tiny"), DefaultName("o[0-9]*", "tiny"))


class Anything(ScriptedBackend):
    """Like the models of this machine: answers names that it does not list, when they are sent to it."""

    def _check(self, model: str, kind: str) -> None:
        """Accept every name."""


def router(*routes: RouteSettings, aliases: dict[str, str] | None = None) -> Router:
    return Router(
        {"local": Anything(Script(models=("tiny",))), "far": ScriptedBackend(Script(models=("gpt-7", "big")))},
        routes,
        names=NameSettings(aliases=aliases or {}, defaults=DEFAULTS),
    )


async def asked(made: Router, model: str) -> str:
    """Return the model's name as the backend got it."""
    events = made.chat(ChatRequest(model=model, messages=(Message("user", "hi"),)))
    first = await anext(events)
    await events.aclose()
    assert isinstance(first, Started)
    return first.model


@pytest.mark.parametrize("name", ["gpt-5-mini", "gpt-3.5-turbo", "gpt-5.6-luna", "o1", "o3-mini", "o4-mini"])
async def test_a_pattern_answers_last(name: str) -> None:
    """Names that clients ask for by default go to the local model, under their own name; they share one limit."""
    made = router()
    assert made.serves(name)
    assert await asked(made, name) == name
    assert made.counted_as(name) in {"gpt-*", "o[0-9]*"}
    described = made.describe(name)
    assert described is not None
    assert (described.id, described.kind) == (name, "chat")


@pytest.mark.parametrize("name", ["other", "ollama", "opus", "mygpt-4", "gpt4"])
async def test_other_names_stay_unknown(name: str) -> None:
    """A pattern answers what it matches and nothing else."""
    made = router()
    assert not made.serves(name)
    assert made.describe(name) is None
    with pytest.raises(ApiError):
        await asked(made, name)


@pytest.mark.parametrize("pattern", ["gpt-*", "*"])
async def test_a_pattern_answers_no_name_of_any_length(pattern: str) -> None:
    """Whatever is remembered of a name is bounded; a name that a route spells out may be longer."""
    made = router(RouteSettings(model=pattern, targets=(TargetSettings(backend="far", model="big"),)))
    assert made.serves("gpt-" + "x" * 252)
    assert not made.serves("gpt-" + "x" * 253)
    exact = router(RouteSettings(model="y" * 300, targets=(TargetSettings(backend="far", model="big"),)))
    assert exact.serves("y" * 300)


async def test_what_serves_a_name_comes_before_a_pattern() -> None:
    """A backend that lists the name, a route with it, and the route of all other names win over the pattern."""
    described = router().describe("gpt-7")
    assert described is not None
    assert described.owned_by == "far"
    routed = router(RouteSettings(model="*", targets=(TargetSettings(backend="far", model="big"),)))
    assert await asked(routed, "gpt-5") == "big"
    assert not [model for model in routed.models if "*" in model.id]


@pytest.mark.parametrize(
    ("target", "got"), [("tiny", "tiny"), ("big", "big"), ("gpt-7", "gpt-7"), ("routed", "big"), ("gpt-5", "gpt-5")]
)
async def test_an_alias_leads_to_any_model(target: str, got: str) -> None:
    """Of this machine, of another backend, of a route, or of a pattern; it is listed, and described under its name."""
    route = RouteSettings(model="routed", targets=(TargetSettings(backend="far", model="big"),))
    made = router(route, aliases={"fast": target})
    assert await asked(made, "fast") == got
    assert "fast" in {model.id for model in made.models}
    described = made.describe("fast")
    assert described is not None
    assert described.id == "fast"


async def test_an_alias_of_nothing_is_unknown() -> None:
    """An alias whose model nobody serves (yet) is a 404 and is not listed."""
    made = router(aliases={"fast": "none"})
    assert not made.serves("fast")
    assert "fast" not in {model.id for model in made.models}


@pytest.mark.parametrize("aliases", [{"a": "b", "b": "tiny"}, {"routed": "tiny"}])
def test_aliases_that_cannot_be_meant(aliases: dict[str, str]) -> None:
    """An alias of an alias and an alias with the name of a route are refused at the start."""
    route = RouteSettings(model="routed", targets=(TargetSettings(backend="far", model="big"),))
    with pytest.raises(ConfigError):
        router(route, aliases=aliases)
