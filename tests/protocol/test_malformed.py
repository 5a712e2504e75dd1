"""Malformed requests are refused in OpenAI's words."""

import itertools
from typing import Any

import pytest
from tests.protocol.malformed import ALL, TOOL, USER, Malformed

from antiphon.protocol import ApiError, parse_chat, parse_completion, parse_embedding

PARSERS = {"chat/completions": parse_chat, "completions": parse_completion, "embeddings": parse_embedding}


def refusal(case: Malformed) -> ApiError:
    with pytest.raises(ApiError) as caught:
        PARSERS[case.operation](case.body)
    return caught.value


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_refused_as_openai_does(case: Malformed) -> None:
    """Status, type, parameter and code are OpenAI's, and the message where it is known."""
    error = refusal(case)
    assert (error.status, error.type) == (400, "invalid_request_error")
    assert (error.param, error.code) == (case.param, case.code), error.message
    if case.message is not None:
        assert error.message == case.message


def test_there_are_many() -> None:
    """Fewer rows would leave fields unseen."""
    assert len(ALL) >= 80


# Fields in the order in which the live API reports them, each with a value of a wrong type.
ORDER = {
    "messages": "x",
    "functions": "x",
    "tools": "x",
    "parallel_tool_calls": {},
    "max_completion_tokens": {},
    "n": {},
    "temperature": {},
    "top_p": {},
    "presence_penalty": {},
    "frequency_penalty": {},
    "logprobs": {},
    "top_logprobs": {},
    "user": {},
    "seed": {},
    "safety_identifier": {},
    "prompt_cache_key": {},
    "prompt_cache_retention": {},
    "service_tier": {},
    "stream": {},
    "store": {},
    "metadata": "x",
    "verbosity": {},
}


@pytest.mark.parametrize(("first", "second"), list(itertools.pairwise(ORDER)))
def test_fields_are_reported_in_order(first: str, second: str) -> None:
    """Of two wrong fields, the one that OpenAI looks at first is named, however they were sent."""
    body: dict[str, Any] = {second: ORDER[second], "model": "m", first: ORDER[first]}
    assert refusal(Malformed("chat/completions", {"messages": [USER]} | body, None, None)).param == first


def test_what_is_wrong_comes_before_what_is_unsupported() -> None:
    """The model's abilities are looked at last, absent content after them."""
    unsupported = {"model": "m", "messages": [{"role": "user"}], "audio": {"voice": "x", "format": "wav"}}
    assert refusal(Malformed("chat/completions", unsupported, None, None)).param == "audio"
    wrong = unsupported | {"tools": [TOOL, TOOL]}
    assert refusal(Malformed("chat/completions", wrong, None, None)).param == "tools[1].function.name"


def test_store_needs_a_store() -> None:
    """``store`` is refused where nothing is kept, and passed on where it is."""
    body = {"model": "m", "messages": [USER], "store": True}
    assert refusal(Malformed("chat/completions", body, None, None)).code == "unsupported_value"
    assert parse_chat(body, can_store=True).store
    assert not parse_chat(body | {"store": False}).store
