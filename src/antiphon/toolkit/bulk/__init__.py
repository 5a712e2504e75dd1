"""Many requests under limits: paced, retried in one place, journaled, in OpenAI's batch file format."""

from antiphon.toolkit.bulk.batchfile import Request, Result, read_results, write_requests
from antiphon.toolkit.bulk.report import BulkReport, BulkStatistics
from antiphon.toolkit.bulk.runner import arun, run

__all__ = ["BulkReport", "BulkStatistics", "Request", "Result", "arun", "read_results", "run", "write_requests"]
