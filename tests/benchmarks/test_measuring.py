import asyncio

import pytest
from benchmarks.client import Client, RequestFailed
from benchmarks.machine import Usage
from benchmarks.measuring import Plan, Sample, measure
from benchmarks.serving import Server
from benchmarks.workloads import Measure, Run, Values, Workload

from benchmarks import machine

pytestmark = pytest.mark.anyio


async def only(workload: Workload) -> Sample:
    """The one sample of one server in one round."""
    samples: list[Sample] = []
    await measure(workload, [server("a")], Plan(1, 0.1, 2, 0.05, [], settle_s=0), lambda sample: None, samples)
    (sample,) = samples
    return sample


def server(name: str) -> Server:
    return Server(name, Client(1, "m"), 0, 0.0)


def workload(values: list[Values | Exception], seen: list[str]) -> Workload:
    async def run(run: Run) -> Values:
        seen.append(run.nonce)
        value = values.pop(0)
        if isinstance(value, Exception):
            raise value
        return value

    return Workload("w", "a workload", (Measure("x", "s"),), run)


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The cores that others are said to have had, one after the other; none when used up."""
    cores: list[float] = []
    monkeypatch.setattr(machine, "others_cores", lambda before, after, wall_s: cores.pop(0) if cores else 0.0)
    return cores


async def test_servers_alternate_and_the_first_changes(foreign: list[float]) -> None:
    """No server is always the one that runs on a cool machine; all get the same prompts."""
    seen: list[str] = []
    said: list[Sample] = []
    samples: list[Sample] = []
    both = [server("a"), server("b")]
    await measure(workload([{"x": 1.0}] * 4, seen), both, Plan(2, 0.1, 1, 9, [], settle_s=0), said.append, samples)
    assert [s.contender for s in samples] == ["a", "b", "b", "a"]
    assert seen == ["w-0-0", "w-0-0", "w-1-0", "w-1-0"]
    assert said == samples


async def test_a_disturbed_run_is_repeated_with_fresh_prompts(foreign: list[float]) -> None:
    """A run that other processes disturbed does not count if a retry is quiet."""
    foreign += [0.9, 0.0]
    seen: list[str] = []
    sample = await only(workload([{"x": 9.0}, {"x": 1.0}], seen))
    assert sample.values == {"x": 1.0}
    assert not sample.disturbed
    assert seen == ["w-0-0", "w-0-1"]


async def test_a_run_that_stays_disturbed_says_so(foreign: list[float]) -> None:
    """The least disturbed try is kept, labelled."""
    foreign += [0.9, 0.4, 0.6]
    values: list[Values | Exception] = [{"x": 1.0}, {"x": 2.0}, {"x": 3.0}]
    sample = await only(workload(values, []))
    assert (sample.values, sample.disturbed, sample.others_cores) == ({"x": 2.0}, True, 0.4)


async def test_a_failure_is_a_sample_too(foreign: list[float]) -> None:
    """A server that refuses is in the results with its reason, not left out."""
    sample = await only(workload([RequestFailed("HTTP 500")], []))
    assert sample.values is None
    assert "HTTP 500" in sample.error


async def test_a_run_that_does_not_end_has_failed(foreign: list[float]) -> None:
    """A server that hangs does not hang the bench."""

    async def run(run: Run) -> Values:
        await asyncio.Event().wait()
        raise AssertionError

    sample = await only(Workload("w", "a workload", (Measure("x", "s"),), run))
    assert sample.values is None
    assert sample.error == "took longer than 0.05 s"


def test_what_others_used_excludes_us_and_includes_the_hypervisor() -> None:
    """Cores that were not ours: foreign processes and stolen time."""
    before, after = Usage(100.0, 1.0, 50.0), Usage(116.0, 2.0, 62.0)
    assert machine.others_cores(before, after, 10.0) == pytest.approx(0.5)


def test_the_machine_is_described_without_being_named() -> None:
    """Results may be published: no host name, no path."""
    assert set(machine.describe()) == {"processor", "instruction_sets", "cores", "memory_gib", "python"}
