"""What becomes of an event for several receivers."""

import asyncio

import pytest

from proxy.exceptions import NoAnswer, SendTimeout, SessionClosed, SessionNotFound
from proxy.outcomes import decide, settle


def test_the_error_that_says_most() -> None:
    assert isinstance(decide([]), SessionNotFound)
    assert isinstance(decide([SessionNotFound(), SessionClosed()]), SessionClosed)
    assert isinstance(decide([SessionNotFound(), SessionClosed(), NoAnswer()]), NoAnswer)  # it may be delivered


async def test_one_that_took_it_is_enough() -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    assert settle([None, future], [SessionClosed()]) is None
    assert settle([future], []) is future


def test_none_took_it() -> None:
    with pytest.raises(SessionClosed):
        settle([], [SessionNotFound(), SessionClosed()])


async def test_the_first_that_takes_it_late() -> None:
    one, two = (asyncio.get_running_loop().create_future() for _ in range(2))
    outcome = settle([one, two], [])
    assert outcome
    one.set_exception(SendTimeout())
    two.set_result(None)
    await outcome


async def test_all_fail_late() -> None:
    one, two = (asyncio.get_running_loop().create_future() for _ in range(2))
    outcome = settle([one, two], [SessionNotFound()])
    assert outcome
    one.set_exception(SessionNotFound())
    two.set_exception(SendTimeout())
    with pytest.raises(SendTimeout):
        await outcome


async def test_who_does_not_wait_any_more_disturbs_nobody() -> None:
    one, two = (asyncio.get_running_loop().create_future() for _ in range(2))
    outcome = settle([one, two], [])
    assert outcome
    outcome.cancel()
    one.set_exception(SendTimeout())
    two.set_exception(SendTimeout())
    await asyncio.sleep(0)
