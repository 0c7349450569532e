"""Requests that wait for answers: how many, which, how long."""

import asyncio

import pytest

from proxy.exceptions import (
    ClusterLost,
    ClusterUnreachable,
    NoAnswer,
    SendTimeout,
    SessionClosed,
    SessionNotFound,
    SessionTaken,
)
from proxy.requests import LATER, OK, SMALL, WINDOW, WINDOW_FOR_LARGE, Request, Requests, name_of
from proxy.stats import stats


def make(for_all: bool = False) -> tuple[Requests, Request]:
    requests = Requests(timeout=0.1, wait_limit=0.3)
    return requests, requests.new(echo=False, for_all=for_all)


async def test_no_process_has_it() -> None:
    requests, request = make()
    requests.expect(request, 0)
    with pytest.raises(SessionNotFound):
        await request.future
    assert not len(requests)


async def test_the_first_good_answer_counts_even_before_redis_says_how_many() -> None:
    requests, request = make()
    requests.answer(request.number, OK)
    await request.future
    requests.expect(request, 1)
    requests.answer(request.number, "closed")  # too late to mean anything
    assert not len(requests)


@pytest.mark.parametrize("error", [SessionNotFound, SessionClosed, SendTimeout, SessionTaken])
async def test_errors_have_names_on_redis(error: type[SessionClosed]) -> None:
    requests, request = make()
    requests.expect(request, 1)
    requests.answer(request.number, name_of(error()))
    with pytest.raises(error):
        await request.future


async def test_an_error_that_only_a_newer_process_knows() -> None:
    requests, request = make()
    requests.expect(request, 1)
    requests.answer(request.number, "on holiday")
    with pytest.raises(SessionClosed):
        await request.future


async def test_all_that_have_it_must_refuse() -> None:
    requests, request = make()
    requests.expect(request, 2)
    requests.answer(request.number, "not found")
    assert not request.future.done()
    requests.answer(request.number, "closed")
    with pytest.raises(SessionClosed):
        await request.future


async def test_for_all_waits_for_all() -> None:
    requests, request = make(for_all=True)
    requests.answer(request.number, OK)
    requests.expect(request, 3)
    requests.answer(request.number, "taken")
    assert not request.future.done()
    requests.answer(request.number, OK)
    await request.future
    assert [type(error) for error in request.errors] == [SessionTaken]


async def test_for_all_that_nobody_takes() -> None:
    requests, request = make(for_all=True)
    requests.expect(request, 1)
    requests.answer(request.number, "taken")
    with pytest.raises(SessionTaken):
        await request.future


async def test_for_all_some_of_whom_stay_silent() -> None:
    requests, request = make(for_all=True)
    requests.expect(request, 2)
    requests.answer(request.number, OK)
    await asyncio.wait_for(request.future, 1)
    assert [type(error) for error in request.errors] == [NoAnswer]


async def test_no_answer_in_time() -> None:
    before = stats.no_answers
    requests, request = make()
    requests.expect(request, 1)
    with pytest.raises(NoAnswer) as raised:
        await asyncio.wait_for(request.future, 1)
    assert type(raised.value) is NoAnswer
    assert stats.no_answers == before + 1
    assert not len(requests)


async def test_redis_did_not_even_take_it() -> None:
    _, request = make()
    with pytest.raises(ClusterLost):
        await asyncio.wait_for(request.future, 1)


async def test_later_means_later() -> None:
    requests, request = make()
    requests.expect(request, 1)
    requests.answer(request.number, LATER)
    await asyncio.sleep(0.2)
    assert not request.future.done()
    requests.answer(request.number, OK)
    await request.future
    assert not len(requests)


async def test_later_is_not_never() -> None:
    requests, request = make()
    requests.expect(request, 1)
    requests.answer(request.number, LATER)
    with pytest.raises(NoAnswer):
        await asyncio.wait_for(request.future, 2)


async def test_later_is_said_once() -> None:
    """Whoever says it again and again holds nothing up."""
    requests, request = make()
    requests.expect(request, 1)
    began = asyncio.get_running_loop().time()
    while not request.future.done():
        assert asyncio.get_running_loop().time() - began < 5
        requests.answer(request.number, LATER)
        await asyncio.sleep(0.02)
    assert isinstance(request.future.exception(), NoAnswer)


async def test_a_cancelled_request_is_forgotten_in_time() -> None:
    requests, request = make()
    requests.expect(request, 1)
    request.future.cancel()
    await asyncio.sleep(0.4)
    assert not len(requests)


async def test_numbers_are_not_used_again() -> None:
    requests, first = make()
    requests.answer(first.number, OK)
    assert requests.new(echo=True).number != first.number
    assert requests.get(first.number) is None


async def test_large_ones_leave_room_for_small_ones() -> None:
    """A process that stands still with large ones on the way to it doesn't hold up what goes to others."""
    requests, _ = make()
    large = requests.new(echo=False, size=WINDOW_FOR_LARGE + 1)
    assert requests.crowded
    assert requests.full(SMALL + 1)
    assert not requests.full(SMALL)
    began = asyncio.get_running_loop().time()
    with pytest.raises(ClusterUnreachable):
        await requests.room(SMALL + 1)
    assert 0.05 < asyncio.get_running_loop().time() - began < 1
    small = requests.new(echo=False, size=WINDOW - WINDOW_FOR_LARGE)
    assert requests.full(SMALL)
    waiting = [asyncio.create_task(requests.room(size)) for size in (SMALL, SMALL + 1)]
    await asyncio.sleep(0)
    requests.answer(small.number, OK)
    await asyncio.sleep(0.01)
    assert [task.done() for task in waiting] == [True, False]
    requests.answer(large.number, OK)
    await asyncio.gather(*waiting)
    assert not requests.crowded
