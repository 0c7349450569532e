"""`at_once` is a parametrized test: every case runs, with what it asked for, and none can fail unseen."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import Callable

import pytest

from tests.at_once import at_once
from tests.evidence import Evidence, Figures

CASES = [*itertools.product("ab", (1, 2))]


async def test_all_cases_run_together(fresh: Callable[[str], str]) -> None:
    everyone = asyncio.Barrier(len(CASES))
    ran: list[tuple[str, int, str]] = []
    found: list[Figures] = []

    @at_once(kind="ab", number=[1, 2])
    async def test(kind: str, number: int, key: str, evidence: Evidence) -> None:
        evidence(Figures(99, 99))  # only the last one counts
        async with asyncio.timeout(5):
            await everyone.wait()
        evidence(Figures(1, number, worst=float(number)))
        ran.append((kind, number, key))

    assert list(inspect.signature(test).parameters) == ["fresh", "evidence"]  # what pytest gives
    await test(fresh=fresh, evidence=found.append)
    assert sorted((kind, number) for kind, number, _ in ran) == CASES
    assert len({key for *_, key in ran}) == len(CASES)
    assert found == [Figures(4, 6, worst=2.0)]


@pytest.mark.parametrize("bad", CASES)
async def test_one_that_fails_is_named(bad: tuple[str, int], fresh: Callable[[str], str]) -> None:
    @at_once(kind="ab", number=[1, 2])
    async def test(kind: str, number: int, key: str) -> None:
        assert (kind, number) != bad

    with pytest.raises(ExceptionGroup) as caught:
        await test(fresh=fresh)
    (error,) = caught.value.exceptions
    assert error.__notes__ == [f"with {dict(zip(('kind', 'number'), bad, strict=True))}"]
