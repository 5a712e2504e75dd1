"""Retries."""

import email.utils
import time
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import APIConnectionError, APIStatusError, InternalServerError, OpenAI
from tests.toolkit.moved_clock import MovedClock
from tests.toolkit.scripted_endpoint import Endpoint, answer, error

from antiphon.toolkit.calls.retry import RetryPolicy, requested_wait_s
from antiphon.toolkit.calls.retry_table import explain_client_retries
from antiphon.toolkit.clients import Connection
from antiphon.toolkit.errors import RetryExhaustedError

pytestmark = pytest.mark.anyio
REQUEST = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


async def run(endpoint: Endpoint, policy: RetryPolicy, clock: MovedClock) -> tuple[Any, int]:
    connection = Connection(endpoint.async_client())
    return await policy.acall(lambda: connection.chat(REQUEST, max_retries=0), clock=clock)


async def test_passing_trouble_is_retried_with_growing_waits(endpoint: Endpoint) -> None:
    """Each wait is twice the one before it, up to the longest."""
    endpoint.replies = [error(500), error(503), error(429), error(409), answer("done")]
    clock = MovedClock()
    _, retries = await run(endpoint, RetryPolicy(jitter=0, longest_s=2), clock)
    assert (retries, clock.slept) == (4, [0.5, 1, 2, 2])


async def test_the_wait_that_the_server_asks_for_is_kept(endpoint: Endpoint) -> None:
    """Also one that the official client would not wait for, as long as the total allows it."""
    endpoint.replies = [error(429, headers={"retry-after": "150"}), answer()]
    clock = MovedClock()
    await run(endpoint, RetryPolicy(total_s=200), clock)
    assert clock.slept == [150]


async def test_milliseconds_go_before_seconds(endpoint: Endpoint) -> None:
    """retry-after-ms is the finer of the two headers."""
    endpoint.replies = [error(503, headers={"retry-after-ms": "250", "retry-after": "9"}), answer()]
    clock = MovedClock()
    await run(endpoint, RetryPolicy(), clock)
    assert clock.slept == [0.25]


async def test_a_wait_beyond_the_total_is_not_begun(endpoint: Endpoint) -> None:
    """The error says so, and the client's own is its cause."""
    endpoint.replies = [error(500), error(429, headers={"retry-after": "60"})]
    with pytest.raises(RetryExhaustedError, match="would pass the total of 30 s") as caught:
        await run(endpoint, RetryPolicy(total_s=30), MovedClock())
    assert isinstance(caught.value.__cause__, APIStatusError)


async def test_used_up_tries_end_in_one_error(endpoint: Endpoint) -> None:
    """It counts the tries."""
    endpoint.replies = [error(500)]
    with pytest.raises(RetryExhaustedError, match="Gave up after 3 tries") as caught:
        await run(endpoint, RetryPolicy(attempts=3), MovedClock())
    assert len(endpoint.requests) == 3
    assert isinstance(caught.value.__cause__, InternalServerError)


@pytest.mark.parametrize(
    "reply",
    [
        error(400),
        error(404, "model_not_found"),
        error(429, "insufficient_quota"),
        error(500, headers={"x-should-retry": "false"}),
    ],
)
async def test_what_retrying_cannot_mend_passes_through(endpoint: Endpoint, reply: Any) -> None:
    """One request, and the client's own error."""
    endpoint.replies = [reply]
    with pytest.raises(APIStatusError):
        await run(endpoint, RetryPolicy(), MovedClock())
    assert len(endpoint.requests) == 1


async def test_the_server_may_ask_for_a_retry_of_anything(endpoint: Endpoint) -> None:
    """x-should-retry goes before the status."""
    endpoint.replies = [error(400, headers={"x-should-retry": "true"}), answer()]
    assert (await run(endpoint, RetryPolicy(), MovedClock()))[1] == 1


def test_a_date_is_read_as_a_wait() -> None:
    """Retry-After may be an HTTP date."""
    date = email.utils.formatdate(time.time() + 3_600, usegmt=True)
    response = error(503, headers={"retry-after": date})({})
    waited = requested_wait_s(APIStatusError("x", response=_with_request(response), body=None))
    assert waited is not None
    assert 3_000 < waited <= 3_600


@given(
    attempts=st.integers(1, 20), total_s=st.floats(0.1, 100), asked=st.lists(st.floats(0, 50), min_size=20, max_size=20)
)
def test_waits_never_pass_the_total(attempts: int, total_s: float, asked: list[float]) -> None:
    """Whatever the server asks, the last try begins within the total, and there are no more than the attempts."""
    policy = RetryPolicy(attempts=attempts, total_s=total_s)
    elapsed, tries = 0.0, 1
    while True:
        given_up = policy.decide(status_error(503, asked[tries - 1]), attempt=tries, elapsed_s=elapsed)
        if given_up.wait_s is None:
            break
        elapsed += given_up.wait_s
        tries += 1
    assert elapsed <= total_s
    assert tries <= attempts


def test_a_policy_explains_itself() -> None:
    """The table says who retries what, after what wait, and how long at most."""
    text = str(RetryPolicy(attempts=4, total_s=60).explain())
    assert "at most 4 tries" in text
    assert "3.5 s of waiting" in text
    assert "insufficient_quota" in text
    client = str(explain_client_retries(OpenAI(api_key="k", max_retries=2)))
    assert "at most 3 tries" in client
    assert "> 120 s" in client


def test_a_policy_that_makes_no_sense_is_refused() -> None:
    """Its numbers are validated where it is made."""
    with pytest.raises(ValueError, match="attempts"):
        RetryPolicy(attempts=0)
    with pytest.raises(ValueError, match="initial_s"):
        RetryPolicy(initial_s=9, longest_s=8)


async def test_a_connection_that_fails_is_retried() -> None:
    """No answer at all is passing trouble."""
    tries = 0

    async def call() -> str:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise APIConnectionError(request=_request())
        return "there"

    assert await RetryPolicy().acall(call, clock=MovedClock()) == ("there", 1)


def _request() -> Any:
    return httpx2.Request("POST", "http://x.test")


def _with_request(response: Any) -> Any:
    response.request = _request()
    return response


def status_error(status: int, retry_after: float) -> APIStatusError:
    response = error(status, headers={"retry-after": str(retry_after)})({})
    return APIStatusError("x", response=_with_request(response), body=None)
