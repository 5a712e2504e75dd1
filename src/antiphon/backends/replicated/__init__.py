"""Models that run in replicas elsewhere: one end answers for a replica's backend, the other is a backend itself.

A ``ReplicaCaller`` carries the messages between them: ``server/ray_serve.py`` has the one over Ray Serve.
"""

from antiphon.backends.replicated.backend import ReplicatedBackend
from antiphon.backends.replicated.caller import ReplicaCaller, ReplicaLost
from antiphon.backends.replicated.messages import Description, EventBatch, Refusal
from antiphon.backends.replicated.service import ReplicaService

__all__ = [
    "Description",
    "EventBatch",
    "Refusal",
    "ReplicaCaller",
    "ReplicaLost",
    "ReplicaService",
    "ReplicatedBackend",
]
