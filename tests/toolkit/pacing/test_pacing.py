"""The pacer against a server that limits as OpenAI does, in simulated time."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from antiphon.toolkit.errors import RequestTooLargeError
from antiphon.toolkit.pacing.pacer import MINUTE_S, Pacer, Ticket
from antiphon.toolkit.pacing.rate_limits import RateLimit, RateLimits


@dataclass
class LeakyServer:
    """OpenAI's limiter, written from its formulas, apart from the code under test."""

    rpm: int
    tpm: int
    settles: bool
    levels: list[float] = field(default_factory=lambda: [0.0, 0.0])
    at: float = 0.0
    num_refused: int = 0

    def leak(self, now: float) -> None:
        for i, limit in enumerate((self.rpm, self.tpm)):
            self.levels[i] = max(0.0, self.levels[i] - (now - self.at) * limit / 60)
        self.at = now

    def request(self, reserved: int, now: float) -> RateLimits:
        self.leak(now)
        if self.levels[0] + 1 > self.rpm + 1e-6 or self.levels[1] + reserved > self.tpm + 1e-6:
            self.num_refused += 1
        self.levels[0] += 1
        self.levels[1] += reserved
        return self.told()

    def settle(self, reserved: int, actual: int, now: float) -> RateLimits:
        self.leak(now)
        if self.settles:
            self.levels[1] = max(0.0, self.levels[1] + actual - reserved)
        return self.told()

    def told(self) -> RateLimits:
        remaining = [max(0, int(limit - level)) for limit, level in zip((self.rpm, self.tpm), self.levels, strict=True)]
        return RateLimits(RateLimit(self.rpm, remaining[0]), RateLimit(self.tpm, remaining[1]))


@dataclass
class Trace:
    server: LeakyServer
    sent: list[tuple[float, int]] = field(default_factory=list)  # when, tokens really used


def simulate(
    pacer: Pacer,
    server: LeakyServer,
    work: list[tuple[int, int]],
    latencies: list[float],
    *,
    concurrency: int,
    headers: bool,
) -> Trace:
    """Send ``work`` [(reserved, actual)] as fast as the pacer allows; latencies (up, down) are used in turn."""
    trace = Trace(server)
    now = 0.0
    events: list[tuple[float, int, str, int]] = []  # time, order, kind, item
    tickets: dict[int, Ticket] = {}
    told: dict[int, RateLimits] = {}
    waiting = list(range(len(work)))[::-1]
    order = 0
    while waiting or events:
        while waiting and len(tickets) < concurrency:
            wait = pacer.wait_s(work[waiting[-1]][0], now)
            if wait is None:
                break
            if wait > 0:
                if not events or events[0][0] >= now + wait:
                    now += wait
                    continue
                break
            item = waiting.pop()
            tickets[item] = pacer.admit(work[item][0], now)
            trace.sent.append((now, work[item][1]))
            order += 1
            heapq.heappush(events, (now + latencies[2 * item % len(latencies)], order, "arrive", item))
        if not events:
            continue
        now, _, kind, item = heapq.heappop(events)
        reserved, actual = work[item]
        order += 1
        if kind == "arrive":
            server.request(reserved, now)
            heapq.heappush(events, (now + latencies[(2 * item + 1) % len(latencies)], order, "work", item))
        elif kind == "work":
            told[item] = server.settle(reserved, actual, now)
            heapq.heappush(events, (now + 0.01, order, "answer", item))
        else:
            pacer.settle(tickets.pop(item), now, used_tokens=actual, reported=told[item] if headers else None)
    return trace


def most_in_a_minute(trace: Trace, *, tokens: bool) -> int:
    most, total, first = 0, 0, 0
    for at, amount in trace.sent:
        total += amount if tokens else 1
        while trace.sent[first][0] <= at - MINUTE_S:
            total -= trace.sent[first][1] if tokens else 1
            first += 1
        most = max(most, total)
    return most


worlds = st.fixed_dictionaries(
    {
        "rpm": st.integers(3, 400),
        "tpm": st.integers(2_000, 100_000),
        "settles": st.booleans(),
        "headers": st.booleans(),
        "concurrency": st.integers(1, 64),
        "latencies": st.lists(st.floats(0.001, 0.9), min_size=1, max_size=7),
        "sizes": st.lists(st.tuples(st.integers(1, 1_000), st.floats(0.05, 1.0)), min_size=1, max_size=20),
    }
)


@settings(max_examples=100, deadline=None)
@given(worlds)
def test_no_minute_holds_more_than_the_limits(world: dict[str, object]) -> None:
    """Whatever the sizes, latencies and the server's habits, no 60 s window holds more than RPM requests or TPM tokens."""
    trace = run(world, given_limits=True)
    assert most_in_a_minute(trace, tokens=False) <= trace.server.rpm
    assert most_in_a_minute(trace, tokens=True) <= trace.server.tpm


@settings(max_examples=100, deadline=None)
@given(worlds)
def test_a_server_that_tells_its_limits_never_refuses(world: dict[str, object]) -> None:
    """With limits learnt from headers alone, a leaky-bucket server sends no 429, whether it settles or not."""
    trace = run({**world, "headers": True}, given_limits=False)
    assert trace.server.num_refused == 0


