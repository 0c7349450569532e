"""Tests that mostly wait wait for all their cases together."""

from __future__ import annotations

import asyncio
import functools
import inspect
import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from tests.evidence import Evidence, Figures

Test = Callable[..., Awaitable[None]]


def at_once(**parameters: Sequence[Any]) -> Callable[[Test], Test]:
    """One test of a parametrized one: all combinations of the parameters run at the same time.

    Each has a session `key` of its own; what they call `evidence` with is added up; a failure says whose it is.
    """

    def decorate(test: Test) -> Test:
        asked = list(inspect.signature(test).parameters)
        fixtures = {"fresh" if name == "key" else name: None for name in asked if name not in parameters}

        async def run(**given: Any) -> None:
            last: dict[int, Figures] = {}

            async def one(number: int, values: dict[str, Any]) -> None:
                own = given | values
                if "key" in asked:
                    own["key"] = given["fresh"]("k")
                if "evidence" in asked:
                    own["evidence"] = functools.partial(last.__setitem__, number)
                try:
                    await test(**{name: own[name] for name in asked})
                except Exception as error:
                    error.add_note(f"with {values}")
                    raise

            try:
                async with asyncio.TaskGroup() as group:
                    for number, combination in enumerate(itertools.product(*parameters.values())):
                        group.create_task(one(number, dict(zip(parameters, combination, strict=True))))
            finally:
                if last:
                    _report(given["evidence"], list(last.values()))

        functools.update_wrapper(run, test)
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in fixtures]
        )
        return run

    return decorate


def _report(evidence: Evidence, found: list[Figures]) -> None:
    total = Figures(rounds=0)
    for figures in found:
        total.add(figures)
    evidence(total)
