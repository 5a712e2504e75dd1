"""How many threads compute while another process keeps a core busy."""

from antiphon.engine.model.thread_throttle import ThreadThrottle


class Steps:
    """Steps one after another, of threads that run for a share of the time."""

    def __init__(self, threads: int) -> None:
        self.changes: list[int] = []
        self.throttle = ThreadThrottle(threads, self.changes.append)
        self.now = 0.0

    def take(self, share: float, wall_s: float = 0.05) -> int:
        """Take a step; return the threads of the next one."""
        self.now += wall_s
        return self.throttle.observe(wall_s, wall_s * self.throttle.threads * share, self.now)

    def until(self, threads: int, share: float, *, most: int = 200) -> int:
        """Take steps until so many threads compute the next one; return how many steps that took."""
        for number in range(1, most + 1):
            if self.take(share) == threads:
                return number
        raise AssertionError(f"after {most} steps {self.throttle.threads} threads compute, not {threads}")


def test_threads_that_run_are_left_alone() -> None:
    """Where threads get the processor nearly all the time, all of them compute."""
    steps = Steps(4)
    assert {steps.take(0.9) for _ in range(200)} == {4}
    assert not steps.changes


def test_a_thread_is_left_out_while_a_core_is_busy() -> None:
    """Threads that wait half the time become one fewer, within a dozen steps, and all again when the pause is over."""
    steps = Steps(2)
    assert steps.until(1, 0.5) <= 12
    began = steps.now
    steps.until(2, 1)
    assert 0.2 < steps.now - began < 1
    assert {steps.take(0.97) for _ in range(50)} == {2}
    assert steps.changes == [1, 2]


def test_tries_become_rarer_while_it_stays_busy() -> None:
    """The pause before another try doubles, up to four seconds."""
    steps = Steps(2)
    pauses: list[float] = []
    for _ in range(7):
        steps.until(1, 0.5)
        began = steps.now
        steps.until(2, 1)
        pauses.append(round(steps.now - began))
    assert pauses[-1] == 4
    assert pauses == sorted(pauses)


def test_time_without_work_counts() -> None:
    """Contention during one request does not slow down the next one, a minute later."""
    steps = Steps(2)
    steps.until(1, 0.5)
    steps.now += 60
    assert steps.take(1) == 2


def test_one_thread_stays_one() -> None:
    """A single thread is never left out."""
    assert Steps(1).take(0.1) == 1
