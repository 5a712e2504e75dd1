"""Streams that break off."""

import pytest
from tests.toolkit.scripted_endpoint import ERROR_CHUNK, Endpoint, answer, broken_stream

from antiphon.toolkit.chat.chat import Chat
from antiphon.toolkit.chat.reply import TruncatedAnswerWarning
from antiphon.toolkit.errors import StreamError


def test_an_error_in_the_middle_keeps_the_text_that_came(endpoint: Endpoint) -> None:
    """The server's words are in the message."""
    endpoint.replies = [broken_stream("so ", "far", tail=ERROR_CHUNK)]
    chat = Chat(client=endpoint.client())
    with pytest.raises(StreamError, match="engine died") as caught:
        list(chat.stream("hi"))
    assert caught.value.text == "so far"
    assert chat.turns == ()


def test_a_stream_cut_without_a_word_is_noticed(endpoint: Endpoint) -> None:
    """The official client ends such a stream in silence."""
    endpoint.replies = [broken_stream("so far")]
    with pytest.raises(StreamError, match="ended before the answer did") as caught:
        list(Chat(client=endpoint.client()).stream("hi"))
    assert caught.value.text == "so far"


def test_an_empty_stream_is_noticed(endpoint: Endpoint) -> None:
    """No chunk at all."""
    endpoint.replies = [broken_stream()]
    with pytest.raises(StreamError):
        list(Chat(client=endpoint.client()).stream("hi"))


def test_a_cut_stream_warns_where_it_is_read(endpoint: Endpoint) -> None:
    """At its end, at the reader's own line."""
    endpoint.replies = [answer("so far", finish="length")]
    with pytest.warns(TruncatedAnswerWarning) as warnings:
        for _ in Chat(client=endpoint.client()).stream("hi"):
            pass
    assert warnings[0].filename == __file__
