"""Finds what is wrong between an application and its API, and names the command that fixes it."""

from antiphon.toolkit.doctor.examine import aexamine, examine
from antiphon.toolkit.doctor.findings import Diagnosis, Finding
from antiphon.toolkit.doctor.truncation import explain_answer

__all__ = ["Diagnosis", "Finding", "aexamine", "examine", "explain_answer"]
