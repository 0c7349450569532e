"""Which tests show which row of docs/faults.md, and the line that each row of its fault table gets in the end.

A plug-in of pytest's, for the whole suite: when all tests of the table ran, their figures are printed. `make faults`
(`python -m tests.evidence`) runs these tests alone; with FAULTS_ROUNDS=full as often as the page promises.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/faults.md"
FULL = {
    "REDIS_RESTARTS": "20",
    "KILL_ROUNDS": "50",
    "STALLED_READERS": "100",
    "STORM_CLIENTS": "2000",
    "STORM_TRIES": "50",
    "DEPLOY_CONNECTIONS": "1000",
    "HALF_OPEN_INTERVAL": "20",
    "LOCKED_SECONDS": "30",
    "BAD_INPUTS": "20000",
}
"""The counts of the page, for the tests that take them from the environment."""


@dataclass(frozen=True)
class Name:
    """A test as the page names it: `test_file.py::test_function`, and perhaps one of its cases in brackets."""

    file: str
    function: str
    case: str = ""

    def __str__(self) -> str:
        return f"{self.file}::{self.function}" + (f"[{self.case}]" if self.case else "")

    def matches(self, nodeid: str) -> bool:
        """Is it this test? A case may be one of several parameters of its test."""
        function, _, case = nodeid.removeprefix("tests/").removesuffix("]").partition("[")
        if function != f"{self.file}::{self.function}":
            return False
        return not self.case or f"-{self.case}-" in f"-{case}-"


@dataclass
class Figures:
    """What a test has found. All is added up over a row's tests, but for the worst time."""

    rounds: int = 1
    events: int = 0
    """What could get lost: messages, close events, requests."""
    lost: int = 0
    duplicated: int = 0
    worst: float = 0.0
    """Seconds until what the row promises was so."""

    def add(self, other: Figures) -> None:
        """Another test's, of the same row."""
        self.rounds += other.rounds
        self.events += other.events
        self.lost += other.lost
        self.duplicated += other.duplicated
        self.worst = max(self.worst, other.worst)


Evidence = Callable[[Figures], None]


@pytest.fixture
def evidence(request: pytest.FixtureRequest) -> Evidence:
    """Called by a test with what it has found, before it judges that."""
    return lambda figures: request.node.user_properties.append(("evidence", asdict(figures)))


@dataclass
class Row:
    """A row of the fault table, and what its tests have found so far."""

    title: str
    names: list[Name]
    ran: set[Name] = field(default_factory=set)
    tests: int = 0
    failed: int = 0
    figures: Figures = field(default_factory=lambda: Figures(rounds=0))

    def __str__(self) -> str:
        found = self.figures
        worst = f"{found.worst:.3f} s" if found.worst else "-"
        events = [f"{number:>8}" if found.events else f"{'-':>8}" for number in (found.lost, found.duplicated)]
        counts = f"{self.tests:>6}{found.rounds:>8}{found.events or '-':>8}{events[0]}{events[1]:>12}{worst:>12}"
        missing = [str(name) for name in self.names if name not in self.ran]
        verdict = f"FAILED: {self.failed} tests" if self.failed else "ok"
        return f"{self.title:<40.39}{counts}  {f'NOT RUN: {missing}' if missing else verdict}"


HEAD = f"{'fault':<40}{'tests':>6}{'rounds':>8}{'events':>8}{'lost':>8}{'duplicated':>12}{'worst':>12}"


def names(text: str) -> list[Name]:
    """The tests that a text names."""
    return [Name(*found) for found in re.findall(r"`(test_\w+\.py)::([\w:]+)(?:\[([^`]*)\])?`", text)]


def table(heading: str) -> Iterator[tuple[str, list[Name]]]:
    """The rows of the page's table under this heading: title, and the tests that are named."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    for line in section.splitlines():
        if line.startswith("| ") and not line.startswith(("| fault |", "| attack |", "| input |", "| figure |")):
            yield line.split("|")[1].strip(), names(line)


def shown() -> list[Row]:
    """The rows that get a line: of faults, and of figures."""
    return [Row(title, found) for heading in ("Faults", "Figures") for title, found in table(heading) if found]


class FaultTable:
    """Gathers what the tests found, in the process that speaks to the terminal."""

    def __init__(self) -> None:
        self.rows = shown()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A phase of a test is over; what it found comes with its call."""
        for row in self.rows:
            for name in row.names:
                if name.matches(report.nodeid):
                    self._count(row, name, report)

    def _count(self, row: Row, name: Name, report: pytest.TestReport) -> None:
        row.failed += report.outcome != "passed"
        if report.when != "call":
            return
        row.ran.add(name)
        row.tests += 1
        found = [value for key, value in report.user_properties if key == "evidence"]
        row.figures.add(Figures(**found[-1]) if found else Figures())  # type: ignore[arg-type]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
        """One line per row, unless only some of the suite was asked for."""
        if config.getoption("faults") or all(row.ran for row in self.rows):
            terminalreporter.section("faults")
            for line in (HEAD, *self.rows):
                terminalreporter.line(str(line))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", action="store_true", help="only the tests of faults and figures in docs/faults.md")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # not in a process of xdist's
        config.pluginmanager.register(FaultTable(), "fault table")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("faults"):
        wanted = [name for row in shown() for name in row.names]
        items[:] = [item for item in items if any(name.matches(item.nodeid) for name in wanted)]


def main() -> int:
    """Run the tests of the fault table, print it, and return pytest's exit status."""
    if os.environ.get("FAULTS_ROUNDS") == "full":
        for name, value in FULL.items():
            os.environ.setdefault(name, value)
    files = {f"tests/{name.file}": None for row in shown() for name in row.names}
    return int(pytest.main(["--faults", *sys.argv[1:], *files]))


if __name__ == "__main__":
    sys.exit(main())
