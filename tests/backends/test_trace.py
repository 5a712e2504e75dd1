"""What a request's trace keeps of its contents, and how much."""

from antiphon.backends.key_redaction import text_without_keys, without_keys
from antiphon.backends.trace import CapturedBytes, RequestContents
from antiphon.protocol.events import TokenLogprob, TopLogprob


def contents(max_bytes: int = 100) -> tuple[RequestContents, CapturedBytes]:
    total = CapturedBytes()
    return RequestContents(max_bytes, total), total


def test_every_part_has_a_bound() -> None:
    """A part that is too long is cut, and said to be; the count of bytes is what is kept."""
    kept, total = contents()
    kept.set_request(b"a" * 100)
    assert not kept.is_cut
    kept.set_prompt((("p" * 60, True), ("q" * 60, False), ("r", True)), "g" * 10)
    assert kept.is_cut
    assert [len(text) for text, _ in kept.prompt] == [60, 40]
    kept.add_answer(b"b" * 70)
    kept.add_answer(b"c" * 70)
    assert b"".join(kept.answer) == b"b" * 70 + b"c" * 30
    token = TokenLogprob("t", 0.0, (116,), (TopLogprob("t", 0.0, (116,)),))
    for _ in range(5):
        kept.add_tokens(0, (token,))
    assert len(kept.tokens) < 5
    assert kept.num_bytes == total.count
    assert total.count <= 5 * 100


def test_what_was_dropped_takes_no_more() -> None:
    """A request that goes on after its contents were dropped, as one in the background does, keeps nothing."""
    kept, total = contents()
    kept.add_answer(b"abc")
    kept.drop()
    kept.add_answer(b"def")
    kept.set_request(b"ghi")
    assert total.count == 0
    assert kept.answer == [b"abc"]


def test_keys_are_hidden() -> None:
    """Keys of our and OpenAI's form, and values under names of secrets, are replaced; other text stays."""
    body = b'{"a":"sk-proj-abcdefghijklmnop","authorization" : "Bearer \\"x\\"","API":"sk-short","api_key":"","n":1}'
    hidden = b'{"a":"[hidden]","authorization" : "[hidden]","API":"sk-short","api_key":"[hidden]","n":1}'
    assert without_keys(body) == hidden
    assert text_without_keys("use sk-antip-0123456789abcdef, not sk-1") == "use [hidden], not sk-1"
