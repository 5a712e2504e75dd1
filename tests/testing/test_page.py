"""The tests that the page on testing shows are tests that pass."""

from pathlib import Path

import pytest
from tests.docs.test_examples import examples

PAGE = Path(__file__).parents[2] / "docs" / "toolkit" / "testing.md"


def test_the_tests_on_the_page_pass(pytester: pytest.Pytester) -> None:
    """As a reader would run them, in a module of their own."""
    first = next(examples(PAGE.read_text()))
    pytester.makepyfile(first.code)
    pytester.runpytest_inprocess("-p", "antiphon.testing.plugin").assert_outcomes(passed=2)
