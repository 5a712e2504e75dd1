"""The router's policies by themselves: retry decisions, load balancing, rate-limit windows, prefix keys."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.backends.routing.balance import LOAD_BOUND, Load, by_outstanding, by_prefix
from antiphon.backends.routing.prefix import prefix_key
from antiphon.backends.routing.retry_decision import classify_error
from antiphon.backends.upstream.failures import disconnected, protocol_error, timed_out, unreachable
from antiphon.backends.upstream.rate_limit_window import RateLimitWindow
from antiphon.protocol.chat import ChatRequest, Message
from antiphon.protocol.completions import CompletionRequest
from antiphon.protocol.errors import ApiError, overloaded
from antiphon.protocol.relay import parse_relay

LOADS = st.lists(st.tuples(st.floats(0.1, 10), st.integers(0, 50)).map(lambda pair: pair), min_size=1, max_size=8).map(
    lambda pairs: [Load(f"backend-{i}", weight, load) for i, (weight, load) in enumerate(pairs)]
)


@given(LOADS, st.integers(0, 100))
def test_least_outstanding_comes_first(loads: list[Load], turn: int) -> None:
    """No target that is asked later has less to do for its weight."""
    order = by_outstanding(loads, turn)
    ratios = [(loads[place].outstanding + 1) / loads[place].weight for place in order]
    assert sorted(order) == list(range(len(loads)))
    assert ratios == sorted(ratios)


def test_equals_take_turns() -> None:
    """Idle targets of equal weight are asked in rotation."""
    loads = [Load(name, 1, 0) for name in "abc"]
    assert [by_outstanding(loads, turn)[0] for turn in range(6)] == [0, 1, 2, 0, 1, 2]


@given(LOADS, st.binary(max_size=20))
def test_prefix_order_is_bounded_and_complete(loads: list[Load], key: bytes) -> None:
    """Every target is in the order, and the first has no more than its bounded share of the load."""
    order = by_prefix(loads, key, 0)
    assert sorted(order) == list(range(len(loads)))
    first = loads[order[0]]
    share = first.weight / sum(load.weight for load in loads)
    total = sum(load.outstanding for load in loads) + 1
    assert first.outstanding < LOAD_BOUND * total * share + 1


@given(st.integers(2, 8), st.sets(st.binary(min_size=1, max_size=8), min_size=1, max_size=50), st.data())
def test_a_target_that_goes_moves_its_own_keys_alone(count: int, keys: set[bytes], data: st.DataObject) -> None:
    """Keys of the targets that stay keep their target."""
    loads = [Load(f"backend-{i}", 1, 0) for i in range(count)]
    gone = data.draw(st.integers(0, count - 1))
    rest = [load for i, load in enumerate(loads) if i != gone]
    for key in keys:
        before = loads[by_prefix(loads, key, 0)[0]]
        if before.id != loads[gone].id:
            assert rest[by_prefix(rest, key, 0)[0]] is before


def test_keys_spread_by_weight() -> None:
    """A target of three times the weight gets about three times the keys."""
    loads = [Load("a", 1, 0), Load("b", 3, 0)]
    firsts = [by_prefix(loads, str(number).encode(), 0)[0] for number in range(2000)]
    assert 0.7 < firsts.count(1) / 2000 < 0.8


@pytest.mark.parametrize(
    ("error", "again", "is_fault"),
    [
        (unreachable("u", "x"), "anywhere", True),
        (disconnected("u"), "anywhere", True),
        (timed_out("u", "x", 1), "elsewhere", True),
        (protocol_error("u", "x"), "elsewhere", True),
        (ApiError(500, "x"), "anywhere", True),
        (ApiError(503, "x"), "anywhere", True),
        (overloaded(1), "anywhere", False),
        (ApiError(429, "x"), "anywhere", False),
        (ApiError(429, "x", headers={"X-Should-Retry": "false"}), "elsewhere", False),
        (ApiError(429, "x", code="insufficient_quota"), "elsewhere", False),
        (ApiError(408, "x"), "anywhere", True),
        (ApiError(409, "x"), "anywhere", False),
        (ApiError(529, "x"), "anywhere", True),
        (ApiError(400, "x"), "nowhere", False),
        (ApiError(404, "x"), "nowhere", False),
        (ApiError(413, "x"), "nowhere", False),
    ],
)
def test_retry_decisions(error: ApiError, again: str, is_fault: bool) -> None:
    """An error of the request is tried nowhere, a lasting one of the backend elsewhere, a passing one anywhere."""
    decision = classify_error(error)
    assert (decision.again, decision.is_fault) == (again, is_fault)


def test_an_exhausted_limit_is_waited_for() -> None:
    """With no requests left the next may go when one has come back, not when all have."""
    window = RateLimitWindow()
    headers = {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1m0s",
    }
    window.learn(headers, now=100)
    assert window.wait_s(100) == pytest.approx(1)
    assert window.wait_s(101.1) == 0
    window.learn({**headers, "x-ratelimit-remaining-requests": "3"}, now=100)
    assert window.wait_s(100) == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"remaining": "\u00b2"},
        {"remaining": "9" * 5000},
        {"reset": "9" * 400 + "h"},
        {"reset": "nan"},
        {"limit": "\u00b2", "reset": "soon"},
    ],
)
def test_unreadable_rate_limits_teach_nothing(changes: dict[str, str]) -> None:
    """Headers that make no sense hold nobody back, and raise nothing."""
    fields = {"limit": "60", "remaining": "0", "reset": "1m0s", **changes}
    window = RateLimitWindow()
    window.learn({f"x-ratelimit-{name}-requests": value for name, value in fields.items()}, now=100)
    assert window.wait_s(100) == 0


def test_a_rate_limit_window_is_never_longer_than_a_minute() -> None:
    """An upstream that says that its limit resets in a thousand years is asked again in a minute."""
    window = RateLimitWindow()
    window.learn({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "9000000h"}, now=100)
    assert window.wait_s(100) == 60


def chat(*messages: Message, **more: str) -> ChatRequest:
    return ChatRequest(model="m", messages=messages, **more)


def test_a_conversation_keeps_its_key() -> None:
    """Later turns do not change the key; another first question does."""
    system, first = Message("system", "s"), Message("user", "a")
    key = prefix_key(chat(system, first))
    assert prefix_key(chat(system, first, Message("assistant", "b"), Message("user", "c"))) == key
    assert prefix_key(chat(system, Message("user", "b"))) != key
    assert prefix_key(chat(system, first, prompt_cache_key="mine")) == b"mine"


def test_relayed_requests_have_keys_too() -> None:
    """The key of a relayed request is of its bytes, without knowing more of it than roles."""

    def key(*messages: dict[str, str]) -> bytes:
        return prefix_key(parse_relay("chat/completions", msgspec.json.encode({"model": "m", "messages": messages})))

    first = {"role": "user", "content": "a"}
    assert key(first) == key(first, {"role": "assistant", "content": "b"})
    assert key(first) != key({"role": "user", "content": "b"})
    assert prefix_key(parse_relay("chat/completions", b'{"model":"m","messages":7}')) == b""
    assert prefix_key(parse_relay("chat/completions", b'{"model":"m","messages":[{"role":"\xff"}]}')) == b""
    assert prefix_key(CompletionRequest(model="m", prompts=("abc",))) == b"abc"


def test_the_key_of_a_long_prompt_of_token_ids_is_cut_first() -> None:
    """Millions of token ids are not written out as text for a key of 512 characters."""

    class Ids(tuple[int, ...]):
        __slots__ = ()

        def __str__(self) -> str:
            raise AssertionError("the whole prompt was written out")

    assert prefix_key(CompletionRequest(model="m", prompts=(Ids(range(10_000)),))).startswith(b"(0, 1, 2")
