"""Guessing how a text goes on."""

from hypothesis import given
from hypothesis import strategies as st

from antiphon.engine.drafter import Drafter


def test_what_stood_after_the_same_tokens_is_proposed() -> None:
    """The latest place where the last tokens stood says what may follow."""
    guess, odds = Drafter([1, 2, 3, 4, 9, 1, 2, 3, 5, 6, 7, 1, 2, 3], 3).propose()
    assert guess == [5, 6, 7]
    assert odds > 0.5


def test_the_place_with_most_in_common_prevails() -> None:
    """A place where more of the last tokens stood is followed rather than a later one where fewer did."""
    guess, _ = Drafter([1, 2, 3, 4, 9, 8, 3, 4, 5, 6, 1, 2, 3, 4], 2).propose()
    assert guess == [9, 8]


def test_fewer_tokens_are_compared_where_more_never_stood() -> None:
    """Two tokens, then one, are compared where four were never seen, at lower odds."""
    _, long = Drafter([1, 2, 3, 4, 1, 2, 3], 2).propose()
    guess, short = Drafter([1, 2, 3, 4, 7, 3], 2).propose()
    assert guess == [4, 7]
    assert short < long


def test_a_loop_is_followed_beyond_its_end() -> None:
    """A text that repeats itself is continued round its loop."""
    guess, _ = Drafter([8, 9, 8, 9, 8, 9], 5).propose()
    assert guess == [8, 9, 8, 9, 8]


def test_without_a_place_the_last_token_is_repeated_at_no_odds() -> None:
    """A guess is never empty: a text alone needs a second row."""
    assert Drafter([1, 2, 3], 4).propose() == ([3], 0.0)


def test_odds_follow_success() -> None:
    """Guesses that were wrong are trusted less, those that were right more."""
    tokens = [1, 2, 3, 4, 1, 2, 3]
    drafter = Drafter(tokens, 4)
    before = drafter.propose()[1]
    drafter.learn(4, 0)
    worse = drafter.propose()[1]
    for _ in range(5):
        drafter.learn(4, 4)
    assert worse < before < drafter.propose()[1] <= 1


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 9))
def test_a_guess_continues_an_earlier_place(tokens: list[int], most: int) -> None:
    """Whatever the text, a guess has the length asked for, and stood somewhere after the text's last token, or repeats it."""
    drafter = Drafter(tokens, most)
    guess, odds = drafter.propose()
    assert 0 <= odds <= 1
    assert len(guess) == (most if odds else 1)
    if odds:
        extended = tokens + guess
        places = [at for at in range(1, len(tokens)) if tokens[at - 1] == tokens[-1]]
        assert any(extended[at : at + most] == guess for at in places)
