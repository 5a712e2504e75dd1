"""Background responses that are over: followable for a while, within a bound."""

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from antiphon.server.responses import jobs as jobs_module
from antiphon.server.responses.jobs import Job, Jobs
from antiphon.state import ResponseSettings, ResponseStore

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(("most", "most_bytes"), [(3, 10_000), (100, 3 * 10)])
async def test_what_is_over_is_bounded_by_number_and_by_size(
    monkeypatch: pytest.MonkeyPatch, most: int, most_bytes: int
) -> None:
    """The oldest are forgotten first; the newest stays, however large it is."""
    monkeypatch.setattr(jobs_module, "_MAX_FOLLOWABLE", most)
    monkeypatch.setattr(jobs_module, "_MAX_FOLLOWABLE_BYTES", most_bytes)
    engine = create_async_engine("sqlite+aiosqlite://")
    jobs = Jobs(ResponseStore(engine, ResponseSettings()))
    for number in range(6):
        await ended(jobs, f"resp_{number}", 10)
    assert [number for number in range(6) if jobs.find(f"resp_{number}")] == [3, 4, 5]
    await ended(jobs, "large", most_bytes + 1)
    assert jobs.find("large")
    if most_bytes < 10_000:
        assert not jobs.find("resp_5")
    await jobs.aclose()
    await engine.dispose()


async def ended(jobs: Jobs, response_id: str, num_bytes: int) -> None:
    job = Job()
    jobs.start(response_id, job, job.add([b"x" * num_bytes]))
    assert job.task is not None
    await job.task
