"""Batches: many requests in a file, answered while the engine has nothing else to do; their rows and journal."""

from antiphon.batches.input_lines import BatchLine, InputCheck, LineSplitter
from antiphon.batches.settings import BatchSettings
from antiphon.batches.store import BatchDetail, BatchStore, FinishedLine, LeaseLost, StoredBatch

__all__ = [
    "BatchDetail",
    "BatchLine",
    "BatchSettings",
    "BatchStore",
    "FinishedLine",
    "InputCheck",
    "LeaseLost",
    "LineSplitter",
    "StoredBatch",
]
