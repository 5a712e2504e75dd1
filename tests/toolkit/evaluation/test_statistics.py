"""Intervals and the test of a drop, on scores whose truth is known."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from antiphon.toolkit.evaluation.statistics import chance_of_drop, mean_of


@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        (lambda chance, n: chance.random(n) < 0.9, 0.9),
        (lambda chance, n: chance.random(n) < 0.5, 0.5),
        (lambda chance, n: chance.random(n), 0.5),
        (lambda chance, n: chance.beta(5, 1, n), 5 / 6),
    ],
)
@pytest.mark.parametrize("n", [20, 100])
def test_intervals_have_the_true_mean_as_often_as_they_say(
    draw: Callable[[np.random.Generator, int], Any], truth: float, n: int
) -> None:
    """Nineteen times in twenty, for right and wrong answers as for graded ones."""
    chance = np.random.default_rng(1)
    means = [mean_of([float(value) for value in draw(chance, n)]) for _ in range(1000)]
    assert 0.915 <= sum(mean.low <= truth <= mean.high for mean in means) / 1000 <= 0.985


def test_an_interval_is_never_without_width_or_outside() -> None:
    """All right says little of few cases, and more of many."""
    few, many = mean_of([1.0] * 5), mean_of([1.0] * 500)
    assert few.low < many.low < few.high == many.high == 1.0
    assert (mean_of([]).n, mean_of([]).low, mean_of([0.3]).high) == (0, 0.0, 1.0)
    assert math.isnan(mean_of([]).value)
    assert str(mean_of([1.0, 0.0])) == "0.500 [0.095, 0.905]"


def test_noise_is_no_drop_and_a_drop_is_found() -> None:
    """At most one false alarm in twenty where nothing changed; a fall from 90 to 70 % in 100 cases is seen."""
    chance = np.random.default_rng(2)
    same = [chance_of_drop(chance.random(60) < 0.8, chance.random(60) < 0.8) < 0.05 for _ in range(200)]
    assert sum(same) / 200 <= 0.07
    fallen = [chance_of_drop(chance.random(100) < 0.9, chance.random(100) < 0.7) < 0.05 for _ in range(100)]
    assert sum(fallen) / 100 >= 0.9
    assert chance_of_drop([1, 0], [1, 0]) == 1.0
    assert chance_of_drop([0, 0], [1, 1]) == 1.0
