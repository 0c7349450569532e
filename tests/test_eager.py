"""Coroutines that run in the caller's turn."""

import asyncio
from typing import Any

import pytest

from proxy.eager import start


async def test_start_runs_a_coroutine_up_to_its_first_wait() -> None:
    steps = []
    event = asyncio.Event()

    async def work() -> None:
        steps.append("before")
        await event.wait()
        await asyncio.sleep(0)
        steps.append("after")

    rest: Any = start(work())
    assert steps == ["before"]
    assert rest
    event.set()
    await rest
    assert steps == ["before", "after"]

    async def result() -> str:
        return "at once"

    assert start(result()) == "at once"

    async def late_result() -> str:
        await asyncio.sleep(0)
        return "later"

    rest = start(late_result())
    assert await rest == "later"


async def test_start_passes_errors_and_cancellation_on() -> None:
    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError("late")

    rest: Any = start(fails())
    assert rest
    with pytest.raises(ValueError, match="late"):
        await rest

    ended = []

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    rest = start(waits())
    assert rest
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(rest, 0.01)
    assert ended
