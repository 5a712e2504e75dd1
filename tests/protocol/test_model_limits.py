"""What only the model's own numbers can tell is refused in OpenAI's words."""

import pytest

from antiphon.protocol import ApiError
from antiphon.protocol.model_limits import check_logit_bias, check_max_tokens, check_token_ids


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_more_tokens_than_the_model_can_generate(name: str) -> None:
    """The parameter that was used is named; the limit itself is allowed."""
    check_max_tokens({name: 8192}, 8192)
    with pytest.raises(ApiError) as caught:
        check_max_tokens({name: 8193}, 8192)
    assert (caught.value.param, caught.value.code) == (name, "invalid_value")
    assert caught.value.message == (
        f"{name} is too large: 8193. This model supports at most 8192 completion tokens, whereas you provided 8193. "
        f"Lower {name}, or leave it out: the answer can then use what the prompt leaves of the context."
    )


def test_tokens_that_the_model_does_not_have() -> None:
    """Biases and prompts name tokens of the vocabulary only."""
    check_logit_bias({0: 1.0, 9: 1.0}, 10)
    check_token_ids(["text", (0, 9)], 10, "input")
    with pytest.raises(ApiError, match=r"Invalid key in 'logit_bias': 10\. Maximum value is 9\."):
        check_logit_bias({10: 1.0}, 10)
    with pytest.raises(ApiError, match="Maximum value is 9") as caught:
        check_token_ids([(1, 10)], 10, "input")
    assert caught.value.param == "input"
