"""Between the engine's token values and the wire's."""

from collections.abc import Sequence

from antiphon.engine.ipc.messages import Ids, Prompt, Text, Token, TopToken
from antiphon.prompting import Piece
from antiphon.protocol.events import TokenLogprob, TopLogprob

NO_PROBABILITY = -9999.0
"""What OpenAI reports for a token whose probability is too small to tell (minus infinity is no JSON)."""


def engine_prompt(pieces: Sequence[Piece]) -> Prompt:
    """Return a rendered prompt in the engine's terms."""
    return tuple(Text(piece.text, piece.special) for piece in pieces)


def plain_prompt(prompt: str | tuple[int, ...]) -> Prompt:
    """Return a user's own text or token ids as a prompt; control tokens in text are plain text."""
    return (Text(prompt),) if isinstance(prompt, str) else (Ids(prompt),)


def token_text(raw: bytes) -> str:
    r"""Return a token's text; a fragment of a character is shown as OpenAI does, ``\xf0\x9f``."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in raw)


def token_logprobs(tokens: Sequence[Token], *, is_prompt: bool = False) -> tuple[TokenLogprob, ...]:
    """Return the wire's view of tokens, each with its alternatives; a prompt's first token has no probability."""
    return tuple(
        TokenLogprob(
            token_text(token.bytes),
            None if is_prompt and token.logprob is None else _finite(token.logprob),
            tuple(token.bytes),
            _alternatives(token.top),
        )
        for token in tokens
    )


def _alternatives(tokens: Sequence[TopToken]) -> tuple[TopLogprob, ...]:
    return tuple(TopLogprob(token_text(top.bytes), _finite(top.logprob), tuple(top.bytes)) for top in tokens)


def _finite(logprob: float | None) -> float:
    return NO_PROBABILITY if logprob is None or logprob < NO_PROBABILITY else logprob
