"""The circuit breaker."""

import pytest
from openai import APIStatusError
from tests.toolkit.calls.test_retry import status_error
from tests.toolkit.moved_clock import MovedClock

from antiphon.toolkit.calls.breaker import CircuitBreaker
from antiphon.toolkit.errors import CircuitOpenError


def fail(breaker: CircuitBreaker, status: int = 500) -> None:
    with pytest.raises(APIStatusError), breaker.guard():
        raise status_error(status, 0)


def test_it_opens_after_failures_in_a_row_and_says_when_it_tries_again() -> None:
    """While open, calls are refused at once."""
    clock = MovedClock()
    breaker = CircuitBreaker(failures=2, rest_s=30, clock=clock)
    fail(breaker)
    fail(breaker)
    clock.time = 10
    with pytest.raises(CircuitOpenError, match="2 times in a row") as caught, breaker.guard():
        pass
    assert caught.value.retry_in_s == 20
    assert breaker.statistics().state == "open"


def test_a_success_in_between_starts_the_count_anew() -> None:
    """Only failures in a row count."""
    breaker = CircuitBreaker(failures=2)
    fail(breaker)
    with breaker.guard():
        pass
    fail(breaker)
    assert breaker.statistics().state == "closed"


def test_one_trial_after_the_rest_decides() -> None:
    """It closes on success and opens again on failure; meanwhile others are refused."""
    clock = MovedClock()
    breaker = CircuitBreaker(failures=1, rest_s=30, clock=clock)
    fail(breaker)
    clock.time = 31
    with breaker.guard():
        assert breaker.statistics().state == "trial"
        with pytest.raises(CircuitOpenError), breaker.guard():
            pass
    assert breaker.statistics().state == "closed"
    fail(breaker)
    clock.time = 70
    fail(breaker)
    assert (breaker.statistics().state, breaker.statistics().num_opened) == ("open", 3)


def test_refusals_of_a_working_endpoint_do_not_count() -> None:
    """A 429 or a 400 is an answer."""
    breaker = CircuitBreaker(failures=1)
    fail(breaker, 429)
    fail(breaker, 400)
    assert breaker.statistics().state == "closed"


def test_a_cancelled_trial_lets_the_next_one_try() -> None:
    """An interrupt says nothing about the endpoint."""
    clock = MovedClock()
    breaker = CircuitBreaker(failures=1, rest_s=1, clock=clock)
    fail(breaker)
    clock.time = 2
    with pytest.raises(KeyboardInterrupt), breaker.guard():
        raise KeyboardInterrupt
    with breaker.guard():
        pass
    assert breaker.statistics().state == "closed"
