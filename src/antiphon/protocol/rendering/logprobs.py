"""Log-probabilities, in the newer form of chat and the older one of completions."""

from collections.abc import Sequence
from typing import Any

from antiphon.protocol.events import TokenLogprob

IMPOSSIBLE = -9999.0
"""What the API shows where the logarithm is minus infinity, which JSON cannot say."""


def _finite(logprob: float | None) -> float | None:
    return logprob if logprob is None else max(logprob, IMPOSSIBLE)


def token_values(tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """Return the entries of chat's ``logprobs.content``."""
    return [
        {
            "token": token.token,
            "logprob": _finite(token.logprob),
            "bytes": token.bytes,
            "top_logprobs": [
                {"token": top.token, "logprob": _finite(top.logprob), "bytes": top.bytes} for top in token.top_logprobs
            ],
        }
        for token in tokens
    ]


def _alternatives(token: TokenLogprob) -> dict[str, float | None]:
    """The most probable tokens, and beside them the one that was drawn: up to one more than asked for."""
    return {top.token: _finite(top.logprob) for top in token.top_logprobs} | {token.token: _finite(token.logprob)}


class LegacyLogprobs:
    """Builds the older ``logprobs`` object of one choice. ``text_offset`` counts characters from ``offset`` on."""

    def __init__(self, offset: int) -> None:
        self._characters = offset

    def value(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        """Return the object for the next tokens; a later call continues where this one ended."""
        return {
            "tokens": [token.token for token in tokens],
            "token_logprobs": [_finite(token.logprob) for token in tokens],
            "top_logprobs": [None if token.logprob is None else _alternatives(token) for token in tokens],
            "text_offset": [self._advance(token.bytes) for token in tokens],
        }

    def _advance(self, token: tuple[int, ...]) -> int:
        """Return where a token begins; one that starts inside a character begins where that character does."""
        starts_inside = bool(token) and _is_continuation(token[0])
        offset = self._characters - 1 if starts_inside else self._characters
        self._characters += sum(not _is_continuation(byte) for byte in token)
        return max(offset, 0)


def _is_continuation(byte: int) -> bool:
    return byte & 0xC0 == 0x80  # noqa: PLR2004 - 10xxxxxx in UTF-8
