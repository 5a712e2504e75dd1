"""Drawing tokens: what each parameter of the API does to the distribution."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from antiphon.engine.ipc.messages import SamplingParams
from antiphon.engine.model.logits import BrokenLogits, log_probabilities
from antiphon.engine.sampling.sampler import Sampler

LOGITS = np.array([2.0, 1.0, 0.0, -1.0, 3.0], np.float32)
NUM_DRAWS = 4000


def frequencies(sampling: SamplingParams, logits: NDArray[np.float32] = LOGITS) -> NDArray[np.float64]:
    sampler = Sampler(sampling, 0)
    counts = np.bincount([sampler.draw(logits) for _ in range(NUM_DRAWS)], minlength=len(logits))
    return counts / NUM_DRAWS


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_scales_the_distribution(temperature: float) -> None:
    """Tokens come as often as softmax(logits / temperature) says."""
    expected = np.exp(log_probabilities(LOGITS / np.float32(temperature)))
    assert np.abs(frequencies(SamplingParams(temperature=temperature, seed=1)) - expected).max() < 0.03


@pytest.mark.parametrize("temperature", [5e-324, 1e-50, 1e-44, 1e-39, 1e-10])
@pytest.mark.parametrize("top_p", [1, 0.5])
def test_a_temperature_next_to_none_is_greedy(temperature: float, top_p: float) -> None:
    """A temperature too small for single precision draws the likeliest token, and each of two that are equal."""
    logits = np.random.default_rng(0).normal(size=3000).astype(np.float32)
    sampler = Sampler(SamplingParams(temperature=temperature, top_p=top_p, seed=1), 0)
    assert sampler.draw(logits) == logits.argmax()
    assert {
        Sampler(SamplingParams(temperature=temperature, seed=seed), 0).draw(np.ones(2, np.float32)) for seed in range(9)
    } == {0, 1}


def test_top_p_keeps_the_fewest_tokens_that_reach_it() -> None:
    """With top_p 0.8 only the two likeliest are drawn, in their own proportion."""
    drawn = frequencies(SamplingParams(top_p=0.8, seed=1))
    assert drawn[[1, 2, 3]].sum() == 0
    assert drawn[4] / drawn[0] == pytest.approx(np.e, rel=0.15)


@given(st.floats(0.01, 0.999), st.integers(0, 2**32))
def test_top_p_agrees_with_a_plain_sort(top_p: float, seed: int) -> None:
    """What is drawn is always in the nucleus that a full sort gives, for vocabularies beyond the first candidates."""
    logits = np.random.default_rng(seed).normal(size=3000).astype(np.float32)
    probabilities = np.exp(log_probabilities(logits))
    order = np.argsort(-probabilities, kind="stable")
    size = int(np.searchsorted(np.cumsum(probabilities[order]), top_p - 1e-5)) + 1
    assert Sampler(SamplingParams(top_p=top_p, seed=seed), 0).draw(logits) in order[: size + 2]


def test_the_same_seed_draws_the_same_and_choices_differ() -> None:
    """A seed fixes the tokens of each choice; choice k draws what choice 0 does with seed + k."""

    def draws(seed: int, choice: int) -> list[int]:
        sampler = Sampler(SamplingParams(seed=seed), choice)
        return [sampler.draw(LOGITS) for _ in range(30)]

    assert draws(5, 0) == draws(5, 0)
    assert draws(5, 1) == draws(6, 0) != draws(5, 0)
    assert draws(-3, 0) == draws(-3, 0)


def test_bias_forbids_forces_and_shifts() -> None:
    """-100 never, 100 always, and what is between is added to the logit."""
    greedy = SamplingParams(temperature=0)
    assert Sampler(greedy, 0).draw(LOGITS) == 4
    assert Sampler(SamplingParams(temperature=0, logit_bias={4: -100}), 0).draw(LOGITS) == 0
    assert frequencies(SamplingParams(temperature=2, logit_bias={3: 100}, seed=1))[3] == 1
    assert Sampler(SamplingParams(temperature=0, logit_bias={2: 3.5}), 0).draw(LOGITS) == 2


def test_penalties_count_the_whole_text() -> None:
    """Presence is paid once, frequency for every occurrence."""
    sampler = Sampler(SamplingParams(temperature=0, presence_penalty=0.5, frequency_penalty=0.3), 0)
    for _ in range(2):
        sampler.accept(4)
    assert sampler.draw(LOGITS) == 0  # 3 - 0.5 - 2 * 0.3 = 1.9 < 2
    sampler.accept(0)
    assert sampler.draw(LOGITS) == 4


def test_a_grammar_prevails_over_bias() -> None:
    """Of what a grammar allows, something is drawn though the bias forbids it all."""
    mask = np.array([False, False, True, True, False])
    assert Sampler(SamplingParams(temperature=0), 0).draw(LOGITS, mask) == 2
    assert Sampler(SamplingParams(temperature=0, logit_bias={2: -100, 3: -100}), 0).draw(LOGITS, mask) == 2


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_broken_logits_are_an_error(value: float) -> None:
    """Logits that are not numbers fail the request; nothing is drawn from them."""
    for broken in (np.full(5, value, np.float32), np.array([1, 2, value], np.float32)):
        for temperature in (0.0, 1.0):
            for mask in (None, np.ones(len(broken), np.bool_)):
                with pytest.raises(BrokenLogits):
                    Sampler(SamplingParams(temperature=temperature), 0).draw(broken, mask)
        with pytest.raises(BrokenLogits):
            log_probabilities(broken)


def test_a_mask_without_tokens_is_an_error() -> None:
    """Where a grammar allows nothing, nothing is drawn, greedily or not."""
    for temperature in (0.0, 1.0):
        with pytest.raises(BrokenLogits):
            Sampler(SamplingParams(temperature=temperature), 0).draw(LOGITS, np.zeros(len(LOGITS), np.bool_))


def test_log_probabilities_are_exact() -> None:
    """They are the double-precision log-softmax of the logits as the model computed them."""
    rows = np.random.default_rng(0).normal(scale=10, size=50000).astype(np.float32)
    exact = rows.astype(np.longdouble) - np.log(np.exp(rows.astype(np.longdouble)).sum())
    assert np.abs(log_probabilities(rows) - exact.astype(np.float64)).max() < 1e-12


@given(st.integers(0, 2**32), st.integers(1, 3000))
def test_what_has_no_probability_is_never_drawn(seed: int, size: int) -> None:
    """Of a large vocabulary in which all but a few tokens are forbidden, only those come."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=3000).astype(np.float32)
    mask = np.zeros(3000, np.bool_)
    mask[generator.integers(0, 3000, size)] = True
    sampler = Sampler(SamplingParams(temperature=2, seed=seed), 0)
    assert all(mask[sampler.draw(logits, mask)] for _ in range(5))


def test_large_vocabularies_are_drawn_from_in_proportion() -> None:
    """Tokens far apart in the vocabulary come as often as their weights say."""
    logits = np.full(5000, -20, np.float32)
    logits[[3, 700, 2600, 4999]] = np.log([0.1, 0.2, 0.3, 0.4])
    drawn = frequencies(SamplingParams(seed=2), logits)
    assert np.abs(drawn[[3, 700, 2600, 4999]] - [0.1, 0.2, 0.3, 0.4]).max() < 0.03
