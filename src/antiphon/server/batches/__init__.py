"""The work on batches: validation, the requests themselves, and the files that they end in."""

from antiphon.server.batches.lines import LineRunner
from antiphon.server.batches.runner import BatchRunner

__all__ = ["BatchRunner", "LineRunner"]
