"""How many threads compute beside a busy process."""

from antiphon.engine.crowding import Crowding


def ignore(threads: int) -> None:
    """Compute nothing."""


def test_threads_that_run_are_left_alone() -> None:
    """Where threads get the processor nearly all the time, all go on."""
    crowding = Crowding(4, ignore)
    assert {crowding.observe(0.02, 0.02 * 4 * 0.9) for _ in range(200)} == {4}


def test_a_thread_is_left_out_while_a_core_is_busy() -> None:
    """Threads that wait half the time become one fewer, within a dozen steps, and all again when the pause is over."""
    crowding = Crowding(2, ignore)
    steps = 0
    while crowding.observe(0.05, 0.05) == 2:
        steps += 1
    assert steps < 12
    seconds = 0.0
    while crowding.observe(0.05, 0.05) == 1:
        seconds += 0.05
    assert 0.2 < seconds < 1
    assert {crowding.observe(0.02, 0.039) for _ in range(50)} == {2}


def test_tries_become_rarer_while_it_stays_busy() -> None:
    """The pause before another try doubles, up to four seconds."""
    crowding = Crowding(2, ignore)
    pauses: list[float] = []
    for _ in range(7):
        while crowding.observe(0.05, 0.05) == 2:
            pass
        pause = 0.0
        while crowding.observe(0.05, 0.05) == 1:
            pause += 0.05
        pauses.append(round(pause))
    assert pauses[-1] == 4
    assert pauses == sorted(pauses)


def test_one_thread_stays_one() -> None:
    """There is nobody to leave out."""
    assert Crowding(1, ignore).observe(0.1, 0.01) == 1


def test_changes_are_told() -> None:
    """Whoever computes is told each new number once."""
    told: list[int] = []
    crowding = Crowding(2, told.append)
    while len(told) < 4:
        crowding.observe(0.05, 0.05)
    assert told == [1, 2, 1, 2]
