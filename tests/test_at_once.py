"""`at_once` is a parametrized test: every case runs, with what it asked for, and none can fail unseen."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import pytest

from tests.at_once import at_once
from tests.evidence import Evidence, Figures

found: list[Figures] = []
ran: set[tuple[str, int, str]] = set()
everyone = asyncio.Barrier(4)


@pytest.fixture
def evidence() -> Evidence:
    """Instead of the one whose figures go to the fault table."""
    return found.append


@at_once(kind=["a", "b"], number=[1, 2])
async def test_all_cases_are_there_together(kind: str, number: int, key: str, evidence: Evidence) -> None:
    evidence(Figures(99, 99))  # only the last one counts
    async with asyncio.timeout(5):
        await everyone.wait()
    evidence(Figures(1, number, worst=float(number)))
    ran.add((kind, number, key))


def test_what_they_did() -> None:
    assert [(kind, number) for kind, number, _ in sorted(ran)] == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    assert len({key for *_, key in ran}) == 4
    assert found == [Figures(4, 6, worst=2.0)]


@pytest.mark.parametrize("bad", [*itertools.product("ab", (1, 2))])
async def test_one_that_fails_is_named(bad: tuple[str, int], fresh: Callable[[str], str]) -> None:
    @at_once(kind=["a", "b"], number=[1, 2])
    async def test(kind: str, number: int, key: str) -> None:
        assert (kind, number) != bad

    with pytest.raises(ExceptionGroup) as caught:
        await test(fresh=fresh)
    (error,) = caught.value.exceptions
    assert error.__notes__ == [f"with {dict(zip(('kind', 'number'), bad, strict=True))}"]
