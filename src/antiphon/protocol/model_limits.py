"""Checks that depend on the model: the last in OpenAI's order, made by the backend that serves it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from antiphon.protocol import problems
from antiphon.protocol.token_input import Input


def check_max_tokens(raw: Mapping[str, Any], limit: int) -> None:
    """Raise ``ApiError`` 400 when the request asks for more tokens than the model can ever generate.

    ``raw`` is the request's JSON: the error names the parameter that was used.
    """
    for name in ("max_completion_tokens", "max_tokens"):
        asked = raw.get(name)
        if asked is not None and asked > limit:
            raise problems.bad_request(
                f"{name} is too large: {asked}. This model supports at most {limit} completion tokens, "
                f"whereas you provided {asked}. Lower {name}, or leave it out: the answer can then use what the prompt leaves "
                "of the context.",
                name,
                "invalid_value",
            )


def check_logit_bias(biases: Iterable[int], vocabulary_size: int) -> None:
    """Raise ``ApiError`` 400 for a bias on a token that the model does not have."""
    for token in biases:
        if token >= vocabulary_size:
            raise problems.bad_request(
                f"Invalid key in 'logit_bias': {token}. Maximum value is {vocabulary_size - 1}.", "logit_bias"
            )


def check_token_ids(inputs: Sequence[Input], vocabulary_size: int, param: str) -> None:
    """Raise ``ApiError`` 400 for token ids that the model does not have; ``param`` is ``prompt`` or ``input``."""
    for tokens in inputs:
        largest = max(tokens, default=0) if isinstance(tokens, tuple) else 0
        if largest >= vocabulary_size:
            raise problems.bad_request(
                f"Invalid token id in '{param}': {largest}. Maximum value is {vocabulary_size - 1}.",
                param,
                "invalid_value",
            )
