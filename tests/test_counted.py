"""What is counted of a callback that isn't answered by 200; that it is served, and the rest, is in test_metrics.py."""

import asyncio

import pytest

from proxy.counted import counted
from proxy.exceptions import CallbackError, NoBackendAnswer
from proxy.http_connection import Answer
from proxy.stats import Stats, stats


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (NoBackendAnswer("late"), "no_answer"),
        (CallbackError("too long"), "invalid"),
        (asyncio.CancelledError(), "cancelled"),
    ],
)
async def test_an_error_is_counted_and_raised(error: BaseException, result: str) -> None:
    async def exchange() -> Answer:
        raise error

    place = Stats.callbacks["establish", result]
    before = stats.slot[place]
    with pytest.raises(type(error)):
        await counted("establish", exchange())
    assert stats.slot[place] == before + 1
