"""Results that are too long for a model: cut, or kept and read in parts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.toolkit.scripted_endpoint import Endpoint, answer

from antiphon.toolkit.chat.chat import Chat
from antiphon.toolkit.tokens.text_estimate import estimate_text
from antiphon.toolkit.tools.large_results import KeptResults, cut_text
from antiphon.toolkit.tools.tool import ToolOptions, tool

NOTE_TOKENS = 20


@given(st.text(max_size=2000), st.integers(min_value=40, max_value=400))
def test_a_text_that_is_cut_keeps_its_beginning_and_end_within_the_bound(text: str, bound: int) -> None:
    """A text within the bound is unchanged; another says how many characters are left out."""
    shown = cut_text(text, bound)
    if estimate_text(text) <= bound:
        assert shown == text
        return
    head, _, rest = shown.partition("\n[... ")
    told, _, tail = rest.rpartition(" characters left out ...]\n")
    assert text.startswith(head)
    assert text.endswith(tail)
    assert len(head) + int(told) + len(tail) == len(text)


@pytest.mark.parametrize("piece", ["word ", "ä", "漢字", "a1b2"])
def test_the_part_has_about_the_tokens_that_were_allowed(piece: str) -> None:
    """In any script: what is kept is a share of the estimate, not a number of characters."""
    shown = cut_text(piece * 20_000, 500)
    assert 400 <= estimate_text(shown) <= 500 + NOTE_TOKENS


def test_kept_results_are_read_to_their_end() -> None:
    """Each part says where the next one begins; joined they are the whole."""
    kept = KeptResults()
    text = "".join(f"line {number}\n" for number in range(5000))
    shown = kept.keep(text, 100)
    assert "read them with read_result(number=1, start=...)" in shown
    read, start = "", 0
    while True:
        part, follows, rest = kept.read(1, start).partition("\n[... ")
        read += part
        if not follows:
            break
        start = int(rest.split("from ")[1].split(" ")[0])
    assert read == text
    assert kept.keep("short", 100) == "short"
    with pytest.raises(LookupError, match="result 9 is not kept"):
        kept.read(9, 0)


def test_kept_results_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are forgotten, and the model is told to call the tool again."""
    monkeypatch.setattr("antiphon.toolkit.tools.large_results._MAX_KEPT_CHARACTERS", 1000)
    kept = KeptResults()
    for _ in range(3):
        kept.keep("x" * 600, 32)
    with pytest.raises(LookupError, match="call the tool again"):
        kept.read(2, 0)
    assert kept.read(3, 590) == "x" * 10


@pytest.mark.parametrize("on_large", ["cut", "spill"])
def test_a_chat_shows_the_model_a_part(endpoint: Endpoint, on_large: str) -> None:
    """The application still gets the value; a tool to read the rest is offered for "spill" alone."""

    @tool(max_result_tokens=50, on_large=on_large)
    def log() -> str:
        """Read the log."""
        return "entry " * 5000

    read = answer(None, calls=[("c2", "read_result", '{"number": 1, "start": 29990}')])
    endpoint.replies = [answer(None, calls=[("c1", "log", "{}")]), read, answer("done")]
    reply = Chat(client=endpoint.client(), tools=[log]).send("what is in the log?")
    first, second = reply.tool_results
    assert "characters left out" in first.content
    assert first.value == "entry " * 5000
    names = [made["function"]["name"] for made in endpoint.requests[0]["tools"]]
    assert (names, second.outcome) == (
        (["log", "read_result"], "ok") if on_large == "spill" else (["log"], "unknown tool")
    )
    assert (second.content == "try entry ") == (on_large == "spill")


def test_options_that_say_nothing_are_refused() -> None:
    """A bound below one token, and keeping what is never cut."""
    with pytest.raises(ValueError, match="max_result_tokens"):
        ToolOptions(max_result_tokens=0)
    with pytest.raises(ValueError, match="needs max_result_tokens"):
        ToolOptions(on_large="spill")
