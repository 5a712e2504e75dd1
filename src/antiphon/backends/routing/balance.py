"""Load balancing: the order in which a route's targets are tried. Pure.

Prefix affinity is rendezvous hashing (Thaler and Ravishankar 1998, with weights) with bounded loads (Mirrokni, Thorup and
Zadimoghaddam 2018): each key has its own order of targets, a target that is added or removed moves only its own keys, and no
target gets more than ``LOAD_BOUND`` times its share of the requests in flight.
"""

import hashlib
import math
from collections.abc import Sequence

import msgspec

LOAD_BOUND = 1.25


class Load(msgspec.Struct, frozen=True):
    """A target as the balancer sees it. ``outstanding``: requests in flight there. ``id`` is stable over restarts."""

    id: str
    weight: float
    outstanding: int


def by_outstanding(loads: Sequence[Load], turn: int) -> list[int]:
    """Return the places of ``loads``, least loaded for its weight first; ``turn`` rotates among equals."""
    count = len(loads)
    return sorted(
        range(count),
        key=lambda place: ((loads[place].outstanding + 1) / loads[place].weight, (place - turn) % count),
    )


def by_prefix(loads: Sequence[Load], key: bytes, turn: int) -> list[int]:
    """Return the places of ``loads`` in the key's own order, with those above their share of the load at the end."""
    total_weight = sum(load.weight for load in loads)
    total = sum(load.outstanding for load in loads) + 1
    ranked = sorted(range(len(loads)), key=lambda place: _score(loads[place], key), reverse=True)
    bounds = [math.ceil(LOAD_BOUND * total * load.weight / total_weight) for load in loads]
    free = [place for place in ranked if loads[place].outstanding < bounds[place]]
    return free + [place for place in by_outstanding(loads, turn) if place not in free]


def _score(load: Load, key: bytes) -> float:
    digest = hashlib.blake2b(load.id.encode() + b"\0" + key, digest_size=8).digest()
    unit = (int.from_bytes(digest, "big") + 0.5) / 2**64
    return -load.weight / math.log(unit)
