"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "problem", "skipped"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One result. ``fix`` is the command, or else the step, that fixes it; empty where nothing needs fixing."""

    check: str
    status: Status
    message: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings, in the order in which a request meets what they are about."""

    findings: tuple[Finding, ...]

    @property
    def is_healthy(self) -> bool:
        """Whether nothing keeps calls from working; warnings do not."""
        return all(finding.status != "problem" for finding in self.findings)
