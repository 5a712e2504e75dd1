"""The synchronous and the asynchronous face: the same functions, arguments and words, and the logic in one of them alone."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import antiphon
from antiphon.toolkit import bulk
from antiphon.toolkit.evaluation.evaluation import Evaluation

NAMES = antiphon._HOME.keys()
CLASSES = {
    name: (getattr(antiphon, name), getattr(antiphon, f"Async{name}")) for name in NAMES if f"Async{name}" in NAMES
}
# What only one face has, since only there it means something.
OF_ONE = {"Chat.aclose", "Index.aclose", "Index.close", "Index.prefixes", "Index.num_characters", "Index.answerer"}
# What one face takes besides the other's: an asynchronous one may be given either kind.
WIDER = {
    "OpenAI | None": "Client | None",
    "Chat | None": "Chat | AsyncChat | None",
    "Iterable[str]": "Iterable[str] | AsyncIterable[str]",
}


def functions() -> Iterator[tuple[str, Callable[..., Any], Callable[..., Any]]]:
    for name in sorted(NAMES):
        if f"a{name}" in NAMES:
            yield name, getattr(antiphon, name), getattr(antiphon, f"a{name}")
    yield "run", bulk.run, bulk.arun
    yield "Evaluation.run", Evaluation.run, Evaluation.arun


def methods() -> Iterator[tuple[str, Callable[..., Any], Callable[..., Any]]]:
    for name, (plain, asynchronous) in CLASSES.items():
        for member in sorted(vars(plain).keys() | vars(asynchronous).keys()):
            one, other = getattr(plain, member, None), getattr(asynchronous, member, None)
            if member.startswith("_") or f"{name}.{member}" in OF_ONE:
                continue
            assert one is not None, f"{name} has no {member}"
            assert other is not None, f"Async{name} has no {member}"
            if not isinstance(one, property):
                yield f"{name}.{member}", one, other


FUNCTIONS, METHODS = list(functions()), list(methods())
IDS: Any = lambda value: value if isinstance(value, str) else ""  # noqa: E731 - names of the cases


def parameters(function: Callable[..., Any]) -> list[tuple[Any, ...]]:
    given = inspect.signature(function).parameters.values()
    return [(each.name, each.kind, each.default, str(each.annotation)) for each in given]


def first_line(function: Callable[..., Any]) -> str:
    return (inspect.getdoc(function) or "").split("\n", maxsplit=1)[0]


@pytest.mark.parametrize(("name", "plain", "asynchronous"), [*FUNCTIONS, *METHODS], ids=IDS)
def test_both_faces_take_the_same_arguments(name: str, plain: Any, asynchronous: Any) -> None:
    """In the same order, with the same defaults and types; an asynchronous one may take more kinds of an argument."""
    expected = parameters(asynchronous)
    given = parameters(plain)
    assert [each[:3] for each in given] == [each[:3] for each in expected]
    for (_, _, _, one), (_, _, _, other) in zip(given, expected, strict=True):
        assert other in {one, WIDER.get(one)}


@pytest.mark.parametrize(("name", "plain", "asynchronous"), METHODS, ids=IDS)
def test_methods_of_both_faces_are_described_alike(name: str, plain: Any, asynchronous: Any) -> None:
    """By the same first line; the rest is said once, at the synchronous one."""
    described = inspect.getdoc(asynchronous) or ""
    assert described.split("\n", maxsplit=1)[0] == first_line(plain)
    assert asynchronous is plain or len(described) <= len(inspect.getdoc(plain) or "")


@pytest.mark.parametrize(("name", "plain", "asynchronous"), FUNCTIONS, ids=IDS)
def test_an_asynchronous_function_refers_to_its_twin(name: str, plain: Any, asynchronous: Any) -> None:
    """Which has the whole description."""
    assert (
        inspect.getdoc(asynchronous) == f"Do what ``{name.rsplit('.', maxsplit=1)[-1]}`` does, from asynchronous code."
    )
    assert first_line(plain)
    assert "Do what" not in first_line(plain)


@pytest.mark.parametrize(("name", "plain", "asynchronous"), FUNCTIONS, ids=IDS)
def test_a_synchronous_function_holds_no_logic(name: str, plain: Any, asynchronous: Any) -> None:
    """It hands its arguments on through the portal, or through a stream that does: no loops, no conditions."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(plain)))
    banned = (ast.If, ast.IfExp, ast.For, ast.While, ast.Try, ast.ListComp)
    assert not [node for node in ast.walk(tree) if isinstance(node, banned)]
    assert "portal" in {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} | {
        "portal" if "ResultStream" in ast.unparse(tree) else ""
    }


def test_every_pair_is_seen() -> None:
    """The tables above are not empty, and new pairs join them by their names."""
    assert {name for name, *_ in FUNCTIONS} >= {"embed", "extract", "cascade", "summarise", "count_tokens", "run"}
    assert {name for name, *_ in METHODS} >= {"Chat.send", "Chat.stream_resume", "Index.answer", "Index.update"}
    assert set(CLASSES) == {"AnswerStream", "Chat", "Index", "ReplyStream", "ResultStream"}
