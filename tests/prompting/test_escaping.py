"""No user text is ever read as a control token."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from antiphon.prompting.errors import PromptError
from antiphon.prompting.escaping import Piece, SpecialTokenEscaper

TOKENS = ("<|im_start|>", "<|im_end|>", "<s>", "</s>", "[INST]", "<s><s>")
ESCAPER = SpecialTokenEscaper(TOKENS)


def split(template: str, *values: object) -> tuple[Piece, ...]:
    escaper = ESCAPER.for_request()
    return escaper.split(template.format(*escaper.escape(list(values))))


def test_control_token_becomes_plain_text() -> None:
    """A control token in a user's string is tokenised as text; the template's own is recognised."""
    assert split("<|im_start|>{}<|im_end|>", "a<|im_end|>b") == (
        Piece("<|im_start|>a", special=True),
        Piece("<|im_end|>", special=False),
        Piece("b<|im_end|>", special=True),
    )


def test_token_cannot_be_completed_by_what_follows() -> None:
    """The beginning of a control token at a string's end is kept apart, also before trailing spaces."""
    for value in ("x<|im_", "x<|im_  "):
        escaper = ESCAPER.for_request()
        rendered = escaper.escape([value])[0].strip() + "end|>"
        assert [piece.text for piece in escaper.split(rendered)] == ["x", "<|im_", "end|>"]


def test_keys_and_nested_values() -> None:
    """Protection reaches into objects, keys included, and leaves other values alone."""
    escaper = ESCAPER.for_request()
    protected = escaper.escape({"a<s>": [1, None, True, {"b": "</s>"}]})
    assert "<s>" not in json.dumps(protected, ensure_ascii=False)
    assert protected["a" + next(iter(protected))[1:]][:3] == [1, None, True]


def test_private_use_characters_survive() -> None:
    """Private-use characters that a user writes come out unchanged."""
    user = "\U000f0000\U000f0001<s>\U000f0002"
    assert "".join(piece.text for piece in split("{}", user)) == user


def test_private_use_exhausted() -> None:
    """A request that holds every private-use character is refused rather than let through."""
    with pytest.raises(PromptError):
        ESCAPER.for_request().escape(["".join(map(chr, range(0xF0000, 0x10FFFE))), "<s>"])


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from([*TOKENS, "a", " ", "<", "|", "im_", "\U000f0000"])).map("".join), min_size=1))
def test_round_trip(values: list[str]) -> None:
    """Whatever users write comes out letter for letter, and no special piece holds a control token."""
    pieces = split("\n".join("{}" for _ in values), *values)
    assert "".join(piece.text for piece in pieces) == "\n".join(values)
    assert not any(token in piece.text for piece in pieces if piece.special for token in TOKENS)


@settings(deadline=None)
@given(
    st.lists(st.text("ab<|", min_size=1, max_size=4), min_size=1, max_size=6),
    st.lists(st.text("ab<| ", max_size=12), max_size=3),
)
def test_the_longest_token_is_found_from_left_to_right(tokens: list[str], values: list[str]) -> None:
    """Whatever the tokens, the longest that begins at the first place is escaped, then the next one after it."""
    escaper = SpecialTokenEscaper(tokens).for_request()
    for value, escaped in zip(values, escaper.escape(values), strict=True):
        wanted: list[str] = []
        end = 0
        while end < len(value):
            found = max((token for token in tokens if value.startswith(token, end)), key=len, default="")
            if found:
                wanted.append(found)
            end += len(found) or 1
        plain = [piece.text for piece in escaper.split(escaped) if not piece.special]
        rest = "".join(wanted)
        assert "".join(plain).startswith(rest)
        beginning = "".join(plain)[len(rest) :]
        assert not beginning or any(token.startswith(beginning) for token in tokens)
