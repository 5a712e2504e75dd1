"""What the engine's errors say on the wire."""

import pytest

from antiphon.backends.local.errors import as_api_error
from antiphon.engine import EngineFault, GrammarRejected


def test_a_grammar_that_cannot_be_followed() -> None:
    """The compiler's words are passed on in one line, and nothing of its state."""
    error = as_api_error(GrammarRejected('lexer error: too many\nexpressions\n<state>\nTokens: {"'))
    assert (error.status, error.message) == (400, "lexer error: too many expressions")


@pytest.mark.parametrize("inner", ["NoExtension", "NoExtensionBias", "parser: NoExtension(3)\n<state>"])
def test_no_name_of_the_compilers_own_types(inner: str) -> None:
    """A grammar under which nothing can follow is explained in words."""
    error = as_api_error(GrammarRejected(f"step failed: {inner}"))
    assert error.message == "no text can follow here under the grammar or schema."


def test_a_failure_of_one_request_does_not_announce_a_restart() -> None:
    """An engine that goes on is not said to be restarting; the reason is passed on."""
    error = as_api_error(EngineFault("the model's output is not a number"))
    assert error.status == 503
    assert error.code != "engine_restarting"
    assert "not a number" in error.message
