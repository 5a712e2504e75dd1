"""Runs workloads: contenders alternate within a round, disturbed runs are repeated, and every omission is reported."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence

import msgspec

from benchmarks import machine
from benchmarks.client import RequestFailed
from benchmarks.serving import Server
from benchmarks.workloads import Run, Values, Workload


class Sample(msgspec.Struct, frozen=True):
    """One run. ``others_cores``: the cores that other processes used meanwhile; ``values`` is None if the run failed."""

    workload: str
    contender: str
    round: int
    values: Values | None
    others_cores: float
    disturbed: bool
    error: str = ""


class Plan(msgspec.Struct, frozen=True):
    """Number of rounds and strictness. A run in which other processes used more than ``tolerance`` cores is repeated ``retries`` times."""

    rounds: int
    tolerance: float
    retries: int
    limit_s: float
    end_tokens: list[int]
    settle_s: float = 2.0
    """The pause before a run: threads of the server that was measured before wait in a loop for a while."""


async def measure(
    workload: Workload, servers: Sequence[Server], plan: Plan, say: Callable[[Sample], None], samples: list[Sample]
) -> None:
    """Add a sample per server and round, the least disturbed of its tries. The order of servers rotates each round."""
    for number in range(plan.rounds):
        turned = [*servers[number % len(servers) :], *servers[: number % len(servers)]]
        for server in turned:
            sample = await _tries(workload, server, plan, number)
            say(sample)
            samples.append(sample)


async def _tries(workload: Workload, server: Server, plan: Plan, number: int) -> Sample:
    best: Sample | None = None
    for attempt in range(plan.retries + 1):
        sample = await _once(workload, server, plan, number, attempt)
        if best is None or sample.others_cores < best.others_cores:
            best = sample
        if not sample.disturbed or sample.values is None:
            break
    assert best is not None
    return best


async def _once(workload: Workload, server: Server, plan: Plan, number: int, attempt: int) -> Sample:
    # A cache must not know a retry's prompts; without retries all servers get the same text.
    run = Run(server.client, f"{workload.name}-{number}-{attempt}", plan.end_tokens)
    roots = [os.getpid(), server.pid]
    await asyncio.sleep(plan.settle_s)
    before, began = machine.usage(roots), time.perf_counter()
    error, values = "", None
    try:
        async with asyncio.timeout(plan.limit_s):
            values = await workload.run(run)
    except TimeoutError:
        error = f"took longer than {plan.limit_s:g} s"
    except (RequestFailed, RuntimeError, OSError, EOFError) as failure:
        error = f"{type(failure).__name__}: {failure}"
    others = machine.others_cores(before, machine.usage(roots), time.perf_counter() - began)
    return Sample(workload.name, server.name, number, values, others, others > plan.tolerance, error)
