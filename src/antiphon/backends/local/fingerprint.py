"""``system_fingerprint``: unchanged as long as everything that a seeded answer depends on is unchanged."""

import hashlib

import msgspec

from antiphon import __version__
from antiphon.engine.ipc.messages import ModelInfo

_LENGTH = 10


def fingerprint(name: str, info: ModelInfo) -> str:
    """Return ``fp_`` and ten hexadecimal digits of the model, its settings and the version."""
    parts = (__version__, name, info.description, info.size_bytes, info.num_parameters, sorted(info.settings.items()))
    return "fp_" + hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:_LENGTH]
