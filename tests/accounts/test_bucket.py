"""The leaky bucket's algebra."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from antiphon.accounts.bucket import Bucket

LIMIT = 100
PERIOD_S = 60.0

# (seconds since the last request, units asked for)
requests = st.lists(st.tuples(st.floats(0, 90), st.integers(1, LIMIT)), max_size=60)


@settings(deadline=None)
@given(requests)
def test_no_window_lets_through_more_than_the_limit_and_its_leak(sequence: list[tuple[float, int]]) -> None:
    """In any window of w seconds at most limit * (1 + w / period) units pass."""
    bucket, now = Bucket(), 0.0
    passed: list[tuple[float, int]] = []
    for pause_s, n in sequence:
        now += pause_s
        bucket = bucket.drained(now, LIMIT, PERIOD_S)
        if bucket.has_room(n, LIMIT):
            bucket = bucket.poured(n)
            passed.append((now, n))
    for first, (start, _) in enumerate(passed):
        total = 0
        for end, n in passed[first:]:
            total += n
            assert total <= LIMIT * (1 + (end - start) / PERIOD_S) + 1e-3


@settings(deadline=None)
@given(st.floats(0, LIMIT), st.integers(1, LIMIT))
def test_who_waits_as_told_finds_room_and_no_sooner(used: float, n: int) -> None:
    """After exactly the wait there is room; a little before there is none."""
    bucket = Bucket(used)
    wait_s = (used + n - LIMIT) * PERIOD_S / LIMIT
    assert bucket.drained(wait_s, LIMIT, PERIOD_S).has_room(n, LIMIT)
    if wait_s > 0.01:
        assert not bucket.drained(wait_s - 0.01, LIMIT, PERIOD_S).has_room(n, LIMIT)


# (pause before, reserved, share of it really used, how many requests later it is settled)
jobs = st.lists(
    st.tuples(st.floats(0, 60), st.integers(1, LIMIT), st.floats(0, 1), st.integers(0, 5)), min_size=1, max_size=40
)


@settings(deadline=None)
@given(jobs)
def test_a_refund_never_takes_out_what_others_poured_in(sequence: list[tuple[float, int, float, int]]) -> None:
    """However reservations and refunds mix, never is less in the bucket than if the real amounts had been poured in at once."""
    bucket, truth, now = Bucket(), Bucket(), 0.0
    to_settle: list[tuple[int, int, int, float]] = []
    for number, (pause_s, reserved, share, later) in enumerate(sequence):
        now += pause_s
        bucket = bucket.drained(now, LIMIT, PERIOD_S)
        truth = truth.drained(now, LIMIT, PERIOD_S)
        actual = int(reserved * share)
        bucket, truth = bucket.poured(reserved), truth.poured(actual)
        to_settle.append((number + later, reserved, actual, bucket.mark))
        for item in [item for item in to_settle if item[0] <= number]:
            to_settle.remove(item)
            _, n, real, mark = item
            bucket = bucket.settled(reserved=n, actual=real, mark=mark)
        assert bucket.used >= truth.used - 1e-6


def test_a_refund_at_once_restores_the_bucket() -> None:
    """What was reserved and not used is there again for the next request."""
    bucket = Bucket().poured(40)
    settled = bucket.poured(50).settled(reserved=50, actual=0, mark=90)
    assert settled.used == 40


def test_a_refund_after_all_has_leaked_gives_nothing_back() -> None:
    """A late refund does not make room that another request has taken."""
    first = Bucket().poured(100)
    later = first.drained(60.0, LIMIT, PERIOD_S).poured(80)
    assert later.settled(reserved=100, actual=0, mark=first.mark).used == 80


def test_more_than_reserved_is_counted_beyond_the_limit() -> None:
    """A request that used more than it reserved is charged in full."""
    bucket = Bucket().poured(90)
    assert bucket.settled(reserved=90, actual=130, mark=90).used == 130


def test_a_clock_that_goes_back_leaks_nothing() -> None:
    """Time that runs backwards neither drains nor fills."""
    bucket = Bucket(used=10, at=100.0)
    assert bucket.drained(50.0, LIMIT, PERIOD_S) == bucket


@pytest.mark.parametrize("limit", [1, 3, 500])
def test_a_full_bucket_refuses_one_more(limit: int) -> None:
    """Exactly the limit fits."""
    bucket = Bucket()
    for _ in range(limit):
        assert bucket.has_room(1, limit)
        bucket = bucket.poured(1)
    assert not bucket.has_room(1, limit)
