"""The words that servers have for the end of an answer."""

import pytest

from antiphon.wire.finish_reasons import STANDARD, finish_reason, says_failure, says_nothing


@pytest.mark.parametrize("reason", sorted(STANDARD))
@pytest.mark.parametrize("form", ["{}", " {} ", "<|{}|>", "FINISH_REASON_{}", "FinishReason.{}"])
def test_a_word_in_any_spelling_is_the_apis(reason: str, form: str) -> None:
    """Case, hyphens, brackets and the name of an enumeration do not matter."""
    for word in (reason, reason.upper(), reason.replace("_", "-")):
        assert finish_reason(form.format(word)) == reason


@pytest.mark.parametrize("reason", ["error", "Aborted", "MALFORMED_FUNCTION_CALL", "network-error"])
def test_a_failure_is_no_end(reason: str) -> None:
    """It has no word in the API."""
    assert says_failure(reason)
    assert finish_reason(reason) is None


@pytest.mark.parametrize("reason", ["", "null", "None", "unspecified"])
def test_some_words_say_that_the_answer_goes_on(reason: str) -> None:
    """They stand where the API has null."""
    assert says_nothing(reason)
    assert finish_reason(reason) is None
    assert not says_failure(reason)


def test_a_word_of_tomorrow_is_not_known() -> None:
    """It is neither an end in the API's words nor a failure."""
    assert finish_reason("paused") is None
    assert not says_failure("paused")
    assert not says_nothing("paused")
