"""A soak test in minutes: chats arrive and are cancelled at random while memory is measured."""

import argparse
import sys
import time
from pathlib import Path

from benchmarks import machine
from benchmarks.contenders import Contender
from benchmarks.serving import running
from benchmarks.workloads import Run, arrivals, fill_cache, warm_up

_SLICES = 10
_GROWTH = 1.05
"""How much more the last three tenths may use than the second to fourth; allocators need a while to settle."""


async def soak(contender: Contender, model: Path, options: argparse.Namespace, end_tokens: list[int]) -> int:
    """Load ``contender`` for ``options.soak`` seconds; return 1 if its memory kept growing."""
    sizes: list[int] = []
    async with running(contender, "chat", model, options.threads, options.out) as server:
        await warm_up(Run(server.client, "warm-up", end_tokens), "chat")
        await fill_cache(Run(server.client, "fill", end_tokens))
        for number in range(_SLICES):
            began = time.monotonic()
            answered = await arrivals(Run(server.client, f"soak-{number}", end_tokens), seconds=options.soak / _SLICES)
            sizes.append(machine.rss_bytes(server.pid))
            print(
                f"{time.monotonic() - began:6.1f} s: {answered} answered, {sizes[-1] / 2**20:.0f} MiB resident",
                file=sys.stderr,
            )
    growth = max(sizes[-3:]) / max(sizes[1:4])
    print(f"{contender.name}: resident memory at the end {growth:.3f} times that at the beginning")
    return 1 if growth > _GROWTH else 0
