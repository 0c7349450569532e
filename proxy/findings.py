"""What a check of an installation has found, in words for somebody who sees it for the first time.

Made by machine, redis_check, database_check, node_check, self_test; shown by `doctor`, and logged by `runproxy`.
"""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How it is."""

    OK = "ok"
    WARNING = "warning"
    """It works, but not always, or not for many."""
    FAILED = "failed"
    SKIPPED = "skipped"
    """It can't be known, or there is nothing to look at; `found` says why."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `expected` and `advice`, what to do, are empty where all is well."""

    area: str
    name: str
    state: State
    found: str
    expected: str = ""
    advice: str = ""

    @property
    def text(self) -> str:
        """All but the advice, on one line."""
        wanted = f"expected {self.expected}, found " if self.expected else ""
        return f"{self.name}: {wanted}{self.found}"


def ok(area: str, name: str, found: str) -> Finding:
    return Finding(area, name, State.OK, found)


def skipped(area: str, name: str, found: str, advice: str = "") -> Finding:
    return Finding(area, name, State.SKIPPED, found, "", advice)


def warning(area: str, name: str, expected: str, found: str, advice: str) -> Finding:
    return Finding(area, name, State.WARNING, found, expected, advice)


def failed(area: str, name: str, expected: str, found: str, advice: str) -> Finding:
    return Finding(area, name, State.FAILED, found, expected, advice)
