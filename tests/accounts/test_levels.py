"""What limits have left, between two requests."""

from antiphon.accounts.levels import LimitLeft, LimitLevels
from antiphon.accounts.reading import Reading, Scope


def test_a_reading_drains_as_its_bucket_does() -> None:
    """After half a minute half a minute's worth is there again, and never more than the limit."""
    now = 0.0
    levels = LimitLevels(clock=lambda: now)
    levels.note("key_1", "m", (Reading(Scope.REQUESTS, 60, 50.0), Reading(Scope.TOKENS, 600, 650.0)))
    levels.note("key_2", "m", (Reading(Scope.REQUESTS, 60, 1.0),))
    assert levels.left("key_1") == [LimitLeft("m", "rpm", 60, 10), LimitLeft("m", "tpm", 600, 0)]
    now = 30.0
    assert [each.left for each in levels.left("key_1")] == [40, 250]
    now = 3000.0
    assert [each.left for each in levels.left("key_1")] == [60, 600]
    assert levels.left("key_3") == []