@settings(max_examples=100, deadline=None)
@given(worlds)
def test_a_silent_server_that_settles_never_refuses(world: dict[str, object]) -> None:
    """With limits given and no header at all, a leaky bucket that settles sends no 429 either."""
    trace = run({**world, "headers": False, "settles": True}, given_limits=True)
    assert trace.server.num_refused == 0


def run(world: dict[str, object], *, given_limits: bool) -> Trace:
    rpm, tpm = int(world["rpm"]), int(world["tpm"])  # type: ignore[call-overload]
    server = LeakyServer(rpm, tpm, bool(world["settles"]))
    pacer = Pacer(rpm, tpm) if given_limits else Pacer()
    sizes: list[tuple[int, float]] = world["sizes"]  # type: ignore[assignment]
    count = min(300, 3 * rpm)
    work = [(size, max(1, int(size * share))) for size, share in (sizes[i % len(sizes)] for i in range(count))]
    latencies: list[float] = world["latencies"]  # type: ignore[assignment]
    concurrency = int(world["concurrency"])  # type: ignore[call-overload]
    return simulate(pacer, server, work, latencies, concurrency=concurrency, headers=bool(world["headers"]))


@pytest.mark.parametrize("settles", [True, False])
@pytest.mark.parametrize("learn", [True, False])
@pytest.mark.parametrize(
    ("rpm", "tpm", "reserved", "actual"),
    [(600, 10_000_000, 100, 50), (100_000, 60_000, 200, 200), (3, 100_000, 10, 10), (500, 200_000, 900, 400)],
)
def test_a_saturated_budget_is_used_to_95_percent(
    rpm: int, tpm: int, reserved: int, actual: int, *, learn: bool, settles: bool
) -> None:
    """Over many minutes of more work than fits, at least 95 % of what the server would take is sent, without one 429."""
    server = LeakyServer(rpm, tpm, settles)
    pacer = Pacer() if learn else Pacer(rpm, tpm)
    charged = actual if settles else reserved
    per_minute = min(rpm, tpm / charged)
    work = [(reserved, actual)] * int((6 if rpm > 3 else 20) * per_minute)
    trace = simulate(pacer, server, work, [0.02, 0.3, 0.05], concurrency=64, headers=True)
    # A first burst fills the empty bucket, from then on it leaks at the limit. Reservations above the usage, which
    # fill it before they are settled, leave no burst.
    minutes = trace.sent[-1][0] / 60 + (0 if settles and reserved > actual else 1)
    assert server.num_refused == 0
    assert len(trace.sent) / (per_minute * minutes) >= 0.95


def test_a_request_larger_than_the_limit_fails_at_once() -> None:
    """A request that could never fit raises instead of waiting for ever."""
    with pytest.raises(RequestTooLargeError, match="31538 tokens, and the limit is 30000"):
        Pacer(rpm=500, tpm=30_000).wait_s(31_538, 0.0)


def test_a_request_as_large_as_the_limit_goes_out() -> None:
    """The whole budget of a minute may be spent on one request."""
    pacer = Pacer(tpm=30_000)
    assert pacer.wait_s(30_000, 0.0) == 0.0


def test_unknown_limits_let_one_request_out() -> None:
    """The limits are not known: one request goes to learn them, the others wait for its answer."""
    pacer = Pacer()
    ticket = pacer.admit(10, 0.0)
    assert pacer.wait_s(10, 0.1) is None
    pacer.settle(ticket, 0.2, used_tokens=10, reported=RateLimits(RateLimit(3, 2), RateLimit(1_000, 990)))
    assert (pacer.rpm, pacer.tpm) == (3, 1_000)
    assert pacer.wait_s(10, 0.2) == 0.0


def test_the_lower_of_two_limits_holds() -> None:
    """A user's own lower limit stands; a server's lower limit replaces the user's."""
    pacer = Pacer(rpm=100, tpm=100)
    ticket = pacer.admit(1, 0.0)
    pacer.settle(ticket, 0.1, reported=RateLimits(RateLimit(10, 9), RateLimit(1_000, 999)))
    assert (pacer.rpm, pacer.tpm) == (10, 100)


def test_other_users_of_a_key_are_noticed() -> None:
    """When an answer tells that the bucket is full though little was sent from here, the next request waits."""
    pacer = Pacer(rpm=60, tpm=1_000)
    ticket = pacer.admit(1, 0.0)
    pacer.settle(ticket, 0.0, reported=RateLimits(RateLimit(60, 0), RateLimit(1_000, 999)))
    assert pacer.wait_s(1, 0.0) == pytest.approx(2.0)  # one request leaks in a second, one is the margin


def test_a_server_that_asks_for_silence_gets_it() -> None:
    """Retry-After holds every request back."""
    pacer = Pacer(rpm=60, tpm=1_000)
    pacer.hold(7.0, 1.0)
    assert pacer.wait_s(1, 1.0) == 7.0
    assert pacer.statistics(1.0).held_until == 8.0
