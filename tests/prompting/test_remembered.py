"""What is remembered of clients' texts stays below a number of bytes."""

import tracemalloc
from collections.abc import Callable

import pytest

from antiphon.prompting import remembered as module
from antiphon.prompting.grammars import custom
from antiphon.prompting.remembered import remembered
from antiphon.prompting.schemas import compile as compiling


def counted(make: Callable[[str], object]) -> tuple[Callable[[str], object], list[str]]:
    """Return a function that remembers, and the texts that it was computed for."""
    calls: list[str] = []

    @remembered
    def function(text: str) -> object:
        calls.append(text)
        return make(text)

    return function, calls


def test_a_result_is_computed_once_and_recent_ones_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """The result used least recently goes first, and one that is larger than everything allowed is not kept."""
    monkeypatch.setattr(module, "MAX_BYTES", 10_000)
    function, calls = counted(lambda text: [text + "!"])
    a, b, c = ("a" * 1500, "b" * 1500, "c" * 1500)
    assert function(a) is function(a)
    for text in (b, a, c, a, b):
        function(text)
    assert [text[0] for text in calls] == ["a", "b", "c", "b"]
    for _ in range(2):
        function("d" * 20_000)
    assert [text[0] for text in calls[4:]] == ["d", "d"]
    function(b)
    assert len(calls) == 6


def test_failures_are_not_remembered() -> None:
    """A function that raises is called again."""
    function, calls = counted(int)
    for _ in range(2):
        with pytest.raises(ValueError, match="no number"):
            function("no number")
    assert len(calls) == 2


def accept(grammar: str) -> tuple[str, float]:
    """Compile in no time."""
    return "", len(grammar) * 0.0


def refuse(definition: str) -> str:
    """Refuse every grammar."""
    return f"it has {len(definition)} characters."


@pytest.mark.parametrize("form", ["text", "bounded", "rules", "regex", "grammar"])
def test_texts_of_clients_take_bounded_memory(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many large schemas and grammars clients send, the server keeps a number of bytes, not of texts."""
    monkeypatch.setattr(module, "MAX_BYTES", 500_000)
    monkeypatch.setattr(compiling, "schema_error", accept)
    monkeypatch.setattr(custom, "problem_of_form", refuse)
    filler = "\U0001f600" * 10_000  # four bytes each
    remember: dict[str, Callable[[str], object]] = {
        "text": lambda text: compiling.schema_text({"const": text}),
        "bounded": lambda text: compiling.bounded_schema_text({"const": text}),
        "rules": lambda text: compiling.schema_rules("r", {"const": text}),
        "regex": lambda text: custom.problem_of_grammar("regex", text),
        "grammar": lambda text: custom.problem_of_grammar("lark", f'start: "{text}"'),
    }
    tracemalloc.start()
    try:
        held: list[int] = []
        for first in (0, 100):
            for number in range(first, first + 100):
                remember[form](f"{number}{filler}")
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    # A hundred more of these texts are at least 4 MB; which few of them are kept changes less than half of that.
    assert held[1] - held[0] <= 2_000_000
