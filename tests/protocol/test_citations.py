"""Markers in a model's text become citations, wherever the stream cuts them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.protocol.events import TextDelta
from antiphon.protocol.responses.file_search import Citations, results_text
from antiphon.protocol.responses.output_items import Cited

SOURCES = [
    {"marker": number, "file_id": f"file-{number}", "filename": f"{number}.txt", "text": "x"} for number in (1, 2, 12)
]


def read(pieces: list[str]) -> tuple[str, list[tuple[int, str]]]:
    """Return the text that is shown, and where in it which file is cited."""
    citations = Citations()
    citations.add(SOURCES)
    text, cited = "", []
    events = [one for piece in pieces for one in citations.follow(TextDelta(0, piece))] + citations.flush()
    for event in events:
        if isinstance(event, Cited):
            cited.append((len(text), event.annotation["file_id"]))
        else:
            text += event.text
    return text, cited


CASES = (
    ("Bake an hour [1].", "Bake an hour.", [(12, "file-1")]),
    ("One [1]. Two [2].", "One. Two.", [(3, "file-1"), (8, "file-2")]),
    ("Both [1][2], and [1, 12].", "Both, and.", [(4, "file-1"), (4, "file-2"), (9, "file-1"), (9, "file-12")]),
    ("[2] says so", " says so", [(0, "file-2")]),
    ("The code is items[1] here", "The code is items[1] here", [(20, "file-1")]),
    ("Not known [3], [99] or [x] or [", "Not known [3], [99] or [x] or [", []),
    ("Ends in [1", "Ends in [1", []),
    ("a  [1]\n", "a \n", [(2, "file-1")]),
)


@pytest.mark.parametrize(("said", "shown", "cited"), CASES)
def test_a_marker_is_taken_out_and_its_place_is_known(said: str, shown: str, cited: list[tuple[int, str]]) -> None:
    """Whole, and cut after every character."""
    assert read([said]) == (shown, cited)
    assert read(list(said)) == (shown, cited)


@given(st.lists(st.sampled_from(["a", " ", "[", "]", "1", "2", "3", ",", ".", "[1]", " [2]"]), max_size=12), st.data())
def test_the_cuts_of_a_stream_change_nothing(parts: list[str], data: st.DataObject) -> None:
    """The same text in other pieces gives the same text and the same citations."""
    text = "".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(pieces) == read([text])


def test_results_are_shown_with_their_numbers() -> None:
    """Those of another server, which have none, are counted; what is not a list of results has no text."""
    assert results_text({"results": SOURCES[2:]}) == "[12] 12.txt\nx"
    assert (
        results_text({"results": [{"file_id": "file-a"}, {"filename": "b", "text": "y"}]}) == "[1] file-a\n\n\n[2] b\ny"
    )
    assert results_text({"results": []}) == "Nothing was found."
    assert results_text({"results": None}) is results_text({"results": "no"}) is None
