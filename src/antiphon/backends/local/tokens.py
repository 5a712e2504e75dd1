"""Between the engine's token values and the wire's."""

import math
from collections.abc import Sequence

import msgspec

from antiphon.engine.ipc.messages import Ids, Prompt, Text, Token, TopToken
from antiphon.prompting import Piece
from antiphon.protocol.chat import ChatRequest
from antiphon.protocol.events import TokenLogprob, TopLogprob


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
            token.logprob if is_prompt else _known(token.logprob),
            tuple(token.bytes),
            _alternatives(token.top),
        )
        for token in tokens
    )


def asked_for(tokens: tuple[TokenLogprob, ...], request: ChatRequest) -> tuple[TokenLogprob, ...]:
    """Return what ``request`` asked for of tokens that were captured with more alternatives."""
    if not request.logprobs:
        return ()
    num_top = request.top_logprobs
    return tuple(msgspec.structs.replace(token, top_logprobs=token.top_logprobs[:num_top]) for token in tokens)


def _alternatives(tokens: Sequence[TopToken]) -> tuple[TopLogprob, ...]:
    return tuple(TopLogprob(token_text(top.bytes), top.logprob, tuple(top.bytes)) for top in tokens)


def _known(logprob: float | None) -> float:
    """Return minus infinity for a generated token that the engine has no probability for; the rendering bounds it."""
    return -math.inf if logprob is None else logprob
