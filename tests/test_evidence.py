"""docs/faults.md can't rot: what it names exists; and the lines that are printed of its rows."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from tests.evidence import PAGE, FaultTable, Name, Row, names, table

HEADINGS = {"Faults": 17, "Attacks": 12, "Bad input": 33, "Figures": 5}


def cases(function: Any) -> list[str]:
    """The names of a test's cases, as far as they stand in its marks."""
    found = []
    for mark in getattr(function, "pytestmark", []):
        if mark.name == "parametrize":
            values, ids = mark.args[1], mark.kwargs.get("ids")
            found += list(ids or [getattr(value, "id", None) or str(value) for value in values])
    return found


@pytest.mark.parametrize("heading", HEADINGS)
def test_every_row_names_tests(heading: str) -> None:
    rows = dict(table(heading))
    assert len(rows) >= HEADINGS[heading]
    assert not [title for title, found in rows.items() if not found and heading != "Figures"]


@pytest.mark.parametrize("name", sorted(set(map(str, names(PAGE.read_text())))))
def test_what_is_named_exists(name: str) -> None:
    (wanted,) = names(f"`{name}`")
    function: Any = importlib.import_module(f"tests.{wanted.file.removesuffix('.py')}")
    for part in wanted.function.split("::"):
        function = getattr(function, part)
    assert callable(function)
    if wanted.case:
        found = cases(function)
        assert any(f"-{wanted.case}-" in f"-{case}-" for case in found), sorted(found)


def test_names() -> None:
    name = Name("test_a.py", "TestB::test_c", "d e")
    assert names("x `test_a.py::TestB::test_c[d e]`, `test_a.py::test_f` `make test`") == [
        name,
        Name("test_a.py", "test_f"),
    ]
    for case, expected in (("[d e]", True), ("[d e-uvicorn]", True), ("[uvicorn-d e]", True), ("[d]", False)):
        assert name.matches(f"tests/test_a.py::TestB::test_c{case}") == expected
    assert Name("test_a.py", "test_f").matches("tests/test_a.py::test_f[uvicorn]")
    assert not Name("test_a.py", "test_f").matches("tests/test_a.py::test_f2")


def report(test: str, outcome: str = "passed", when: str = "call", **figures: float) -> Any:
    found = [("evidence", {"rounds": 1} | figures)] if figures else []
    return pytest.TestReport(f"tests/{test}", ("", 0, ""), {}, outcome, None, when, user_properties=found)  # type: ignore[arg-type]


def test_a_row_adds_its_tests_up() -> None:
    gathered = FaultTable()
    row = Row("a row", names("`test_a.py::test_one` `test_a.py::test_two`"))
    gathered.rows = [row]
    gathered.pytest_runtest_logreport(report("test_a.py::test_one", when="setup"))
    gathered.pytest_runtest_logreport(report("test_a.py::test_one[x]", rounds=20, events=500, lost=0, worst=1.5))
    gathered.pytest_runtest_logreport(report("test_a.py::test_one[y]", rounds=3, events=7, lost=2, worst=0.25))
    assert "NOT RUN: ['test_a.py::test_two']" in str(row)
    gathered.pytest_runtest_logreport(report("test_a.py::test_two"))
    assert str(row).split() == ["a", "row", "3", "24", "507", "2", "0", "1.500", "s", "ok"]
    gathered.pytest_runtest_logreport(report("test_a.py::test_two", "failed", "teardown"))
    assert str(row).endswith("FAILED: 1 tests")
