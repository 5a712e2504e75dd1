"""Whether a JSON value is small is found out without reading a large one to its end."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.state.json_size import has_fewer_chars

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
)


@given(values, st.integers(1, 400))
def test_what_is_small_is_short_when_written(value: object, limit: int) -> None:
    """A value that counts as small is at most a few times the limit as JSON; one below a quarter of it is small."""
    written = len(msgspec.json.encode(value))
    if has_fewer_chars(value, limit):
        assert written <= 32 * limit
    if 16 * written < limit:
        assert has_fewer_chars(value, limit)


@pytest.mark.parametrize("value", ["x" * 100, ["x"] * 100, {str(n): n for n in range(100)}, [[["x" * 100]]]])
def test_what_is_long_is_not_small(value: object) -> None:
    """In one text, in many values, in many names, or deep inside."""
    assert not has_fewer_chars(value, 100)
