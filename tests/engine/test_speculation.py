"""Speculative decoding by prompt lookup: which tokens are drafted, and how likely they are accepted."""

from hypothesis import given
from hypothesis import strategies as st

from antiphon.engine.sampling.speculation import NgramPool, PromptLookup


def test_what_followed_the_same_tokens_is_proposed() -> None:
    """The draft is what followed the latest place where the last tokens occurred."""
    draft, acceptance = PromptLookup([1, 2, 3, 4, 9, 1, 2, 3, 5, 6, 7, 1, 2, 3], 3).propose()
    assert draft == [5, 6, 7]
    assert acceptance > 0.5


def test_the_place_with_most_in_common_prevails() -> None:
    """A longer match prevails over a later one."""
    draft, _ = PromptLookup([1, 2, 3, 4, 9, 8, 3, 4, 5, 6, 1, 2, 3, 4], 2).propose()
    assert draft == [9, 8]


def test_shorter_n_grams_are_tried_where_longer_ones_have_no_match() -> None:
    """Two tokens, then one, are compared where four were never seen, at lower acceptance."""
    _, long = PromptLookup([1, 2, 3, 4, 1, 2, 3], 2).propose()
    draft, short = PromptLookup([1, 2, 3, 4, 7, 3], 2).propose()
    assert draft == [4, 7]
    assert short < long


def test_a_loop_is_followed_beyond_its_end() -> None:
    """A text that repeats itself is continued around its loop."""
    draft, _ = PromptLookup([8, 9, 8, 9, 8, 9], 5).propose()
    assert draft == [8, 9, 8, 9, 8]


def test_without_a_place_the_last_token_is_repeated_at_no_odds() -> None:
    """A draft is never empty: a text alone needs a second row."""
    assert PromptLookup([1, 2, 3], 4).propose() == ([3], 0.0)


def test_acceptance_follows_success() -> None:
    """Guesses that were wrong are trusted less, those that were right more."""
    tokens = [1, 2, 3, 4, 1, 2, 3]
    lookup = PromptLookup(tokens, 4)
    before = lookup.propose()[1]
    lookup.learn(4, 0)
    worse = lookup.propose()[1]
    for _ in range(5):
        lookup.learn(4, 4)
    assert worse < before < lookup.propose()[1] <= 1


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 9))
def test_a_draft_continues_an_earlier_place(tokens: list[int], most: int) -> None:
    """Whatever the text, a draft has the length asked for, and occurred somewhere after the text's last token, or repeats it."""
    lookup = PromptLookup(tokens, most)
    draft, acceptance = lookup.propose()
    assert 0 <= acceptance <= 1
    assert len(draft) == (most if acceptance else 1)
    if acceptance:
        extended = tokens + draft
        places = [at for at in range(1, len(tokens)) if tokens[at - 1] == tokens[-1]]
        assert any(extended[at : at + most] == draft for at in places)


def grown(pool: NgramPool, prompt: list[int], answer: list[int]) -> PromptLookup:
    """Return the lookup of a text that was generated token by token."""
    tokens = list(prompt)
    lookup = pool.lookup(tokens, is_alone=True)
    for token in answer:
        tokens.append(token)
        lookup.propose()
    return lookup


def test_what_another_text_generated_is_proposed() -> None:
    """The earlier answer to the same prompt is the draft, as soon as four tokens are the same."""
    pool = NgramPool(3)
    grown(pool, [1, 2, 3, 4], [50, 51, 52, 53])
    assert pool.lookup([9, 1, 2, 3, 4], is_alone=True).propose()[0] == [50, 51, 52]
    assert pool.lookup([2, 3, 4], is_alone=True).propose() == ([4], 0.0)


def test_one_of_several_choices_draws_on_itself_alone() -> None:
    """The drafts of a choice follow from its request, whatever other requests generated."""
    pool = NgramPool(3)
    grown(pool, [1, 2, 3, 4], [50, 51, 52, 53])
    assert pool.lookup([1, 2, 3, 4], is_alone=False).propose() == ([4], 0.0)


def test_the_likelier_of_own_and_shared_drafts_is_proposed() -> None:
    """Drafts from other texts count less, once they were rejected."""
    pool = NgramPool(2)
    grown(pool, [1, 2, 3, 4], [50, 51])
    prompt = [2, 3, 60, 61, 1, 2, 3]
    assert pool.lookup([*prompt, 4], is_alone=True).propose()[0] == [50, 51]
    lookup = pool.lookup([7, 1, 2, 3, 4], is_alone=True)
    for _ in range(9):
        lookup.propose()
        lookup.learn(2, 0)
    assert pool.lookup([4, 70, 71, 1, 2, 3, 4], is_alone=True).propose()[0] == [70, 71]


def test_the_latest_texts_are_remembered() -> None:
    """What is older than twice the capacity is forgotten, what is younger than the capacity is not."""
    pool = NgramPool(1, capacity=8)
    for first in range(0, 400, 40):
        grown(pool, list(range(first, first + 4)), list(range(first + 4, first + 8)))
    remembered = [
        pool.lookup(list(range(first, first + 4)), is_alone=True).propose()[1] > 0 for first in range(0, 400, 40)
    ]
    assert remembered[:6] == [False] * 6
    assert remembered[-2:] == [True] * 2


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=30), min_size=1, max_size=8), st.integers(1, 9))
def test_a_draft_from_the_pool_occurred_in_a_text(texts: list[list[int]], most: int) -> None:
    """Whatever was generated, a draft is never empty nor too long."""
    pool = NgramPool(most, capacity=20)
    for text in texts:
        draft, acceptance = grown(pool, text[:1], text[1:]).propose()
        assert 1 <= len(draft) <= most
        assert 0 <= acceptance <= 1
