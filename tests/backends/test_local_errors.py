"""What the engine's errors say on the wire."""

from antiphon.backends.local.errors import as_api_error
from antiphon.engine import GrammarRejected


def test_a_grammar_that_cannot_be_followed() -> None:
    """The compiler's words are passed on in one line, and nothing of its state."""
    error = as_api_error(GrammarRejected('lexer error: too many\nexpressions\n<state>\nTokens: {"'))
    assert (error.status, error.message) == (400, "lexer error: too many expressions")
