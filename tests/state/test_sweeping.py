"""A store looks for what has to go often enough for its bound, and seldom."""

import random

from antiphon.state.sweeping import SweepSchedule


def test_the_bound_holds_with_few_sweeps() -> None:
    """Whatever is written, a store that removes the oldest at each sweep exceeds its bound by a 256th and one write at most."""
    chance = random.Random(1)
    for max_bytes in (10_000, 1_000_000, 1 << 30):
        schedule = SweepSchedule(max_bytes, clock=lambda: 0.0)
        total = num_writes = num_sweeps = 0
        largest = max(1, max_bytes // 2000)
        while num_writes < 20_000:
            size = chance.randint(1, largest)
            total += size
            num_writes += 1
            if schedule.wrote(size):
                num_sweeps += 1
                total = min(total, max_bytes)
                schedule.swept(total)
            assert total <= max_bytes + max_bytes // 256 + largest
        assert num_sweeps < num_writes / 10


def test_what_is_expired_goes_even_if_little_is_written() -> None:
    """Ten minutes after a sweep the next write brings another, and only one of those that end together."""
    now = [0.0]
    schedule = SweepSchedule(1 << 30, clock=lambda: now[0])
    assert schedule.wrote(1)
    assert not schedule.wrote(1)
    schedule.swept(1)
    now[0] = 599
    assert not schedule.wrote(1)
    now[0] = 600
    assert schedule.wrote(1)
    assert not schedule.wrote(1)
