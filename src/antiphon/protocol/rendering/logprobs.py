"""Log-probabilities, in the newer form of chat and the older one of completions."""

import codecs
from collections.abc import Sequence
from typing import Any

from antiphon.protocol.events import TokenLogprob

IMPOSSIBLE = -9999.0
"""What the API shows where the logarithm is minus infinity, which JSON cannot say."""

_VISIBLE = range(0x20, 0x7F)


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


def _text(token: str, raw: tuple[int, ...]) -> str:
    r"""Return a token as the older form writes it: bytes that are not a text as ``bytes: \xf0\x9f``, ASCII as it is."""
    try:
        bytes(raw).decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(chr(byte) if byte in _VISIBLE else f"\\x{byte:02x}" for byte in raw)
    return token


def _alternatives(token: TokenLogprob) -> dict[str, float | None]:
    """Return the most probable tokens and the one that was drawn: up to one more than asked for."""
    tokens = [*token.top_logprobs, token]
    return {_text(entry.token, entry.bytes): _finite(entry.logprob) for entry in tokens}


class LegacyLogprobs:
    """Builds the older ``logprobs`` object of one choice. ``text_offset`` counts characters from ``offset`` on."""

    def __init__(self, offset: int) -> None:
        self._characters = offset
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def value(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        """Return the object for the next tokens; a later call continues where this one ended."""
        return {
            "tokens": [_text(token.token, token.bytes) for token in tokens],
            "token_logprobs": [_finite(token.logprob) for token in tokens],
            "top_logprobs": [None if token.logprob is None else _alternatives(token) for token in tokens],
            "text_offset": [self._advance(bytes(token.bytes)) for token in tokens],
        }

    def _advance(self, token: bytes) -> int:
        """Return where a token begins; one that starts inside a character begins where that character does."""
        if not token:
            return self._characters
        shown = len(self._decoder.decode(token[:1]))
        is_pending = bool(self._decoder.getstate()[0])
        # The character of the first byte is the last one shown, or it is still incomplete.
        offset = self._characters + shown - (not is_pending)
        self._characters += shown + len(self._decoder.decode(token[1:]))
        return offset
