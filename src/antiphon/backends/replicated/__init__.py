"""Models that run in replicas elsewhere: one end answers for a replica's backend, the other is a backend itself.

What carries the messages between them is a ``Caller``: ``server/ray_serve.py`` has the one over Ray Serve.
"""

from antiphon.backends.replicated.backend import ReplicatedBackend
from antiphon.backends.replicated.caller import Caller, ReplicaLost
from antiphon.backends.replicated.messages import Batch, Description, Refusal
from antiphon.backends.replicated.service import ReplicaService

__all__ = ["Batch", "Caller", "Description", "Refusal", "ReplicaLost", "ReplicaService", "ReplicatedBackend"]
