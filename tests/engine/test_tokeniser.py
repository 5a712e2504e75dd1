"""Tokenising: nobody waits for another request's long text, and what cannot fit is not tokenised."""

import asyncio
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.engine.ipc.messages import Ids, Prompt, Text
from antiphon.engine.model.vocabulary import Vocabulary, VocabularyEntry
from antiphon.engine.worker.tokeniser import LONG, PORTION, Tokeniser

pytestmark = pytest.mark.anyio

BYTES = [VocabularyEntry(bytes([byte]), is_control=False, is_end=False) for byte in range(256)]
WORD = VocabularyEntry(b"lighthouse", is_control=False, is_end=False)


def words(text: str) -> list[int]:
    """Tokenise with the longest token wherever it fits."""
    ids: list[int] = []
    rest = text.encode()
    while rest:
        is_word = rest.startswith(WORD.data)
        ids.append(256 if is_word else rest[0])
        rest = rest[len(WORD.data) if is_word else 1 :]
    return ids


def vocabulary(*, keeps_text: bool = True, entries: list[VocabularyEntry] | None = None) -> Vocabulary:
    return Vocabulary(
        lambda text, *_: words(text), entries or [*BYTES, WORD], {}, adds_bos=False, keeps_text=keeps_text
    )


class _Gate:
    """A tokeniser that lets texts of one length wait, and counts the texts that it was given."""

    def __init__(self, length: int) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.lengths: list[int] = []
        self._length = length

    def __call__(self, text: str, *_: bool) -> list[int]:
        self.lengths.append(len(text))
        if len(text) == self._length:
            self.entered.set()
            assert self.open.wait(60)
        return [len(text)]


@pytest.fixture
def gate(request: pytest.FixtureRequest) -> Iterator[_Gate]:
    gate = _Gate(request.param)
    yield gate
    gate.open.set()


def tokeniser(gate: _Gate) -> Tokeniser:
    return Tokeniser(Vocabulary(gate, [*BYTES], {}, adds_bos=False))


def prompt(length: int) -> Prompt:
    return (Text("x" * length),)


@pytest.mark.parametrize("gate", [LONG + 1], indirect=True)
async def test_short_texts_do_not_wait_for_long_ones(gate: _Gate) -> None:
    """While a text of megabytes is tokenised, prompts of every shorter class are answered."""
    tokens = tokeniser(gate)
    longest = asyncio.create_task(tokens.encode([prompt(LONG + 1)]))
    for length in (2, PORTION, PORTION + 1, LONG):
        assert await asyncio.wait_for(tokens.encode([prompt(length)]), 60) == [[length]]
    assert not longest.done()
    gate.open.set()
    assert await longest == [[LONG + 1]]


@pytest.mark.parametrize("gate", [PORTION // 2], indirect=True)
async def test_portions_of_requests_alternate(gate: _Gate) -> None:
    """A request of many prompts lets others in after each portion; its ids come in the order of its prompts."""
    tokens = tokeniser(gate)
    many = asyncio.create_task(tokens.encode([prompt(PORTION // 2), prompt(PORTION // 2), *[prompt(PORTION)] * 20]))
    await asyncio.to_thread(gate.entered.wait, 60)
    other = asyncio.create_task(tokens.encode([prompt(3)]))
    await asyncio.sleep(0)
    gate.open.set()
    assert await other == [[3]]
    assert gate.lengths.index(3) < 5
    assert await many == [[PORTION // 2]] * 2 + [[PORTION]] * 20


@pytest.mark.parametrize("gate", [PORTION], indirect=True)
async def test_a_cancelled_request_drops_what_has_not_begun(gate: _Gate) -> None:
    """After a client leaves, at most the portion in work is tokenised."""
    tokens = tokeniser(gate)
    left = asyncio.create_task(tokens.encode([prompt(PORTION)] * 50))
    await asyncio.to_thread(gate.entered.wait, 60)
    left.cancel()
    gate.open.set()
    assert await tokens.encode([prompt(3)]) == [[3]]
    assert gate.lengths == [PORTION, 3]


@given(st.lists(st.sampled_from(["lighthouse", "light", "日本", "\N{GRINNING FACE}", "\x00", " "])), st.booleans())
def test_the_least_number_of_tokens_is_never_too_high(parts: list[str], has_zero: bool) -> None:
    """Whatever the text, it has at least as many tokens as ``min_tokens`` says, where bytes without a token vanish too."""
    made = vocabulary(entries=[*BYTES[not has_zero :], WORD])
    for pieces in ((*map(Text, parts), Ids((1, 2))), (Text("".join(parts) * 50),)):
        num_dropped = 0 if has_zero else sum(piece.text.count("\0") for piece in pieces if isinstance(piece, Text))
        assert made.min_tokens(pieces) <= len(made.encode(pieces)) - num_dropped
    assert made.min_tokens((Text("".join(parts) * 1000),)) > 0 or not "".join(parts).strip("\0")


def test_nothing_is_said_of_texts_that_may_shrink() -> None:
    """A tokeniser that replaces parts of a text gives no lower bound; nor do texts in which control tokens count."""
    assert vocabulary(keeps_text=False).min_tokens(prompt(1_000_000)) == 0
    assert vocabulary().min_tokens((Text("x" * 1_000_000, special=True),)) == 0
    assert vocabulary().min_tokens(prompt(1_000_000)) == 100_000
