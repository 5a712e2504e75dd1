"""The circuit breaker that the router and the toolkit share."""

from hypothesis import given
from hypothesis import strategies as st

from antiphon.wire.circuit_breaker import BreakerState


def test_a_breaker_opens_tries_once_and_closes() -> None:
    """Three failures open it; after the cooldown one request goes; its success closes it."""
    breaker = BreakerState(3, 2, 8)
    for _ in range(3):
        assert breaker.wait_s(0) == 0
        breaker.fail(0, is_trial=breaker.begin(0))
    assert breaker.state(0) == "open"
    assert breaker.wait_s(0.5) == 1.5
    assert breaker.wait_s(2) == 0
    is_trial = breaker.begin(2)
    assert is_trial
    assert breaker.wait_s(2) > 0
    breaker.succeed(is_trial=is_trial)
    assert breaker.wait_s(2) == 0


def test_a_failed_trial_doubles_the_cooldown_up_to_its_bound() -> None:
    """Each failed trial opens the circuit for twice as long."""
    breaker = BreakerState(1, 2, 5)
    now = 0.0
    waits: list[float] = []
    for _ in range(4):
        breaker.fail(now, is_trial=breaker.begin(now))
        waits.append(breaker.wait_s(now))
        now += waits[-1]
    assert waits == [2, 4, 5, 5]
    assert breaker.num_opened == 4


def test_an_abandoned_trial_lets_the_next_one_try() -> None:
    """A client that leaves during the trial does not block the breaker."""
    breaker = BreakerState(1, 1, 60)
    breaker.fail(0, is_trial=breaker.begin(0))
    is_trial = breaker.begin(1)
    assert breaker.wait_s(1) > 0
    breaker.abandon(is_trial=is_trial)
    assert breaker.wait_s(1) == 0


def test_a_request_from_before_the_circuit_opened_does_not_decide_the_trial() -> None:
    """An old request that fails or is abandoned during the trial neither ends it nor doubles the cooldown."""
    breaker = BreakerState(1, 1, 60)
    old = [breaker.begin(0), breaker.begin(0)]
    breaker.fail(0, is_trial=breaker.begin(0))
    assert breaker.begin(1)
    breaker.fail(1, is_trial=old[0])
    breaker.abandon(is_trial=old[1])
    assert (breaker.is_trying, breaker.state(1), breaker.num_opened) == (True, "half-open", 1)
    breaker.fail(1, is_trial=True)
    assert breaker.wait_s(1) == 2


@given(st.lists(st.sampled_from(["ok", "fail", "leave", "wait", "late"]), max_size=60))
def test_a_breaker_never_waits_longer_than_its_bound(steps: list[str]) -> None:
    """Whatever happens, one request at a time is let through again within the longest cooldown."""
    breaker, now = BreakerState(2, 1, 4), 0.0
    for step in steps:
        if step == "wait":
            now += 0.7
        elif step == "late":
            breaker.fail(now)
        elif breaker.wait_s(now) == 0:
            assert breaker.admits(now)
            is_trial = breaker.begin(now)
            assert is_trial == breaker.is_trying
            if step == "fail":
                breaker.fail(now, is_trial=is_trial)
            else:
                {"ok": breaker.succeed, "leave": breaker.abandon}[step](is_trial=is_trial)
        assert breaker.wait_s(now) <= 4
    assert breaker.wait_s(now + 4) == 0
