"""Turns at a backend: how many at once, who goes first, and that none is lost."""

import asyncio
from collections.abc import Mapping

import pytest

from proxy.exceptions import BackendBusy
from proxy.shield import ORDER, Shield
from proxy.stats import stats

MANY = 1000


def shield(limit: int = 1, waiting: int = MANY, **limits: int) -> Shield:
    by_kind: Mapping[str, int] = dict.fromkeys(ORDER, limit) | limits
    return Shield(limit, by_kind, dict.fromkeys(ORDER, waiting))


async def in_line(shield: Shield, *kinds: str) -> list[str]:
    """The order in which turns come to those that stand in line in this order, while one is under way."""
    came: list[str] = []

    async def one(name: str, kind: str) -> None:
        await shield.enter(kind, None)
        came.append(name)
        await asyncio.sleep(0)
        shield.leave(kind)

    await shield.enter("connect", None)
    tasks = [asyncio.create_task(one(f"{kind}{number}", kind)) for number, kind in enumerate(kinds)]
    await asyncio.sleep(0)
    shield.leave("connect")
    await asyncio.gather(*tasks)
    return came


async def test_establish_connect_receive_close_and_each_in_order() -> None:
    came = await in_line(shield(), "connect", "establish", "connect")
    assert came == ["establish1", "connect0", "connect2"]
    assert (await in_line(shield(), "close", "receive", "connect"))[:1] == ["connect2"]


async def test_one_turn_in_four_is_for_who_has_waited_longest() -> None:
    came = await in_line(shield(), "close", "receive", *["connect"] * 8)
    assert came == [f"connect{n}" for n in (2, 3, 4)] + ["close0"] + [f"connect{n}" for n in (5, 6, 7)] + [
        "receive1",
        "connect8",
        "connect9",
    ]


async def test_each_kind_has_its_limit_within_that_of_all() -> None:
    one = shield(3, receive=1)
    await one.enter("receive", None)
    with pytest.raises(BackendBusy):
        await one.enter("receive", 0.01)
    await one.enter("connect", None)
    await one.enter("close", None)
    with pytest.raises(BackendBusy, match=r"connect: expected a turn within 0.01s, found none"):
        await one.enter("connect", 0.01)


async def test_a_full_line_is_refused_at_once() -> None:
    one = shield(waiting=2)
    await one.enter("connect", None)
    waiting = [asyncio.create_task(one.enter("connect", None)) for _ in range(2)]
    await asyncio.sleep(0)
    before = stats.callbacks_waiting
    with pytest.raises(BackendBusy) as refused:
        await one.enter("connect", None)
    assert refused.value.retry_after >= 1
    for task in waiting:
        one.leave("connect")
        await task
    assert stats.callbacks_waiting == before - 2


@pytest.mark.parametrize("granted", [False, True])
async def test_who_gives_up_takes_no_turn_along(granted: bool) -> None:
    """Cancelled in line, or in the very moment in which the turn came."""
    one = shield()
    await one.enter("connect", None)
    task = asyncio.create_task(one.enter("connect", None))
    await asyncio.sleep(0)
    if granted:
        one.leave("connect")
    task.cancel()
    await asyncio.wait([task])
    if not granted:
        one.leave("connect")
    await one.enter("connect", 0.1)
    with pytest.raises(BackendBusy):
        await one.enter("connect", 0.01)


async def test_nobody_waits_for_a_backend_that_has_failed() -> None:
    one = shield()
    await one.enter("connect", None)
    tasks = [asyncio.create_task(one.enter(kind, None)) for kind in ORDER]
    await asyncio.sleep(0)
    one.clear(BackendBusy("failed", 3))
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(error, BackendBusy) for error in found)
    one.leave("connect")
    await one.enter("close", 0.1)
