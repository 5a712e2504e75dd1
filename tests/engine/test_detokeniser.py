"""Text that may be sent: whole characters, and nothing that may become a stop string."""

from hypothesis import given
from hypothesis import strategies as st

from antiphon.engine.sampling.detokeniser import Detokeniser


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """Cut ``data`` into pieces of the given sizes, the rest in one."""
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [*pieces, data]


texts = st.text(alphabet=st.sampled_from("aAbc 日本🌊é\n<|>"), max_size=40)
sizes = st.lists(st.integers(0, 4), max_size=60)


@given(texts, sizes)
def test_pieces_join_to_the_text_without_replacements(text: str, sizes: list[int]) -> None:
    """However the bytes of a text are cut, the pieces joined are the text, and none holds a replacement character."""
    detokeniser = Detokeniser()
    pieces = [detokeniser.push(data) for data in cut(text.encode(), sizes)]
    assert "".join(pieces) + detokeniser.finish() == text
    assert not any("\ufffd" in piece for piece in pieces)


@given(texts, sizes, st.lists(st.text(alphabet="abc 日<|>", min_size=1, max_size=4), min_size=1, max_size=3))
def test_nothing_of_a_stop_string_is_sent(text: str, sizes: list[int], stop: list[str]) -> None:
    """What was sent is the text up to the first stop string to appear, at any cut; without one it is the whole text."""
    detokeniser = Detokeniser(tuple(stop))
    sent = ""
    for data in cut(text.encode(), sizes):
        sent += detokeniser.push(data)
        assert not any(string in sent for string in stop)
        if detokeniser.stopped is not None:
            break
    sent += detokeniser.finish()
    if detokeniser.stopped is None:
        assert sent == text
        assert not any(string in text for string in stop)
    else:
        assert text.startswith(sent + detokeniser.stopped)
        assert not any(string in sent for string in stop)


@given(st.binary(max_size=40), sizes)
def test_any_bytes_become_text(data: bytes, sizes: list[int]) -> None:
    """Bytes that are not UTF-8 become the replacement characters that Python gives, wherever they are cut."""
    detokeniser = Detokeniser()
    sent = "".join(detokeniser.push(piece) for piece in cut(data, sizes)) + detokeniser.finish()
    assert sent == data.decode("utf-8", "replace")


def test_holds_back_no_more_than_needed() -> None:
    """A tail that a stop string could begin with is held back; the text before it is sent at once."""
    detokeniser = Detokeniser(("\n\nUser:",))
    assert detokeniser.push(b"Hello.\n") == "Hello."
    assert detokeniser.push(b"World") == "\nWorld"
    assert detokeniser.push(b"\n\nUse") == ""
    assert detokeniser.push(b"r: more") == ""
    assert detokeniser.stopped == "\n\nUser:"
